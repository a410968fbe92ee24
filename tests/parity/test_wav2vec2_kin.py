"""HuBERT, UniSpeech-SAT, WavLM and data2vec, and x-vectors, against transformers: both engines, every variant."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import speech_zoo
from signals import RATE, waveforms
from transformers_oracles import LAYER, TINY, TINY_X_VECTOR, Classifier, XVector

LOGITS = 1e-4  # of the largest logit
SIGNALS = ("voice 01", "1 s", "silence", "noise")
CLASSIFIERS: dict[str, dict[str, Any]] = {
    "HuBERT": {"kind": "Hubert"},
    "HuBERT, layer norm, stable": {"kind": "Hubert", **LAYER},
    "HuBERT, BatchNorm, no norm before the projection, layer sum": {
        "kind": "Hubert",
        "conv_pos_batch_norm": True,
        "feat_proj_layer_norm": False,
        "use_weighted_layer_sum": True,
    },
    "UniSpeech": {"kind": "UniSpeech", **LAYER},
    "UniSpeech-SAT": {"kind": "UniSpeechSat", **LAYER, "adapter_attn_dim": 16},
    "WavLM": {"kind": "WavLM"},
    "WavLM, stable, layer sum, few buckets": {
        "kind": "WavLM",
        **LAYER,
        "use_weighted_layer_sum": True,
        "num_buckets": 32,
        "max_bucket_distance": 60,
    },
    "data2vec": {"kind": "Data2VecAudio", "num_conv_pos_embeddings": 5},
}
X_VECTORS: dict[str, dict[str, Any]] = {
    "Wav2Vec2, layer sum": {"kind": "Wav2Vec2", "use_weighted_layer_sum": True},
    "UniSpeech-SAT": {"kind": "UniSpeechSat"},
    "WavLM": {"kind": "WavLM"},
}
ENGINES = ("mlx", "onnxruntime")


@cache
def classifier(variant: str) -> Classifier:
    return Classifier(True, **{**TINY, **CLASSIFIERS[variant]})


@cache
def x_vector(variant: str) -> XVector:
    return XVector(True, **TINY, **TINY_X_VECTOR, **X_VECTORS[variant])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variant", CLASSIFIERS)
def test_classifiers(variant: str, engine: Any, tmp_path: Path, compare_logits: Callable[..., None]) -> None:
    theirs = classifier(variant)
    model = speech_zoo.load(theirs.save(tmp_path / "hf"), engine=engine)
    compare_logits(model, theirs, variant, f"safetensors, {engine}", "float32", (*SIGNALS, "0.3 s"))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variant", X_VECTORS)
def test_x_vectors(variant: str, engine: Any, tmp_path: Path, compare: Callable[..., None]) -> None:
    theirs = x_vector(variant)
    model = speech_zoo.load(theirs.save(tmp_path / "hf"), engine=engine)
    compare(model, theirs, f"x-vector, {variant}", f"safetensors, {engine}", signals=SIGNALS)


@pytest.mark.parametrize("precision", ["float16", "8-bit"])
@pytest.mark.parametrize("variant", ["HuBERT", "WavLM", "data2vec"])
def test_precisions(
    variant: str, precision: str, tmp_path: Path, at_precision: Any, compare_logits: Callable[..., None]
) -> None:
    model = at_precision(classifier(variant).save(tmp_path / "hf"), precision)
    compare_logits(model, classifier(variant), variant, "converted", precision, SIGNALS)


@pytest.mark.parametrize("precision", ["float16", "8-bit"])
def test_precisions_of_x_vectors(
    precision: str, tmp_path: Path, at_precision: Any, compare: Callable[..., None]
) -> None:
    model = at_precision(x_vector("WavLM").save(tmp_path / "hf"), precision)
    compare(model, x_vector("WavLM"), "x-vector, WavLM", "converted", precision, SIGNALS)


@pytest.mark.parametrize("variant", [*CLASSIFIERS, *(f"x-vector, {variant}" for variant in X_VECTORS)])
def test_batches_are_one_at_a_time(variant: str, tmp_path: Path) -> None:
    """Of a norm over the whole clip, of data2vec's convolutions and of x-vectors transformers' batches are not."""
    name = variant.removeprefix("x-vector, ")
    theirs: Any = classifier(variant) if name == variant else x_vector(name)
    model = speech_zoo.load(theirs.save(tmp_path / "hf"))
    assert model.masks_padding
    clips = [waveforms()[signal] for signal in ("voice 01", "1 s", "noise")]
    features = [np.array(model.features(clip, RATE, vad=False)) for clip in clips]
    size = max(map(len, features))
    padded = mx.array(np.stack([np.pad(x, ((0, size - len(x)), (0, 0)), constant_values=1) for x in features]))
    together = np.array(model(padded, mx.array([len(x) for x in features])))
    alone = np.stack([np.array(model(mx.array(x)[None])[0]) for x in features])
    assert np.abs(together - alone).max() <= 1e-5 * np.abs(alone).max()
    if "stable" in variant:
        expected = theirs.batch(clips)
        assert np.abs(together - expected).max() <= LOGITS * np.abs(expected).max()


@pytest.mark.parametrize("precision", ["float32", "float16", "8-bit"])
def test_wavlm_base_plus_sv(precision: str, tmp_path: Path, at_precision: Any, compare: Callable[..., None]) -> None:
    """The size of microsoft/wavlm-base-plus-sv."""
    theirs = base_x_vector()
    source = theirs.save(tmp_path / "hf")
    model = at_precision(source, precision)
    assert (model.config.threshold, model.config.embed_dim) == (0.86, 512)
    compare(model, theirs, "WavLM base x-vector, 12 layers", "safetensors", precision, ("1 s", "voice 03"))
    for engine in ENGINES if precision == "float32" else ():
        other = speech_zoo.load(source, engine=engine)  # type: ignore[arg-type]
        compare(other, theirs, "WavLM base x-vector, 12 layers", engine, precision, ("1 s", "voice 03"))


@cache
def base_x_vector() -> XVector:
    return XVector(True, kind="WavLM")


def test_hubert_base_size(tmp_path: Path, compare_logits: Callable[..., None]) -> None:
    """The size of superb/hubert-base-superb-er."""
    theirs = Classifier(False, ("neu", "hap", "ang", "sad"), kind="Hubert", use_weighted_layer_sum=True)
    model = speech_zoo.load(theirs.save(tmp_path / "hf"))
    assert model.config.task == "audio-classification"
    compare_logits(
        model, theirs, "HuBERT base, 12 layers, layer sum (superb)", "safetensors", "float32", ("1 s", "0.3 s")
    )
