"""Which of the known voices a clip holds."""

import logging
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from speech_zoo_core.errors import InputError

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Match:
    """How close a clip is to a known voice.

    Attributes:
        name: of the voice.
        score: cosine of the clip with the mean of the voice's clips, -1 to 1.
    """

    name: str
    score: float


@dataclass(frozen=True)
class Identification:
    """Whose voice a clip holds.

    Attributes:
        name: of the best match; None ("unknown") if it stays below the threshold or no voice is known.
        threshold: the one that was used.
        matches: the best ones, whether or not they reach the threshold; the best first.
        several: whether more than one person speaks in the clip: then the name is worth little.
    """

    name: str | None
    threshold: float
    matches: list[Match]
    several: bool = False


def voice_means(names: list[str], rows: Array) -> tuple[list[str], Array]:
    """The names, each once, and the means of their clips' vectors (N, D), of unit length, (K, D) float64."""
    known, of = np.unique(names, return_inverse=True)
    means = np.zeros((len(known), rows.shape[1]))
    np.add.at(means, of, rows)
    return [str(name) for name in known], means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


def identification(
    names: list[str], rows: Array, vector: Array, threshold: float, top_k: int, several: bool
) -> Identification:
    """Compare a vector (D,) with the clips of known voices, (N, D) with the name of each."""
    if not names:
        return Identification(None, threshold, [], several)
    known, means = voice_means(names, rows)
    scores = np.clip(means @ vector, -1, 1)
    order = np.argsort(-scores, kind="stable")[:top_k]
    matches = [Match(known[i], float(scores[i])) for i in order]
    return Identification(matches[0].name if matches[0].score >= threshold else None, threshold, matches, several)


def mean_of(held: list[bytes]) -> Array:
    """The mean of a voice's clips, as a store holds their vectors, (D,) float32 of unit length."""
    rows = np.frombuffer(b"".join(held), "<f4").reshape(len(held), -1)
    mean: Array = voice_means([""] * len(held), rows)[1][0].astype(np.float32)
    return mean


def unit_vector(vector: Array, dim: int) -> Array:
    """A given embedding at unit length, (D,) float32.

    Raises:
        InputError: it has another size, or cannot be scaled.
    """
    given = np.array(vector, np.float64)
    size = float(np.linalg.norm(given))
    if given.shape != (dim,) or not np.isfinite(size) or size == 0:
        raise InputError(f"a vector of this model has {dim} finite values, not all zero")
    return (given / size).astype(np.float32)


def warn_of_another_person(name: str, source: str, mean: Array, vector: Array, threshold: float | None) -> None:
    """Warn of a new clip that scores below the threshold with the mean of those that the voice has, both (D,)."""
    score = float(mean @ vector)
    if threshold is not None and score < threshold:
        logging.getLogger("speech_zoo").warning(
            "warning: %s scores %.2f with the clips that %s has (threshold %.2f): is it the same person?",
            source,
            score,
            name,
            threshold,
        )


def warn_of_short(name: str, seconds: float, least: float | None) -> None:
    """Warn of a clip with less speech than the shortest one that the threshold was chosen on."""
    if least is not None:
        from speech_zoo_core.tasks import speaker

        speaker.warn_of_short(name, seconds, least)


def check_top(top_k: int) -> None:
    """Raises InputError unless it is at least 1."""
    if top_k < 1:
        raise InputError(f"top_k is at least 1, not {top_k}")
