"""The way of clips through a model on a GPU: padded to a bucket, compiled once for each; on whatever device runs it."""

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import speech_zoo
from hypothesis import given
from hypothesis import strategies as st
from speech_zoo_core import device, loader
from speech_zoo_core.layers import parameters
from speech_zoo_core.tasks import audio_model
from speech_zoo_core.tasks.audio_model import BUCKETS, bucket
from tiny_models import AUDIO, CONFIGS, RATE, RESNET, model_of, tiny_model, tiny_source, voice, wespeaker_folder
from wav2vec2_files import hf_folder, source_tensors

GROUP_NORM: dict[str, Any] = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
ADAPTER: dict[str, Any] = {"add_adapter": True, "num_adapter_layers": 1}


def outputs(model: Any, samples: list[int]) -> "tuple[np.ndarray, np.ndarray]":
    """Raw outputs through the GPU's way, and of each clip alone, without padding."""
    clips = [(voice(n, seed), RATE) for seed, n in enumerate(samples)]
    rows = mx.stack(model._outputs(clips, "test", None, None, vad=False))
    alone = mx.stack([model(model.features(clip)[None])[0] for clip in clips])
    return np.array(rows), np.array(alone)


@given(st.integers(1, 10**7), st.integers(0, 1000))
def test_a_bucket_wastes_little_and_there_are_few(size: int, more: int) -> None:
    assert size <= bucket(size) <= size * (1 + 1 / BUCKETS)
    assert bucket(size) <= bucket(size + more)
    assert bucket(bucket(size)) == bucket(size)


def test_eight_buckets_an_octave() -> None:
    assert len({bucket(size) for size in range(1025, 2049)}) == BUCKETS


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("name", AUDIO)
def test_padding_to_a_bucket_changes_nothing(name: str) -> None:
    model = tiny_model(name)
    assert model.masks_padding
    padded, alone = outputs(model, [9000, 12345, 20000, 9000])
    assert np.allclose(padded, alone, atol=1e-5 * np.abs(alone).max())


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("settings", [{}, GROUP_NORM, ADAPTER])
def test_wav2vec2(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Where zeros after a clip change its result there are no buckets, and clips of one length share a batch."""
    model = speech_zoo.load(hf_folder(tmp_path / "model", source_tensors(**settings), **settings))
    assert model.masks_padding == (settings is not ADAPTER)
    samples = [9000, 12345, 20000, 9000] if model.masks_padding else [9000, 9000, 9000]
    padded, alone = outputs(model, samples)
    assert np.allclose(padded, alone, atol=1e-5 * np.abs(alone).max())


def test_a_new_length_is_not_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling calls the model's Python once for each bucket; nothing is evaluated here."""
    monkeypatch.setattr(audio_model, "on_cpu", lambda: False)
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    model = model_of(CONFIGS["basic"], tiny_source("basic"))
    seen: list[tuple[int, ...]] = []
    call = type(model).__call__

    def counted(self: Any, x: mx.array, lengths: mx.array | None = None) -> mx.array:
        seen.append(x.shape)
        return call(self, x, lengths)

    monkeypatch.setattr(type(model), "__call__", counted)
    for size in (130, 140, 144, 145, 160, 141):
        model._batch([mx.zeros((size, 16))])
    assert seen == [(1, 144, 16), (1, 160, 16)]


@pytest.mark.usefixtures("on_a_gpu")
def test_new_weights_are_used() -> None:
    model = model_of(CONFIGS["basic"], tiny_source("basic"))
    clip = [mx.random.normal((50, 16), key=mx.random.key(0))]
    before = model._batch(clip)
    model.seg_1.bias = model.seg_1.bias + 1
    assert mx.allclose(model._batch(clip), before + 1, atol=1e-4)


def test_batches_are_powers_of_two() -> None:
    sizes = {i: 100 + i % 3 for i in range(23)}
    batches = list(audio_model._batches(sizes, 2000, True))
    assert sorted(i for batch in batches for i in batch) == list(range(23))
    assert all(math.log2(len(batch)).is_integer() and len(batch) * 102 <= 2000 for batch in batches)
    assert len(batches) == 4  # 16 and 4, 2, 1


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_float16_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str) -> None:
    out = speech_zoo.convert(wespeaker_folder(tmp_path / "source", RESNET), tmp_path / "out", dtype=stored)
    monkeypatch.setattr(loader, "on_cpu", lambda: False)
    types = {value.dtype for value in parameters(speech_zoo.load(out)).values()}
    assert types == {mx.bfloat16 if stored == "bfloat16" else mx.float16}
    assert speech_zoo.load(out, dtype="float32").conv1.weight.dtype == mx.float32


def test_the_speaker_proxy_stays_in_float32() -> None:
    assert not tiny_model("speaker_proxy").half_precision
    assert tiny_model("ecapa_speechbrain").half_precision


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("name", AUDIO)
def test_half_precision_stays_half_when_padded(name: str) -> None:
    model = model_of(CONFIGS[name], tiny_source(name))
    model.set_dtype(mx.float16)
    assert model._batch([mx.zeros((50, model.config.feat_dim))]).dtype == mx.float16
