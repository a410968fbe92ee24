"""A long file in overlapping windows: which of them hold speech, and the speaker embedding of each that does.

A file is read twice, in memory that does not grow with its length: once for its length and its loudness, which say what
silence is in this recording, once for the windows. Whatever is wrong with it shows before the first window comes.

A window holds speech if a fifth of its frames do (`SPEECH_SHARE`). Windows start every `hop` seconds; what is left
after the last full one is covered by one more of full length that ends with the file. A file that is not longer than a
window is one window, whole, as `model.embed` takes it.
"""

import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np
from speech_zoo_core.audio.stream import Stream
from speech_zoo_core.errors import AudioError, ConfigError, InputError
from speech_zoo_core.progress import progress
from speech_zoo_core.tasks.audio_model import BATCH_SECONDS
from speech_zoo_core.tasks.language import FRAME_SECONDS, SPEECH_RANGE
from speech_zoo_core.tiles import allowed, on_cpu

Array: TypeAlias = "np.ndarray[Any, Any]"

LOUDEST_SHARE = 0.01  # of the frames above FLOOR: the level that these reach is what SPEECH_RANGE counts from
FLOOR = -80.0  # dB of full scale, of a frame's mean square: below it nobody speaks
SPEECH_SHARE = 0.2  # of a window's frames that must hold speech
MIN_HOP, MAX_WINDOW = 0.1, 60.0  # seconds
BATCH = 16  # windows at a time
BAR = "{l_bar}{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"


@dataclass(frozen=True)
class Window:
    """A stretch of a file, in seconds from its start."""

    start: float
    end: float


@dataclass(frozen=True)
class Gate:
    """Tells frames with speech from silence.

    Attributes:
        frame: samples of a frame.
        speaks: (K, frame) float32 to (K,) bool; is given the frames of a file in order, each once.
    """

    frame: int
    speaks: Callable[[Array], Array]


@dataclass(frozen=True)
class Clip:
    """A window with its samples (N,) float32, and for each of its frames of `frame` seconds whether somebody speaks."""

    window: Window
    samples: Array
    speech: Array
    frame: float

    @property
    def speaks(self) -> bool:
        """Whether enough of the window holds speech."""
        return self.share() >= SPEECH_SHARE

    def share(self, start: float = 0.0, end: float = math.inf) -> float:
        """The share of frames with speech between two times of the file, in seconds; 0 where it has none."""
        first, last = (max(0.0, (time - self.window.start) / self.frame) for time in (start, end))
        part = self.speech[round(first) : None if math.isinf(last) else round(last)]
        return float(part.mean()) if part.size else 0.0


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
    model: Any, path: str | os.PathLike[str], window: float = 3.0, hop: float = 1.5, gate: Gate | None = None
) -> Iterator[tuple[list[Window], Array]]:
    """The speaker embeddings of the windows of a file that hold speech, a batch at a time; shows progress.

    Args:
        model: of speaker embeddings.
        path: of the audio file.
        window, hop: length and distance of the windows, in seconds.
        gate: what tells speech from silence, at the model's rate; default: loudness (`survey`).

    Yields:
        At most `BATCH` windows, in order, and their embeddings, (N, D) float32 of unit length.

    Raises:
        AudioError: as `model.embed`; or no window holds speech.
        InputError: windows that cannot be cut, or are too short for the model.
        ConfigError: the model is for another task.
    """
    if model.config.task != "speaker-embedding":
        raise ConfigError(f"windows are embedded by a model for speaker-embedding, not for {model.config.task}")
    stream = Stream(path, model.sample_rate)
    check_windows(window, hop, model)
    length, loudness = survey(stream)
    if length <= window:
        yield [Window(0.0, length)], np.array(model.embed(path))[None]
        return
    for clips, rows in scored(model, stream, length, window, hop, gate or loudness, "embedding"):
        speaking = [clip.window for clip in clips if clip.speaks]
        if speaking:
            yield speaking, _unit(rows)


def survey(stream: Stream) -> tuple[float, Gate]:
    """The length of a file in seconds, and the gate that its loudness gives.

    A frame of 30 ms holds speech if its level (its variance) is within 40 dB of the loud ones of the file, those that
    the loudest hundredth of the frames reach, and above -80 dB of full scale.

    Raises:
        AudioError: the file cannot be decoded to its end.
    """
    rate = stream.sample_rate
    frame, total, counts = round(FRAME_SECONDS * rate), 0, np.zeros(round(-FLOOR) + 1, np.int64)
    rest = np.zeros(0, np.float32)
    with _bar(stream.seconds, "scanning") as bar:
        for block in stream.blocks():
            total += block.size
            samples = np.concatenate([rest, block])
            whole = samples.size // frame * frame
            rest = samples[whole:]
            levels = _levels(samples[:whole].reshape(-1, frame))
            heard = np.minimum(levels[levels >= FLOOR], 0.0)
            counts += np.bincount((heard - FLOOR).astype(np.int64), minlength=counts.size)
            bar.update(block.size / rate)
    louder = np.cumsum(counts[::-1])[::-1]  # frames that reach each level
    loud = np.flatnonzero(louder >= max(1.0, LOUDEST_SHARE * louder[0]))
    threshold = max(FLOOR, FLOOR + loud[-1] - SPEECH_RANGE) if loud.size else math.inf
    return total / rate, Gate(frame, lambda frames: _levels(frames) >= threshold)


def cut(stream: Stream, length: float, window: float, hop: float, gate: Gate, doing: str) -> Iterator[Clip]:
    """The windows of a file that is longer than one, in order, silent ones too; shows progress on a terminal.

    Raises:
        AudioError: the file is another than it was when it was surveyed.
    """
    rate, frame = stream.sample_rate, gate.frame
    size, step, total = round(window * rate), round(hop * rate), round(length * rate)
    samples, speech, first = np.zeros(0, np.float32), np.zeros(0, bool), 0  # `first`: where they begin, at a frame
    blocks = stream.blocks()
    with _bar(length, doing) as bar:
        for start in _starts(total, size, step):
            while first + samples.size < start + size:
                block = next(blocks, None)
                if block is None:
                    raise AudioError(f"{stream.path} has changed while it was read; run it again")
                gone = (start - first) // frame
                samples = np.concatenate([samples[gone * frame :], block])
                speech, first = speech[gone:], first + gone * frame
                new = samples[speech.size * frame : samples.size // frame * frame]
                speech = np.concatenate([speech, gate.speaks(new.reshape(-1, frame))])
            at = start - first
            yield Clip(
                Window(start / rate, (start + size) / rate),
                samples[at : at + size],
                speech[-(-at // frame) : (at + size) // frame],
                frame / rate,
            )
            bar.update((start + size) / rate - bar.n)


def scored(
    model: Any, stream: Stream, length: float, window: float, hop: float, gate: Gate, doing: str
) -> Iterator[tuple[list[Clip], Array]]:
    """Batches of a file's windows, and the model's raw outputs (N, D) float32 of those in which somebody speaks.

    On a CPU these are computed one at a time, which is faster there. Arguments as `cut`.

    Raises:
        AudioError: as `cut`; an output is not finite; nobody speaks in any window.
    """
    clips, silent = cut(stream, length, window, hop, gate, doing), True
    size = max(1, min(BATCH, int(BATCH_SECONDS // window)))
    while batch := list(itertools.islice(clips, size)):
        waveforms = [clip.samples for clip in batch if clip.speaks]
        rows: list[Array] = []
        step = 1 if on_cpu() else size
        for start in range(0, len(waveforms), step):
            with allowed():
                rows.append(np.array(model(mx.array(np.stack(waveforms[start : start + step]))).astype(mx.float32)))
        if not all(np.isfinite(part).all() for part in rows):
            raise AudioError("the model's output is not finite; load the model with dtype='float32'")
        silent = silent and not rows
        yield batch, np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)
    if silent:
        raise AudioError(
            f"{stream.path} is silent: no window holds {SPEECH_SHARE:.0%} speech; there is no voice to work on"
        )


def _starts(total: int, size: int, step: int) -> Iterator[int]:
    """Where the windows start: every step, and a last one that ends with the file."""
    last = (total - size) // step * step
    yield from range(0, last + 1, step)
    if last + size < total:
        yield total - size


def _levels(frames: Array) -> Array:
    """The level of each frame (K, N) in dB of full scale, (K,); a constant offset does not count."""
    levels: Array = 10 * np.log10(np.maximum(frames.var(axis=1, dtype=np.float64), 1e-20))
    return levels


def _unit(rows: Array) -> Array:
    full = rows.astype(np.float64)
    unit: Array = (full / np.linalg.norm(full, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _bar(seconds: float | None, doing: str) -> Any:
    return progress(total=seconds, desc=doing, bar_format=BAR if seconds else None, unit="s")
