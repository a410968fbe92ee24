"""Wav2Vec2 classifiers against transformers, in every variant and form."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import speech_zoo
import torch
from signals import FEW, RATE, waveforms
from transformers_oracles import LAYER, MMS, TINY, Classifier, WithAdapter

LOGITS = 1e-4  # of the largest logit
VOICES = tuple(f"voice {i:02}" for i in range(1, 10))
VARIANTS: dict[str, tuple[bool, dict[str, Any]]] = {
    "layer norm, stable (MMS)": (True, LAYER),
    "group norm": (False, {}),
    "group norm, layer sum": (False, {"use_weighted_layer_sum": True}),
    "layer norm, stable, layer sum": (True, {**LAYER, "use_weighted_layer_sum": True}),
    "attention adapters": (True, {**LAYER, "adapter_attn_dim": 16}),
    "odd kernel, ReLU": (True, {**LAYER, "num_conv_pos_embeddings": 31, "hidden_act": "relu"}),
    "post norm after layer norm": (True, {**LAYER, "do_stable_layer_norm": False}),
}


@cache
def oracle(variant: str) -> Classifier:
    masked, config = VARIANTS[variant]
    return Classifier(masked, **{**TINY, **config})


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str, tmp_path: Path, compare_logits: Callable[..., None]) -> None:
    theirs = oracle(variant)
    model = speech_zoo.load(theirs.save(tmp_path / "hf"))
    signals = (*VOICES, "0.3 s", "silence", "noise") if variant == "layer norm, stable (MMS)" else FEW
    compare_logits(model, theirs, f"Wav2Vec2, {variant}", "safetensors", "float32", signals)


@pytest.mark.parametrize("variant", [name for name, (masked, _) in VARIANTS.items() if masked])
def test_masks(variant: str, tmp_path: Path, record: Callable[..., None]) -> None:
    """Clips of unequal length, padded and masked as transformers does it, equal one at a time."""
    theirs = oracle(variant)
    model = speech_zoo.load(theirs.save(tmp_path / "hf"))
    clips = [waveforms()[name] for name in ("voice 01", "0.3 s", "voice 07", "noise")]
    size = max(map(len, clips))
    padded = mx.array(np.stack([np.pad(clip, (0, size - len(clip))) for clip in clips]))
    logits, expected = np.array(model(padded, mx.array([len(clip) for clip in clips]))), theirs.batch(clips)
    alone = np.stack([np.array(model.logits(clip, RATE, vad=False)) for clip in clips])
    errors = [float(np.abs(logits - other).max() / np.abs(expected).max()) for other in (expected, alone)]
    figures = f"{errors[0]:.1e} (one at a time: {errors[1]:.1e})"
    record(f"Wav2Vec2, {variant}", "masked batch", "float32", "4 clips", figures, "", "", "logits 1e-4", theirs.name)
    assert max(errors) <= LOGITS
    best = [row[0].label for row in model.predict_batch([(clip, RATE) for clip in clips], vad=False)]
    assert best == [model.labels[i] for i in expected.argmax(axis=1)]


def test_a_batch_without_masks_is_one_at_a_time(tmp_path: Path) -> None:
    """transformers gives models with a group norm no mask, which is padding to theirs; here it is left out."""
    theirs = oracle("group norm")
    model = speech_zoo.load(theirs.save(tmp_path / "hf"))
    assert not model.config.attention_mask
    assert model.batches_unequal
    clips = [waveforms()[name] for name in ("voice 01", "0.3 s", "noise")]
    for clip, row in zip(
        clips, model.predict_batch([(clip, RATE) for clip in clips], top_k=10, vad=False), strict=True
    ):
        logits = theirs.batch([clip])[0].astype(np.float64)
        scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert {
            label: pytest.approx(float(score), abs=1e-5) for label, score in zip(model.labels, scores, strict=True)
        } == dict(row)


@pytest.mark.parametrize("narrow", [False, True], ids=["same width", "projected"])
def test_adapters(narrow: bool, tmp_path: Path, compare_logits: Callable[..., None]) -> None:
    theirs = WithAdapter(True, **TINY, **LAYER, **({"output_hidden_size": 64} if narrow else {}))
    model = speech_zoo.load(theirs.save(tmp_path / "hf"))
    compare_logits(model, theirs, "Wav2Vec2, adapters (add_adapter)", "safetensors", "float32", FEW)
    clips = [waveforms()[name] for name in ("voice 01", "0.3 s")]
    padded = mx.array(np.stack([clips[0], np.pad(clips[1], (0, len(clips[0]) - len(clips[1])))]))
    logits, expected = np.array(model(padded, mx.array([len(clip) for clip in clips]))), theirs.batch(clips)
    assert np.abs(logits - expected).max() <= LOGITS * np.abs(expected).max()


FORMS: dict[str, Callable[[Path, Classifier], Path]] = {
    "safetensors, shards": lambda d, o: o.save(d / "hf", max_shard_size="200KB"),
    "pytorch_model.bin": lambda d, o: o.save_bin(d / "hf", old_names=False),
    "pytorch_model.bin, weight_g": lambda d, o: o.save_bin(d / "hf", old_names=True),
    "converted three times": lambda d, o: speech_zoo.convert(
        speech_zoo.convert(speech_zoo.convert(o.save(d / "hf"), d / "1"), d / "2"), d / "3"
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str, tmp_path: Path, compare_logits: Callable[..., None]) -> None:
    theirs = oracle("layer norm, stable (MMS)")
    folder = FORMS[form](tmp_path, theirs)
    if form == "safetensors, shards":
        assert len(list(folder.glob("*.safetensors"))) > 1
    model = speech_zoo.load(folder)
    compare_logits(model, theirs, "Wav2Vec2, layer norm, stable (MMS)", form, "float32", FEW)
    same = speech_zoo.load(theirs.save(tmp_path / "direct"))
    assert mx.array_equal(model.logits(waveforms()["0.3 s"], RATE), same.logits(waveforms()["0.3 s"], RATE))


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "8-bit", "4-bit"])
def test_precisions(precision: str, tmp_path: Path, compare_logits: Callable[..., None]) -> None:
    theirs = oracle("layer norm, stable (MMS)")
    source = theirs.save(tmp_path / "hf")
    if precision.endswith("bit"):
        model = speech_zoo.load(speech_zoo.convert(source, tmp_path / "zoo", bits=int(precision[0])))
    else:
        model = speech_zoo.load(speech_zoo.convert(source, tmp_path / "zoo", dtype=precision), dtype=precision)
    signals = ("noise", "0.3 s") if precision == "4-bit" else (*FEW, "60 s")
    compare_logits(model, theirs, "Wav2Vec2, layer norm, stable (MMS)", "converted", precision, signals)


@pytest.mark.parametrize("precision", ["float32", "float16", "8-bit"])
def test_mms_width(precision: str, tmp_path: Path, compare_logits: Callable[..., None], at_precision: Any) -> None:
    """Two layers of MMS-LID's full width, 256 classes."""
    from iso639 import iter_langs

    labels = [item.pt3 for item in iter_langs() if item.type() == "Living"][:256]
    theirs = Classifier(True, labels, **MMS)
    model = at_precision(theirs.save(tmp_path / "hf"), precision)
    assert model.config.task == "language-identification"
    compare_logits(model, theirs, "MMS-LID-256, 2 layers", "safetensors", precision, ("1 s", "0.3 s", "noise"))


def test_base_size(tmp_path: Path, compare_logits: Callable[..., None]) -> None:
    theirs = Classifier(False, ("yes", "no", "_unknown_", "_silence_"), use_weighted_layer_sum=True)
    model = speech_zoo.load(theirs.save(tmp_path / "hf"))
    assert model.config.task == "audio-classification"
    compare_logits(
        model, theirs, "Wav2Vec2 base, 12 layers, layer sum (superb)", "safetensors", "float32", ("1 s", "0.3 s")
    )


def test_the_layer_sum_of_transformers_4(tmp_path: Path) -> None:
    """There the last hidden state entered the sum after the final norm; the config says which version wrote it."""
    import json

    theirs = oracle("layer norm, stable, layer sum")
    folder = theirs.save(tmp_path / "hf")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"transformers_version": "4.57.1"}))
    inputs = theirs.extractor([waveforms()["0.3 s"]], sampling_rate=RATE, return_tensors="pt", padding=True)
    with torch.no_grad():
        outputs = theirs.module.wav2vec2(**inputs, output_hidden_states=True)
        states = [*outputs.hidden_states[:-1], outputs.last_hidden_state]
        weights = torch.softmax(theirs.module.layer_weights, -1)
        hidden = sum(state * weight for state, weight in zip(states, weights, strict=True))
        expected = theirs.module.classifier(theirs.module.projector(hidden).mean(dim=1))[0].numpy()
    logits = np.array(speech_zoo.load(folder).logits(waveforms()["0.3 s"], RATE))
    assert np.abs(logits - expected).max() <= LOGITS * np.abs(expected).max()
    assert np.abs(logits - theirs.logits("0.3 s")).max() > 1e-3 * np.abs(expected).max()
