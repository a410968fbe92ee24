"""Progress bars, on a terminal, unless the logger `speech_zoo` is quiet."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def progress(iterable: Iterable[Any] | None = None, **options: Any) -> "tqdm[Any]":
    """A bar of tqdm on standard error, which disappears at the end.

    There is none where standard error is no terminal, or where the logger lets no warnings through.
    """
    from tqdm import tqdm

    quiet = not logging.getLogger("speech_zoo").isEnabledFor(logging.WARNING)
    return tqdm(iterable, disable=True if quiet else None, leave=False, **options)
