"""A long file in overlapping windows: which of them hold speech, and the speaker embedding of each that does.

A file is read once, in memory that does not grow with its length. A window holds speech if a fifth of its steps of
32 ms do (`SPEECH_SHARE`), as the speech detector says. Windows start every `hop` seconds; what is left after the last
full one is covered by one more of full length that ends with the file. A file that is not longer than a window is one
window, whole, as `model.embed` takes it.
"""

import itertools
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import mlx.core as mx
import numpy as np
from speech_zoo_core.audio.samples import Channel
from speech_zoo_core.audio.stream import Stream
from speech_zoo_core.audio.vad import SECONDS, SpeechDetector, check_speech
from speech_zoo_core.errors import AudioError, ConfigError, InputError
from speech_zoo_core.progress import progress
from speech_zoo_core.tasks.audio_model import BATCH_SECONDS

Array: TypeAlias = "np.ndarray[Any, Any]"
Item = TypeVar("Item")

SPEECH_SHARE = 0.2  # of a window's steps that must hold speech
ROUNDING = 1e-9  # of steps: a window that ends with a step holds it
MIN_HOP, MAX_WINDOW = 0.1, 60.0  # seconds
BATCH = 16  # windows at a time
BAR = "{l_bar}{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"


@dataclass(frozen=True)
class Window:
    """A stretch of a file, in seconds from its start."""

    start: float
    end: float


@dataclass(frozen=True)
class Clip:
    """A window with its samples (N,) float32, and whether somebody speaks in each of its steps, (T,) bool.

    A step is `SECONDS` long; the first one is the first that begins in the window. `whole` says that the file is not
    longer than the window.
    """

    window: Window
    samples: Array
    speech: Array
    whole: bool = False

    @property
    def speaks(self) -> bool:
        """Whether enough of the window holds speech."""
        return self.whole or self.share() >= SPEECH_SHARE

    def share(self, start: float = 0.0, end: float = math.inf) -> float:
        """The share of steps with speech between two times of the file, in seconds; 0 where it has none."""
        first, last = (max(0.0, (time - self.window.start) / SECONDS) for time in (start, end))
        part = self.speech[round(first) : None if math.isinf(last) else round(last)]
        return float(part.mean()) if part.size else 0.0


def stream_for(model: Any, path: str | os.PathLike[str], channel: Channel | None = None) -> Stream:
    """A file as the model's front end hears it."""
    front_end = model.config.front_end
    return Stream(path, front_end.sample_rate, front_end.resampler, front_end.channel if channel is None else channel)


def check_windows(window: float, hop: float, model: Any = None) -> None:
    """Raises InputError unless windows of these seconds can be cut, and are long enough for the model."""
    if not 0 < window <= MAX_WINDOW:
        raise InputError(f"a window is longer than 0 and at most {MAX_WINDOW:g} seconds, not {window!r}")
    if not MIN_HOP <= hop <= window:
        raise InputError(f"a hop is between {MIN_HOP:g} seconds and the window of {window:g}, not {hop!r}")
    if model is not None:
        shortest = model.config.front_end.seconds(model.min_frames)
        if window < shortest:
            raise InputError(f"windows of {window:g} s are too short: the model needs at least {shortest:.3f} s")


def window_embeddings(
    model: Any,
    path: str | os.PathLike[str],
    window: float = 3.0,
    hop: float = 1.5,
    *,
    channel: Channel | None = None,
    vad: bool = True,
) -> Iterator[tuple[list[Window], Array]]:
    """The speaker embeddings of the windows of a file that hold speech, a batch at a time; shows progress.

    Args:
        model: of speaker embeddings.
        path: of the audio file.
        window, hop: length and distance of the windows, in seconds.
        channel: as for `model.embed`.
        vad: whether windows without speech are left out.

    Yields:
        At most `BATCH` windows, in order, and their embeddings, (N, D) float32 of unit length.

    Raises:
        AudioError: as `model.embed`; or no window holds speech. Windows may have come before that.
        InputError: windows that cannot be cut, or are too short for the model.
        ConfigError: the model is for another task.
    """
    if model.config.task != "speaker-embedding":
        raise ConfigError(f"windows are embedded by a model for speaker-embedding, not for {model.config.task}")
    check_windows(window, hop, model)
    stream = stream_for(model, path, channel)
    for clips, rows in scored(model, stream, window, hop, vad, "embedding"):
        speaking = [clip.window for clip in clips if clip.speaks]
        if speaking:
            yield speaking, _unit(rows)


def cut(stream: Stream, window: float, hop: float, vad: bool, doing: str) -> Iterator[Clip]:
    """The windows of a file, in order, silent ones too; shows progress on a terminal.

    Without `vad` somebody speaks all the time. Raises AudioError as `Stream.blocks`.
    """
    rate = stream.sample_rate
    size, step = round(window * rate), round(hop * rate)
    heard = _Heard(stream, vad)
    with progress(total=stream.seconds, desc=doing, bar_format=BAR if stream.seconds else None, unit="s") as bar:
        if not heard.reach(size + 1):
            yield replace(heard.clip(0, heard.end), whole=True)
            return
        start = 0
        while heard.reach(start + size):
            yield heard.clip(start, size)
            bar.update((start + size) / rate - bar.n)
            start += step
        if start - step + size < heard.end:  # what is left
            yield heard.clip(heard.end - size, size)


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items of an iterator, which makes the next one in a thread of its own meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


class _Heard:
    """The part of a file that windows may still need, and the speech in it."""

    def __init__(self, stream: Stream, vad: bool) -> None:
        self._rate = stream.sample_rate
        self._blocks = stream.blocks()
        self._detector = SpeechDetector(stream.sample_rate) if vad else None
        self._samples, self._first, self.end = np.zeros(0, np.float32), 0, 0  # the first sample; one past the last
        self._speech, self._first_step, self._done = np.zeros(0, bool), 0, False

    def reach(self, end: int) -> bool:
        """Read on until all before the sample `end` is known; False if the file ends earlier."""
        while not self._done and (self.end < end or self._known() < math.ceil(end / self._rate / SECONDS)):
            block = next(self._blocks, None)
            if block is None:
                self._done = True
                speech = np.zeros(0, bool) if self._detector is None else self._detector.finish()
            else:
                self._samples, self.end = np.concatenate([self._samples, block]), self.end + block.size
                speech = np.zeros(0, bool) if self._detector is None else self._detector.feed(block)
            if self._detector is None:
                speech = np.ones(math.ceil(self.end / self._rate / SECONDS) - self._known(), bool)
            self._speech = np.concatenate([self._speech, speech])
        return self.end >= end

    def _known(self) -> int:
        return self._first_step + self._speech.size

    def clip(self, start: int, size: int) -> Clip:
        """The window from a sample on; what lies before it is forgotten."""
        rate, at = self._rate, start - self._first
        samples = self._samples[at : at + size].copy()
        first = math.ceil(start / rate / SECONDS - ROUNDING)
        last = math.floor((start + size) / rate / SECONDS + ROUNDING)
        last = max(last, first + 1)  # of a window that is shorter than a step
        speech = self._speech[first - self._first_step : last - self._first_step].copy()
        dropped = int(start / rate / SECONDS + ROUNDING) - self._first_step
        self._samples, self._first = self._samples[at:], start
        self._speech, self._first_step = self._speech[dropped:], self._first_step + dropped
        return Clip(Window(start / rate, (start + size) / rate), samples, speech)


def scored(
    model: Any, stream: Stream, window: float, hop: float, vad: bool, doing: str
) -> Iterator[tuple[list[Clip], Array]]:
    """Batches of a file's windows, and the model's raw outputs (N, D) float32 of those in which somebody speaks.

    Arguments as `cut`.

    Raises:
        AudioError: as `cut`; an output is not finite; nobody speaks in any window.
    """
    clips, silent = cut(stream, window, hop, vad, doing), True
    size = max(1, min(BATCH, int(BATCH_SECONDS // window)))
    while batch := list(itertools.islice(clips, size)):
        for clip in batch:
            if clip.whole:
                model._check_length(clip.samples.size, stream.name)
                if vad:
                    check_speech(clip.speech, stream.name)
        waveforms = [clip.samples for clip in batch if clip.speaks]
        rows: list[Array] = []
        step = max(1, min(size, int(model.batch_seconds // window)))
        for start in range(0, len(waveforms), step):
            rows.append(np.array(model(mx.array(np.stack(waveforms[start : start + step]))).astype(mx.float32)))
        if not all(np.isfinite(part).all() for part in rows):
            raise AudioError("the model's output is not finite; load the model with dtype='float32'")
        silent = silent and not rows
        yield batch, np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)
    if silent:
        raise AudioError(f"{stream.name} holds no speech: no window has {SPEECH_SHARE:.0%} of it")


def _unit(rows: Array) -> Array:
    full = rows.astype(np.float64)
    unit: Array = (full / np.linalg.norm(full, axis=1, keepdims=True)).astype(np.float32)
    return unit
