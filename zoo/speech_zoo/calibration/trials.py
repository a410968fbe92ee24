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


def score(model: Any, path: Path, trials: Trials, **how: Any) -> "tuple[np.ndarray[Any, Any], float]":
    """The cosine of each trial, (N,) float64, and the seconds of speech in the shortest clip; shows progress.

    Each file is embedded once; `how` goes to `model.voice`.

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
    return np.clip(np.concatenate(cosines), -1, 1), min(voice.seconds for voice in voices)
