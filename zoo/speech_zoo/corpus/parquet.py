"""The folder of a corpus: shards of embeddings in Parquet and a list of what could not be read."""

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.errors import SpeechZooError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise SpeechZooError("embed: --manifest needs pyarrow: pip install 'mlx-speech-zoo[parquet]'") from error

from speech_zoo_core.atomic import written_beside

from .manifest import Entry

SHARD_ROWS = 16384  # 13 MB of 192 values each
SHARD_SECONDS = 120.0  # of work, so that a run that is killed loses no more
SHARD = re.compile(r"part-(\d{5,})-(\d{5,})\.parquet")  # rank, number
ERRORS = "errors.jsonl"
LOCK = ".lock"
METADATA = b"speech_zoo"  # the key in a shard's schema


class CorpusFolder:
    """The output folder as one rank sees it.

    The rank's finished rows are held until `flush` writes them as a shard, which appears whole or not at all.

    Args:
        path: of the folder; it may not exist yet.
        facts: what is said about the embeddings in each shard: identity, model, dimension, version.
        rank: of this process; rank 0 opens the folder first.
    """

    def __init__(self, path: Path, facts: dict[str, Any], rank: int) -> None:
        self.path, self.facts, self.rank = path, facts, rank
        self.embedded = self.skipped = 0
        self.seconds = 0.0
        self._rows: list[tuple[str, str, float, np.ndarray[Any, Any]]] = []
        self._errors: list[str] = []
        self._number = 0  # of the next shard
        self._flushed = time.monotonic()
        self._held: int | None = None  # the descriptor of the lock

    def __enter__(self) -> "CorpusFolder":
        return self

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            os.close(self._held)

    def open(self, pending: set[str]) -> None:
        """Lock the folder for this run's ranks, clear away what a killed run left, take finished ids from `pending`.

        Raises:
            SpeechZooError: another run writes there; it is no corpus, is damaged, or is of another checkpoint.
        """
        with _written(self.path):
            if self.rank == 0:
                self._check_ours()
                self.path.mkdir(parents=True, exist_ok=True)
            self._held = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            self._lock(fcntl.LOCK_EX if self.rank == 0 else fcntl.LOCK_SH)
            self._take_finished(pending)
            if self.rank == 0:
                for left in self.path.glob(".part-*.part"):
                    left.unlink()
                self._forget_errors(pending)
                self._lock(fcntl.LOCK_SH)  # every rank holds it to its end, so no new run begins while one is alive

    def add(self, entry: Entry, seconds: float, vector: "np.ndarray[Any, Any]") -> None:
        """Take the embedding (D,) float32 of a clip."""
        self._rows.append((entry.id, entry.audio, seconds, vector))
        self.embedded += 1
        self.seconds += seconds
        self._flush_if_due()

    def skip(self, entry: Entry, reason: str) -> None:
        """Take note of a file that cannot be used."""
        self._errors.append(json.dumps({"id": entry.id, "audio": entry.audio, "error": reason}, ensure_ascii=False))
        self.skipped += 1
        self._flush_if_due()

    def flush(self) -> None:
        """Write what is held, so that it outlives the process and the machine's power.

        Raises:
            SpeechZooError: it cannot be written.
        """
        if self._errors:
            with _written(self.path / ERRORS), (self.path / ERRORS).open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                # A path that is not Unicode has half surrogates, which JSON escapes as Python's backslashes do.
                file.write("".join(f"{line}\n" for line in self._errors).encode(errors="backslashreplace"))
                file.flush()
                os.fsync(file.fileno())
        if self._rows:
            with written_beside(self.path / f"part-{self.rank:05}-{self._number:05}.parquet") as beside:
                pq.write_table(self._table(), beside, use_dictionary=False, write_page_checksum=True)
                _sync(beside)
            self._number += 1
        with _written(self.path):
            _sync(self.path)
        self._rows, self._errors = [], []
        self._flushed = time.monotonic()

    def _flush_if_due(self) -> None:
        if len(self._rows) >= SHARD_ROWS or time.monotonic() - self._flushed >= SHARD_SECONDS:
            self.flush()

    def _table(self) -> Any:
        ids, audios, seconds, vectors = zip(*self._rows, strict=True)
        dimension = self.facts["dimension"]
        schema = pa.schema(
            {
                "id": pa.string(),
                "audio": pa.string(),
                "seconds": pa.float64(),
                "embedding": pa.list_(pa.float32(), dimension),
            },
            metadata={METADATA: json.dumps(self.facts)},
        )
        embeddings = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(vectors)), dimension)
        return pa.table([ids, audios, seconds, embeddings], schema=schema)

    def _check_ours(self) -> None:
        """Raises SpeechZooError for a folder with nothing but other files; hidden ones don't count."""
        if not self.path.exists():
            return
        found = sorted(item.name for item in self.path.iterdir() if not item.name.startswith("."))
        if found and not any(name == ERRORS or SHARD.fullmatch(name) for name in found):
            raise SpeechZooError(f"{self.path} holds other files ({', '.join(found[:3])}); give a new or empty folder")

    def _lock(self, how: int) -> None:
        """Take the lock, or turn it into one that is shared."""
        assert self._held is not None
        try:
            fcntl.flock(self._held, how | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SpeechZooError(f"another process is writing to {self.path}; wait until it has finished") from error

    def _take_finished(self, pending: set[str]) -> None:
        """Take the ids of all shards from `pending`, and the number after the last of this rank's shards."""
        for path in sorted(self.path.iterdir()):
            if match := SHARD.fullmatch(path.name):
                pending.difference_update(self._ids(path))
                if int(match[1]) == self.rank:
                    self._number = max(self._number, int(match[2]) + 1)

    def _ids(self, shard: Path) -> list[str]:
        try:
            with pq.ParquetFile(shard, page_checksum_verification=True) as file:
                facts = json.loads((file.schema_arrow.metadata or {}).get(METADATA, b"{}"))
                ids: list[str] = file.read(columns=["id"])["id"].to_pylist() if "identity" in facts else []
        except (OSError, ValueError) as error:  # pa.ArrowInvalid is a ValueError
            raise SpeechZooError(
                f"{shard} is damaged ({error}); delete it and run again, and its files are embedded anew"
            ) from error
        if "identity" not in facts:
            raise SpeechZooError(f"{shard} was not written by speech-zoo; give a new or empty folder")
        if facts["identity"] != self.facts["identity"]:
            raise SpeechZooError(
                f"{self.path} holds embeddings of another checkpoint ({facts['model']}), which cannot be compared "
                f"with those of {self.facts['model']}; give another folder"
            )
        return ids

    def _forget_errors(self, pending: set[str]) -> None:
        """Take out of errors.jsonl what is tried again now, and a last line that a killed run did not finish."""
        path = self.path / ERRORS
        if not path.exists():
            return
        text = path.read_bytes()
        lines = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
        try:
            kept = b"".join(line for line in lines if json.loads(line)["id"] not in pending)
        except (ValueError, KeyError, TypeError) as error:
            raise SpeechZooError(f"{path} is damaged; delete it and run again") from error
        if kept != text:
            with written_beside(path) as beside:
                beside.write_bytes(kept)
                _sync(beside)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Raises SpeechZooError where the system refuses to write."""
    try:
        yield
    except OSError as error:
        raise SpeechZooError(f"{path} cannot be written: {error.strerror or error}") from error


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
