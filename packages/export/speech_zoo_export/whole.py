"""Layers that a function hands over whole while it is traced, such as a recurrence, which MLX would unroll."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx

from .graph import ExportError

_thread = threading.local()


@dataclass
class Layer:
    """One call of `whole`."""

    name: str
    inputs: tuple[mx.array, ...]
    output: mx.array


def whole(name: str, *inputs: mx.array, shape: Sequence[int]) -> mx.array:
    """The output, of that shape and of the first input's type, of a layer that the graph has as one operation.

    For functions that know that they are traced, within `trace` alone. The layer is "LSTM", in both directions: x
    (B, T, C), weights (2, 4 * H, C) and (2, 4 * H, H), bias (2, 4 * H), with the gates as PyTorch has them, to
    (B, T, 2 * H).

    Raises:
        ExportError: nothing is traced.
    """
    layers = getattr(_thread, "layers", None)
    if layers is None:
        raise ExportError("a layer is handed over whole within a trace only")
    given = _thread.given
    output = given[len(layers)] if len(layers) < len(given) else mx.zeros(shape, inputs[0].dtype)
    layers.append(Layer(name, inputs, output))
    return output


@contextmanager
def collected(given: Sequence[mx.array]) -> Iterator[list[Layer]]:
    """The layers that are handed over within it, whose outputs are those given, as far as they go."""
    _thread.layers, _thread.given = [], given
    try:
        yield _thread.layers
    finally:
        _thread.layers = None
