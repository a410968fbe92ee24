"""Threads and forks: what MLX needs so that any thread can read a result, and what a forked process is told."""

import os
from typing import TypeVar

import mlx.core as mx

from .errors import SpeechZooError

T = TypeVar("T", bound=mx.array | list[mx.array])

_computed_in: int | None = None  # the process in which MLX has computed for us


def evaluated(x: T) -> T:
    """What is given, computed, since MLX lets no other thread compute it; in a transformation of a function as it is.

    Raises:
        SpeechZooError: in a process that was forked after MLX had computed, where it would wait for ever.
    """
    global _computed_in  # noqa: PLW0603
    check_process()
    try:
        mx.eval(x)
    except ValueError as error:
        if "function transformations" not in str(error):
            raise
    _computed_in = os.getpid()
    return x


def check_process() -> None:
    """Raises SpeechZooError in a process that was forked after MLX had computed."""
    if _computed_in not in (None, os.getpid()):
        raise SpeechZooError(
            "this process was forked after a model had been used, and MLX does not survive a fork: start it with spawn "
            "(multiprocessing.set_start_method('spawn'); gunicorn without --preload), or load the model in it alone"
        )
