"""What scores of labelled pairs say about a checkpoint, and the user's own thresholds that come of it.

`thresholds.json` in the user's folder keeps one calibration for each checkpoint, by its identity.

EER on the ROC convex hull: Brümmer and de Villiers, The BOSARIS Toolkit (2013), arXiv 1304.2865.
Normalised minDCF: NIST 2016 Speaker Recognition Evaluation Plan.
Rule of 30: Doddington et al., The NIST speaker recognition evaluation, Speech Communication 31 (2000).
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.atomic import written_beside
from speech_zoo_core.config import from_dict, read_json
from speech_zoo_core.errors import ConfigError, SpeechZooError
from speech_zoo_core.tasks.speaker import check_threshold

from .identity import identity
from .user import folder

Array = np.ndarray[Any, Any]

ENOUGH_ERRORS = 30  # of each kind: with them a true rate lies within 30 % of the measured one, 9 times out of 10
FORMAT = 1  # of thresholds.json
BINS = 100  # of the kept histograms, of equal width from -1 to 1


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
    def of(cls, scores: Array, same: Array) -> "Det":
        """From the scores (N,) of pairs, and whether each is of one speaker, (N,) bool; both kinds must be there."""
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


@dataclass(frozen=True)
class Calibration:
    """One calibration of one checkpoint.

    Attributes:
        model: the checkpoint, as it was named.
        date: of the calibration, UTC, as 2026-01-31.
        threshold: cosine from which two clips count as the same speaker.
        at: the operating point of the threshold: "eer" or "min-dcf".
        eer: equal error rate, 0 to 0.5.
        min_dcf: normalised minimum detection cost, 0 to 1, for `p_target`, `c_miss` and `c_fa`.
        targets, nontargets: trials of one speaker, and of two.
        misses, false_alarms: errors among these at the threshold.
        target_histogram, nontarget_histogram: counts of their scores in `BINS` bins of equal width from -1 to 1.
    """

    model: str
    date: str
    threshold: float
    at: str
    eer: float
    min_dcf: float
    p_target: float
    c_miss: float
    c_fa: float
    targets: int
    nontargets: int
    misses: int
    false_alarms: int
    target_histogram: list[int]
    nontarget_histogram: list[int]

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if not len(self.target_histogram) == len(self.nontarget_histogram) == BINS:
            raise ConfigError(f"a histogram has {BINS} bins")


def calibrate(det: Det, model: str, at: str, p_target: float, c_miss: float, c_fa: float) -> Calibration:
    """Choose the threshold at the operating point `at`, "eer" or "min-dcf".

    Raises:
        SpeechZooError: no threshold does better than a decision without scores.
    """
    eer, costs = det.eer(), det.costs(p_target, c_miss, c_fa)
    if len(det.hull) == 2:
        raise SpeechZooError(
            "the scores do not tell one speaker from two (EER 50 %): look whether the labels are the wrong way round"
        )
    k = det.at_eer() if at == "eer" else int(np.argmin(costs))
    if k in (0, det.scores.size):
        raise SpeechZooError(
            f"at p-target {p_target:g} no threshold costs less than {'refusing' if k else 'accepting'} every pair "
            "(minDCF 1); take more trials, other costs, or --at eer"
        )
    histograms = [
        np.histogram(det.scores, BINS, (-1, 1), weights=counts)[0].tolist()
        for counts in (np.diff(det.misses), -np.diff(det.false_alarms))
    ]
    return Calibration(
        model,
        datetime.now(timezone.utc).date().isoformat(),
        det.threshold(k),
        at,
        eer,
        float(costs.min()),
        p_target,
        c_miss,
        c_fa,
        det.targets,
        det.nontargets,
        int(det.misses[k]),
        int(det.false_alarms[k]),
        *histograms,
    )


def enough(calibration: Calibration) -> bool:
    """Whether there were enough errors at the threshold for the rates to mean something (the rule of 30)."""
    return min(calibration.misses, calibration.false_alarms) >= ENOUGH_ERRORS


def config_file() -> Path:
    """Where the calibrations lie; it may not exist yet."""
    return folder() / "thresholds.json"


def calibrations() -> dict[str, Calibration]:
    """All calibrations of this user, by the identity of the checkpoint.

    Raises:
        ConfigError: the file is damaged, or a newer version wrote it.
    """
    path = config_file()
    if not path.exists():
        return {}
    try:
        data = read_json(path)
        version, entries = data.get("format"), data.get("thresholds")
        if not (isinstance(version, int) and version > FORMAT):
            if version != FORMAT or not isinstance(entries, dict):
                raise ConfigError(f"{path} does not hold calibrated thresholds")
            return {key: from_dict(Calibration, entry, f"{path}: {key[:8]}") for key, entry in entries.items()}
    except ConfigError as error:
        raise ConfigError(f"{error}; delete the file and calibrate anew, or restore it from a backup") from error
    raise ConfigError(f"{path} was written by a newer mlx-speech-zoo; update this one, or move the file away")


def calibration_of(model: Any) -> Calibration | None:
    """The user's calibration of this checkpoint, by `identity.identity(model)`; errors as `calibrations`."""
    known = calibrations()
    return known.get(identity(model)) if known else None


def threshold_of(model: Any) -> float | None:
    """The threshold that the user calibrated for this checkpoint, else the checkpoint's own.

    Args:
        model: a loaded speaker-embedding model.

    Returns:
        A cosine, -1 to 1; None where there is neither.

    Raises:
        ConfigError: the file of calibrated thresholds is damaged, or a newer version wrote it.
    """
    calibration = calibration_of(model)
    threshold: float | None = model.config.threshold if calibration is None else calibration.threshold
    return threshold


def store(key: str, calibration: Calibration) -> Path:
    """Keep the calibration of the checkpoint with this identity; those of others stay. Returns the file's path.

    Raises:
        SpeechZooError: it cannot be written, or what is there cannot be read.
    """
    path = config_file()
    with _locked(path):
        known = {name: asdict(each) for name, each in calibrations().items()} | {key: asdict(calibration)}
        with written_beside(path) as beside:
            text = json.dumps({"format": FORMAT, "thresholds": known}, ensure_ascii=False)
            beside.write_text(text + "\n", encoding="utf-8")
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among all processes that write `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name}.lock").open("w")
    except OSError as error:
        raise SpeechZooError(f"{path} cannot be written: {error.strerror}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
