"""Exact cosine search over the windows of an index: one product with a memory-mapped matrix, block by block."""

import mmap
import os
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from speech_zoo_core.atomic import written_beside

from .database import Checkpoint, StoreFile
from .rows import recordings, times

Array: TypeAlias = np.ndarray[Any, Any]

PAUSE = 1.0  # seconds between windows of one passage at most
BLOCK_BYTES = 64 << 20  # of the mapped matrix at a time; no more than this of it is resident


@dataclass(frozen=True)
class Passage:
    """Where a voice was found.

    Attributes:
        file: the audio file.
        start, end: seconds from its beginning.
        score: the best cosine of the windows in it, -1 to 1.
    """

    file: str
    start: float
    end: float
    score: float


@dataclass(frozen=True)
class Windows:
    """All windows of one generation of an index, in the order of its files.

    Attributes:
        generation: of the index.
        paths: of the F files.
        first: the row where each file's windows begin, and N at the end, (F + 1,) int64.
        spans: start and end of each window in seconds, (N, 2) float64.
        vectors: (N, D) float32 of unit length, memory-mapped; None where there are none.
    """

    generation: str
    paths: list[str]
    first: Array = field(repr=False)
    spans: Array = field(repr=False)
    vectors: Array | None = field(repr=False)


def windows_of(file: StoreFile, checkpoint: Checkpoint, known: Windows | None = None) -> Windows:
    """The windows of an index as it is now; `known` if it still is the same. Writes the matrix anew where it is old.

    Raises:
        SpeechZooError: as `StoreFile.reading` and `StoreFile.writing`; or the index is damaged or must be made anew.
    """
    with file.reading(checkpoint) as db:
        file.check_current(db)
        generation = _generation(db)
        if known is not None and known.generation == generation:
            return known
        if (vectors := _load(file, db)) is not None:
            return vectors
    if not file.writable:
        with file.reading(checkpoint) as db:
            return _in_memory(file, db, checkpoint.dim)
    with file.writing(checkpoint, create=False) as db:  # nobody else writes the matrix, or the index, meanwhile
        if (vectors := _load(file, db)) is None:
            target = _matrix_path(file.path, _generation(db))
            for old in file.matrices():
                old.unlink()
            with written_beside(target) as beside, beside.open("wb") as out:
                _write(file, db, checkpoint.dim, out)
            vectors = _load(file, db)
        if vectors is None:
            raise file.damaged("its matrix of vectors cannot be read back")
        return vectors


def best(windows: Windows, voice: Array, threshold: float, top_k: int) -> list[Passage]:
    """The passages that score `threshold` or more, the best first, at most `top_k`.

    Windows with no other one and no long pause between them are one passage.

    Args:
        voice: (D,) float32, unit length.
    """
    if windows.vectors is None:
        return []
    scores = cosines(windows.vectors, voice)
    hits = np.flatnonzero(scores >= threshold)
    if hits.size == 0:
        return []
    files = np.searchsorted(windows.first, hits, side="right") - 1
    gaps = windows.spans[hits[1:], 0] - windows.spans[hits[:-1], 1]
    apart = (np.diff(hits) > 1) | (np.diff(files) > 0) | (gaps > PAUSE)
    begins = np.concatenate([[0], np.flatnonzero(apart) + 1])
    ends = np.concatenate([begins[1:], [hits.size]]) - 1
    top = np.maximum.reduceat(scores[hits], begins)
    chosen = np.argsort(-top, kind="stable")[:top_k]
    return [
        Passage(
            windows.paths[files[begins[i]]],
            float(windows.spans[hits[begins[i]], 0]),
            float(windows.spans[hits[ends[i]], 1]),
            float(np.clip(top[i], -1, 1)),
        )
        for i in chosen
    ]


def cosines(vectors: Array, voice: Array) -> Array:
    """The product of a mapped matrix (N, D) with a vector (D,), (N,) float32.

    NumPy's product reads the mapped pages in place. MLX's would copy each block first, which takes twice as long.
    """
    scores = np.empty(len(vectors), np.float32)
    row = vectors.strides[0]
    rows = max(1, BLOCK_BYTES // row)
    origin = getattr(vectors, "offset", 0)
    for start in range(0, len(vectors), rows):
        stop = min(start + rows, len(vectors))
        np.dot(vectors[start:stop], voice, out=scores[start:stop])
        if isinstance(vectors.base, mmap.mmap):  # give the pages back: the system keeps them cached
            page = (origin + start * row) // mmap.PAGESIZE * mmap.PAGESIZE
            vectors.base.madvise(mmap.MADV_DONTNEED, page, origin + stop * row - page)
    return scores


def _generation(db: sqlite3.Connection) -> str:
    return str(db.execute("SELECT generation FROM state").fetchone()[0])


def _matrix_path(path: Path, generation: str) -> Path:
    return path.with_name(f"{path.name}-vectors-{generation}.npy")


def _load(file: StoreFile, db: sqlite3.Connection) -> Windows | None:
    """The windows that `db` sees; None if there is no matrix of that generation, or a damaged one."""
    generation = _generation(db)
    paths, first, spans = _times(file, db)
    try:
        matrix = np.load(_matrix_path(file.path, generation), mmap_mode="r") if len(spans) else None
    except (FileNotFoundError, ValueError):  # ValueError: not as long as its header says
        return None
    if matrix is not None and len(matrix) != len(spans):
        return None
    return Windows(generation, paths, first, spans, matrix)


def _in_memory(file: StoreFile, db: sqlite3.Connection, dim: int) -> Windows:
    """The windows that `db` sees, where no matrix can be written."""
    vectors = np.frombuffer(b"".join(recording.vectors for recording in recordings(file, db)), "<f4").reshape(-1, dim)
    return Windows(_generation(db), *_times(file, db), vectors if len(vectors) else None)


def _times(file: StoreFile, db: sqlite3.Connection) -> tuple[list[str], Array, Array]:
    """`paths`, `first` and `spans` of Windows."""
    files = list(times(file, db))
    first = np.cumsum([0, *(len(spans) // 16 for _, spans in files)], dtype=np.int64)
    return (
        [path for path, _ in files],
        first,
        np.frombuffer(b"".join(spans for _, spans in files), "<f8").reshape(-1, 2),
    )


def _write(file: StoreFile, db: sqlite3.Connection, dim: int, out: BinaryIO) -> None:
    """The vectors of all files as one .npy; its bytes are on disk when this returns."""
    count = db.execute("SELECT coalesce(sum(count), 0) FROM file").fetchone()[0]
    header = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
    np.lib.format.write_array_header_1_0(out, header)
    for recording in recordings(file, db):
        out.write(recording.vectors)
    out.flush()
    os.fsync(out.fileno())
