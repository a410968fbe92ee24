"""Where MLX computes, and whether what it is asked for is computed now or only traced."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

_thread = threading.local()


def on_cpu() -> bool:
    """Whether MLX computes on the CPU by default."""
    return mx.default_device().type == mx.DeviceType.cpu


@contextmanager
def while_tracing(whole: Callable[..., mx.array] | None = None) -> Iterator[None]:
    """Within it, a model is compiled or exported: it must look at no value, and takes its arguments as checked.

    `whole` stands for layers that an exporter takes as one operation, as `speech_zoo_export.whole` says.
    """
    before = in_trace(), whole_layer()
    _thread.tracing, _thread.whole = True, whole
    try:
        yield
    finally:
        _thread.tracing, _thread.whole = before


def in_trace() -> bool:
    """Whether this thread is within `while_tracing`."""
    return getattr(_thread, "tracing", False)


def whole_layer() -> Callable[..., mx.array] | None:
    """What stands for layers that are one operation, in this thread's trace."""
    return getattr(_thread, "whole", None)


def computed(*arrays: Any) -> bool:
    """Compute arrays, or trees of them; false where MLX does not let itself be asked, as in `mx.compile`."""
    try:
        mx.eval(*arrays)
    except ValueError as error:
        if "function transformations" not in str(error):
            raise
        return False
    return True


def are_values(*arrays: mx.array) -> bool:
    """Whether arrays are numbers and nothing more: false in a gradient, `mx.vmap`, `mx.compile` and an export."""
    sums = [array.reshape(-1)[:1] + 0 for array in arrays]
    if not computed(sums):
        return False
    graph = io.StringIO()
    mx.export_to_dot(graph, *sums)  # MLX forgets how it came to a number, unless a gradient needs that
    return "Add" not in graph.getvalue()
