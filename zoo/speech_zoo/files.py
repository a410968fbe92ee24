"""Write a file whole or not at all; hash one."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from speech_zoo_core.errors import SpeechZooError


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


def sha256(path: Path) -> str:
    """The hash of a file's content, in hexadecimal.

    Raises:
        SpeechZooError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise SpeechZooError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()
