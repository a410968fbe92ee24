"""Which language is spoken when: the segments of a long file, from a language model's answers for its windows.

A step is `hop` seconds long. Its probabilities are the mean over the windows that hold its middle (two, where windows
are twice as long as steps), its evidence is the mean of their top logits. It is silence, and ends a segment, where less
than a fifth of it is speech (`windows.SPEECH_SHARE`).

Hysteresis: a segment's language stays until `SWITCH_STEPS` steps in a row agree on another, each by `SWITCH_MARGIN` or
more above it; the new segment starts with the first of these. Steps that fall short of that count for the old one. A
step whose evidence misses a floor is "unknown", which takes over, and gives way, after as many steps, without a margin.
After silence the first step decides.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import numpy as np
from speech_zoo_core.audio.samples import Channel
from speech_zoo_core.errors import ConfigError
from speech_zoo_core.tasks.language import UNKNOWN, check_floors, lacking

from .segment import Segment
from .windows import SPEECH_SHARE, Array, Clip, check_windows, scored, stream_for

SWITCH_STEPS = 2  # steps in a row
SWITCH_MARGIN = 0.1  # probability


@dataclass(frozen=True)
class Answer:
    """What a model says: probabilities (L,) and the top logit."""

    probabilities: Array
    logit: float


@dataclass(frozen=True)
class Step:
    """`hop` seconds of a file; no answer in silence."""

    start: float
    end: float
    answer: Answer | None


@dataclass(frozen=True)
class _Challenger:
    """A step that speaks for another label than the segment's; class (None for unknown) and why it is unknown."""

    start: float
    end: float
    answer: Answer
    label: int | None
    reason: str


@dataclass
class _Run:
    """A segment so far: class (None for unknown), why it is unknown, scores and logits, and steps that challenge it."""

    label: int | None
    reason: str
    start: float
    end: float = 0.0
    scores: list[float] = field(default_factory=list)
    logits: list[float] = field(default_factory=list)
    waiting: list[_Challenger] = field(default_factory=list)

    def add(self, end: float, answer: Answer) -> None:
        """One more step."""
        self.end = end
        self.scores.append(
            float(answer.probabilities.max() if self.label is None else answer.probabilities[self.label])
        )
        self.logits.append(answer.logit)

    def absorb(self) -> None:
        """The challengers gave up: they become steps like others."""
        for step in self.waiting:
            self.add(step.end, step.answer)
        self.waiting = []

    def challenged(self, label: int | None, answer: Answer) -> bool:
        """Whether a step speaks for another label, clearly enough."""
        if label is None or self.label is None:
            return label != self.label
        return bool(answer.probabilities[label] - answer.probabilities[self.label] >= SWITCH_MARGIN)

    def segment(self, labels: Sequence[tuple[str, str]]) -> Segment:
        """What it has become; `labels` are the code and name of each class."""
        self.absorb()
        code, name = (UNKNOWN, UNKNOWN) if self.label is None else labels[self.label]
        score, logit = float(np.mean(self.scores)), float(np.mean(self.logits))
        return Segment(self.start, self.end, code, name, score, logit, self.reason)


def timeline(
    model: Any,
    path: str | os.PathLike[str],
    window: float = 10.0,
    hop: float = 5.0,
    *,
    languages: Sequence[str] | None = None,
    min_score: float | None = None,
    min_logit: float | None = None,
    channel: Channel | None = None,
    vad: bool = True,
) -> list[Segment]:
    """Which language is spoken when in a file, silence left out, in memory that does not grow with its length.

    Args:
        model: of language identification.
        path: of the audio file; it is read once, and never held whole.
        window, hop: length and distance of the windows, in seconds; segments begin and end at multiples of the hop.
        languages, min_score, min_logit, channel: as for `model.predict`.
        vad: whether what holds no speech is left out.

    Raises:
        AudioError: as `model.predict`; or no window holds speech.
        InputError: as `model.predict`; windows that cannot be cut, or are too short for the model.
        ConfigError: the model is for another task.
    """
    if model.config.task != "language-identification":
        raise ConfigError(f"a timeline needs a model for language-identification, not for {model.config.task}")
    chosen = model.choose(languages)
    check_floors(min_score, min_logit)
    check_windows(window, hop, model)
    batches = scored(model, stream_for(model, path, channel), window, hop, vad, "identifying")
    answered = steps(_answers(batches, [i for i, _, _ in chosen]), hop)
    return list(merged(answered, [(label, name) for _, label, name in chosen], min_score, min_logit))


def _answer(logits: Array) -> Answer:
    return Answer(np.array(mx.softmax(mx.array(logits), precise=True)), float(logits.max()))


def _answers(batches: Iterable[tuple[list[Clip], Array]], classes: list[int]) -> Iterator[tuple[Clip, Answer | None]]:
    """Every window, without its samples, and what the model says of it; None where nobody speaks."""
    for clips, rows in batches:
        logits = iter(rows)
        for clip in clips:
            yield replace(clip, samples=np.zeros(0)), _answer(next(logits)[classes]) if clip.speaks else None


def steps(answers: Iterable[tuple[Clip, Answer | None]], hop: float) -> Iterator[Step]:
    """The steps of a file, in order, from its windows and what was said of them."""
    near: list[tuple[Clip, Answer | None]] = []  # windows that the steps to come may lie in
    start, length = 0.0, 0.0
    for following in itertools.chain(answers, [None]):
        length = length if following is None else following[0].window.end
        while start < length - 1e-6 and (following is None or start + hop / 2 < following[0].window.start):
            yield _step(start, min(start + hop, length), near)
            start = round(start / hop + 1) * hop
            near = [(clip, answer) for clip, answer in near if clip.window.end > start]
        if following is not None:
            near.append(following)


def _step(start: float, end: float, near: list[tuple[Clip, Answer | None]]) -> Step:
    """One step from the windows that hold its middle."""
    middle = (start + end) / 2
    around = [(clip, answer) for clip, answer in near if clip.window.start <= middle < clip.window.end]
    answers = [answer for _, answer in around if answer is not None]
    fullest = max(around, key=lambda pair: min(end, pair[0].window.end) - max(start, pair[0].window.start))[0]
    if not answers or fullest.share(start, end) < SPEECH_SHARE:
        return Step(start, end, None)
    probabilities = np.stack([answer.probabilities for answer in answers]).mean(axis=0, dtype=np.float64)
    return Step(start, end, Answer(probabilities, sum(answer.logit for answer in answers) / len(answers)))


def merged(
    sequence: Iterable[Step], labels: Sequence[tuple[str, str]], min_score: float | None, min_logit: float | None
) -> Iterator[Segment]:
    """Steps to segments, with hysteresis; `labels` are the code and name of each class."""
    run: _Run | None = None
    for step in sequence:
        answer = step.answer
        if answer is None:
            if run is not None:
                yield run.segment(labels)
            run = None
            continue
        best = int(answer.probabilities.argmax())
        reason = lacking(float(answer.probabilities[best]), answer.logit, min_score, min_logit)
        label = None if reason else best
        if run is None:
            run = _Run(label, reason, step.start)
        if run.waiting and label != run.waiting[0].label:
            run.absorb()
        if not run.challenged(label, answer):
            run.absorb()
            run.add(step.end, answer)
            continue
        run.waiting.append(_Challenger(step.start, step.end, answer, label, reason))
        if len(run.waiting) == SWITCH_STEPS:
            first, challengers = run.waiting[0], run.waiting
            run.waiting = []
            yield run.segment(labels)
            run = _Run(label, first.reason, first.start, waiting=challengers)
            run.absorb()
    if run is not None:
        yield run.segment(labels)


# Writers
