"""What scores of labelled pairs say about a checkpoint, and the user's own thresholds that come of it.

`thresholds.json` in the user's folder keeps one calibration for each checkpoint, by its identity.

EER on the ROC convex hull: Brümmer and de Villiers, The BOSARIS Toolkit (2013), arXiv 1304.2865.
Normalised minDCF: NIST 2016 Speaker Recognition Evaluation Plan.
Rule of 30: Doddington et al., The NIST speaker recognition evaluation, Speech Communication 31 (2000).
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from speech_zoo_core.atomic import written_beside
from speech_zoo_core.config import from_dict, read_json
from speech_zoo_core.errors import ConfigError, SpeechZooError
from speech_zoo_core.identity import identity, identity_before
from speech_zoo_core.tasks.speaker import check_threshold

from ..settings import folder
from .det import Det

LOG = logging.getLogger("speech_zoo")
ENOUGH_ERRORS = 30  # of each kind: with them a true rate lies within 30 % of the measured one, 9 times out of 10
FORMAT = 1  # of thresholds.json
BINS = 100  # of the kept histograms, of equal width from -1 to 1


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
        seconds: of speech in the shortest clip; None in what an older version kept.
        cohort: the file that scores were normalised with; the threshold is no cosine then, and is never kept.
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
    seconds: float | None = None
    cohort: str | None = None

    def __post_init__(self) -> None:
        if self.cohort is None:
            check_threshold(self.threshold)
        if not len(self.target_histogram) == len(self.nontarget_histogram) == BINS:
            raise ConfigError(f"a histogram has {BINS} bins")


def calibrate(
    det: Det,
    model: str,
    at: str,
    p_target: float,
    c_miss: float,
    c_fa: float,
    seconds: float | None = None,
    cohort: str | None = None,
) -> Calibration:
    """Choose the threshold at the operating point `at`, "eer" or "min-dcf"; every clip holds `seconds` of speech.

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
        histograms[0],
        histograms[1],
        seconds,
        cohort,
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
    """The user's calibration of this checkpoint, by its identity; warns of an older one; errors as `calibrations`."""
    known = calibrations()
    if not known:
        return None
    calibration = known.get(identity(model))
    if calibration is None and (older := known.get(identity_before(model))) is not None:
        LOG.warning(
            "warning: the threshold calibrated for %s is not used: it is from before files were resampled as the "
            "original does; run speech-zoo calibrate again",
            older.model,
        )
    return calibration


def threshold_of(model: Any) -> float | None:
    """The threshold that the user calibrated for this checkpoint (`speech-zoo calibrate`), else the checkpoint's own.

    >>> model.verify("a.wav", "b.wav", threshold=speech_zoo.threshold_of(model))

    Args:
        model: a speaker-embedding model that `load` gave.

    Returns:
        A cosine, -1 to 1; None where there is neither.

    Raises:
        ConfigError: the file of calibrated thresholds is damaged, or a newer version wrote it.
    """
    return threshold_in_force(model)[0]


def threshold_in_force(model: Any) -> tuple[float | None, float | None]:
    """`threshold_of`, and the seconds of speech in the shortest clip that it was chosen on, None if not known."""
    calibration = calibration_of(model)
    if calibration is not None:
        return calibration.threshold, calibration.seconds
    return model.config.threshold, model.config.threshold_seconds


def store(key: str, calibration: Calibration) -> Path:
    """Keep the calibration of the checkpoint with this identity; those of others stay. Returns the file's path.

    Raises:
        SpeechZooError: it cannot be written, or what is there cannot be read.
    """
    with _changing() as known:
        known[key] = calibration
    return config_file()


def forget(key: str) -> Calibration | None:
    """Drop the calibration of the checkpoint with this identity; returns it, or None if there was none.

    Raises:
        SpeechZooError: as `store`.
    """
    if key not in calibrations():
        return None
    with _changing() as known:
        return known.pop(key, None)


@contextmanager
def _changing() -> Iterator[dict[str, Calibration]]:
    """The calibrations, written as they are when the block ends; alone among all processes that change them."""
    path = config_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            known = calibrations()
            yield known
            with written_beside(path) as beside:
                entries = {key: asdict(calibration) for key, calibration in known.items()}
                text = json.dumps({"format": FORMAT, "thresholds": entries}, ensure_ascii=False)
                beside.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise SpeechZooError(f"{path} cannot be written: {error.strerror}") from error
