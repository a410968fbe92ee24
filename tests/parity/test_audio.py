"""From files of other rates, types and channels to embeddings and logits: ours against the originals' own loading code.

torchaudio does not import beside this torch: its two functions, which are plain torch, are taken from its source.
"""

import io
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import soundfile
import soxr
import speech_zoo
import torch
from parity_oracles import REAL_CAMPPLUS, real_campplus, resnet, save_pyannote, save_wespeaker
from signals import COSINE, RATE, best, cosine, voices
from silero_oracles import silero_file, silero_probabilities, steps_of
from sounds import written
from speech_zoo_core.audio import load_audio
from speech_zoo_core.audio.vad import Silero, silero, speech
from speech_zoo_core.checkpoint.reader import read_checkpoint
from speech_zoo_core.layers import parameters
from speech_zoo_core.oracle import kaldi_features
from speechbrain_oracles import save_speechbrain, speechbrain_languages
from torchaudio_resampling import torchaudio_resample
from transformers_oracles import LAYER, TINY, Classifier

RATES = (8000, 22050, 44100, 48000)
TYPES = ("PCM_16", "PCM_24", "FLOAT")
CASES = [(rate, subtype) for rate in RATES for subtype in TYPES]
VOICE = "voice 04"
PROBABILITY = 1e-4  # the most that Silero's may differ


def librosa_resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """`librosa.resample(samples, orig_sr=rate, target_sr=16000)`: soxr_hq, as long as the ratio says."""
    resampled = soxr.resample(samples, rate, RATE, quality="HQ")
    size = math.ceil(samples.size * RATE / rate)
    return np.pad(resampled, (0, max(0, size - resampled.size)))[:size]


@cache
def stereo(rate: int, subtype: str) -> bytes:
    """Two voices at once, one a channel, with noise up to the Nyquist frequency."""
    clips = [np.resize(voices()[name], 4 * RATE) for name in (VOICE, "voice 05")]
    columns = [soxr.resample(clip, RATE, rate) for clip in clips]
    size = min(map(len, columns))
    noise = np.random.default_rng(rate).standard_normal((size, 2)) * 0.01
    return written(0.5 * np.stack([column[:size] for column in columns], 1) + noise, rate, "WAV", subtype)


def first(content: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(content), dtype="float32")[0][:, 0]


def mean(content: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(content), dtype="float32")[0].mean(axis=1)


@pytest.mark.parametrize(("rate", "subtype"), CASES)
def test_waveforms(rate: int, subtype: str) -> None:
    content = stereo(rate, subtype)
    samples = np.array(load_audio(content, RATE, resampler="torchaudio", channel="first"))
    expected = torchaudio_resample(first(content), rate)
    assert samples.shape == expected.shape
    assert np.abs(samples - expected).max() < 2e-6
    samples = np.array(load_audio(content, RATE, resampler="soxr_hq", channel="mean"))
    expected = librosa_resample(mean(content), rate)
    assert samples.shape == expected.shape
    assert np.abs(samples - expected)[100:-100].max() < 2e-6  # soxr treats the ends of a stream in its own way


@cache
def wespeaker_models(folder: Path) -> tuple[Any, Any]:
    oracle = resnet("ResNet34", seed=21)
    return speech_zoo.load(
        save_wespeaker(folder / "ws", oracle, "ResNet34", embed_dim=256, two_emb_layer=False)
    ), oracle


@cache
def pyannote_models(folder: Path) -> tuple[Any, Any]:
    oracle = resnet("ResNet34", seed=22)
    return speech_zoo.load(save_pyannote(folder / "pytorch_model.bin", oracle)), oracle


@cache
def speechbrain_models(folder: Path) -> tuple[Any, Any]:
    oracle = speechbrain_languages(seed=23)
    return speech_zoo.load(save_speechbrain(folder / "sb", oracle)), oracle


@cache
def transformers_models(folder: Path) -> tuple[Any, Any]:
    oracle = Classifier(True, **TINY, **LAYER)
    return speech_zoo.load(oracle.save(folder / "hf")), oracle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("originals")


@pytest.fixture
def near(record: Callable[..., None]) -> Callable[..., None]:
    """Compare embeddings with the original's from the same file, and record it."""

    def check(ours: Any, theirs: np.ndarray, name: str, rate: int, subtype: str, by: str) -> None:
        score = cosine(ours, theirs)
        row = (name, f"{rate} Hz {subtype}", "float32", "1 file", f"{score:.9f}", f"{max(0.0, 1 - score):.1e}", "")
        record(*row, str(COSINE["float32"]), by)
        assert score >= COSINE["float32"]

    return check


@pytest.mark.parametrize(("rate", "subtype"), CASES)
def test_wespeaker(rate: int, subtype: str, folder: Path, near: Callable[..., None]) -> None:
    model, oracle = wespeaker_models(folder)
    content = stereo(rate, subtype)
    features = kaldi_features(torchaudio_resample(first(content), rate), **oracle.front_end)
    near(model.embed(content), oracle(features), "WeSpeaker ResNet34, from a file", rate, subtype, oracle.name)


@pytest.mark.parametrize("rate", RATES)
def test_pyannote(rate: int, folder: Path, near: Callable[..., None]) -> None:
    model, oracle = pyannote_models(folder)
    content = stereo(rate, "PCM_16")
    features = kaldi_features(torchaudio_resample(mean(content), rate), **oracle.front_end)
    near(model.embed(content), oracle(features), "pyannote's ResNet34, from a file", rate, "PCM_16", oracle.name)


@pytest.mark.skipif(not REAL_CAMPPLUS.is_file(), reason="SPEECH_ZOO_CAMPPLUS_PT names campplus_cn_en_common.pt")
@pytest.mark.parametrize(("rate", "subtype"), CASES)
def test_3d_speaker(rate: int, subtype: str, near: Callable[..., None]) -> None:
    model, oracle = speech_zoo.load(REAL_CAMPPLUS), real_campplus()
    content = stereo(rate, subtype)
    features = kaldi_features(librosa_resample(first(content), rate), **oracle.front_end)
    near(model.embed(content), oracle(features), "CAM++ zh-en, from a file", rate, subtype, f"{oracle.name}, soxr")


@pytest.mark.parametrize(("rate", "subtype"), CASES)
def test_speechbrain(rate: int, subtype: str, folder: Path) -> None:
    model, oracle = speechbrain_models(folder)
    content = stereo(rate, subtype)
    clip = torchaudio_resample(mean(content), rate)
    expected = oracle.batch(clip[None], np.ones(1, np.float32))[1][0]
    scores = np.array(model.log_probs(content))
    assert np.abs(scores - expected).max() <= 1e-4 * np.abs(expected).max()
    assert best(scores, 5) == best(expected, 5)


@pytest.mark.parametrize(("rate", "subtype"), CASES)
def test_transformers(rate: int, subtype: str, folder: Path) -> None:
    model, oracle = transformers_models(folder)
    content = stereo(rate, subtype)
    expected = oracle.batch([librosa_resample(mean(content), rate)])[0]
    logits = np.array(model.logits(content))
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    assert best(logits, 5) == best(expected, 5)


def test_tensors_of_torch() -> None:
    x = torch.from_numpy(voices()[VOICE])
    expected = x.numpy()
    for given in (x, x.double(), x.clone().requires_grad_(), x[None], torch.stack([x, 0 * x])):
        assert np.array_equal(load_audio((given, torch.tensor(RATE)), RATE, channel="first"), expected)
    assert np.abs(np.array(load_audio(x.bfloat16(), RATE, RATE)) - expected).max() < 2**-8
    assert np.array_equal(load_audio({"array": x[None], "sampling_rate": RATE}, RATE), expected)


# Silero


@pytest.mark.parametrize("name", [*voices(), "noise", "silence", "long"])
def test_silero(name: str, record: Callable[..., None]) -> None:
    """Step by step through its ONNX file, as its own package calls it."""
    extra = {
        "noise": np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32) * np.float32(0.1),
        "silence": np.zeros(RATE, np.float32),
        "long": np.concatenate(list(voices().values())),
    }
    samples = extra.get(name, voices().get(name))
    assert samples is not None
    expected = silero_probabilities(samples)
    hidden, _ = silero()(steps_of(samples), np.zeros((2, 128), np.float32))
    error = float(np.abs(hidden - expected).max())
    record("Silero VAD", "bundled", "float32", name, f"{error:.1e}", "", "", str(PROBABILITY), "silero_vad.onnx")
    assert error <= PROBABILITY
    if name in voices():
        loud = expected >= 0.5
        assert (speech(samples, RATE) >= loud).all()  # what has begun goes on down to 0.35


def test_the_bundled_silero_is_what_our_converter_makes_of_its_onnx_file() -> None:
    graph = read_checkpoint(silero_file("silero_vad_16k_op15.onnx")).graph
    assert graph is not None
    source = {n: mx.array(x) for n, x in graph.constants.items() if n.startswith("model.") and x.dtype == np.float32}
    made = Silero().sanitize(source)
    assert made.keys() == parameters(silero()).keys()
    assert all(mx.array_equal(made[name], value) for name, value in parameters(silero()).items())


def test_silero_s_other_file_is_read_too() -> None:
    """The one for tinygrad, of another training."""
    source = read_checkpoint(silero_file("silero_vad_16k.safetensors")).tensors
    made = Silero().sanitize(source)
    assert {name: value.shape for name, value in made.items()} == {
        name: value.shape for name, value in parameters(silero()).items()
    }
