"""`speech-zoo calibrate`: a list of labelled pairs to EER, minDCF and the user's threshold."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..calibration.trials import read_trials, score
from ..settings import DEFAULT_MODEL
from .options import (
    ChannelOption,
    EngineOption,
    JsonOption,
    ModelOption,
    ThreadsOption,
    VadOption,
    check_plot,
    computing,
    hearing,
    only_for,
    print_json,
)
from .verify import CohortOption, TopOption, cohort_of

if TYPE_CHECKING:
    from ..calibration.det import Det
    from ..calibration.thresholds import Calibration


TrialsArgument = Annotated[
    Path | None, typer.Argument(help="Pairs with labels, as in: 1 a.wav b.wav (also .csv, .tsv, .jsonl).")
]


class Point(str, Enum):
    """Where the threshold is chosen."""

    EER = "eer"
    MIN_DCF = "min-dcf"


def calibrate(
    trials: TrialsArgument = None,
    model: ModelOption = DEFAULT_MODEL,
    p_target: Annotated[float, typer.Option(help="Share of same-speaker pairs to expect, for minDCF.")] = 0.01,
    c_miss: Annotated[float, typer.Option(help="Cost of refusing the same speaker.")] = 1.0,
    c_fa: Annotated[float, typer.Option(help="Cost of accepting another speaker.")] = 1.0,
    at: Annotated[Point, typer.Option(help="Where to set the threshold.")] = Point.EER,
    cohort: CohortOption = None,
    top: TopOption = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the DET curve into this .png.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do not keep the threshold.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the threshold also after too few errors.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Drop the threshold that was kept for the model.")] = False,
    channel: ChannelOption = None,
    vad: VadOption = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure EER and minDCF on your own pairs, and keep the threshold for verify."""
    how = hearing(channel, vad)
    _check_costs(p_target, c_miss, c_fa)
    _check_cohort(cohort, top, keep or forget)
    from speech_zoo_core.identity import identity

    from ..calibration import thresholds as calibration
    from ..calibration.det import Det
    from ..models import load

    if forget:
        _forget(trials, model, as_json)
        return
    if trials is None:
        raise typer.BadParameter("missing argument 'TRIALS', or --forget")
    check_plot(plot)
    if not dry_run:
        calibration.calibrations()  # an unreadable file is an error before the work
    listed, others = read_trials(trials), cohort_of(cohort)
    loaded = load(model, task="speaker-embedding", **computing(engine, threads))
    if others is not None:
        others.check(loaded)
    scores, seconds = score(loaded, trials, listed, others, top, **how)
    det = Det.of(scores, listed.same)
    named = str(cohort) if cohort else None
    result = calibration.calibrate(det, model, at.value, p_target, c_miss, c_fa, seconds, named)
    if plot is not None:
        from ..plots.scores import draw_det

        draw_det(det, result, plot)
    key = identity(loaded)
    before = calibration.threshold_of(loaded)
    keeps = (keep or calibration.enough(result)) and not dry_run and cohort is None
    kept = calibration.store(key, result) if keeps else None
    if as_json:
        outcome = {"identity": key, "written": kept and str(kept), "plot": plot and str(plot)}
        print_json(_facts(result, len(listed.files)) | outcome)
        return
    lines = [f"{trials}: {len(listed.files)} files, {model}", *_lines(det, result)]
    lines += [f"DET curve: {plot}"] if plot is not None else []
    typer.echo("\n".join([*lines, *_outcome(result, before, kept, dry_run)]))


def _check_costs(p_target: float, c_miss: float, c_fa: float) -> None:
    if not 0 < p_target < 1:
        raise typer.BadParameter("--p-target lies between 0 and 1")
    if not all(0 < cost < math.inf for cost in (c_miss, c_fa)):
        raise typer.BadParameter("--c-miss and --c-fa are positive numbers")


def _check_cohort(cohort: Path | None, top: int | None, keeps_or_forgets: bool) -> None:
    if cohort is None:
        only_for("--cohort", top=top)
    elif keeps_or_forgets:
        raise typer.BadParameter("a threshold for normalised scores is not kept: give it to verify --threshold")


def _facts(result: "Calibration", files: int) -> dict[str, Any]:
    from ..calibration.thresholds import enough

    facts = {name: value for name, value in asdict(result).items() if not name.endswith("histogram")}
    return facts | {"files": files, "enough_errors": enough(result)}


def _outcome(result: "Calibration", before: float | None, kept: Path | None, dry_run: bool) -> list[str]:
    """What becomes of the threshold, and how to undo it."""
    if result.cohort is not None:
        return [f"For: speech-zoo verify A B --cohort {result.cohort} --threshold {result.threshold:.4f}"]
    if dry_run:
        return ["dry run: the threshold is not kept"]
    if kept is None:
        return ["The threshold is not kept; --keep keeps it all the same."]
    was = "" if before is None else f", instead of {before:.4f}"
    named = "" if result.model == DEFAULT_MODEL else f" --model {result.model}"
    return [
        f"verify, identify and search use {result.threshold:.4f} for {result.model} from now on{was}: {kept}",
        f"To undo: speech-zoo calibrate --forget{named}",
    ]


def _forget(trials: Path | None, model: str, as_json: bool) -> None:
    """Drop the threshold that was kept for a model."""
    if trials is not None:
        raise typer.BadParameter("--forget takes no list of trials")
    from speech_zoo_core.identity import identity

    from ..calibration.thresholds import forget
    from ..models import load

    loaded = load(model, task="speaker-embedding")
    dropped = forget(identity(loaded))
    own = loaded.config.threshold
    if as_json:
        print_json({"model": model, "forgotten": dropped and dropped.threshold, "threshold": own})
    elif dropped is None:
        typer.echo(f"no threshold was kept for {model}; verify uses the checkpoint's own: {own}")
    else:
        typer.echo(f"{dropped.threshold:.4f} of {dropped.date} is forgotten; verify uses the checkpoint's own: {own}")


def _lines(det: "Det", result: "Calibration") -> Iterator[str]:
    """What is said of a calibration."""
    from ..calibration.thresholds import ENOUGH_ERRORS, enough

    costs = f"p-target {result.p_target:g}, c-miss {result.c_miss:g}, c-fa {result.c_fa:g}"
    where = "EER" if result.at == "eer" else "minDCF"
    yield f"trials     {result.targets} target, {result.nontargets} non-target"
    yield f"shortest   {result.seconds:.1f} s of speech"
    yield f"EER        {result.eer:.2%}"
    yield f"minDCF     {result.min_dcf:.4f}  ({costs})"
    errors = f"misses {result.misses} of {result.targets}, false alarms {result.false_alarms} of {result.nontargets}"
    yield f"threshold  {result.threshold:.4f}  (at the {where}: {errors})"
    if result.misses == result.false_alarms == 0:
        k = det.at_eer()
        yield (
            f"Every target scores above every non-target: the threshold is the midpoint of {det.scores[k - 1]:.4f} and "
            f"{det.scores[k]:.4f}."
        )
    if not enough(result):
        yield (
            f"Too few errors to mean much: with fewer than {ENOUGH_ERRORS} misses and {ENOUGH_ERRORS} false alarms "
            "(Doddington's rule of 30) the true rates may be far off. Take more trials."
        )
