"""Log-mel features against kaldi-native-fbank."""

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version

import mlx.core as mx
import numpy as np
import pytest
from parity_oracles import HAMMING, POVEY, kaldi_features
from signals import ALL, LOG_MEL, RATE, waveforms
from speech_zoo_core.front_end import THREE_D_SPEAKER, WESPEAKER, FrontEnd

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
    found = {s: difference(replace(ours, cmn=cmn), waveforms()[s], cmn=cmn, **kaldi) for s in ALL}
    worst = max(found, key=found.__getitem__)
    oracle = f"kaldi-native-fbank {version('kaldi-native-fbank')}"
    form = "CMN" if cmn else "no CMN"
    record(
        f"fbank {name}", form, "float32", f"all {len(ALL)}", f"{found[worst]:.1e} ({worst})", "", "", "0.001", oracle
    )
    assert found[worst] <= LOG_MEL, found


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
