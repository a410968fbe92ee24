"""Rules that put together what MLX composes: means, norms, activations, softmax."""

import math
from collections.abc import Iterator

import numpy as np

from .graph import Node, Value, constant, scalar_of
from .lengths import product
from .rewrite import Context, Rule

CLOSE = 1e-6  # relative, of a number that MLX or Python has rounded


def _is(value: Value, number: float) -> bool:
    found = scalar_of(value)
    return found is not None and math.isclose(found, number, rel_tol=CLOSE, abs_tol=1e-30)


def _orders(node: Node) -> Iterator[tuple[Value, Value]]:
    """The two inputs of a commutative operation, both ways round."""
    yield node.inputs[0], node.inputs[1]
    yield node.inputs[1], node.inputs[0]


def neutral(context: Context, node: Node) -> Value | None:
    """x * 1, x / 1, x + 0, x - 0."""
    number = 1.0 if node.op in ("Mul", "Div") else 0.0
    for x, other in _orders(node) if node.op in ("Mul", "Add") else [(node.inputs[0], node.inputs[1])]:
        if scalar_of(other) == number and x.shape == node.output.shape:
            return x
    return None


def square_of_root(context: Context, node: Node) -> Value | None:
    one, other = (context.maker(value, "Sqrt") for value in node.inputs)
    return one.inputs[0] if one is not None and one is other else None


def relu(context: Context, node: Node) -> Value | None:
    """max(x, 0), and max(x, slope * x)."""
    for x, other in _orders(node):
        if scalar_of(other) == 0 and x.dtype.kind == "f":
            return context("Relu", x)
        maker = context.maker(other, "Mul")
        for part, factor in _orders(maker) if maker is not None else ():
            slope = scalar_of(factor)
            if part is x and slope is not None and 0 < slope < 1:
                return context("LeakyRelu", x, alpha=slope)
    return None


def _count(context: Context, value: Value, inverse: bool) -> object:
    """The size that a number is, or is one over; None where it is neither."""
    number = scalar_of(value)
    if number is not None:
        count = 1 / number if inverse and number else number
        rounded = round(count)
        close = rounded > 0 and np.float32(1 / rounded if inverse else rounded) == np.float32(number)
        return rounded if close else None
    ops = ["Cast", "Reshape", "Reciprocal"] if inverse else ["Cast", "Reshape"]
    inverted = False
    while (maker := context.maker(value, *ops)) is not None:
        inverted = inverted or maker.op == "Reciprocal"
        value = maker.inputs[0]
    if inverted != inverse:
        return None
    maker = context.maker(value, "Sizes")
    return maker.attrs["values"][0] if maker is not None and len(maker.attrs["values"]) == 1 else None


def mean(context: Context, node: Node) -> Value | None:
    """A sum over the number of what is summed."""
    for total, count in _orders(node) if node.op == "Mul" else [(node.inputs[0], node.inputs[1])]:
        maker = context.maker(total, "ReduceSum", "Reshape")
        while maker is not None and maker.op == "Reshape":
            maker = context.maker(maker.inputs[0], "ReduceSum", "Reshape")
        if maker is None or maker.inputs[0].dtype.kind != "f":
            continue
        summed = product(maker.inputs[0].shape[axis] for axis in maker.attrs["axes"])
        if count.size == 1 and _count(context, count, node.op == "Mul") == summed:
            return context.reshape(context("ReduceMean", maker.inputs[0], **maker.attrs), node.output.shape)
    return None


def layer_norm(context: Context, node: Node) -> Value | None:
    """(x - mean) / sqrt(variance + eps) over the last axis."""
    for centred, factor in _orders(node):
        root = context.maker(factor, "Reciprocal")
        added = root and context.maker(root.inputs[0], "Sqrt")
        added = added and context.maker(added.inputs[0], "Add")
        minus = context.maker(centred, "Sub")
        if not added or minus is None:
            continue
        x, average = minus.inputs
        around = context.maker(average, "ReduceMean")
        for variance, eps in _orders(added):
            number, moment = scalar_of(eps), context.maker(variance, "ReduceMean")
            square = moment and context.maker(moment.inputs[0], "Mul")
            last = (x.rank - 1,)
            if not (square and moment and around and number is not None and square.inputs == [centred, centred]):
                continue
            if (
                around.inputs[0] is x
                and moment.attrs["axes"] == around.attrs["axes"] == last
                and isinstance(x.shape[-1], int)
            ):
                weight, bias = (constant(np.full(x.shape[-1], fill, x.dtype)) for fill in (1, 0))
                return context("LayerNormalization", x, weight, bias, eps=number)
    return None


def into_norm(context: Context, node: Node) -> Value | None:
    """The scale and the shift after a norm as its own."""
    for x, other in _orders(node):
        maker = context.maker(x, "LayerNormalization")
        if maker is None or other.data is None or other.size not in (1, x.shape[-1]) or not context.once(x):
            continue
        if other.size != 1 and other.shape[-1] != x.shape[-1]:
            continue
        source, weight, bias = maker.inputs
        vector = other.data.reshape(-1)
        if node.op == "Add":
            assert bias.data is not None
            return context("LayerNormalization", source, weight, constant(bias.data + vector), **maker.attrs)
        assert weight.data is not None and bias.data is not None
        scaled, shifted = constant(weight.data * vector), constant(bias.data * vector)
        return context("LayerNormalization", source, scaled, shifted, **maker.attrs)
    return None


def gelu(context: Context, node: Node) -> Value | None:
    """x * (1 + erf(x / sqrt(2))) / 2, by MLX in this order."""
    if not _is(node.inputs[1], 2) if node.op == "Div" else not _is(node.inputs[1], 0.5):
        return None
    outer = context.maker(node.inputs[0], "Mul")
    for x, factor in _orders(outer) if outer is not None else ():
        plus = context.maker(factor, "Add")
        for one, erf in _orders(plus) if plus is not None else ():
            error = context.maker(erf, "Erf")
            inner = error and context.maker(error.inputs[0], "Div", "Mul")
            if not inner or not _is(one, 1) or inner.inputs[0] is not x:
                continue
            if _is(inner.inputs[1], math.sqrt(2) if inner.op == "Div" else math.sqrt(0.5)):
                return context("Gelu", x)
    return None


def softmax(context: Context, node: Node) -> Value | None:
    """exp(x - max) over its sum, along any axis."""
    top, total = context.maker(node.inputs[0], "Exp"), context.maker(node.inputs[1], "ReduceSum")
    minus = top and context.maker(top.inputs[0], "Sub")
    if not top or not minus or total is None or total.inputs[0] is not node.inputs[0]:
        return None
    most = context.maker(minus.inputs[1], "ReduceMax")
    if (
        most is None
        or most.inputs[0] is not minus.inputs[0]
        or most.attrs != total.attrs
        or len(total.attrs["axes"]) != 1
    ):
        return None
    return context("Softmax", minus.inputs[0], axis=total.attrs["axes"][0]) if total.attrs["keepdims"] else None


PATTERNS: dict[str, list[Rule]] = {
    "Add": [neutral, into_norm],
    "Div": [neutral, gelu, mean, softmax],
    "Max": [relu],
    "Mul": [neutral, square_of_root, mean, layer_norm, into_norm, gelu],
    "Sub": [neutral],
}
