"""What is wrong with the sound of a clip, as far as it moves the scores of its voice."""

import logging

import numpy as np

from .samples import Array
from .vad import STEP

LOG = logging.getLogger("speech_zoo")
NOISY = 10.0  # dB of speech above the noise, below which a clip is noisy
CLIPPED = 0.005  # share of samples that are cut off, above which a clip is distorted
RUN = 3  # samples in a row at the peak: no sound does that by itself
QUIETEST = 0.1  # of the steps: what they hold is noise
LEAST = 2.0  # seconds of a clip, below which it may well hold no pause


def snr(waveform: Array, speaks: Array, sample_rate: int) -> float:
    """How far speech stands above the noise, in dB, of a waveform (N,) and its steps of 32 ms that hold speech (T,).

    The noise is what the quietest tenth of the steps holds, pauses in all speech of some seconds.
    """
    step = STEP * sample_rate // 16000
    steps = waveform[: waveform.size // step * step].reshape(-1, step).astype(np.float64)
    power = np.square(steps).mean(axis=1)
    heard = power[speaks[: len(power)]]
    if not heard.size:
        return float("nan")
    noise = np.sort(power)[: max(1, round(QUIETEST * len(power)))].mean()
    return float(10 * np.log10(max(heard.mean(), 1e-20) / max(noise, 1e-20)))


def clipped(waveform: Array) -> float:
    """The share of samples (N,) that stand in a row at the peak, as where a recording was cut off at full scale."""
    size = np.abs(waveform)
    top = size >= size.max() * (1 - 1e-4)
    runs = np.convolve(top, np.ones(RUN), "valid") == RUN
    return float((np.convolve(runs, np.ones(RUN)) > 0).mean())


def warn_of_quality(name: str, waveform: Array, speaks: Array, sample_rate: int) -> None:
    """Warn of a clip that is noisy or distorted, arguments as `snr`: its voice scores lower than usual."""
    if waveform.size >= LEAST * sample_rate:
        decibels = snr(waveform, speaks, sample_rate)
        if decibels < NOISY:
            LOG.warning(
                "warning: %s is noisy, speech %.0f dB above the noise: one voice scores lower there", name, decibels
            )
    if (share := clipped(waveform)) > CLIPPED:
        LOG.warning(
            "warning: %s is distorted, %.1f %% of it cut off at the peak: one voice scores lower there",
            name,
            100 * share,
        )
