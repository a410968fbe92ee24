"""The detection error tradeoff of scored pairs."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Det:
    """The detection error tradeoff: the errors of every decision that a threshold can make.

    Attributes:
        scores: the K different scores, (K,) float64, ascending.
        misses: (K + 1,) int64; element k counts the targets among the k lowest of `scores`, which are missed by a
            threshold above these.
        false_alarms: (K + 1,) int64; element k counts the non-targets that such a threshold lets pass.
    """

    scores: Array
    misses: Array
    false_alarms: Array

    @classmethod
    def of(cls, scores: Array, same: Array | list[bool]) -> "Det":
        """From the scores (N,) of pairs, and whether each is of one speaker, (N,) bool; both kinds must be there."""
        same = np.asarray(same, bool)
        different, index = np.unique(np.asarray(scores, np.float64), return_inverse=True)
        targets, nontargets = (np.bincount(index[kind], minlength=different.size) for kind in (same, ~same))
        return cls(
            different,
            np.concatenate([[0], np.cumsum(targets)]),
            nontargets.sum() - np.concatenate([[0], np.cumsum(nontargets)]),
        )

    @property
    def targets(self) -> int:
        return int(self.misses[-1])

    @property
    def nontargets(self) -> int:
        return int(self.false_alarms[0])

    @property
    def p_miss(self) -> Array:
        """(K + 1,) float64, ascending."""
        return self.misses / self.targets

    @property
    def p_fa(self) -> Array:
        """(K + 1,) float64, descending."""
        return self.false_alarms / self.nontargets

    @cached_property
    def hull(self) -> list[int]:
        """The decisions on the lower left convex hull of the ROC, from accepting every pair to refusing every pair."""
        points = list(zip(self.false_alarms.tolist(), self.misses.tolist(), strict=True))
        kept: list[int] = []
        for k, (x, y) in enumerate(points):
            while len(kept) > 1:
                (x0, y0), (x1, y1) = points[kept[-2]], points[kept[-1]]
                if (x - x0) * (y1 - y0) - (y - y0) * (x1 - x0) > 0:  # in whole numbers: exact
                    break
                kept.pop()
            kept.append(k)
        return kept

    def eer(self) -> float:
        """The equal error rate, 0 to 0.5: where the ROC convex hull crosses P_miss = P_fa.

        Any rising function of the scores leaves it as it is; ties are one step of the curve.
        """
        excess = (self.p_miss - self.p_fa)[self.hull]
        after = int(np.argmax(excess >= 0))
        first, second = self.p_miss[self.hull[after - 1]], self.p_miss[self.hull[after]]
        return float(first + (second - first) * excess[after - 1] / (excess[after - 1] - excess[after]))

    def costs(self, p_target: float, c_miss: float, c_fa: float) -> Array:
        """The normalised detection cost of each decision, (K + 1,) float64; deciding without scores costs 1."""
        miss, false_alarm = c_miss * p_target, c_fa * (1 - p_target)
        return (miss * self.p_miss + false_alarm * self.p_fa) / min(miss, false_alarm)

    def at_eer(self) -> int:
        """The decision whose error rates differ least; of two, the one with fewer errors."""
        miss, false_alarm = self.misses * self.nontargets, self.false_alarms * self.targets
        return int(np.lexsort((miss + false_alarm, abs(miss - false_alarm)))[0])

    def threshold(self, k: int) -> float:
        """The cosine halfway between the scores that decision k tells apart; it accepts from there on."""
        low = self.scores[k - 1] if k > 0 else -1.0
        high = self.scores[k] if k < self.scores.size else 1.0
        middle = low + (high - low) / 2
        return float(middle if middle > low else high)  # neighbouring numbers have no middle
