"""A folder or a file that appears whole or not at all, whenever its writer is stopped."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import CheckpointError, SpeechZooError

OURS = (".safetensors", ".safetensors.index.json", "config.json", "parity.json", "README.md")


def check_free(out: Path, force: bool, called: str) -> None:
    """Refuse a place that is taken.

    Args:
        out: where a folder is to be.
        force: whether a converted checkpoint may be replaced; nothing else ever is.
        called: what the user calls it.

    Raises:
        CheckpointError: says what lies there.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir() or out.is_symlink():
        raise CheckpointError(f"{called} exists already and is not a folder")
    found = sorted(item.name for item in out.iterdir())
    if found and not force:
        raise CheckpointError(
            f"{called} exists already; give a new or empty folder; --force of speech-zoo convert replaces it"
        )
    if others := [name for name in found if not name.endswith(OURS) or not (out / name).is_file()]:
        listed = ", ".join(others[:5])
        raise CheckpointError(f"{called} holds more than a converted checkpoint ({listed}): not replaced")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write to, which takes its place at the end and disappears on failure.

    What a killed process left beside `out` is cleared away.

    Raises:
        CheckpointError: another process is writing there.
        OSError: it cannot be written.
    """
    missing = [folder for folder in out.parents if not folder.exists()]
    beside, old = (out.with_name(f".{out.name}.{end}") for end in ("partial", "old"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = _claim(beside, out)
        try:
            yield beside
            shutil.rmtree(old, ignore_errors=True)
            if out.exists():
                out.replace(old)
            try:
                beside.replace(out)
            except BaseException:
                if old.exists():
                    old.replace(out)
                raise
            shutil.rmtree(old, ignore_errors=True)
        finally:
            if beside.exists():
                shutil.rmtree(beside)
            os.close(lock)
    finally:
        for folder in missing:  # those that were made for a folder that could not be written
            with suppress(OSError):
                folder.rmdir()


def _claim(beside: Path, out: Path) -> int:
    """Make the folder, empty; returns the descriptor that holds its lock, which dies with the process."""
    while True:
        beside.mkdir(exist_ok=True)
        lock = os.open(beside, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if beside.exists() and os.path.samestat(os.fstat(lock), beside.stat()):
                for left in beside.iterdir():
                    left.unlink()
                return lock
        except OSError as error:
            os.close(lock)
            if isinstance(error, BlockingIOError):
                raise CheckpointError(f"another process is writing {out}") from error
            raise
        os.close(lock)  # another process finished between the two calls, and the folder is gone


@contextmanager
def written_beside(output: Path) -> Iterator[Path]:
    """A path to write to, which becomes `output` at the end and disappears on failure.

    Raises:
        SpeechZooError: it cannot be written.
    """
    beside = output.with_name(f".{output.name}.part")
    try:
        yield beside
        beside.replace(output)
    except OSError as error:
        raise SpeechZooError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
