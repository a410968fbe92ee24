"""Log-mel features against kaldi-native-fbank and SpeechBrain."""

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version

import mlx.core as mx
import numpy as np
import pytest
import torch
from parity_oracles import HAMMING, POVEY, kaldi_features
from signals import ALL, LOG_MEL, RATE, waveforms
from speech_zoo_core.audio.front_end import SPEECHBRAIN as SPEECHBRAIN_FBANK
from speech_zoo_core.audio.front_end import THREE_D_SPEAKER, WESPEAKER, FrontEnd
from speechbrain_oracles import SPEECHBRAIN, speechbrain_features

FRONT_ENDS = {"hamming, int16": (WESPEAKER, HAMMING), "povey, unscaled": (THREE_D_SPEAKER, POVEY)}


def difference(front_end: FrontEnd, waveform: np.ndarray, **kaldi: object) -> float:
    ours, theirs = np.array(front_end(mx.array(waveform))), kaldi_features(waveform, **kaldi)
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    return float(np.abs(ours - theirs).max())


@pytest.mark.parametrize("cmn", [True, False], ids=["CMN", "no CMN"])
@pytest.mark.parametrize("name", FRONT_ENDS)
def test_every_signal(name: str, cmn: bool, record: Callable[..., None]) -> None:
    ours, kaldi = FRONT_ENDS[name]
    errors = {s: difference(replace(ours, cmn=cmn), waveforms()[s], cmn=cmn, **kaldi) for s in ALL}
    worst = max(errors, key=errors.__getitem__)
    oracle = f"kaldi-native-fbank {version('kaldi-native-fbank')}"
    form = "CMN" if cmn else "no CMN"
    record(
        f"fbank {name}", form, "float32", f"all {len(ALL)}", f"{errors[worst]:.1e} ({worst})", "", "", "0.001", oracle
    )
    assert errors[worst] <= LOG_MEL, errors


@pytest.mark.parametrize("window", ["hamming", "hanning", "povey", "rectangular"])
@pytest.mark.parametrize(("rate", "n_mels"), [(8000, 40), (16000, 64), (48000, 80)])
def test_other_settings(window: str, rate: int, n_mels: int) -> None:
    front_end = FrontEnd(window=window, sample_rate=rate, n_mels=n_mels)
    kaldi = {"window": window, "scale": 32768.0, "rate": rate, "n_mels": n_mels}
    assert difference(front_end, waveforms()["voice 01"], **kaldi) <= LOG_MEL


@pytest.mark.parametrize("size", [400, 559, 560, 561, 65 * RATE], ids=str)
@pytest.mark.parametrize("name", FRONT_ENDS)
def test_lengths(name: str, size: int) -> None:
    """One frame, the edges of the second one, and more frames than one pass takes."""
    ours, kaldi = FRONT_ENDS[name]
    waveform = np.resize(waveforms()["60 s"][RATE:], size)
    assert difference(replace(ours, cmn=False), waveform, cmn=False, **kaldi) <= LOG_MEL


def speechbrain_difference(n_mels: int, waveform: np.ndarray, cmn: bool, dtype: torch.dtype = torch.float64) -> float:
    ours = np.array(replace(SPEECHBRAIN_FBANK, n_mels=n_mels, cmn=cmn)(mx.array(waveform)))
    theirs = speechbrain_features(waveform, n_mels, cmn, dtype)
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    return float(np.abs(ours - theirs).max())


@pytest.mark.parametrize("cmn", [True, False], ids=["mean norm", "no mean norm"])
@pytest.mark.parametrize("n_mels", [60, 80])
def test_speechbrain(n_mels: int, cmn: bool, record: Callable[..., None]) -> None:
    """In dB, against the original in float32 as it is used, and in float64: its rounding alone is 1.1e-3 at most."""
    name, form = f"fbank SpeechBrain, {n_mels} mels", "dB, mean norm" if cmn else "dB, no mean norm"
    signals = (*ALL, "0.5 s", "30 s")
    for dtype in (torch.float32, torch.float64):
        errors = {s: speechbrain_difference(n_mels, waveforms()[s], cmn, dtype) for s in signals}
        worst = max(errors, key=errors.__getitem__)
        figure, oracle = f"{errors[worst]:.1e} ({worst})", f"{SPEECHBRAIN} in {str(dtype).removeprefix('torch.')}"
        record(name, form, "float32", f"all {len(ALL)}, 0.5 s, 30 s", figure, "", "", str(LOG_MEL), oracle)
        # float32: room for the rounding of the machine's FFT library; the figure itself is in the table.
        assert errors[worst] <= LOG_MEL * (1.5 if dtype == torch.float32 else 1), errors


@pytest.mark.parametrize("size", [1, 159, 160, 161, 400, 65 * RATE], ids=str)
@pytest.mark.parametrize("n_mels", [60, 80])
def test_speechbrain_lengths(n_mels: int, size: int) -> None:
    """One sample, the edges of the second frame, and more frames than one pass takes."""
    waveform = np.resize(waveforms()["60 s"][RATE:], size)
    assert speechbrain_difference(n_mels, waveform, cmn=False) <= LOG_MEL
