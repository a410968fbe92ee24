"""What a store holds, row by row, each with a checksum: SQLite itself does not notice an overwritten value."""

import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from .database import STALE, StoreFile


@dataclass(frozen=True)
class Clip:
    """One clip of a known voice.

    Attributes:
        name: of the voice.
        digest: SHA-256 of the clip's content, in hexadecimal.
        source: where it came from, for people.
        vector: (D,) float32, little-endian.
    """

    name: str
    digest: str
    source: str
    vector: bytes


@dataclass(frozen=True)
class Recording:
    """One audio file of an index, as it was when it was decoded.

    Attributes:
        path: absolute.
        size: in bytes; `STALE` where the file must be indexed anew.
        mtime_ns: time of its last change.
        spans: start and end of each window in seconds, in order, (N, 2) float64, little-endian.
        vectors: (N, D) float32, little-endian.
    """

    path: str
    size: int
    mtime_ns: int
    spans: bytes
    vectors: bytes


def add_clip(db: sqlite3.Connection, clip: Clip) -> bool:
    """Whether the clip was new to its voice."""
    row = (clip.name, clip.digest, clip.source, _crc(clip.name, clip.digest, clip.source, clip.vector), clip.vector)
    sql = "INSERT OR IGNORE INTO clip (name, digest, source, crc, vector) VALUES (?, ?, ?, ?, ?)"
    return db.execute(sql, row).rowcount == 1


def clips(file: StoreFile, db: sqlite3.Connection, voice: str | None = None) -> Iterator[Clip]:
    """The clips of a voice, or all, in the order they came; raises SpeechZooError where one is not what was written."""
    sql = f"SELECT name, digest, source, crc, vector FROM clip {'' if voice is None else 'WHERE name = ?'} ORDER BY id"
    for name, digest, source, crc, vector in db.execute(sql, () if voice is None else (voice,)):
        if _crc(name, digest, source, vector) != crc:
            raise file.damaged("a clip is not what was written")
        yield Clip(name, digest, source, vector)


def put_recording(db: sqlite3.Connection, new: Recording) -> None:
    """Add a recording, in place of what was known of that path."""
    drop_recording(db, new.path)
    sums = _crc(new.path, new.spans), _crc(new.vectors)
    row = (new.path, new.size, new.mtime_ns, len(new.spans) // 16, sums[0], new.spans, sums[1], new.vectors)
    columns = "path, size, mtime_ns, count, crc, spans, vectors_crc, vectors"
    db.execute(f"INSERT INTO file ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def drop_recording(db: sqlite3.Connection, path: str) -> None:
    db.execute("DELETE FROM file WHERE path = ?", (path,))


def recordings(file: StoreFile, db: sqlite3.Connection) -> Iterator[Recording]:
    """All recordings in the order they came; raises SpeechZooError where one is not what was written."""
    size = f"CASE WHEN (SELECT user_version FROM pragma_user_version) < 2 THEN {STALE} ELSE size END"
    sql = f"SELECT path, {size}, mtime_ns, count, crc, spans, vectors_crc, vectors FROM file ORDER BY id"
    for path, size, mtime_ns, count, crc, spans, vectors_crc, vectors in db.execute(sql):
        if _crc(path, spans) != crc or len(spans) != 16 * count or _crc(vectors) != vectors_crc:
            raise file.damaged("a recording is not what was written")
        yield Recording(path, size, mtime_ns, spans, vectors)


def times(file: StoreFile, db: sqlite3.Connection) -> Iterator[tuple[str, bytes]]:
    """Path and `spans` of all recordings, in the same order and with the same error, without reading the vectors."""
    for path, count, crc, spans in db.execute("SELECT path, count, crc, spans FROM file ORDER BY id"):
        if _crc(path, spans) != crc or len(spans) != 16 * count:
            raise file.damaged("a recording is not what was written")
        yield path, spans


def _crc(*parts: str | bytes) -> int:
    value = 0
    for part in parts:
        value = zlib.crc32(part.encode() if isinstance(part, str) else part, value)
    return value
