"""The clips that every comparison runs on."""

import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.audio import load_audio
from speech_zoo_core.audio.resample import Resampler

from ..settings import VOICES

RATE = 16000
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Signal:
    """A clip at 16 kHz: where it is, or nowhere; its samples (N,) float32 in [-1, 1]; whether somebody speaks."""

    name: str
    samples: Array
    path: Path | None = None
    speech: bool = True

    def at(self, rate: int, resampler: Resampler) -> Array:
        """The samples at another rate, brought there as a front end says."""
        return self.samples if rate == RATE else np.array(load_audio((self.samples, RATE), rate, resampler=resampler))


def signals() -> list[Signal]:
    """The nine bundled voices, one second and half a second of two, digital silence, full-scale seeded noise."""
    voices = []
    for path in sorted(VOICES.glob("*.wav")):
        with wave.open(str(path)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(32768)
        voices.append(Signal(path.stem, samples, path))
    noise = (np.random.PCG64(0).random_raw(3 * RATE) >> np.uint64(48)).astype(np.uint16).view(np.int16)
    return [
        *voices,
        Signal("1 s", voices[1].samples[RATE : 2 * RATE]),
        Signal("0.5 s", voices[2].samples[RATE : RATE + RATE // 2]),
        Signal("silence", np.zeros(3 * RATE, np.float32), speech=False),
        Signal("noise", noise / np.float32(32768), speech=False),
    ]
