"""On a CPU, tiles of a clip one after another: they fit the caches, and bound the memory of long clips."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import mlx.core as mx

T = TypeVar("T")
_thread = threading.local()


def on_cpu() -> bool:
    """Whether MLX computes on the CPU by default."""
    return mx.default_device().type == mx.DeviceType.cpu


def cpu_layers() -> bool:
    """Whether layers compute in the ways that are fast on a CPU; SPEECH_ZOO_CPU_LAYERS=0 turns them off."""
    return on_cpu() and not in_trace() and os.environ.get("SPEECH_ZOO_CPU_LAYERS") != "0"


@contextmanager
def with_cpu_layers() -> Iterator[None]:
    """Within it, on a CPU, `each` and `in_tiles` evaluate what they compute.

    Outside of it they stay lazy, so that a model can be differentiated and compiled.
    """
    before = in_cpu_layers()
    _thread.cpu_layers = cpu_layers()
    try:
        yield
    finally:
        _thread.cpu_layers = before


def in_cpu_layers() -> bool:
    """Whether this thread is within `with_cpu_layers`, on a CPU."""
    return getattr(_thread, "cpu_layers", False)


@contextmanager
def while_tracing() -> Iterator[None]:
    """Within it, a model is compiled: it must look at no value, and takes its arguments as checked."""
    _thread.tracing = True
    try:
        yield
    finally:
        _thread.tracing = False


def in_trace() -> bool:
    """Whether this thread is within `while_tracing`."""
    return getattr(_thread, "tracing", False)


def each(fn: Callable[[T], mx.array], items: Sequence[T]) -> list[mx.array]:
    """`fn` of every item, in order; each evaluated before the next where `with_cpu_layers`."""
    results = []
    for item in items:
        results.append(fn(item))
        if in_cpu_layers():
            mx.eval(results[-1])
    return results


def in_tiles(
    fn: Callable[..., mx.array], *xs: mx.array, axis: int, size: int, halo: int = 0, stride: int = 1
) -> mx.array:
    """`fn(*xs)`, computed in tiles along an axis where `with_cpu_layers`.

    Args:
        fn: a part of a network that sees at most `halo` positions to each side, pads both ends itself, and gives one
            position for every `stride`, rounded up.
        xs: its inputs, of one length.
        axis: of time.
        size: positions of a tile, about; a multiple of `stride`, as `halo` is.
    """
    length = xs[0].shape[axis]
    count = round(length / size)
    if not in_cpu_layers() or count < 2:
        return fn(*xs)
    mx.eval(xs)
    step = -(-length // (count * stride)) * stride

    def part(x: mx.array, start: int, stop: int) -> mx.array:
        return x[(slice(None),) * axis + (slice(start, stop),)]

    def tile(start: int) -> mx.array:
        first, last = max(0, start - halo), min(length, start + step + halo)
        y = fn(*(part(x, first, last) for x in xs))
        return part(y, (start - first) // stride, -(-(min(length, start + step) - first) // stride))

    return mx.concatenate(each(tile, range(0, length, step)), axis=axis)


def total(fn: Callable[..., mx.array], *xs: mx.array, axis: int, size: int) -> mx.array:
    """`fn(*xs)`, a sum over an axis, as the sum of its tiles' where `with_cpu_layers`; arguments as `in_tiles`."""
    if not in_cpu_layers() or xs[0].shape[axis] <= size:
        return fn(*xs)
    mx.eval(xs)
    starts = range(0, xs[0].shape[axis], size)
    sums = each(lambda start: fn(*(x[(slice(None),) * axis + (slice(start, start + size),)] for x in xs)), starts)
    return sum(sums[1:], sums[0])
