"""A store as Parquet or safetensors: the way out for those who outgrow it, and back.

Parquet has a row for each vector: one of a clip has a `name`, one of a window a `start` and an `end`. In safetensors
the vectors are the tensors `clips` and `windows`, with the times in `spans`, and the metadata says what the rows are.
Both tell the checkpoint's identity, and whose windows hold one person each: what lacks that is indexed anew.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from speech_zoo_core.atomic import written_beside
from speech_zoo_core.errors import InputError, SpeechZooError
from speech_zoo_core.extras import how_to_install

from .database import STALE, Checkpoint, StoreFile, check_name
from .rows import Clip, Recording, add_clip, clips, put_recording, recordings

Array: TypeAlias = np.ndarray[Any, Any]

ROWS = 16384  # of Parquet at a time
FORM = {"windows": "of one person each"}  # metadata; what lacks it is from before, and such files are indexed anew


@dataclass(frozen=True)
class Exchanged:
    """How much was exported or imported: clips (of an import: those that were new), files, and windows of these."""

    clips: int
    files: int
    windows: int


def check_suffix(path: Path) -> None:
    """Raises InputError unless the path says Parquet or safetensors, SpeechZooError where that needs pyarrow."""
    if path.suffix not in (".parquet", ".safetensors"):
        raise InputError(f"{path} must end in .parquet or .safetensors")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise SpeechZooError(f"Parquet needs pyarrow: {how_to_install('parquet')}; .safetensors needs nothing")


def export(file: StoreFile, out: Path) -> Exchanged:
    """Write all of a store to `out`, whole or not at all; arguments and errors as `VoiceStore.export`."""
    check_suffix(out)
    with file.reading() as db:
        checkpoint = file.checkpoint(db)
        if checkpoint is None:
            raise SpeechZooError(f"{file.path} holds no vectors; there is nothing to export")
        parts: tuple[Iterator[Clip], Iterator[Recording]] = (clips(file, db), recordings(file, db))
        with written_beside(out) as beside:
            if out.suffix == ".parquet":
                return _write_parquet(beside, checkpoint, *parts)
            return _write_safetensors(beside, checkpoint, *parts)


def load(file: StoreFile, source: Path) -> Exchanged:
    """Add an export to a store, in one transaction; arguments and errors as `VoiceStore.import_from`."""
    check_suffix(source)
    if not source.is_file():
        raise SpeechZooError(f"{source} does not exist")
    read = _read_parquet if source.suffix == ".parquet" else _read_safetensors
    with _clear_errors(source):  # all is well, or the store stays as it is
        checkpoint, rows = read(source)
        _check(checkpoint, rows)
        _, rows = read(source)
    new = files = windows = 0
    with file.writing(checkpoint) as db:
        for row in rows:
            if isinstance(row, Clip):
                new += add_clip(db, row)
            else:
                put_recording(db, row)
                files, windows = files + 1, windows + len(row.spans) // 16
    return Exchanged(new, files, windows)


@contextmanager
def _clear_errors(source: Path) -> Iterator[None]:
    """What a file that is no export, or a damaged one, makes its readers raise. pyarrow's errors are these, too."""
    from safetensors import SafetensorError

    try:
        yield
    except (KeyError, ValueError, TypeError, AttributeError, OSError, NotImplementedError, SafetensorError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise SpeechZooError(f"{source} is no export of a store of voices, or is damaged: {what}") from error


def _check(checkpoint: Checkpoint, rows: Iterator[Clip | Recording]) -> None:
    """Raises ValueError for values of the wrong kind, vectors that are not of unit length, or times that are none."""
    paths = set()
    if not re.fullmatch("[0-9a-f]{64}", checkpoint.identity):
        raise ValueError("its identity is no SHA-256")
    for row in rows:
        texts = (row.name, row.digest, row.source) if isinstance(row, Clip) else (row.path,)
        size, time = (0, 0) if isinstance(row, Clip) else (row.size, row.mtime_ns)
        if not all(isinstance(text, str) and text for text in texts):
            raise ValueError("a name, a digest or a file is missing")
        if not (isinstance(size, int) and isinstance(time, int) and STALE <= size < 2**63 and -(2**63) <= time < 2**63):
            raise ValueError(f"the size or time of {texts[0]} is no number")
        vectors = np.frombuffer(row.vector if isinstance(row, Clip) else row.vectors, "<f4").reshape(-1, checkpoint.dim)
        if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
            raise ValueError(f"a vector of {texts[0]} is not of unit length")
        if isinstance(row, Clip):
            if check_name(row.name) != row.name:
                raise ValueError(f"{row.name!r} is no name")
            continue
        spans = np.frombuffer(row.spans, "<f8").reshape(-1, 2)
        if len(spans) != len(vectors) or not (np.isfinite(spans).all() and (spans[:, 0] < spans[:, 1]).all()):
            raise ValueError(f"the times of {row.path} are none")
        if row.path in paths:
            raise ValueError(f"the rows of {row.path} do not stand together")
        paths.add(row.path)


def _write_safetensors(
    out: Path, checkpoint: Checkpoint, clips: Iterator[Clip], recordings: Iterator[Recording]
) -> Exchanged:
    """All vectors are in memory at once."""
    from safetensors.numpy import save

    known, files = list(clips), list(recordings)
    vectors = {"clips": [clip.vector for clip in known], "windows": [file.vectors for file in files]}
    tensors = {name: np.frombuffer(b"".join(rows), "<f4").reshape(-1, checkpoint.dim) for name, rows in vectors.items()}
    tensors["spans"] = np.frombuffer(b"".join(file.spans for file in files), "<f8").reshape(-1, 2)
    metadata = {
        "identity": checkpoint.identity,
        "model": checkpoint.name,
        "clips": json.dumps([[clip.name, clip.digest, clip.source] for clip in known]),
        "files": json.dumps([[file.path, file.size, file.mtime_ns, len(file.spans) // 16] for file in files]),
        **FORM,
    }
    out.write_bytes(save(tensors, metadata))
    return Exchanged(len(known), len(files), len(tensors["spans"]))


def _read_safetensors(source: Path) -> tuple[Checkpoint, Iterator[Clip | Recording]]:
    from safetensors import safe_open

    def rows() -> Iterator[Clip | Recording]:
        with safe_open(source, "np") as file:
            vectors = file.get_tensor("clips")
            for (name, digest, origin), vector in zip(json.loads(metadata["clips"]), vectors, strict=True):
                yield Clip(name, digest, origin, vector.tobytes())
            windows, spans, start = file.get_slice("windows"), file.get_tensor("spans"), 0
            files = json.loads(metadata["files"])
            counts = [count for _, _, _, count in files]
            if min(counts, default=1) < 1 or not sum(counts) == len(spans) == windows.get_shape()[0]:
                raise ValueError("its files do not have as many windows as it holds")
            for path, size, mtime_ns, count in files:
                part = slice(start, start + count)
                size = size if metadata.items() >= FORM.items() else STALE  # noqa: PLW2901
                yield Recording(path, size, mtime_ns, spans[part].tobytes(), windows[part].tobytes())
                start += count

    with safe_open(source, "np") as file:
        metadata = file.metadata() or {}
        dim = file.get_slice("clips").get_shape()[1]
    return Checkpoint(metadata["identity"], metadata["model"], dim), rows()


def _write_parquet(
    out: Path, checkpoint: Checkpoint, clips: Iterator[Clip], recordings: Iterator[Recording]
) -> Exchanged:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vector = pa.list_(pa.float32(), checkpoint.dim)
    whole, real, text = pa.int64(), pa.float64(), pa.string()
    columns = {"name": text, "digest": text, "file": text, "size": whole, "mtime_ns": whole, "start": real, "end": real}
    metadata = {"identity": checkpoint.identity, "model": checkpoint.name, **FORM}
    schema = pa.schema([*columns.items(), ("vector", vector)], metadata)
    counts: Counter[str] = Counter()

    def rows() -> Iterator[tuple[tuple[Any, ...], bytes]]:
        for clip in clips:
            counts["clips"] += 1
            yield (clip.name, clip.digest, clip.source, None, None, None, None), clip.vector
        for file in recordings:
            counts["files"] += 1
            vectors = np.frombuffer(file.vectors, "<f4").reshape(-1, checkpoint.dim)
            spans = np.frombuffer(file.spans, "<f8").reshape(-1, 2).tolist()
            for (start, end), row in zip(spans, vectors, strict=True):
                counts["windows"] += 1
                yield (None, None, file.path, file.size, file.mtime_ns, start, end), row.tobytes()

    left = rows()
    with pq.ParquetWriter(out, schema) as writer:
        while group := list(islice(left, ROWS)):
            facts, vectors = zip(*group, strict=True)
            arrays = [
                pa.array(values, kind) for values, kind in zip(zip(*facts, strict=True), columns.values(), strict=True)
            ]
            flat = pa.array(np.frombuffer(b"".join(vectors), "<f4"))
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, checkpoint.dim))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return Exchanged(counts["clips"], counts["files"], counts["windows"])


def _read_parquet(source: Path) -> tuple[Checkpoint, Iterator[Clip | Recording]]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(source)
    metadata = {key.decode(): value.decode() for key, value in (table.schema_arrow.metadata or {}).items()}
    dim = table.schema_arrow.field("vector").type.list_size

    def vectors() -> Iterator[tuple[tuple[Any, ...], Array]]:
        columns = ["name", "digest", "file", "size", "mtime_ns", "start", "end"]
        for batch in table.iter_batches(ROWS):
            floats = batch.column("vector").flatten().to_numpy().astype("<f4").reshape(-1, dim)
            yield from zip(zip(*(batch.column(name).to_pylist() for name in columns), strict=True), floats, strict=True)

    def rows() -> Iterator[Clip | Recording]:
        for (name, path, size, mtime_ns), group in groupby(vectors(), lambda item: (item[0][0], *item[0][2:5])):
            if name is not None:
                for (_, digest, origin, *_), vector in group:
                    yield Clip(name, digest, origin, vector.tobytes())
                continue
            held = list(group)
            spans = np.array([row[5:7] for row, _ in held], "<f8")
            size = size if metadata.items() >= FORM.items() else STALE  # noqa: PLW2901
            yield Recording(path, size, mtime_ns, spans.tobytes(), np.stack([vector for _, vector in held]).tobytes())

    return Checkpoint(metadata["identity"], metadata["model"], dim), rows()
