"""Whether more than one person speaks in a clip, at a cost that does not grow with its length.

A few windows, spread over the clip, are segmented. Where two speakers are heard in one, what each of them says alone is
embedded: only if these are not one voice, several speak. Segmentation alone takes a reader who plays a part for two.
"""

import logging
import math
from functools import cache
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np
from speech_zoo_core.audio import load_audio
from speech_zoo_core.audio.samples import describe

from ..models import load
from ..settings import SEGMENTATION

Array: TypeAlias = "np.ndarray[Any, Any]"

SHORTEST = 5.0  # seconds of a clip that is looked at
WINDOWS = 8  # that are looked at, at most
HOP = 5.0  # seconds between them, at least
ALONE = 1.0  # seconds that each of two speakers speaks alone in one of them


def several_speak(audio: Any, waveform: Array, model: Any, threshold: float) -> bool:
    """Whether two people are heard in one of a few windows, spread over a clip; warns of it.

    Args:
        audio: what the waveform is of, for the warning.
        waveform: (N,) float32 at the model's rate.
        model: of speaker embeddings.
        threshold: cosine from which two pieces are of one speaker.

    Returns:
        False for a clip of less than `SHORTEST` seconds.
    """
    if waveform.size < SHORTEST * model.sample_rate:
        return False
    segmenter = _segmenter()
    samples = np.array(load_audio((waveform, model.sample_rate), segmenter.sample_rate))
    if not any(_two_speak(window, segmenter, model, threshold) for window in _windows(samples, segmenter)):
        return False
    logging.getLogger("speech_zoo").warning(
        "warning: several people speak in %s: speech-zoo diarize tells who speaks when, speech-zoo voices search where "
        "one of them does",
        describe(audio),
    )
    return True


def _windows(samples: Array, segmenter: Any) -> list[Array]:
    """Windows as long as the segmentation model wants them; zeros follow a clip that is shorter."""
    rate = segmenter.sample_rate
    size = round(segmenter.config.duration * rate)
    rest = max(0, samples.size - size)
    starts = np.linspace(0, rest, min(WINDOWS, 1 + math.ceil(rest / rate / HOP))).round().astype(int)
    return [np.pad(samples[start : start + size], (0, max(0, size - samples.size))) for start in starts]


def _two_speak(window: Array, segmenter: Any, model: Any, threshold: float) -> bool:
    rate, step = segmenter.sample_rate, segmenter.frame_step
    active = segmenter.speakers(segmenter(mx.array(window)[None]))[0]
    alone = active & (active.sum(axis=1) == 1)[:, None]
    first, second = np.argsort(-alone.sum(axis=0), kind="stable")[:2]
    if alone[:, second].sum() * step < ALONE * rate:
        return False
    offset = (segmenter.frame_size - step) // 2  # a frame stands for the samples around its middle
    samples = window[offset : offset + len(alone) * step]
    parts = [samples[alone[:, speaker].repeat(step)[: samples.size]] for speaker in (first, second)]
    a, b = (np.array(model.embed((part, rate), vad=False)) for part in parts)
    return bool(a @ b < threshold)


@cache
def _segmenter() -> Any:
    return load(SEGMENTATION)
