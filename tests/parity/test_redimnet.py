"""ReDimNet against wespeaker.models.redimnet with seeded weights, from WeSpeaker's form and from IDRnD's."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import speech_zoo
from parity_oracles import Oracle, redimnet, save_state
from redimnet_files import IdrndOracle, idrnd, save_idrnd
from signals import ALL, BRIEF, FEW, RATE, cosine, voices, waveforms
from speech_zoo_redimnet.oracle import mel_banks
from torchaudio_resampling import torchaudio_resample

Compare = Callable[..., None]
SOME = tuple(signal for signal in ALL if signal != "60 s")


@cache
def of_wespeaker(size: str) -> Oracle:
    return redimnet(size, 51)


@cache
def of_idrnd() -> IdrndOracle:
    return idrnd("B0", 52, feat_dim=60)


@pytest.mark.parametrize("size", ["B1", "B2", "B3", "B4", "B5", "B6"])
def test_sizes(size: str, tmp_path: Path, compare: Compare) -> None:
    path = save_state(tmp_path / "avg_model.pt", of_wespeaker(size))
    signals = BRIEF if size in ("B1", "B2") else BRIEF[-1:]  # a CPU takes long for the others
    compare(speech_zoo.load(path), of_wespeaker(size), f"ReDimNet {size}", "avg_model.pt", signals=signals)


@pytest.mark.parametrize("precision", ["float32", "float16", "8-bit"])
def test_precisions(precision: str, tmp_path: Path, at_precision: Any, compare: Compare) -> None:
    model = at_precision(save_state(tmp_path / "avg_model.pt", of_wespeaker("B0")), precision)
    signals = SOME if precision == "float32" else FEW
    compare(model, of_wespeaker("B0"), "ReDimNet B0", "avg_model.pt", precision, signals)


@pytest.mark.parametrize("converted", [False, True], ids=["source", "converted"])
def test_idrnd(converted: bool, tmp_path: Path, compare: Compare) -> None:
    source = save_idrnd(tmp_path / "b0-vox2-ft_lm.pt", of_idrnd())
    path = speech_zoo.convert(source, tmp_path / "zoo") if converted else source
    name = "converted folder" if converted else "model_config"
    compare(speech_zoo.load(path), of_idrnd(), "ReDimNet B0, IDRnD", name, signals=BRIEF if converted else FEW)


@pytest.mark.parametrize("signal", ["voice 01", "0.3 s", "silence", "noise"])
def test_features(signal: str) -> None:
    from speech_zoo_core.audio.front_end import REDIMNET

    import mlx.core as mx  # isort: skip  # after speech_zoo, which turns TF32 off

    ours = np.array(REDIMNET(mx.array(waveforms()[signal])))
    theirs = mel_banks(waveforms()[signal], 72)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-3


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_files(rate: int, tmp_path: Path, record: Callable[..., None]) -> None:
    """Stereo files: the first channel, torchaudio's resampler."""
    columns = [soxr.resample(np.resize(voices()[voice], 3 * RATE), RATE, rate) for voice in ("voice 04", "voice 05")]
    soundfile.write(tmp_path / "clip.wav", np.stack(columns, axis=1), rate, "FLOAT")
    expected = of_idrnd()(mel_banks(torchaudio_resample(columns[0].astype(np.float32), rate), 60))
    model = speech_zoo.load(save_idrnd(tmp_path / "b0.pt", of_idrnd()))
    score = cosine(model.embed(tmp_path / "clip.wav"), expected)
    figures = (f"{score:.9f}", f"{max(0.0, 1 - score):.1e}", "", "0.999999", f"{of_idrnd().name}, torchaudio")
    record("ReDimNet B0, IDRnD", f"file, {rate} Hz", "float32", "1 file", *figures)
    assert score >= 0.999999
