"""What people do with a language model: which language is spoken, among all that the checkpoint knows or some."""

import itertools
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import mlx.core as mx
import numpy as np

from ..audio.samples import Array, Audio, Channel
from ..audio.vad import SECONDS
from ..errors import AudioError, ConfigError, InputError, printable, shown
from ..processes import evaluated
from .audio_model import AudioModel
from .iso639 import language_name, match_language

UNKNOWN = "unknown"  # the label where the evidence was not enough


class Prediction(tuple[str, float]):
    """One language of a prediction; unpacks as the pair (label, score).

    Attributes:
        label: the code, as the checkpoint spells it; `UNKNOWN` where the evidence was not enough for the best one.
        score: probability, 0 to 1; of `UNKNOWN`, the best label's.
        name: the language's name in English.
        logit: what the model gave before the softmax, on a scale of its own; of `UNKNOWN`, the best label's.
        reason: of `UNKNOWN`, which floor was missed; else empty.
    """

    name: str
    logit: float
    reason: str

    def __new__(cls, label: str, score: float, name: str, logit: float = math.nan, reason: str = "") -> "Prediction":
        self = super().__new__(cls, (label, score))
        self.name, self.logit, self.reason = name, logit, reason
        return self

    @property
    def label(self) -> str:
        return self[0]

    @property
    def score(self) -> float:
        return self[1]

    def __getnewargs__(self) -> tuple[Any, ...]:  # for copy and pickle
        return (self.label, self.score, self.name, self.logit, self.reason)

    def __repr__(self) -> str:
        return f"Prediction(label={self.label!r}, score={self.score!r}, name={self.name!r})"


def check_labels(id2label: dict[str, str]) -> list[str]:
    """The values of `id2label` in the order of the classes.

    Raises:
        ConfigError: the keys are not "0" to the last class, or a code is empty or stands twice.
    """
    labels = [id2label.get(str(i)) for i in range(len(id2label))]
    if not labels or None in labels:
        raise ConfigError(f"id2label must have the keys 0 to {len(id2label) - 1}, one for each class")
    codes = [str(label).partition(": ")[0] for label in labels]
    if "" in codes:
        raise ConfigError(f"id2label: class {codes.index('')} has no label")
    if len(set(codes)) < len(codes):
        raise ConfigError(f"id2label names {shown(next(code for code in codes if codes.count(code) > 1))} twice")
    return [str(label) for label in labels]


class Labelled(AudioModel):
    """One number for each of `config.id2label`'s labels, whatever it means.

    Clips above `config.single_pass` seconds, where the config has that, are cut into equal windows of at most
    `config.window` seconds without overlap, which are weighted by the steps of each that hold speech (all count with
    `vad=False`).
    """

    @cached_property
    def _languages(self) -> list[tuple[str, str]]:
        """Label and name of each class, as they can be printed."""
        return [(label, label) for label in map(printable, check_labels(self.config.id2label))]

    @property
    def labels(self) -> list[str]:
        """The labels that the checkpoint knows, in the order of its outputs."""
        return [code for code, _ in self._languages]

    def _numbers(self, audio: Audio, sample_rate: int | None, channel: Channel | None, vad: bool) -> mx.array:
        """The raw output for one clip, (L,) float32."""
        waveform, speaks = self._clip(audio, sample_rate, channel, vad)
        if (whole := self._in_windows(waveform, speaks)) is not None:
            return whole
        return finite(self._forward(self._front_end()(waveform)))

    def _in_windows(self, waveform: mx.array, speaks: Array | None) -> mx.array | None:
        """The raw output for a long clip, (L,) float32; None where one pass will do."""
        front_end = self._front_end()
        seconds = waveform.size / front_end.sample_rate
        if seconds <= getattr(self.config, "single_pass", seconds):
            return None
        count = math.ceil(seconds / self.config.window)
        edges = [round(i * waveform.size / count) for i in range(count + 1)]
        speaks = np.ones(math.ceil(seconds / SECONDS), bool) if speaks is None else speaks
        windows: list[mx.array] = []
        weights: list[int] = []
        for start, end in itertools.pairwise(edges):
            steps = slice(*(round(edge / front_end.sample_rate / SECONDS) for edge in (start, end)))
            if weight := int(speaks[steps].sum()):
                windows.append(finite(self._forward(front_end(waveform[start:end]))))
                weights.append(weight)
        return mx.array(self._together(windows, np.array(weights) / sum(weights)).astype(np.float32))

    def _together(self, windows: list[mx.array], weights: Array) -> Array:
        """The raw output (L,) of a clip whose windows have these, (L,) each, with weights that sum to 1: their mean."""
        mean: Array = weights @ np.stack([np.array(window, np.float64) for window in windows])
        return mean


class AudioClassification(Labelled):
    """Prediction for a model whose raw output is one logit for each label, of which one is right.

    The probabilities of a long clip's windows are averaged. Its logits are the logarithm of these probabilities, plus
    the windows' mean evidence (the logarithm of the sum of the exponentials of their logits, weighted likewise): on the
    scale of the logits of a short clip.
    """

    scale = 1.0  # of the logits before the softmax

    def logits(
        self, audio: Audio, sample_rate: int | None = None, *, channel: Channel | None = None, vad: bool = True
    ) -> mx.array:
        """The logits of one clip, (L,) float32, in the order of `labels`; arguments and errors as `predict`."""
        return self._numbers(audio, sample_rate, channel, vad)

    def log_probs(
        self, audio: Audio, sample_rate: int | None = None, *, channel: Channel | None = None, vad: bool = True
    ) -> mx.array:
        """The log-probabilities of one clip, (L,) float32, in the order of `labels`; as `predict`."""
        logits = self.scale * self.logits(audio, sample_rate, channel=channel, vad=vad)
        return evaluated(logits - mx.logsumexp(logits))

    def predict(
        self,
        audio: Audio,
        top_k: int = 5,
        languages: Sequence[str] | None = None,
        sample_rate: int | None = None,
        min_score: float | None = None,
        min_logit: float | None = None,
        *,
        channel: Channel | None = None,
        vad: bool = True,
    ) -> list[Prediction]:
        """The most probable languages of one clip, best first; `UNKNOWN` before them where a floor is missed.

        Args:
            audio: a path, the bytes of a file or a file object; samples (N,) or (N, channels), int or float; a pair
                (samples, rate); what else `load_audio` takes.
            top_k: how many at most.
            languages: choose among these only, scores sum to 1 over them: codes of ISO 639-1 ("en") or 639-3 ("eng"),
                whatever the checkpoint's own labels are. A macrolanguage ("zh") stands for all its members ("cmn"),
                and a member for its macrolanguage where the checkpoint knows no better.
            sample_rate: in Hz, for samples that come without a rate.
            min_score: the best language's probability must reach this, else the first of the list is `UNKNOWN`.
            min_logit: the same for its logit, among the languages chosen. The softmax compares languages with each
                other; the logit says how much there is for any of them.
            channel: of several, its number from 0 on, or "mean"; default: what the front end says.
            vad: whether a clip without speech is an error.

        Raises:
            AudioError: unusable audio, no speech, or a clip shorter than the model's minimum.
            InputError: a code is unknown, to ISO 639 or to the checkpoint; names the nearest. A floor is no number.
        """
        chosen = self._chosen(top_k, languages)
        check_floors(min_score, min_logit)
        logits = self.logits(audio, sample_rate, channel=channel, vad=vad)
        return self._best(logits, top_k, chosen, min_score, min_logit)

    def predict_batch(
        self,
        audios: Sequence[Audio],
        top_k: int = 5,
        languages: Sequence[str] | None = None,
        sample_rate: int | None = None,
        min_score: float | None = None,
        min_logit: float | None = None,
        *,
        channel: Channel | None = None,
        vad: bool = True,
    ) -> list[list[Prediction]]:
        """`predict` of many clips, equal to one at a time; shows progress on a terminal."""
        chosen = self._chosen(top_k, languages)
        check_floors(min_score, min_logit)
        rows = self._outputs(audios, "identifying", sample_rate, channel, vad)
        return [self._best(finite(row), top_k, chosen, min_score, min_logit) for row in rows]

    def _together(self, windows: list[mx.array], weights: Array) -> Array:
        rows = [self.scale * window for window in windows]
        probabilities = weights @ np.stack([np.array(mx.softmax(row, precise=True), np.float64) for row in rows])
        evidence = weights @ np.array([float(mx.logsumexp(row)) for row in rows])
        return (np.log(probabilities) + evidence) / self.scale

    def _chosen(self, top_k: int, languages: Sequence[str] | None) -> list[int]:
        """Indices of the classes to choose among."""
        if isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)) or top_k < 1:
            raise InputError(f"top_k is a positive number of languages, not {shown(top_k)}")
        if languages is None:
            return list(range(len(self._languages)))
        return self._of_languages(languages)

    def _of_languages(self, languages: Sequence[str]) -> list[int]:
        raise ConfigError(
            f"this model is for {self.config.task}, not for language-identification: it takes no languages"
        )

    def _best(
        self, logits: mx.array, top_k: int, chosen: list[int], min_score: float | None, min_logit: float | None
    ) -> list[Prediction]:
        among = logits[mx.array(chosen)]
        scores, levels = np.array(self._scores(among)), np.array(among)
        order = np.argsort(-scores, kind="stable")[:top_k]
        best = [
            Prediction(code, float(scores[i]), name, float(levels[i]))
            for i in order
            for code, name in [self._languages[chosen[i]]]
        ]
        if reason := lacking(best[0].score, best[0].logit, min_score, min_logit):
            best.insert(0, Prediction(UNKNOWN, best[0].score, UNKNOWN, best[0].logit, reason))
        return best[:top_k]

    def _scores(self, logits: mx.array) -> mx.array:
        """The probabilities of the classes that one chooses among."""
        return mx.softmax(self.scale * logits, precise=True)


class LanguageIdentification(AudioClassification):
    """Classification of languages: a value of `id2label` is a code ("eng"), or a code and a name ("en: English")."""

    @cached_property
    def _languages(self) -> list[tuple[str, str]]:
        pairs = (printable(label).partition(": ") for label in check_labels(self.config.id2label))
        return [(code, name or language_name(code)) for code, _, name in pairs]

    def choose(self, languages: Sequence[str] | None) -> list[tuple[int, str, str]]:
        """Index, label and name of the classes that `languages` stands for, all for None; errors as `predict`."""
        return [(i, *self._languages[i]) for i in self._chosen(1, languages)]

    def _of_languages(self, languages: Sequence[str]) -> list[int]:
        codes = list(languages) if isinstance(languages, Iterable) and not isinstance(languages, str) else []
        if not codes or not all(isinstance(code, str) for code in codes):
            raise InputError(f"languages is a list of codes such as ['eng', 'fra'], not {shown(languages)}")
        return sorted({i for code in codes for i in match_language(code, self.labels)})


def check_floors(min_score: float | None, min_logit: float | None) -> None:
    """Raises InputError unless `min_score` is a probability and `min_logit` a number; both may be None."""
    for name, floor, low, high in (("score", min_score, 0.0, 1.0), ("logit", min_logit, -1e30, 1e30)):
        number = isinstance(floor, (int, float, np.integer, np.floating)) and not isinstance(floor, bool)
        if floor is not None and not (number and low <= floor <= high):
            kind = "a probability between 0 and 1" if name == "score" else "a finite number"
            raise InputError(f"min_{name} (--min-{name}) is {kind}, not {shown(floor)}")


def lacking(score: float, logit: float, min_score: float | None, min_logit: float | None) -> str:
    """Which floor the best label's probability or logit misses, in words; empty if none."""
    if min_score is not None and score < min_score:
        return f"score {score:.4g} is below {min_score:g}"
    if min_logit is not None and logit < min_logit:
        return f"logit {logit:.4g} is below {min_logit:g}"
    return ""


def finite(logits: mx.array) -> mx.array:
    logits = logits.astype(mx.float32)
    if not bool(mx.isfinite(logits).all()):
        raise AudioError("the logits are not finite; load the model with dtype='float32'")
    return logits
