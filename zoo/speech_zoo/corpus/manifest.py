"""A manifest: JSON Lines that name audio files, read as a stream; and what came of it."""

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from speech_zoo_core.errors import SpeechZooError

AUDIO_KEYS = ("audio", "audio_filepath", "file_name")  # ours; NeMo's; that of Hugging Face's metadata.jsonl
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can name halves of the pairs that UTF-16 has


class Entry(NamedTuple):
    """One file: its id, and its path as the manifest gives it."""

    id: str
    audio: str


@dataclass(frozen=True)
class Manifest:
    """A manifest of which every line is in order.

    Attributes:
        path: of the file.
        count: of entries.
        checksum: of ids and paths, in order.
    """

    path: Path
    count: int
    checksum: int

    def share(self, pending: set[str], rank: int, size: int) -> Iterator[Entry]:
        """Every `size`-th of the pending entries, from the one at `rank` on."""
        listed = islice(_entries(self.path), self.count)  # not what was added since
        return islice((entry for _, entry in listed if entry.id in pending), rank, None, size)


@dataclass(frozen=True)
class ManifestRun:
    """What a run did, all ranks together.

    Attributes:
        embedded: files whose embeddings were written.
        skipped: files that could not be read; `errors.jsonl` says why.
        already_done: files whose embeddings the folder held before.
        audio_seconds: length of the audio that was embedded.
        seconds: time that reading and embedding took.
        rank, ranks: this process, of how many.
    """

    embedded: int
    skipped: int
    already_done: int
    audio_seconds: float
    seconds: float
    rank: int
    ranks: int


def read(path: Path) -> tuple[Manifest, set[str]]:
    """Read a manifest and check every line; returns its ids, too.

    Raises:
        SpeechZooError: it cannot be read, is empty, has a line that is no entry, or an id twice; names the line.
    """
    if path.exists() and not path.is_file():
        raise SpeechZooError(f"{path} is {'a folder' if path.is_dir() else 'a pipe or device'}, not a manifest file")
    ids: set[str] = set()
    checksum = 0
    for where, entry in _entries(path):
        if entry.id in ids:
            raise SpeechZooError(f'{where}: the id {entry.id!r} was used before; give each line an "id" of its own')
        ids.add(entry.id)
        checksum = zlib.crc32(f"{entry.id}\0{entry.audio}\n".encode(), checksum)
    if not ids:
        raise SpeechZooError(f'{path} is empty: it needs a line {{"audio": "path"}} for each file')
    return Manifest(path, len(ids), checksum), ids


def _entries(path: Path) -> Iterator[tuple[str, Entry]]:
    """Every entry, and how errors name its line; blank lines are passed over."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    where = f"{path}, line {number}"
                    yield where, _entry(line.removeprefix(b"\xef\xbb\xbf"), where)
    except OSError as error:
        raise SpeechZooError(f"{path} cannot be read: {error.strerror}") from error


def _entry(line: bytes, where: str) -> Entry:
    try:
        fields = json.loads(line.decode())
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise SpeechZooError(f'{where}: not a JSON object; a line is like {{"audio": "path"}}')
    key = next((key for key in AUDIO_KEYS if key in fields), None)
    if key is None:
        raise SpeechZooError(f"{where}: names no audio file; its path goes under {', '.join(AUDIO_KEYS)}")
    if fields.get("offset"):
        raise SpeechZooError(f"{where}: offset is not supported; cut the segments into files of their own")
    audio = _text(fields[key], f"{where}: {key}")
    id = fields.get("id", audio)
    return Entry(str(id) if type(id) is int else _text(id, f"{where}: id"), audio)


def _text(value: Any, what: str) -> str:
    """Raises SpeechZooError unless Parquet can store it as a text."""
    if not isinstance(value, str) or not value or LONE_SURROGATE.search(value):
        raise SpeechZooError(f"{what} must be a text that is not empty, not {value!a}")
    return value
