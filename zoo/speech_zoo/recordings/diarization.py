"""Who speaks when in a long file.

A window of ten seconds slides over the file. The segmentation model tells who of its few speakers speaks in which of
its frames. Where one speaks alone, every few seconds give an embedding, once: windows before may have had the stretch.
The embeddings are clustered over the whole file, and where windows overlap, they vote: first on how many speak in a
frame, then on who. Where the speech check is sure that nobody speaks, nobody does: the segmentation
alone takes a tenth of a second beside each turn for speech.

Bredin takes one embedding for each window and speaker. Stretches tell more: voices that the segmentation takes for one,
as it must where more than three take part in ten seconds, are told apart all the same.

A file is read once, and segmented in a thread of its own, a batch ahead of the embeddings. What is kept of each window
is a few kilobytes.

Reference: Bredin, "pyannote.audio 2.1 speaker diarization pipeline: principle, benchmark, and recipe", Interspeech
2023; Plaquet and Bredin, "Powerset multi-class cross entropy loss for neural speaker diarization", Interspeech 2023.
"""

import itertools
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import mlx.core as mx
import numpy as np
from speech_zoo_core.audio.samples import Channel
from speech_zoo_core.audio.stream import Stream
from speech_zoo_core.audio.vad import SECONDS, SpeechDetector
from speech_zoo_core.errors import ConfigError, InputError
from speech_zoo_core.progress import progress

from ..models import load
from ..settings import DEFAULT_MODEL, SEGMENTATION
from .clustering import clustered
from .names import check_voices, known_speakers
from .segment import Segment
from .windows import BAR, ahead, stream_for

Array: TypeAlias = "np.ndarray[Any, Any]"
Window: TypeAlias = "tuple[Array, int, bool]"  # samples (N,), how many of them are the file's, whether it is the last
Run: TypeAlias = "tuple[int, int, int, float]"  # frames from and to before, the speaker, his share of the windows

STEP = 1.0  # seconds between windows, about: whole frames; as pyannote.audio
BATCH = 8  # windows at a time: more take memory and are no faster
PAUSE = 0.2  # seconds: within a stretch at most, and within what the speech check finds silent at least
SILENT = 0.05  # probability of speech below which the check is sure
LEAST, CUT, SHORTEST = 0.4, 2.0, 1.0  # seconds: of a stretch that gives an embedding, between cuts, of a part
SURE = 1.7  # seconds of speech from which on an embedding takes part in the clustering: a part between two cuts does
RECENT = 100  # stretches among which those of the windows before are
SAME = 0.25  # seconds by which the edges of a stretch may differ from one window to the next, together


@dataclass(frozen=True)
class Stretch:
    """Frames of the file, from `begin` to before `end`, in which one of a window's speakers speaks.

    Attributes:
        speaker: of the window, not of the file.
        alone: whether nobody else speaks.
        vector: which of the embeddings is its own; -1 for none.
    """

    window: int
    speaker: int
    begin: int
    end: int
    alone: bool
    vector: int = -1


@dataclass(frozen=True)
class Heard:
    """What the windows hold.

    Attributes:
        stretches: of all windows, in order.
        speaking: (F,) how many speak in each frame of the file, on average over the windows; 0 where it is silent.
        windows: (F,) how many cover each frame.
        vectors: (N, D) embeddings of unit length.
        seconds: (N,) of speech behind each.
    """

    stretches: list[Stretch]
    speaking: Array
    windows: Array
    vectors: Array
    seconds: Array


def diarize(
    path: str | os.PathLike[str],
    *,
    speakers: int | None = None,
    min_speakers: int | None = None,
    max_speakers: int | None = None,
    model: Any = DEFAULT_MODEL,
    segmentation: Any = SEGMENTATION,
    channel: Channel | Literal["each"] | None = None,
    voices: Any = None,
) -> list[Segment]:
    """Who speaks when, with overlap; shows progress on a terminal.

    Args:
        path: of the audio file.
        speakers: how many there are, where that is known.
        min_speakers, max_speakers: how many there are at least and at most.
        model: of speaker embeddings, its name or loaded; the threshold in its config tells speakers apart.
        segmentation: of speaker segmentation, its name or loaded.
        channel: of several, its number from 0 on, or "mean"; "each" where every channel holds one speaker. Default:
            what the front end says.
        voices: a `VoiceStore` of the same model: speakers that are known voices bear their names.

    Returns:
        Segments in order of their start, labelled with the name of a known voice, or "speaker 1", "speaker 2" and so
        on as they come, with `channel="each"` by the channel; none where nobody speaks.

    Raises:
        AudioError: the file cannot be decoded.
        InputError: numbers of speakers that contradict each other, or `channel="each"`.
        ConfigError: a model is for another task, names no threshold, or works at another rate than the other; the
            voices are of another checkpoint.
        SpeechZooError: there is no store of voices, or it cannot be read.
    """
    least, most = _bounds(speakers, min_speakers, max_speakers)
    if channel == "each" and (most is not None or least > 1):
        raise InputError("with a speaker on each channel their number is known: leave it out")
    least, most = (1, 1) if channel == "each" else (least, most)
    embedder, segmenter = _both(model, segmentation)
    if voices is not None:
        check_voices(voices, embedder)
    channels = range(stream_for(segmenter, path).channels) if channel == "each" else [channel]
    runs: list[Run] = []
    means: list[Array] = []
    labels: dict[int, str] = {}
    for number, one in enumerate(channels, 1):
        heard = listen(stream_for(segmenter, path, one), segmenter, embedder)
        if not len(heard.vectors):
            continue
        clusters = _given(heard, embedder.config.threshold, least, most)
        _warn_of_few(path, clusters.max() + 1, least)
        if channel == "each":
            labels[len(means)] = f"speaker {number}"
        runs += _runs(*_votes(heard, clusters, most), len(means))
        means += list(_means(heard, clusters))
    if not means:
        return []
    if voices is not None:
        labels |= known_speakers(np.stack(means), voices)
    return _segments(runs, labels, segmenter.frame_time(0), segmenter.frame_step / segmenter.sample_rate)


def check_numbers(speakers: int | None, min_speakers: int | None, max_speakers: int | None) -> None:
    """Raises InputError for numbers of speakers that contradict each other."""
    _bounds(speakers, min_speakers, max_speakers)


def _bounds(speakers: int | None, least: int | None, most: int | None) -> tuple[int, int | None]:
    for name, value in (("speakers", speakers), ("min_speakers", least), ("max_speakers", most)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"{name} is a whole number from 1 on, not {value!r}")
    if speakers is not None and (least is not None or most is not None):
        raise InputError("speakers says how many there are; min_speakers and max_speakers are for when that is unknown")
    if least is not None and most is not None and least > most:
        raise InputError(f"min_speakers {least} is more than max_speakers {most}")
    return speakers or least or 1, speakers or most


def _warn_of_few(path: str | os.PathLike[str], count: int, least: int) -> None:
    if count < least:
        logging.getLogger("speech_zoo").warning(
            "warning: %s: of %d speakers no more than %d can be told apart", os.fspath(path), least, count
        )


def _both(model: Any, segmentation: Any) -> tuple[Any, Any]:
    """The loaded models of embeddings and of segmentation; errors as `diarize`."""
    embedder, segmenter = _loaded(model, "speaker-embedding"), _loaded(segmentation, "speaker-segmentation")
    if embedder.sample_rate != segmenter.sample_rate:
        raise ConfigError(
            f"the models work at {embedder.sample_rate} and {segmenter.sample_rate} Hz; both must be equal"
        )
    if embedder.config.threshold is None:
        raise ConfigError("the checkpoint of the embeddings names no threshold: set it in its config.json")
    return embedder, segmenter


def _loaded(model: Any, task: str) -> Any:
    if isinstance(model, (str, os.PathLike)):
        return load(model, task=task)
    if model.config.task != task:
        raise ConfigError(f"this model is for {model.config.task}, not for {task}")
    return model


def listen(stream: Stream, segmenter: Any, embedder: Any) -> Heard:
    """Segment the windows of a file and embed what each speaker says alone."""
    rate, step = stream.sample_rate, segmenter.frame_step
    size, hop = round(segmenter.config.duration * rate), max(1, round(STEP * rate / step))
    frames = segmenter.num_frames(size)
    offset = (segmenter.frame_size - step) // 2  # a frame stands for the samples around its middle
    stretches: list[Stretch] = []
    vectors: list[Array] = []
    seconds: list[float] = []
    counts: list[Array] = []
    checked: list[Array] = []
    total = 0
    segmented = ahead(_segmented(_windows(_checked(stream, checked), size, hop * step), segmenter))
    with progress(total=stream.seconds, desc="listening", bar_format=BAR if stream.seconds else None, unit="s") as bar:
        for batch in segmented:
            for (wave, held, last), mine in batch:
                window, first = len(counts), len(counts) * hop
                cut_off = (first if window else -1, -1 if last else first + len(mine))
                for new in _stretches(mine, window, first, step / rate):
                    vector = _known(stretches[-RECENT:], new, cut_off, SAME * rate / step)
                    long = new.alone and new.end - new.begin >= LEAST * rate / step
                    if vector < 0 and long and new.end != cut_off[1]:
                        begin, end = ((at - first) * step + offset for at in (new.begin, new.end))
                        if (row := _embedding(embedder, wave[begin:end])) is not None:
                            vector = len(vectors)
                            vectors.append(row)
                            seconds.append((end - begin) / rate)
                    stretches.append(replace(new, vector=vector))
                counts.append(mine.sum(axis=1).astype(np.uint8))
                total = first * step + held
            bar.update(total / rate - bar.n)
    length = max(1, segmenter.num_frames(total))
    speaking, covering = np.zeros((2, len(counts) * hop + frames))  # the last window may reach beyond the file
    for window, count in enumerate(counts):
        speaking[window * hop : window * hop + frames] += count
        covering[window * hop : window * hop + frames] += 1
    covering = np.maximum(covering[:length], 1)
    times = segmenter.frame_time(0) + np.arange(length) * step / rate
    speaking = np.where(_silent(np.concatenate(checked), times), 0, speaking[:length] / covering)
    rows = np.stack(vectors) if vectors else np.zeros((0, embedder.config.embed_dim), np.float32)
    return Heard(stretches, speaking, covering, rows, np.array(seconds))


def _checked(stream: Stream, checked: list[Array]) -> Iterator[Array]:
    """The blocks of a file; the probabilities of speech in its steps are added to the list as they come."""
    detector = SpeechDetector(stream.sample_rate, probabilities=True)
    for block in stream.blocks():
        checked.append(detector.feed(block))
        yield block
    checked.append(detector.finish())


def _silent(probabilities: Array, times: Array) -> Array:
    """Whether the check is sure, for `PAUSE` at least, that nobody speaks: at times in seconds, one a frame, (F,).

    A step's probability, of (T,), stands at its beginning: the check, which hears nothing of the future, comes late.
    """
    silent: Array = np.interp(times, np.arange(probabilities.size) * SECONDS, probabilities) < SILENT
    for begin, end in np.flatnonzero(np.diff(np.pad(silent, 1).astype(np.int8))).reshape(-1, 2):
        if (end - begin) * (times[-1] - times[0]) < PAUSE * (times.size - 1):
            silent[begin:end] = False
    return silent


def _windows(blocks: Iterator[Array], size: int, hop: int) -> Iterator[Window]:
    """Windows of a file every `hop` samples; zeros follow where the file ends."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        while rest.size > size:
            yield rest[:size], size, False
            rest = rest[hop:]
    if rest.size:
        yield np.pad(rest, (0, size - rest.size)), rest.size, True


def _segmented(windows: Iterator[Window], segmenter: Any) -> Iterator[list[tuple[Window, Array]]]:
    """Batches of windows, each with who of its speakers speaks in its frames, bool (T, S)."""
    while batch := list(itertools.islice(windows, BATCH)):
        waves = mx.array(np.stack([wave for wave, *_ in batch]))
        yield list(zip(batch, segmenter.speakers(segmenter(waves)), strict=True))


def _stretches(active: Array, window: int, first: int, step: float) -> Iterator[Stretch]:
    """The stretches of a window's speakers, (T, S) bool, alone and with others; `step` is a frame's, in seconds."""
    others = active.sum(axis=1) > 1
    for speaker in range(active.shape[1]):
        for alone in (True, False):
            edges = np.flatnonzero(np.diff(np.pad(active[:, speaker] & (others != alone), 1).astype(np.int8)))
            runs: list[list[int]] = []
            for begin, end in edges.reshape(-1, 2).tolist():
                if runs and begin - runs[-1][1] <= PAUSE / step and not active[runs[-1][1] : begin].any():
                    runs[-1][1] = end
                else:
                    runs.append([begin, end])
            for begin, end in runs:
                for start, stop in itertools.pairwise(_cuts(first + begin, first + end, step)):
                    yield Stretch(window, speaker, start, stop, alone)


def _cuts(begin: int, end: int, step: float) -> list[int]:
    """Where a stretch is cut, ends included: every `CUT` seconds of the file, so that every window has the same parts.

    No part is shorter than `SHORTEST`, but for a stretch that is.
    """
    every, least = CUT / step, SHORTEST / step
    places = np.arange(math.ceil((begin + least) / every), math.floor((end - least) / every) + 1) * every
    return [begin, *places.round().astype(int).tolist(), end]


def _known(recent: list[Stretch], new: Stretch, cut_off: tuple[int, int], same: float) -> int:
    """The embedding that one of the recent stretches has for a new one; -1 for none.

    Args:
        cut_off: the frames at which a stretch is cut off by the window's beginning and end. What the beginning cuts off
            is known from windows before; what the end cuts off is embedded when it is whole.
        same: frames by which the edges may differ.
    """
    for old in reversed(recent):
        begins = 0 if new.begin == cut_off[0] else abs(old.begin - new.begin)
        if old.vector >= 0 and begins + abs(old.end - new.end) <= same:
            return old.vector
    return -1


def _embedding(embedder: Any, clip: Array) -> "Array | None":
    """The embedding (D,) of unit length; None for a clip that the model finds too short, or one of zeros."""
    front_end = embedder.config.front_end
    if front_end.num_frames(clip.size) < embedder.min_frames or not clip.any():
        return None
    row = np.array(embedder(front_end(mx.array(clip))[None])[0].astype(mx.float32), np.float64)
    return (row / np.linalg.norm(row)).astype(np.float32)


def _given(heard: Heard, threshold: float, least: int, most: int | None) -> Array:
    """The cluster of each embedding, (N,)."""
    sure = heard.seconds >= min(SURE, heard.seconds.max())
    means = clustered(heard.vectors[sure], heard.seconds[sure], threshold, least, most)
    clusters: Array = (heard.vectors @ means.T).argmax(axis=1)
    return clusters


def _votes(heard: Heard, clusters: Array, most: int | None) -> tuple[Array, Array]:
    """Who speaks in each frame of the file, bool (F, K), and the share of its windows that say so, (F, K).

    A stretch without an embedding goes with the nearest one of the same speaker in its window, if there is one.
    """
    votes = np.zeros((len(heard.speaking), clusters.max() + 1), np.float32)
    for _, group in itertools.groupby(heard.stretches, key=lambda stretch: (stretch.window, stretch.speaker)):
        mine = list(group)
        known = [stretch for stretch in mine if stretch.vector >= 0]
        for stretch in mine if known else ():
            near = stretch if stretch.vector >= 0 else min(known, key=partial(_distance, stretch))
            votes[stretch.begin : stretch.end, clusters[near.vector]] += 1
    speaking = np.rint(heard.speaking).astype(int)
    speaking = speaking if most is None else np.minimum(speaking, most)
    order = np.argsort(-votes, axis=1, kind="stable")
    active = np.zeros(votes.shape, bool)
    for place in range(min(votes.shape[1], speaking.max(initial=0))):
        rows = np.flatnonzero(speaking > place)
        active[rows, order[rows, place]] = votes[rows, order[rows, place]] > 0
    return active, np.minimum(votes / heard.windows[:, None], 1.0)


def _distance(a: Stretch, b: Stretch) -> int:
    """Frames between two stretches."""
    return max(a.begin - b.end, b.begin - a.end)


def _means(heard: Heard, clusters: Array) -> Array:
    """The mean embedding of each cluster, (K, D) of unit length."""
    sums = np.zeros((clusters.max() + 1, heard.vectors.shape[1]))
    np.add.at(sums, clusters, heard.vectors * heard.seconds[:, None])
    means: Array = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return means


def _runs(active: Array, shares: Array, first: int) -> list[Run]:
    """Runs of frames of each speaker, bool (F, K), with the mean of their shares; speakers count from `first`."""
    edged = np.zeros((len(active) + 2, active.shape[1]), np.int8)
    edged[1:-1] = active
    runs: list[Run] = []
    for k in range(active.shape[1]):
        edges = np.flatnonzero(np.diff(edged[:, k]))
        runs += [(a, b, first + k, float(shares[a:b, k].mean())) for a, b in edges.reshape(-1, 2).tolist()]
    return runs


def _segments(runs: list[Run], labels: dict[int, str], offset: float, step: float) -> list[Segment]:
    """Runs of frames as segments; speakers without a label are numbered as they come."""
    free = (label for label in map("speaker {}".format, itertools.count(1)) if label not in labels.values())
    known = dict(labels)
    segments = []
    for begin, end, speaker, score in sorted(runs):
        if speaker not in known:
            known[speaker] = next(free)
        start = offset + begin * step if begin else 0.0
        segments.append(Segment(start, offset + end * step, known[speaker], score=score))
    return segments
