"""A folder or a file that appears whole or not at all, whenever its writer is stopped or the power goes."""

import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from .errors import CheckpointError, SpeechZooError

OURS = re.compile(r"(config|parity)\.json|README\.md|LICENSE|model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
EXPORTS = {  # folders that `speech-zoo export` fills in a converted one, and what it puts there
    "onnx": re.compile(r"model\.onnx(\.data)?"),
    "coreml": re.compile(r"model\.mlpackage"),
}
CONVERTER = "mlx-speech-zoo"  # how the `converter` of a config that `convert` wrote begins
NAME_LENGTH = 50  # characters of a name that are kept in the one beside it: a name has 255 bytes at most
PATIENCE = 60.0  # seconds for the lock of a folder, which is held for moments only


def check_free(out: Path, force: bool, called: str) -> None:
    """Refuse a place that is taken.

    Args:
        out: where a folder is to be.
        force: whether a checkpoint that `convert` wrote may be replaced; nothing else ever is.
        called: what the user calls it.

    Raises:
        CheckpointError: says what lies there.
        OSError: it cannot be looked at.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir() or out.is_symlink():
        raise CheckpointError(f"{called} exists already and is not a folder")
    names = sorted(item.name for item in out.iterdir())
    if names and not force:
        raise CheckpointError(
            f"{called} exists already; give a new or empty folder; --force of speech-zoo convert replaces it"
        )
    if others := [name for name in names if not _is_ours(out / name)]:
        listed = ", ".join(others[:5])
        raise CheckpointError(f"{called} holds more than a converted checkpoint ({listed}): not replaced")
    if names and not _is_marked(out / "config.json"):
        raise CheckpointError(f"{called} has no config.json that says speech-zoo convert wrote it: not replaced")


def _is_ours(path: Path) -> bool:
    """Whether a file, or a folder of exports, is one that we write."""
    if path.name in EXPORTS and path.is_dir() and not path.is_symlink():
        return all(EXPORTS[path.name].fullmatch(item.name) and not item.is_symlink() for item in path.iterdir())
    return OURS.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def _is_marked(config: Path) -> bool:
    try:
        converter = json.loads(config.read_text(encoding="utf-8"))["source"]["converter"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False
    return isinstance(converter, str) and converter.startswith(CONVERTER)


@contextmanager
def whole_folder(out: Path, check: Callable[[Path], None] = lambda _: None) -> Iterator[Path]:
    """A folder beside `out` to write to, which takes its place at the end and disappears on failure.

    What a killed process left beside `out` is cleared away, or put back where it had just been replaced.

    Args:
        out: may exist already, it is replaced.
        check: raises where what lies at a path must not be replaced; asked at the end, when nobody else writes there.

    Raises:
        CheckpointError: another process is writing there.
        OSError: it cannot be written.
    """
    missing = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync(folder.parent)
        with _locked(out.parent):
            _clear_folders(out)
            beside = _beside(out, "partial")
            beside.mkdir()
            lock = _lock(beside)
        try:
            yield beside
            for path in (*sorted(beside.iterdir()), beside):
                sync(path)
            with _locked(out.parent):
                _replace(beside, out, check)
        finally:
            if beside.exists():
                shutil.rmtree(beside)
            if lock is not None:
                os.close(lock)
    finally:
        for folder in missing:  # those that were made for a folder that could not be written
            with suppress(OSError):
                folder.rmdir()


def _replace(beside: Path, out: Path, check: Callable[[Path], None]) -> None:
    """Give `beside` the place of `out`; what was there comes back if that fails.

    Where the system can swap two names, there is something at `out` at all times.
    """
    check(out)
    swapped = os.path.lexists(out) and _swap(beside, out)
    old = beside if swapped else _beside(out, "old")
    if not swapped and os.path.lexists(out):
        out.replace(old)
    try:
        check(old)  # once more: nobody can put anything into it now
        if not swapped:
            beside.replace(out)
    except BaseException:
        if swapped:
            _swap(old, out)
        elif old.exists():
            old.replace(out)
        raise
    sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _swap(a: Path, b: Path) -> bool:
    """Exchange two names at once; False where the system or the file system cannot."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "renameat2"):  # Linux: RENAME_EXCHANGE, from the current folder (AT_FDCWD)
        return bool(libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), 2) == 0)
    if hasattr(libc, "renamex_np"):  # macOS: RENAME_SWAP
        return bool(libc.renamex_np(os.fsencode(a), os.fsencode(b), 2) == 0)
    return False


def _clear_folders(out: Path) -> None:
    """Clear away what killed processes left; the parent is locked.

    Raises:
        CheckpointError: one of them is not killed.
    """
    for left in _left(out, "old"):  # its owner was stopped while it held the parent's lock
        if left.is_dir() and not left.is_symlink() and all(_is_ours(item) for item in left.iterdir()):
            if os.path.lexists(out):
                shutil.rmtree(left)
            else:
                left.replace(out)
    for left in _left(out, "partial"):
        if left.is_symlink() or not left.is_dir():
            continue
        lock = _lock(left)
        if lock is None:
            raise CheckpointError(f"another process is writing {out}")
        if all(_is_ours(item) for item in left.iterdir()):
            shutil.rmtree(left)
        os.close(lock)


@contextmanager
def written_beside(output: Path) -> Iterator[Path]:
    """A path to write to, which becomes `output` at the end and disappears on failure.

    Raises:
        SpeechZooError: it cannot be written.
    """
    beside = _beside(output, "part")
    lock = None
    try:
        for left in _left(output, "part"):
            if not left.is_symlink() and left.is_file() and (stale := _lock(left)) is not None:
                left.unlink()
                os.close(stale)
        os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        lock = _lock(beside)
        yield beside
        sync(beside)
        beside.replace(output)
        sync(output.parent)
    except OSError as error:
        raise SpeechZooError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        if lock is not None:
            os.close(lock)
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _beside(path: Path, end: str) -> Path:
    """A name beside `path` that nobody can foresee."""
    return path.with_name(f".{path.name[:NAME_LENGTH]}.{token_hex(4)}.{end}")


def _left(path: Path, end: str) -> list[Path]:
    """What has such a name."""
    pattern = re.compile(re.escape(f".{path.name[:NAME_LENGTH]}.") + rf"[0-9a-f]{{8}}\.{end}")
    return [item for item in path.parent.iterdir() if pattern.fullmatch(item.name)]


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock of a file or folder and dies with the process; None if another has it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among the processes that put something into a folder here."""
    end = time.monotonic() + PATIENCE
    while (lock := _lock(folder.resolve())) is None:
        if time.monotonic() > end:
            raise OSError(errno.EAGAIN, "another process holds the lock of its folder")
        time.sleep(0.01)
    try:
        yield
    finally:
        os.close(lock)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync does not wait for the disk's own cache
            with suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # file systems that cannot sync folders
            raise
    finally:
        os.close(descriptor)
