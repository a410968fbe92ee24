"""Which of the known voices a clip holds."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

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
