"""Which of a recording's speakers are known voices, and what one of them says alone."""

import itertools
import os
from typing import Any, TypeAlias

import numpy as np
from speech_zoo_core.audio.samples import Channel
from speech_zoo_core.errors import ConfigError, InputError
from speech_zoo_core.identity import identity

from ..calibration.thresholds import threshold_of
from .segment import Segment
from .windows import stream_for

Array: TypeAlias = "np.ndarray[Any, Any]"

MOST = 60.0  # seconds of speech that make a clip; the longest stretches


def check_voices(voices: Any, embedder: Any) -> None:
    """Raises ConfigError unless a voice store is of the model that embeds; SpeechZooError as `VoiceStore.means`."""
    if voices.model is not embedder and identity(voices.model) != identity(embedder):
        raise ConfigError("the voices are of another checkpoint than the embeddings: give both the same model")
    voices.means()


def known_speakers(speakers: Array, voices: Any) -> dict[int, str]:
    """The names of speakers that are known, each name once: those that together fit best, from the threshold on.

    Args:
        speakers: (K, D) their embeddings, of unit length.
        voices: a `VoiceStore` of the same model.
    """
    from scipy.optimize import linear_sum_assignment

    names, means = voices.means()
    threshold = threshold_of(voices.model)
    if threshold is None or not names:
        return {}
    scores = speakers @ means.T
    rows, columns = linear_sum_assignment(np.where(scores >= threshold, scores, -1.0), maximize=True)
    return {int(i): names[j] for i, j in zip(rows, columns, strict=True) if scores[i, j] >= threshold}


def alone(
    path: str | os.PathLike[str], segments: list[Segment], label: str, model: Any, channel: Channel | None = None
) -> tuple[Array, int]:
    """What a speaker of a recording says while nobody else speaks: the longest stretches, a minute at most.

    Args:
        path: of the audio file.
        segments: who speaks when in it.
        label: of the speaker.
        model: at whose rate the samples are.
        channel: as for `model.embed`.

    Returns:
        (N,) float32, and the rate in Hz.

    Raises:
        AudioError: the file cannot be decoded.
        InputError: the recording has no such speaker, or somebody else speaks all the time.
    """
    labels = sorted({segment.label for segment in segments})
    if label not in labels:
        raise InputError(f"{os.fspath(path)} has no {label}; it has {', '.join(labels) or 'nobody'}")
    times = sorted({time for segment in segments for time in (segment.start, segment.end)})
    stretches = []
    for start, end in itertools.pairwise(times):
        if {segment.label for segment in segments if segment.start <= start and segment.end >= end} == {label}:
            stretches.append((start, end))
    stretches.sort(key=lambda stretch: stretch[0] - stretch[1])
    kept: list[tuple[float, float]] = []
    for start, end in stretches:
        left = MOST - sum(b - a for a, b in kept)
        if left > 0:
            kept.append((start, min(end, start + left)))
    if not kept:
        raise InputError(f"{label} of {os.fspath(path)} never speaks alone")
    stream, parts, at = stream_for(model, path, channel), [], 0
    edges = [(round(a * stream.sample_rate), round(b * stream.sample_rate)) for a, b in sorted(kept)]
    for block in stream.blocks():
        parts += [block[max(0, a - at) : max(0, b - at)] for a, b in edges]
        at += block.size
    return np.concatenate(parts), stream.sample_rate
