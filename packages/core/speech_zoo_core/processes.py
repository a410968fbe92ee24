"""Threads and forks: what MLX needs so that any thread can read a result, and what a forked process is told."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import mlx.core as mx

from .device import computed
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
    computed(x)
    _computed_in = os.getpid()
    return x


def check_process() -> None:
    """Raises SpeechZooError in a process that was forked after MLX had computed."""
    if _computed_in not in (None, os.getpid()):
        raise SpeechZooError(
            "this process was forked after a model had been used, and MLX does not survive a fork: start it with spawn "
            "(multiprocessing.set_start_method('spawn'); gunicorn without --preload), or load the model in it alone"
        )


_building = threading.Lock()


@contextmanager
def zero_initialised() -> Iterator[None]:
    """Layers that this thread makes begin as zeros, since their weights are loaded.

    MLX's random numbers keep a state for each thread, and where a thread that drew some has ended the process may abort
    at its exit (mlx 0.32.4, 5 of 10). Other threads draw as ever.
    """
    builder = threading.get_ident()
    with _building:
        uniform, normal = mx.random.uniform, mx.random.normal

        def uniform_or_zeros(low: Any = 0, high: Any = 1, shape: Any = (), *rest: Any, **more: Any) -> mx.array:
            return mx.zeros(shape) if threading.get_ident() == builder else uniform(low, high, shape, *rest, **more)

        def normal_or_zeros(shape: Any = (), *rest: Any, **more: Any) -> mx.array:
            return mx.zeros(shape) if threading.get_ident() == builder else normal(shape, *rest, **more)

        mx.random.uniform, mx.random.normal = uniform_or_zeros, normal_or_zeros
        try:
            yield
        finally:
            mx.random.uniform, mx.random.normal = uniform, normal
