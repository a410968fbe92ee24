"""Keep an index of a folder's recordings: only new and changed files are decoded, each in a transaction of its own."""

import ctypes
import logging
import multiprocessing
import os
import signal
import stat
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.progress import progress

from ..recordings.files import SUFFIXES
from .database import Checkpoint, StoreFile, printable
from .rows import Recording, drop_recording, put_recording

WINDOW, HOP = 3.0, 1.5  # seconds

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
        files, windows: how many are now in the index, of this folder.
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
        gone = [path for path in held.keys() - there.keys() if path.startswith(below) and not path.startswith(closed)]
        for path in gone:
            drop_recording(db, path)
    new = [path for path, state in there.items() if held.get(path) != state]
    indexed = 0
    with (
        closing(embed(new)) as found,
        progress(total=len(new), desc="indexing", unit="file") as bar,
    ):
        for path, windows in found:
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
    skipped.sort(key=lambda item: item.file)
    return IndexReport(indexed, len(there) - len(new), len(gone), skipped, len(counts), sum(counts))


def in_this_process(model: Any, paths: list[str]) -> Results:
    """Each file with its windows, or with the reason why it has none, in order."""
    for path in paths:
        yield path, _windows(model, path)


def in_processes(ref: Any, jobs: int, paths: list[str]) -> Results:
    """As `in_this_process`, in any order, by processes that each load the model.

    Raises:
        SpeechZooError: one of them died.
    """
    if not paths:
        return
    workers = ProcessPoolExecutor(min(jobs, len(paths)), multiprocessing.get_context("spawn"), _start, (ref, jobs))
    try:
        for done in as_completed([workers.submit(_work, path) for path in paths]):
            yield done.result()
    except (BrokenProcessPool, OSError) as error:
        # One that dies while work is handed out shows as a closed handle.
        if isinstance(error, OSError) and str(error) != "handle is closed":
            raise SpeechZooError(f"processes cannot be started: {error}; run it again with fewer jobs") from error
        raise SpeechZooError(
            "a process that decodes and embeds was killed, perhaps for want of memory: run it again with fewer jobs; "
            "what was done is kept"
        ) from error
    finally:
        workers.shutdown(cancel_futures=True)


_model: Any = None  # of a worker process


def _start(ref: Any, jobs: int) -> None:
    """What a worker does first."""
    global _model  # noqa: PLW0603
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    logging.getLogger("speech_zoo").setLevel(logging.ERROR)  # no progress bars beside the parent's
    from ..models import load  # opens OpenBLAS, where that is needed

    blas = ctypes.CDLL(None)
    if hasattr(blas, "openblas_set_num_threads"):  # threads of many processes would wait for each other
        blas.openblas_set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    _model = load(ref)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(path: str) -> "tuple[str, Found | str]":
    return path, _windows(_model, path)


def _windows(model: Any, path: str) -> "Found | str":
    """The windows of a file that hold speech, or why there are none."""
    from ..recordings.windows import window_embeddings

    spans, rows = [], []
    try:
        for windows, vectors in window_embeddings(model, path, WINDOW, HOP):
            spans += [(window.start, window.end) for window in windows]
            rows.append(vectors)
    except SpeechZooError as error:
        return str(error).removeprefix(f"{path} ")
    return np.array(spans, "<f8").tobytes(), np.concatenate(rows).astype("<f4").tobytes()


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
                found = os.stat(path)  # noqa: PTH116
            except OSError as error:
                skipped.append(Skipped(printable(path), f"cannot be read: {error.strerror}"))
                continue
            if not stat.S_ISREG(found.st_mode):
                skipped.append(Skipped(printable(path), "is a pipe or device, not an audio file"))
            elif printable(path) != path:
                skipped.append(Skipped(printable(path), "has a name that is not UTF-8; rename it"))
            else:
                there[path] = (found.st_size, found.st_mtime_ns)
    return there, skipped, tuple(closed)
