"""The stretches of a long file in which one person speaks alone, and the speaker embedding of each.

Windows of the segmentation model begin every half of their length. A stretch is taken from the window in which it lies
far enough from the edges; a long one goes on in the next window. So no moment is embedded twice, and none in which the
model hears two, as fixed windows would. A file is read once, in memory that does not grow with its length.
"""

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np
from speech_zoo_core.audio import load_audio
from speech_zoo_core.audio.samples import Channel
from speech_zoo_core.device import on_cpu
from speech_zoo_core.errors import AudioError, ConfigError

from .windows import BATCH, SPEECH_SHARE, Array, Clip, Window, cut, stream_for

EDGE = 0.5  # seconds at the beginning of a window that are left to the one before
PAUSE = 0.2  # seconds: within a stretch at most
LEAST, MOST = 0.4, 4.0  # seconds of a stretch; longer ones are cut, into equal parts
BATCH_ON_CPU = 4  # windows at a time: more are no faster there, and take 30 MB each
NOBODY, SEVERAL = -1, -2  # in place of a speaker


def solo_embeddings(
    model: Any, segmenter: Any, path: str | os.PathLike[str], *, channel: Channel | None = None, vad: bool = True
) -> Iterator[tuple[list[Window], Array]]:
    """The speaker embeddings of the stretches of a file in which one person speaks alone; shows progress.

    Args:
        model: of speaker embeddings.
        segmenter: of speaker segmentation.
        path: of the audio file.
        channel: as for `model.embed`.
        vad: whether a stretch must hold speech by the speech check, too.

    Yields:
        Stretches in order, without overlap, and their embeddings, (N, D) float32 of unit length.

    Raises:
        AudioError: as `model.embed`; or nobody speaks alone. Stretches may have come before that.
        ConfigError: a model is for another task.
    """
    for one, task in ((model, "speaker-embedding"), (segmenter, "speaker-segmentation")):
        if one.config.task != task:
            raise ConfigError(f"this model is for {one.config.task}, not for {task}")
    stream, length = stream_for(model, path, channel), segmenter.config.duration
    rate, least = stream.sample_rate, max(LEAST, model.config.front_end.seconds(model.min_frames))
    windows = _with_ends(cut(stream, length, length / 2, vad, "listening"))
    done, silent = 0.0, True
    while batch := list(itertools.islice(windows, BATCH_ON_CPU if on_cpu() else BATCH)):
        stretches, rows = [], []
        spoken = [(clip, until) for clip, until in batch if clip.speech.any()]
        for (clip, until), runs in zip(spoken, _solos([clip for clip, _ in spoken], rate, segmenter), strict=True):
            for stretch in _parts(runs, done, until, least):
                done = stretch.end
                if clip.share(stretch.start, stretch.end) >= SPEECH_SHARE:
                    first, last = (round((time - clip.window.start) * rate) for time in (stretch.start, stretch.end))
                    rows.append(np.array(model.embed((clip.samples[first:last], rate), vad=False)))
                    stretches.append(stretch)
        if rows:
            silent = False
            yield stretches, np.stack(rows)
    if silent:
        raise AudioError(f"{stream.name} holds no speech of one person alone")


def _with_ends(clips: Iterable[Clip]) -> Iterator[tuple[Clip, float]]:
    """Windows, and until when in the file stretches begin that are taken from each; the last one has the rest."""
    for clip, after in itertools.pairwise(itertools.chain(clips, [None])):
        if clip is not None:
            yield clip, math.inf if after is None else after.window.start + EDGE


def _parts(runs: Iterable[Window], done: float, until: float, least: float) -> Iterator[Window]:
    """The stretches that begin from `done` on and before `until`, in parts where they are long, without short ones."""
    for run in runs:
        start = max(run.start, done)
        while run.end - start >= least and start < until:
            end = start + (run.end - start) / math.ceil((run.end - start) / MOST)
            yield Window(start, end)
            start = end


def _solos(clips: list[Clip], rate: int, segmenter: Any) -> Iterator[list[Window]]:
    """When somebody speaks alone in each of some windows, in seconds of the file."""
    if not clips:
        return
    size = round(segmenter.config.duration * segmenter.sample_rate)
    heard = [np.array(load_audio((clip.samples, rate), segmenter.sample_rate))[:size] for clip in clips]
    waves = np.stack([np.pad(samples, (0, size - samples.size)) for samples in heard])
    step = segmenter.frame_step / segmenter.sample_rate
    offset = segmenter.frame_time(0) - step / 2  # a frame stands for the samples around its middle
    for clip, active in zip(clips, segmenter.speakers(segmenter(mx.array(waves))), strict=True):
        times = np.minimum(clip.window.start + offset + np.arange(len(active) + 1) * step, clip.window.end).tolist()
        times[0], times[-1] = clip.window.start, clip.window.end
        yield [Window(times[begin], times[end]) for begin, end in _runs(active, PAUSE / step)]


def _runs(active: Array, pause: float) -> list[tuple[int, int]]:
    """The frames, from and to before, in which one of a window's speakers, (T, S) bool, is heard alone.

    A pause of at most so many frames is part of it, where nobody else speaks in it.
    """
    counts = active.sum(axis=1)
    who = np.where(counts == 1, active.argmax(axis=1), np.where(counts == 0, NOBODY, SEVERAL))
    runs: list[tuple[int, int, int]] = []
    for begin, end in itertools.pairwise([0, *np.flatnonzero(np.diff(who)) + 1, len(who)]):
        speaker = int(who[begin])
        if speaker == NOBODY:
            continue
        if runs and runs[-1][2] == speaker and begin - runs[-1][1] <= pause:
            runs[-1] = (runs[-1][0], int(end), speaker)
        else:
            runs.append((int(begin), int(end), speaker))
    return [(begin, end) for begin, end, speaker in runs if speaker != SEVERAL]
