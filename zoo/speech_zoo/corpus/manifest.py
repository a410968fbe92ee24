"""A manifest: JSON Lines that name audio files or segments of them, read as a stream; and what came of it."""

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from speech_zoo_core.errors import ConfigError, SpeechZooError

AUDIO_KEYS = ("audio", "audio_filepath", "file_name")  # ours; NeMo's; that of Hugging Face's metadata.jsonl
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can name halves of the pairs that UTF-16 has


class Line(NamedTuple):
    """One clip: its id, the path of its file as the manifest gives it, and in seconds where in the file it lies.

    `offset` None is the start of the file, `duration` None its end.
    """

    id: str
    audio: str
    offset: float | None = None
    duration: float | None = None


@dataclass(frozen=True)
class Manifest:
    """A manifest of which every line is in order.

    Attributes:
        path: of the file.
        count: of lines that are not blank.
        checksum: of these, in order.
    """

    path: Path
    count: int
    checksum: int

    def share(self, rank: int, ranks: int) -> Iterator[Line]:
        """Every `ranks`-th line, from the one at `rank` on."""
        listed = islice(_lines(self.path), self.count)  # not what was added since
        return (line for _, line in islice(listed, rank, None, ranks))


@dataclass(frozen=True)
class ManifestRun:
    """What a run did, or one rank of it with its share.

    Attributes:
        embedded: clips whose embeddings were written.
        skipped: clips that could not be read; `errors.jsonl` says why.
        already_done: clips whose embeddings the folder held before.
        audio_seconds: length of the audio that was embedded.
        seconds: time that reading and embedding took.
        rank, ranks: which share of how many.
    """

    embedded: int
    skipped: int
    already_done: int
    audio_seconds: float
    seconds: float
    rank: int
    ranks: int


def read(path: Path) -> Manifest:
    """Read a manifest and check every line.

    Raises:
        SpeechZooError: it cannot be read, is empty, has a line that is wrong, or an id twice; names the line.
    """
    if path.exists() and not path.is_file():
        raise SpeechZooError(f"{path} is {'a folder' if path.is_dir() else 'a pipe or device'}, not a manifest file")
    ids: set[str] = set()
    checksum = 0
    for where, line in _lines(path):
        if line.id in ids:
            raise SpeechZooError(f'{where}: the id {line.id!r} was used before; give each line an "id" of its own')
        ids.add(line.id)
        checksum = zlib.crc32(repr(line).encode(), checksum)
    if not ids:
        raise SpeechZooError(f'{path} is empty: it needs a line {{"audio": "path"}} for each file')
    return Manifest(path, len(ids), checksum)


def _lines(path: Path) -> Iterator[tuple[str, Line]]:
    """Every line, and how errors name it; blank ones are passed over."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    where = f"{path}, line {number}"
                    yield where, _line(line.removeprefix(b"\xef\xbb\xbf"), where)
    except OSError as error:
        raise SpeechZooError(f"{path} cannot be read: {error.strerror}") from error


def _line(line: bytes, where: str) -> Line:
    try:
        fields = json.loads(line.decode())
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise SpeechZooError(f'{where}: not a JSON object; a line is like {{"audio": "path"}}')
    key = next((key for key in AUDIO_KEYS if key in fields), None)
    if key is None:
        raise SpeechZooError(f"{where}: names no audio file; its path goes under {', '.join(AUDIO_KEYS)}")
    audio = _text(fields[key], f"{where}: {key}")
    offset, duration = segment(fields, f"{where}: ")
    id = fields.get("id", default_id(audio, offset, duration))
    return Line(str(id) if type(id) is int else _text(id, f"{where}: id"), audio, offset, duration)


def segment(fields: Mapping[str, Any], where: str) -> tuple[float | None, float | None]:
    """The `offset` and `duration` of a line, in seconds; None for what is missing or null.

    Raises:
        ConfigError: one of them is no time.
    """
    times = []
    for name, least in (("offset", "0 or more"), ("duration", "more than 0")):
        value = fields.get(name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9  # a NaN is not
        if value is not None and (not number or (value == 0 and name == "duration")):
            raise ConfigError(f"{where}{name} is a number of seconds, {least}, not {value!a}")
        times.append(None if value is None else float(value))
    return times[0], times[1]


def default_id(audio: str, offset: float | None, duration: float | None) -> str:
    """The path; with an offset as a media fragment, `a.wav#t=2.5,4` from 2.5 to 4 s."""
    if offset is None:
        return audio
    ends = [offset] if duration is None else [offset, offset + duration]
    return f"{audio}#t={','.join(f'{round(end, 6):.15g}' for end in ends)}"


def _text(value: Any, what: str) -> str:
    """Raises SpeechZooError unless Parquet can store it as a text."""
    if not isinstance(value, str) or not value or LONE_SURROGATE.search(value):
        raise SpeechZooError(f"{what} must be a text that is not empty, not {value!a}")
    return value
