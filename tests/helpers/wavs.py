"""WAV files of 16 bits, written and read without the code under test."""

import wave
from pathlib import Path

import numpy as np


def write_wav(path: Path, samples: np.ndarray, rate: int = 16000) -> Path:
    """Write samples (N,) or (N, channels): int16, or floats in [-1, 1]."""
    whole = np.round(samples * 32767) if samples.dtype.kind == "f" else samples
    with wave.open(str(path), "wb") as file:
        file.setparams((1 if samples.ndim == 1 else samples.shape[1], 2, rate, 0, "NONE", ""))
        file.writeframes(whole.astype("<i2").tobytes())
    return path


def read_wav(path: Path) -> np.ndarray:
    """The int16 samples of a mono file."""
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")
