"""Keep an index of a folder's recordings: only new and changed files are decoded, each in a transaction of its own."""

import os
import stat
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.progress import progress

from ..recordings.files import SUFFIXES
from ..settings import SEGMENTATION
from .database import STALE, Checkpoint, StoreFile, printable
from .rows import Recording, drop_recording, put_recording

OLDEST, NEWEST = -(2**63), 2**63 - 1  # ns since 1970 that SQLite holds: 1677 to 2262

Found: TypeAlias = tuple[bytes, bytes]  # `spans` and `vectors` of a Recording
Results: TypeAlias = "Generator[tuple[str, Found | str], None, None]"
Embed: TypeAlias = Callable[[list[str]], Results]


@dataclass(frozen=True)
class Skipped:
    """A file that could not be indexed, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class IndexReport:
    """What `VoiceStore.index` did.

    Attributes:
        indexed, unchanged, removed: how many files.
        skipped: the files that cannot be used; they are tried again the next time.
        files, windows: how many are now in the index, of this folder; a window is a stretch in which one person speaks.
    """

    indexed: int
    unchanged: int
    removed: int
    skipped: list[Skipped]
    files: int
    windows: int


def update(file: StoreFile, checkpoint: Checkpoint, folder: Path, embed: Embed) -> IndexReport:
    """Bring the index up to date with a folder.

    Args:
        file: the store that holds the index.
        checkpoint: whose vectors `embed` gives.
        folder: with the audio files.
        embed: gives each of a list of files with its windows, or with the reason why it has none, in any order.

    Raises:
        SpeechZooError: as `VoiceStore.index`.
    """
    root = os.path.abspath(folder)  # noqa: PTH100 (the path as named: links are not resolved)
    if not os.path.isdir(root):  # noqa: PTH112 (Path.is_dir raises for a name that is too long)
        raise SpeechZooError(f"{folder} is no folder")
    below = os.path.join(root, "")  # noqa: PTH118
    there, skipped, closed = _walk(root)
    with file.writing(checkpoint) as db:
        held = {path: (size, time) for path, size, time in db.execute("SELECT path, size, mtime_ns FROM file")}
        removed = [
            path
            for path in held.keys() - there.keys()
            if path.startswith(below) and (held[path][0] == STALE or not path.startswith(closed))
        ]
        for path in removed:
            drop_recording(db, path)
    new = [path for path, state in there.items() if held.get(path) != state]
    indexed = 0
    with (
        closing(embed(new)) as embedded,
        progress(total=len(new), desc="indexing", unit="file") as bar,
    ):
        for path, windows in embedded:
            with file.writing(checkpoint) as db:
                if isinstance(windows, str):
                    drop_recording(db, path)  # what was there before has changed
                    skipped.append(Skipped(path, windows))
                else:
                    put_recording(db, Recording(path, *there[path], *windows))
                    indexed += 1
            bar.update()
    with file.reading(checkpoint) as db:
        counts = [count for path, count in db.execute("SELECT path, count FROM file") if path.startswith(below)]
    if removed or any(path in held for path in new):
        file.forget()
    skipped.sort(key=lambda item: item.file)
    return IndexReport(indexed, len(there) - len(new), len(removed), skipped, len(counts), sum(counts))


def in_this_process(model: Any, how: dict[str, Any], paths: list[str]) -> Results:
    """Each file with its windows, or with the reason why it has none, in order."""
    for path in paths:
        yield path, windows_of_file(model, path, **how)


def windows_of_file(model: Any, path: str, by: dict[str, Any], **how: Any) -> "Found | str":
    """The windows of a file in which one person speaks, or why there are none.

    Args:
        model: of speaker embeddings.
        path: of the file.
        by: `engine` and `threads` of `speech_zoo.load`, for the model of speaker segmentation.
        how: `channel` and `vad` of `solo_embeddings`.
    """
    from ..recordings.solos import solo_embeddings

    segmenter = _segmenter(**by)
    spans, rows = [], []
    try:
        for windows, vectors in solo_embeddings(model, segmenter, path, **how):
            spans += [(window.start, window.end) for window in windows]
            rows.append(vectors)
    except SpeechZooError as error:
        return str(error).removeprefix(f"{path} ")
    return np.array(spans, "<f8").tobytes(), np.concatenate(rows).astype("<f4").tobytes()


@cache
def _segmenter(engine: Any, threads: int | None) -> Any:
    from ..models import load

    return load(SEGMENTATION, engine=engine, threads=threads)


def _walk(root: str) -> tuple[dict[str, tuple[int, int]], list[Skipped], tuple[str, ...]]:
    """The audio files below a folder with their size and time of change, what cannot be used, and unreadable folders.

    These end with a separator; what the index holds of them stays.
    """
    there: dict[str, tuple[int, int]] = {}
    skipped: list[Skipped] = []
    closed: list[str] = []

    def unreadable(error: OSError) -> None:
        closed.append(os.path.join(error.filename, ""))  # noqa: PTH118
        skipped.append(Skipped(printable(error.filename), f"cannot be read: {error.strerror}"))

    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in SUFFIXES:  # noqa: PTH122
                continue
            path = os.path.join(folder, name)  # noqa: PTH118
            try:
                status = os.stat(path)  # noqa: PTH116
            except OSError as error:
                skipped.append(Skipped(printable(path), f"cannot be read: {error.strerror}"))
                continue
            if not stat.S_ISREG(status.st_mode):
                skipped.append(Skipped(printable(path), "is a pipe or device, not an audio file"))
            elif printable(path) != path:
                skipped.append(Skipped(printable(path), "has a name that is not UTF-8; rename it"))
            else:
                there[path] = (status.st_size, min(max(status.st_mtime_ns, OLDEST), NEWEST))
    return there, skipped, tuple(closed)
