"""Labelled pairs of files (trials), read and scored."""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speech_zoo_core.errors import AudioError, SpeechZooError

if TYPE_CHECKING:
    import numpy as np
    from speech_zoo_core.tasks.cohort import Cohort


LABELS = {"1": True, "target": True, "0": False, "nontarget": False}
COLUMNS = ["label", "a", "b"]
DELIMITERS = {".csv": ",", ".tsv": "\t"}
PAIRS_AT_ONCE = 65536


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


@dataclass(frozen=True)
class Pairs:
    """Pairs of files to score.

    Attributes:
        files, pairs: as in `Trials`.
        rows: the two names and the label of each pair, "" for none, as the list has them.
    """

    files: dict[Path, int]
    pairs: list[tuple[int, int]]
    rows: list[tuple[str, str, str]]


class _Files:
    """The files that a list names, each once, with the line that names it first. They lie beside the list."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Path, int] = {}
        self._places: dict[Path, int] = {}
        self._named: dict[str, int] = {}

    def place(self, name: str, line: int) -> int:
        """Where the file of this name stands among all.

        Raises:
            SpeechZooError: it is no file.
        """
        if name not in self._named:
            file = self.path.parent / name
            if not os.path.isfile(file):  # noqa: PTH113 (Path.is_file raises for a name that is too long)
                missing = "is not a file" if os.path.exists(file) else "does not exist"  # noqa: PTH110
                raise SpeechZooError(f"{self.path}, line {line}: {file} {missing}")
            self._named[name] = self._places.setdefault(file, len(self._places))
            self.lines.setdefault(file, line)
        return self._named[name]


def read_pairs(path: Path) -> Pairs:
    """Read lines `a b` or `label a b`, with any label; .csv, .tsv and .jsonl as for `read_trials`.

    Raises:
        SpeechZooError: a line that cannot be used, by its number; no pairs.
    """
    files, pairs, rows = _Files(path), [], []
    for line, (*label, a, b) in _rows(path, COLUMNS[1:]):
        pairs.append((files.place(a, line), files.place(b, line)))
        rows.append((a, b, label[0] if label else ""))
    if not pairs:
        raise SpeechZooError(f"{path} holds no pairs; it takes lines of the form: a.wav b.wav")
    return Pairs(files.lines, pairs, rows)


def read_trials(path: Path) -> Trials:
    """Read lines `label a b`; .csv and .tsv have these columns, .jsonl objects these keys. Files lie beside the list.

    Raises:
        SpeechZooError: a line that cannot be used, by its number; no trials, or those of one kind only.
    """
    files = _Files(path)
    seen: dict[tuple[int, int], tuple[int, bool]] = {}
    for line, (label, *names) in _rows(path):
        where = f"{path}, line {line}"
        if label not in LABELS:
            raise SpeechZooError(f"{where}: the label is 1 or target, 0 or nontarget, not {label!r}")
        a, b = sorted(files.place(name, line) for name in names)
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
    return Trials(files.lines, list(seen), same)


def _rows(path: Path, least: list[str] = COLUMNS) -> Iterator[tuple[int, list[str]]]:
    """The number and the columns of each line that is not empty: label and two names, or the `least` of them."""
    wanted = "label, file, file" if least == COLUMNS else "file, file or label, file, file"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix in DELIMITERS:
                reader = csv.reader(file, delimiter=DELIMITERS[path.suffix], skipinitialspace=True, strict=True)
                rows: Any = ((reader.line_num, row) for row in reader)
            elif path.suffix == ".jsonl":
                rows = ((line, _object(text, f"{path}, line {line}", least)) for line, text in enumerate(file, 1))
            else:
                rows = ((line, text.split()) for line, text in enumerate(file, 1))
            for line, row in rows:
                if not row or (line == 1 and row in (COLUMNS, least)):
                    continue
                if len(row) not in (3, len(least)):
                    more = "" if path.suffix in DELIMITERS else "; names with spaces need a .csv, .tsv or .jsonl list"
                    raise SpeechZooError(f"{path}, line {line} holds {len(row)} parts, not {wanted}{more}")
                yield line, row
    except OSError as error:
        raise SpeechZooError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpeechZooError(f"{path} is not text in UTF-8") from error
    except csv.Error as error:
        raise SpeechZooError(f"{path}, line {reader.line_num}: {error}") from error


def _object(text: str, where: str, least: list[str]) -> list[str]:
    """Label and names of one JSON line, the label if it is among the `least`; nothing if it is empty."""
    if not text.strip():
        return []
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpeechZooError(f"{where} is not JSON: {error}") from error
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in COLUMNS[1:]):
        raise SpeechZooError(f'{where} must be an object like {{"label": 1, "a": "a.wav", "b": "b.wav"}}')
    label = [str(entry.get("label"))] if "label" in entry or "label" in least else []
    return [*label, entry["a"], entry["b"]]


def score(
    model: Any,
    path: Path,
    trials: Trials | Pairs,
    cohort: "Cohort | None" = None,
    top: int | None = None,
    **how: Any,
) -> "tuple[np.ndarray[Any, Any], float]":
    """The score of each trial, (N,) float64, and the seconds of speech in the shortest clip; shows progress.

    Scores are cosines, normalised if there is a cohort, with its `top` most similar voices. Each file is embedded once;
    `how` goes to `model.voice`.

    Raises:
        AudioError: a file that cannot be used, with the line of `path` that names it.
    """
    import numpy as np
    from speech_zoo_core.progress import progress

    voices = []
    for file, line in progress(trials.files.items(), desc="embedding", unit="clip"):
        try:
            voices.append(model.voice(file, **how))
        except AudioError as error:
            raise AudioError(f"{path}, line {line}: {error}") from error
    vectors = np.stack([np.array(voice.vector) for voice in voices])
    pairs = np.array(trials.pairs)
    cosines = [
        np.einsum("nd,nd->n", *(vectors[part].astype(np.float64) for part in pairs[i : i + PAIRS_AT_ONCE].T))
        for i in range(0, len(pairs), PAIRS_AT_ONCE)
    ]
    scores, seconds = np.clip(np.concatenate(cosines), -1, 1), min(voice.seconds for voice in voices)
    if cohort is not None:
        mean, deviation = cohort.statistics(vectors, *([] if top is None else [top]))
        scores = sum((scores - mean[side]) / deviation[side] for side in pairs.T) / 2
    return scores, seconds
