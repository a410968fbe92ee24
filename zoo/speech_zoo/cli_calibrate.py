"""`speech-zoo calibrate`: a list of labelled pairs to EER, minDCF and the user's threshold."""

import csv
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from speech_zoo_core.errors import AudioError, SpeechZooError

if TYPE_CHECKING:
    import numpy as np

    from .calibration import Calibration, Det

LABELS = {"1": True, "target": True, "0": False, "nontarget": False}
COLUMNS = ["label", "a", "b"]
DELIMITERS = {".csv": ",", ".tsv": "\t"}
PAIRS_AT_ONCE = 65536


class Point(str, Enum):
    """Where the threshold is chosen."""

    EER = "eer"
    MIN_DCF = "min-dcf"


@dataclass(frozen=True)
class Trials:
    """Pairs of files and whether each is of one speaker.

    Attributes:
        files: each file, and the line that names it first.
        pairs: places in `files`.
        same: whether they are of one speaker.
    """

    files: dict[Path, int]
    pairs: list[tuple[int, int]]
    same: list[bool]


def read_trials(path: Path) -> Trials:
    """Read lines `label a b`; .csv and .tsv have these columns, .jsonl objects these keys. Files lie beside the list.

    Raises:
        SpeechZooError: a line that cannot be used, by its number; no trials, or those of one kind only.
    """
    files: dict[Path, int] = {}
    places: dict[Path, int] = {}
    named: dict[str, int] = {}
    seen: dict[tuple[int, int], tuple[int, bool]] = {}
    for line, (label, *names) in _rows(path):
        where = f"{path}, line {line}"
        if label not in LABELS:
            raise SpeechZooError(f"{where}: the label is 1 or target, 0 or nontarget, not {label!r}")
        for name in names:
            if name not in named:
                file = path.parent / name
                if not os.path.isfile(file):  # noqa: PTH113 (Path.is_file raises for a name that is too long)
                    missing = "is not a file" if os.path.exists(file) else "does not exist"  # noqa: PTH110
                    raise SpeechZooError(f"{where}: {file} {missing}")
                named[name] = places.setdefault(file, len(places))
                files.setdefault(file, line)
        a, b = sorted(named[name] for name in names)
        if a == b:
            raise SpeechZooError(f"{where} compares {names[0]} with itself, which says nothing of a voice; remove it")
        first, kind = seen.setdefault((a, b), (line, LABELS[label]))
        if first != line:
            verb = "repeats" if kind == LABELS[label] else "contradicts"
            raise SpeechZooError(f"{where} {verb} line {first}, in either order one trial; remove one of them")
    same = [each for _, each in seen.values()]
    if not same:
        raise SpeechZooError(f"{path} holds no trials; it takes lines of the form: 1 a.wav b.wav")
    if all(same):
        raise SpeechZooError(f"{path} holds only target trials (1); add pairs of different speakers (0)")
    if not any(same):
        raise SpeechZooError(f"{path} holds only non-target trials (0); add pairs of one speaker (1)")
    return Trials(files, list(seen), same)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number, the label and the two names of each line that is not empty."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix in DELIMITERS:
                reader = csv.reader(file, delimiter=DELIMITERS[path.suffix], skipinitialspace=True, strict=True)
                rows: Any = ((reader.line_num, row) for row in reader)
            elif path.suffix == ".jsonl":
                rows = ((line, _object(text, f"{path}, line {line}")) for line, text in enumerate(file, 1))
            else:
                rows = ((line, text.split()) for line, text in enumerate(file, 1))
            for line, row in rows:
                if not row or (line == 1 and row == COLUMNS):
                    continue
                if len(row) != 3:
                    more = "" if path.suffix in DELIMITERS else "; names with spaces need a .csv, .tsv or .jsonl list"
                    raise SpeechZooError(f"{path}, line {line} holds {len(row)} parts, not label, file, file{more}")
                yield line, row
    except OSError as error:
        raise SpeechZooError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpeechZooError(f"{path} is not text in UTF-8") from error
    except csv.Error as error:
        raise SpeechZooError(f"{path}, line {reader.line_num}: {error}") from error


def _object(text: str, where: str) -> list[str]:
    """Label and names of one JSON line; nothing if it is empty."""
    if not text.strip():
        return []
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpeechZooError(f"{where} is not JSON: {error}") from error
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in COLUMNS[1:]):
        raise SpeechZooError(f'{where} must be an object like {{"label": 1, "a": "a.wav", "b": "b.wav"}}')
    return [str(entry.get("label")), entry["a"], entry["b"]]


def score(model: Any, path: Path, trials: Trials) -> "np.ndarray[Any, Any]":
    """The cosine of each trial, (N,) float64; each file is embedded once.

    Raises:
        AudioError: a file that cannot be used, with the line of `path` that names it.
    """
    import numpy as np

    try:
        vectors = np.array(model.embed_batch(list(trials.files)))
    except AudioError as error:
        lines = {" ".join(str(file).split()): line for file, line in trials.files.items()}  # as the message has them
        named = [file for file in lines if str(error).startswith((f"{file} ", f"{file}:"))]
        where = f", line {lines[max(named, key=len)]}" if named else ""
        raise AudioError(f"{path}{where}: {error}") from error
    pairs = np.array(trials.pairs)
    cosines = [
        np.einsum("nd,nd->n", *(vectors[part].astype(np.float64) for part in pairs[i : i + PAIRS_AT_ONCE].T))
        for i in range(0, len(pairs), PAIRS_AT_ONCE)
    ]
    return np.clip(np.concatenate(cosines), -1, 1)


def calibrate(
    trials: Annotated[Path, typer.Argument(help="Pairs with labels, as in: 1 a.wav b.wav (also .csv, .tsv, .jsonl).")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Catalogue name, folder, file or Hub repo.")
    ] = "campplus-zh-en",
    p_target: Annotated[float, typer.Option(help="Share of same-speaker pairs to expect, for minDCF.")] = 0.01,
    c_miss: Annotated[float, typer.Option(help="Cost of refusing the same speaker.")] = 1.0,
    c_fa: Annotated[float, typer.Option(help="Cost of accepting another speaker.")] = 1.0,
    at: Annotated[Point, typer.Option(help="Where to set the threshold.")] = Point.EER,
    plot: Annotated[Path | None, typer.Option(help="Draw the DET curve into this .png.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do not keep the threshold.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure EER and minDCF on your own pairs, and keep the threshold for verify."""
    if not 0 < p_target < 1:
        raise typer.BadParameter("--p-target lies between 0 and 1")
    if not all(0 < cost < math.inf for cost in (c_miss, c_fa)):
        raise typer.BadParameter("--c-miss and --c-fa are positive numbers")
    from . import calibration, calibration_plot
    from .cli import _load, _print_json
    from .identity import identity

    if plot is not None:
        calibration_plot.require(plot)
    if not dry_run:
        calibration.calibrations()  # an unreadable file is an error before the work
    listed = read_trials(trials)
    loaded = _load(model, "speaker-embedding")
    import numpy as np

    det = calibration.Det.of(score(loaded, trials, listed), np.array(listed.same))
    result = calibration.calibrate(det, model, at.value, p_target, c_miss, c_fa)
    if plot is not None:
        calibration_plot.draw_det(det, result, plot)
    key = identity(loaded)
    kept = None if dry_run else calibration.store(key, result)
    if as_json:
        facts = {name: value for name, value in asdict(result).items() if not name.endswith("histogram")}
        outcome = {"files": len(listed.files), "enough_errors": calibration.enough(result), "identity": key}
        _print_json(facts | outcome | {"written": kept and str(kept), "plot": plot and str(plot)})
        return
    typer.echo(f"{trials}: {len(listed.files)} files, {model}")
    for line in _lines(det, result):
        typer.echo(line)
    if plot is not None:
        typer.echo(f"DET curve: {plot}")
    typer.echo("dry run: the threshold is not kept" if kept is None else f"verify uses it from now on: {kept}")


def _lines(det: "Det", result: "Calibration") -> Iterator[str]:
    """What is said of a calibration."""
    from .calibration import ENOUGH_ERRORS, enough

    costs = f"p-target {result.p_target:g}, c-miss {result.c_miss:g}, c-fa {result.c_fa:g}"
    where = "EER" if result.at == "eer" else "minDCF"
    yield f"trials     {result.targets} target, {result.nontargets} non-target"
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
