"""SpeechBrain's x-vector and ResNet against SpeechBrain, with seeded weights."""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import speech_zoo
from signals import ALL, BRIEF, FEW, RATE, cosine, voices
from speechbrain_files import resnet_hyperparams, xvector_hyperparams
from speechbrain_oracles import SpeechBrain, save_speechbrain
from torchaudio_resampling import torchaudio_resample

Compare = Callable[..., None]
TEXTS = {
    "x-vector": xvector_hyperparams(),
    "SE-ResNet": resnet_hyperparams(),
    "SE-ResNet, narrow": resnet_hyperparams(channels=[16, 16, 32, 32]),  # a CPU takes long for 128 channels
}
SOME = tuple(signal for signal in ALL if signal != "60 s")


@cache
def oracle(name: str) -> SpeechBrain:
    return SpeechBrain(TEXTS[name], 41)


@pytest.mark.parametrize("precision", ["float32", "float16", "8-bit"])
@pytest.mark.parametrize("name", ["x-vector", "SE-ResNet, narrow"])
def test_precisions(name: str, precision: str, tmp_path: Path, at_precision: Any, compare: Compare) -> None:
    signals = FEW if precision != "float32" else ALL if name == "x-vector" else SOME
    model = at_precision(save_speechbrain(tmp_path / "sb", oracle(name)), precision)
    compare(model, oracle(name), name, "hyperparams.yaml", precision, signals)


def test_the_published_size(tmp_path: Path, compare: Compare) -> None:
    model = speech_zoo.load(save_speechbrain(tmp_path / "sb", oracle("SE-ResNet")))
    compare(model, oracle("SE-ResNet"), "SE-ResNet", "hyperparams.yaml", signals=("1 s", "0.5 s"))


@pytest.mark.parametrize("name", ["x-vector", "SE-ResNet, narrow"])
def test_converted(name: str, tmp_path: Path, compare: Compare) -> None:
    folder = speech_zoo.convert(save_speechbrain(tmp_path / "sb", oracle(name)), tmp_path / "zoo")
    compare(speech_zoo.load(folder), oracle(name), name, "converted folder", signals=BRIEF)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_files(rate: int, tmp_path: Path, record: Callable[..., None]) -> None:
    """Stereo files: SpeechBrain takes the mean of the channels, and resamples as torchaudio does."""
    columns = [soxr.resample(np.resize(voices()[voice], 3 * RATE), RATE, rate) for voice in ("voice 04", "voice 05")]
    file = io.BytesIO()
    soundfile.write(file, np.stack(columns, axis=1), rate, "FLOAT", format="WAV")
    waveform = torchaudio_resample(np.mean(columns, axis=0).astype(np.float32), rate)
    expected = oracle("x-vector").batch(waveform[None], np.ones(1, np.float32))[0][0]
    model = speech_zoo.load(save_speechbrain(tmp_path / "sb", oracle("x-vector")))
    score = cosine(model.embed(file.getvalue()), expected)
    figures = (f"{score:.9f}", f"{max(0.0, 1 - score):.1e}", "", "0.999999", f"{oracle('x-vector').name}, torchaudio")
    record("x-vector", f"file, {rate} Hz", "float32", "1 file", *figures)
    assert score >= 0.999999
