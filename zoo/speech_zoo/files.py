"""Write a file whole or not at all."""

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
