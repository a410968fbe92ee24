"""What can be computed once, when the graph is made."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .graph import Array, Node, Value, constant
from .rewrite import Context

MAX_GROWTH = 1 << 16  # elements of a constant that is larger than what it is made of


def fold(context: Context, node: Node) -> Value | None:
    """A node of constants alone as a constant."""
    compute = NUMPY.get(node.op)
    if compute is None or not node.inputs or any(value.data is None for value in node.inputs):
        return None
    arrays: list[Array] = [value.data for value in node.inputs if value.data is not None]
    if not all(isinstance(size, int) for size in node.output.shape):
        return None
    if node.op == "Expand" and len(node.output.shape) > 1:
        return None
    size = int(np.prod([int(size) for size in node.output.shape if isinstance(size, int)]))
    if size > max(MAX_GROWTH, *(array.size for array in arrays)):
        return None
    with np.errstate(all="ignore"):
        return constant(compute(arrays, node.attrs), node.output.dtype)


def _slice(arrays: list[Array], attrs: dict[str, Any]) -> Array:
    bounds = zip(attrs["starts"], attrs["stops"], attrs["steps"], strict=True)
    return arrays[0][tuple(slice(start, None if stop < 0 else stop, step) for start, stop, step in bounds)]


def _pad(arrays: list[Array], attrs: dict[str, Any]) -> Array:
    widths = list(zip(attrs["before"], attrs["after"], strict=True))
    if attrs["mode"] == "constant":
        return np.pad(arrays[0], widths, constant_values=attrs["value"])
    return np.pad(arrays[0], widths, mode="reflect")


def _of(fn: Callable[..., Any]) -> Callable[[list[Array], dict[str, Any]], Any]:
    return lambda arrays, attrs: fn(*arrays)


def _reduce(fn: Callable[..., Any]) -> Callable[[list[Array], dict[str, Any]], Any]:
    return lambda arrays, attrs: fn(arrays[0], axis=tuple(attrs["axes"]), keepdims=attrs["keepdims"])


def _divide(x: Array, y: Array) -> Array:
    quotient: Array = x / y
    return quotient if x.dtype.kind == "f" else np.trunc(quotient)


NUMPY: dict[str, Callable[[list[Array], dict[str, Any]], Any]] = {
    "Add": _of(np.add),
    "And": _of(np.logical_and),
    "Cast": lambda arrays, attrs: arrays[0].astype(attrs["to"]),
    "Concat": lambda arrays, attrs: np.concatenate(arrays, axis=attrs["axis"]),
    "Cos": _of(np.cos),
    "Div": lambda arrays, attrs: _divide(*arrays),
    "Equal": _of(np.equal),
    "Exp": _of(np.exp),
    "Expand": lambda arrays, attrs: np.broadcast_to(arrays[0], attrs["shape"]),
    "Greater": _of(np.greater),
    "GreaterOrEqual": _of(np.greater_equal),
    "Less": _of(np.less),
    "LessOrEqual": _of(np.less_equal),
    "Max": _of(np.maximum),
    "Min": _of(np.minimum),
    "Mul": _of(np.multiply),
    "Neg": _of(np.negative),
    "Not": _of(np.logical_not),
    "Or": _of(np.logical_or),
    "Pad": _pad,
    "Pow": _of(np.power),
    "Reciprocal": _of(np.reciprocal),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceSum": _reduce(np.sum),
    "Relu": lambda arrays, attrs: np.maximum(arrays[0], 0),
    "Reshape": lambda arrays, attrs: arrays[0].reshape(attrs["shape"]),
    "Sin": _of(np.sin),
    "Slice": _slice,
    "Sqrt": _of(np.sqrt),
    "Sub": _of(np.subtract),
    "Transpose": lambda arrays, attrs: arrays[0].transpose(attrs["perm"]),
    "Where": _of(np.where),
}
