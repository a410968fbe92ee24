"""The folder of a corpus: embeddings in Parquet, part by part, and a list of what could not be read."""

import fcntl
import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.extras import how_to_install

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise SpeechZooError(f"embed: --manifest needs pyarrow: {how_to_install('parquet')}") from error

from speech_zoo_core.atomic import written_beside

from .manifest import Line

PART_ROWS = 16384  # 13 MB of 192 values each
PART_SECONDS = 120.0  # of work, so that a run that is killed loses no more
PART = re.compile(r"part-(\d{5,})-(\d{5,})\.parquet")  # rank, number
ERRORS = "errors.jsonl"
BESIDE = re.compile(r"\.part-(\d{5,})-")  # a part that is being written
LOCK, LOCK_SECONDS = ".lock", 2.0
METADATA = b"speech_zoo"  # the key in a part's schema


class CorpusFolder:
    """The output folder as one rank sees it.

    The rank's finished rows are held until `flush` writes them as a part, which appears whole or not at all.

    Args:
        path: of the folder; it may not exist yet.
        facts: what is said about the embeddings in each part: identity, model, dimension, version.
        manifest: checksum of the manifest.
        rank, ranks: which share of the manifest this is, and of how many.
    """

    def __init__(self, path: Path, facts: dict[str, Any], manifest: int, rank: int, ranks: int) -> None:
        self.path, self.facts, self.rank, self.ranks = path, facts, rank, ranks
        self.embedded = self.skipped = 0
        self.seconds = 0.0
        self._run = f"{manifest} {facts['identity']} {ranks}".encode()  # what all ranks of a run have in common
        self._pending: set[str] = set()
        self._rows: list[tuple[str, str, float, np.ndarray[Any, Any]]] = []
        self._errors: list[str] = []
        self._number = 0  # of the next part
        self._flushed = time.monotonic()
        self._locks = ExitStack()

    def __enter__(self) -> "CorpusFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._locks.close()

    def open(self, pending: set[str]) -> None:
        """Claim the rank's part of the folder, clear away what a killed run left, take finished ids from `pending`.

        Raises:
            SpeechZooError: another run writes there; it is no corpus, is damaged, or is of another checkpoint.
        """
        with _written(self.path):
            self._check_ours()
            self.path.mkdir(parents=True, exist_ok=True)
            self._claim()
            self._take_finished(pending)
            self._pending = pending
            for left in self.path.glob(".part-*.part"):
                match = BESIDE.match(left.name)
                if match and int(match[1]) % self.ranks == self.rank:  # no other rank of this run writes or clears it
                    left.unlink()
            self._list_errors()

    def add(self, line: Line, seconds: float, vector: "np.ndarray[Any, Any]") -> None:
        """Take the embedding (D,) float32 of a clip."""
        self._rows.append((line.id, line.audio, seconds, vector))
        self.embedded += 1
        self.seconds += seconds
        self._flush_if_due()

    def skip(self, line: Line, reason: str) -> None:
        """Take note of a file that cannot be used."""
        self._errors.append(json.dumps({"id": line.id, "audio": line.audio, "error": reason}, ensure_ascii=False))
        self.skipped += 1
        self._flush_if_due()

    def flush(self) -> None:
        """Write what is held, so that it outlives the process and the machine's power.

        Raises:
            SpeechZooError: it cannot be written.
        """
        if self._errors:
            with _written(self.path / ERRORS):
                self._list_errors()
        if self._rows:
            with written_beside(self.path / f"part-{self.rank:05}-{self._number:05}.parquet") as beside:
                pq.write_table(self._table(), beside, use_dictionary=False, write_page_checksum=True)
            self._number += 1
        self._rows = []
        self._flushed = time.monotonic()

    def _flush_if_due(self) -> None:
        if len(self._rows) >= PART_ROWS or time.monotonic() - self._flushed >= PART_SECONDS:
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
        names = sorted(item.name for item in self.path.iterdir() if not item.name.startswith("."))
        if names and not any(name == ERRORS or PART.fullmatch(name) for name in names):
            raise SpeechZooError(f"{self.path} holds other files ({', '.join(names[:3])}); give a new or empty folder")

    def _claim(self) -> None:
        """Take two locks that die with the process: one that all ranks of a run share, and one of this rank alone.

        Whoever finds nobody else at work writes into the first which run it is; all others must be of that run.
        """
        busy = SpeechZooError(f"another process is writing to {self.path}; wait until it has finished")
        mine, run = (
            self._locks.enter_context((self.path / name).open("a+b")) for name in (f"{LOCK}-{self.rank}", LOCK)
        )
        if not _try_lock(mine, fcntl.LOCK_EX):
            raise busy
        if _try_lock(run, fcntl.LOCK_EX):
            run.truncate(0)
            run.write(self._run)
            run.flush()
        until = time.monotonic() + LOCK_SECONDS
        while not _try_lock(run, fcntl.LOCK_SH):  # another rank writes into it
            if time.monotonic() > until:
                raise busy
            time.sleep(0.01)
        run.seek(0)
        if run.read() != self._run:
            raise busy

    def _take_finished(self, pending: set[str]) -> None:
        """Take the ids of all parts from `pending`, and the number after the last of this rank's parts."""
        for path in sorted(self.path.iterdir()):
            if match := PART.fullmatch(path.name):
                pending.difference_update(self._ids(path))
                if int(match[1]) == self.rank:
                    self._number = max(self._number, int(match[2]) + 1)

    def _ids(self, part: Path) -> list[str]:
        try:
            with pq.ParquetFile(part, page_checksum_verification=True) as file:
                facts = json.loads((file.schema_arrow.metadata or {}).get(METADATA, b"{}"))
                ids: list[str] = file.read(columns=["id"])["id"].to_pylist() if "identity" in facts else []
        except (OSError, ValueError) as error:  # pa.ArrowInvalid is a ValueError
            raise SpeechZooError(
                f"{part} is damaged ({error}); delete it and run again, and its files are embedded anew"
            ) from error
        if "identity" not in facts:
            raise SpeechZooError(f"{part} was not written by speech-zoo; give a new or empty folder")
        if facts["identity"] != self.facts["identity"]:
            raise SpeechZooError(
                f"{self.path} holds embeddings of another checkpoint ({facts['model']}), which cannot be compared "
                f"with those of {self.facts['model']}; give another folder"
            )
        return ids

    def _list_errors(self) -> None:
        """Put this run's errors in errors.jsonl, in place of all that it said about the rank's pending clips."""
        path = self.path / ERRORS
        with (self.path / f"{LOCK}-errors").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            text = path.read_bytes() if path.exists() else b""
            lines = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
            try:
                kept = [line for line in lines if json.loads(line)["id"] not in self._pending]
            except (ValueError, KeyError, TypeError) as error:
                raise SpeechZooError(f"{path} is damaged; delete it and run again") from error
            new = b"".join(kept) + "".join(f"{line}\n" for line in self._errors).encode()
            if new != text:
                with written_beside(path) as beside:
                    beside.write_bytes(new)


def _try_lock(file: IO[bytes], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Raises SpeechZooError where the system refuses to write."""
    try:
        yield
    except OSError as error:
        raise SpeechZooError(f"{path} cannot be written: {error.strerror or error}") from error
