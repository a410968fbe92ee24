"""The SQLite file of a store of voices: its schema, its transactions, and one clear line for a file that is no use."""

import logging
import os
import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from speech_zoo_core.errors import InputError, SpeechZooError

APPLICATION, VERSION = int.from_bytes(b"SPZV", "big"), 2  # PRAGMA application_id and user_version
STALE = -1  # in place of a file's size: it is indexed anew. Before version 2 a window could hold two people
BUSY_SECONDS = 60.0  # how long to wait for another process's transaction
CHANGES = ("INSERT", "UPDATE", "DELETE")
SCHEMA = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
CREATE TABLE checkpoint (
    one INTEGER PRIMARY KEY CHECK (one = 1), identity TEXT NOT NULL, name TEXT NOT NULL, dim INTEGER NOT NULL
);
CREATE TABLE clip (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, source TEXT NOT NULL,
    crc INTEGER NOT NULL, vector BLOB NOT NULL, UNIQUE (name, digest)
);
CREATE TABLE file (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    count INTEGER NOT NULL, crc INTEGER NOT NULL, spans BLOB NOT NULL,
    vectors_crc INTEGER NOT NULL, vectors BLOB NOT NULL
);
CREATE TABLE state (generation TEXT NOT NULL);
INSERT INTO state VALUES (hex(randomblob(16)));
"""
# The matrix beside the store is of one generation of the table file.
TRIGGER = """
CREATE TRIGGER file_{change} AFTER {change} ON file BEGIN UPDATE state SET generation = hex(randomblob(16)); END;
"""
# What SQLite says where the file itself is sound.
ELSEWHERE = ("locked", "disk is full", "disk I/O", "readonly", "unable to open", "not authorized", "interrupted")


@dataclass(frozen=True)
class Checkpoint:
    """Whose vectors a store holds: `identity`, what the user calls it, the embedding's size; `identity_before`."""

    identity: str
    name: str
    dim: int
    before: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.identity[:12]})"


def check_name(name: str) -> str:
    """A speaker's name without space around it, in Unicode's composed form (NFC).

    Raises:
        InputError: it is empty, or holds a control character or a line break.
    """
    name = unicodedata.normalize("NFC", name.strip())
    if not name:
        raise InputError("a voice needs a name that is not empty")
    if bad := [char for char in name if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]:
        raise InputError(f"the name {name!a} holds the control character U+{ord(bad[0]):04X}; leave it out")
    return name


def printable(path: str | os.PathLike[str]) -> str:
    """A path as text; bytes that are no UTF-8 as escapes."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()


class StoreFile:
    """One store. Every transaction has a connection of its own, so a store may be used from any thread or process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checked = False

    @contextmanager
    def reading(self, checkpoint: Checkpoint | None = None) -> Iterator[sqlite3.Connection]:
        """A snapshot of a store that exists.

        Raises:
            SpeechZooError: there is no store, it is not readable, or its vectors are not the checkpoint's.
        """
        with self._clear_errors(), closing(self._open(create=False)) as db:
            db.execute("BEGIN")
            self._check_checkpoint(db, checkpoint)
            yield db

    @contextmanager
    def writing(self, checkpoint: Checkpoint | None = None, create: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction, on disk when the block ends and undone where it fails; makes the store if need be.

        A store without vectors becomes the checkpoint's.

        Raises:
            SpeechZooError: as `reading`, or the store cannot be written.
        """
        with self._clear_errors(), closing(self._open(create)) as db:
            db.execute("BEGIN IMMEDIATE")
            if _version(db) < 2:
                db.execute(f"UPDATE file SET size = {STALE}")
                db.execute(f"PRAGMA user_version = {VERSION}")
            if checkpoint is not None:
                if not db.execute("SELECT EXISTS (SELECT 1 FROM clip) OR EXISTS (SELECT 1 FROM file)").fetchone()[0]:
                    values = (checkpoint.identity, checkpoint.name, checkpoint.dim)
                    db.execute("INSERT OR REPLACE INTO checkpoint VALUES (1, ?, ?, ?)", values)
                self._check_checkpoint(db, checkpoint)
            yield db
            db.execute("COMMIT")

    def forget(self) -> None:
        """Take what was removed out of the files beside the store too: the log of changes, the matrix of vectors."""
        for matrix in self.matrices():
            matrix.unlink(missing_ok=True)
        with self._clear_errors(), closing(self._open(create=False)) as db:
            db.execute("PRAGMA busy_timeout = 2000")
            if db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                logging.getLogger("speech_zoo").warning(
                    "warning: another process has %s open; what was removed stays in %s-wal until it ends",
                    self.path,
                    self.path.name,
                )

    def matrices(self) -> list[Path]:
        """The matrices of vectors beside the store, of any generation, finished or not."""
        name = re.compile(rf"\.?{re.escape(self.path.name)}-vectors-[0-9A-F]{{32}}\.npy(\..*)?")
        return [path for path in self.path.parent.iterdir() if name.fullmatch(path.name)]

    def checkpoint(self, db: sqlite3.Connection) -> Checkpoint | None:
        """Whose vectors these are; None in a store that never had any."""
        row = db.execute("SELECT identity, name, dim FROM checkpoint").fetchone()
        return Checkpoint(*row) if row else None

    def check_current(self, db: sqlite3.Connection) -> None:
        """Raises SpeechZooError for an index whose windows may hold two people, as they did before version 2."""
        stale = db.execute("SELECT EXISTS (SELECT 1 FROM file WHERE size = ? OR ? < 2)", (STALE, _version(db)))
        if stale.fetchone()[0]:
            raise SpeechZooError(
                f"{self.path} was indexed in windows that may hold two people: speech-zoo voices index FOLDER "
                f"--output {self.path} does it anew"
            )

    def damaged(self, reason: str) -> SpeechZooError:
        """The error for a store whose content is not what was written."""
        return SpeechZooError(
            f"{self.path} is damaged ({reason}): move it away, then import an export of it (speech-zoo voices import) "
            f"or enroll and index again (speech-zoo voices index FOLDER)"
        )

    def _check_checkpoint(self, db: sqlite3.Connection, wanted: Checkpoint | None) -> None:
        held = self.checkpoint(db)
        if wanted is None or held is None:
            return
        if held.identity == wanted.before:
            raise SpeechZooError(
                f"{self.path} is from before files were resampled as {held.name}'s original does, which changes their "
                "vectors: move it away, then enroll and index again"
            )
        if (held.identity, held.dim) != (wanted.identity, wanted.dim):
            raise SpeechZooError(
                f"{self.path} holds vectors of {held}, which cannot be compared with those of {wanted}: "
                f"use the model {held.name}, or another store"
            )

    def _open(self, create: bool) -> sqlite3.Connection:
        if not self.path.exists():
            if not create:
                raise self._missing()
            self._make()
        db = self._connect(self.path, "rw" if self.writable else "ro")
        try:
            self._check_version(db)
            if not self._checked:
                problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
                if problem != "ok":
                    raise self.damaged(problem.removeprefix("*** in database main ***"))
                self._checked = True
        except BaseException:
            db.close()
            raise
        return db

    @property
    def writable(self) -> bool:
        """Whether the store and what lies beside it can be changed: not so on a read-only medium."""
        return os.access(self.path, os.W_OK) and os.access(self.path.absolute().parent, os.W_OK)

    def _connect(self, path: Path, mode: str) -> sqlite3.Connection:
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        if mode == "ro" and not Path(f"{path}-wal").exists():
            uri += "&immutable=1"  # SQLite would look for the log of changes, which it cannot make here
        db = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
        db.execute("PRAGMA synchronous = FULL")  # what was committed survives a power failure, too
        db.execute("PRAGMA secure_delete = ON")  # a voice that is removed is overwritten
        return db

    def _missing(self) -> SpeechZooError:
        return SpeechZooError(
            f"there is no store of voices at {self.path}: speech-zoo voices enroll NAME FILE makes one, "
            f"speech-zoo voices index FOLDER an index"
        )

    def _check_version(self, db: sqlite3.Connection) -> None:
        """Raises SpeechZooError for a file that is not ours or that we cannot read."""
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = _version(db)
        if application != APPLICATION:
            kind = "another program's SQLite file" if self.path.stat().st_size else "an empty file"
            raise SpeechZooError(f"{self.path} is {kind}, no store of voices: remove it or name another one")
        if version > VERSION:
            raise SpeechZooError(
                f"{self.path} was written by a newer speech-zoo (store version {version}, this one reads {VERSION}): "
                f"update mlx-speech-zoo"
            )

    def _make(self) -> None:
        """An empty store, which appears whole; nothing if another process was faster."""
        if not self.path.parent.is_dir():
            raise SpeechZooError(f"{self.path} cannot be written: there is no folder {self.path.parent}")
        beside = self.path.with_name(f".{self.path.name}.{uuid4().hex}.part")
        try:
            with closing(self._connect(beside, "rwc")) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.executescript(SCHEMA + "".join(TRIGGER.format(change=change) for change in CHANGES))
            try:
                self.path.hardlink_to(beside)
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                beside.replace(self.path)
        finally:
            beside.unlink(missing_ok=True)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            text = str(error)
            if "not a database" in text:
                raise SpeechZooError(
                    f"{self.path} is no store of voices; if it was one, its beginning is overwritten: "
                    f"move it away, then import an export of it or enroll and index again"
                ) from error
            if isinstance(error, sqlite3.OperationalError) and any(part in text for part in ELSEWHERE):
                busy = "another process keeps it locked; try again" if "locked" in text else text
                raise SpeechZooError(f"{self.path} cannot be used: {busy}") from error
            raise self.damaged(text) from error
        except UnicodeDecodeError as error:  # of SQLite's message about a damaged schema
            raise self.damaged("its schema is overwritten") from error
        except OSError as error:
            raise SpeechZooError(f"{self.path} cannot be used: {error.strerror or error}") from error


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
