"""A graph made small and fast: what MLX composes is put together, transpositions cancel out."""

import numpy as np

from .fold import fold
from .graph import Graph, Node, Value, constant
from .layout import Layout
from .moves import MOVES, to_vector
from .patterns import PATTERNS
from .rewrite import Context, Rule, rewrite, share

MOST_ROUNDS = 10


def tidy(graph: Graph) -> Graph:
    """The same function with fewer nodes; in place."""
    rules = {op: [*PATTERNS.get(op, []), *MOVES.get(op, [])] for op in {*PATTERNS, *MOVES}}
    rules[""] = [fold, *rules[""]]
    _repeat(graph, rules)
    Layout(graph).run()
    _repeat(graph, rules)
    _repeat(graph, AFTER)
    return graph


def _repeat(graph: Graph, rules: dict[str, list[Rule]]) -> None:
    for _ in range(MOST_ROUNDS):
        share(graph)
        if not rewrite(graph, rules):
            break


def bias(context: Context, node: Node) -> Value | None:
    """What is added to a convolution's channels as its bias."""
    for i in (0, 1):
        y, other = node.inputs[i], node.inputs[1 - i]
        maker = context.maker(y, "Conv", "ConvTranspose")
        if maker is None or not context.once(y) or y.shape != node.output.shape:
            continue
        vector = to_vector(other, y.rank, 1)
        if vector is None or vector.shape != (y.shape[1],):
            continue
        inputs = maker.inputs[:2]
        if len(maker.inputs) == 3:
            assert maker.inputs[2].data is not None and vector.data is not None
            vector = constant(maker.inputs[2].data + vector.data)
        return context(maker.op, *inputs, vector, **maker.attrs)
    return None


def scaled(context: Context, node: Node) -> Value | None:
    """What a convolution's channels are multiplied with as part of its weight."""
    for i in (0, 1):
        y, other = node.inputs[i], node.inputs[1 - i]
        maker = context.maker(y, "Conv")
        vector = to_vector(other, y.rank, 1)
        if maker is None or vector is None or not context.once(y) or vector.shape != (y.shape[1],):
            continue
        weight, scale = maker.inputs[1].data, vector.data
        if weight is None or scale is None or any(value.data is None for value in maker.inputs[1:]):
            continue
        inputs = [constant(weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)))]
        inputs += [constant(value.data * scale) for value in maker.inputs[2:] if value.data is not None]
        return context("Conv", maker.inputs[0], *inputs, **maker.attrs)
    return None


def padded(context: Context, node: Node) -> Value | None:
    """Zeros around the input of a convolution as its own padding."""
    maker = context.maker(node.inputs[0], "Pad")
    if maker is None or maker.attrs["mode"] != "constant" or maker.attrs["value"] != 0:
        return None
    before, after = maker.attrs["before"], maker.attrs["after"]
    if any((*before[:2], *after[:2])) or not all(isinstance(n, int) for n in (*before, *after)):
        return None
    pads = tuple(int(a + b) for a, b in zip((*before[2:], *after[2:]), node.attrs["pads"], strict=True))
    return context("Conv", maker.inputs[0], *node.inputs[1:], **{**node.attrs, "pads": pads})


def strided(context: Context, node: Node) -> Value | None:
    """Every n-th place of the input of a convolution of one tap as its stride."""
    maker, taps = context.maker(node.inputs[0], "Slice"), node.inputs[1].shape[2:]
    if maker is None or any(tap != 1 for tap in taps) or any(node.attrs["pads"]):
        return None
    source, steps = maker.inputs[0], maker.attrs["steps"]
    whole = not any(maker.attrs["starts"]) and tuple(maker.attrs["stops"]) == tuple(source.shape)
    if not whole or min(steps) < 1 or any(step != 1 for step in steps[:2]):
        return None
    strides = tuple(a * b for a, b in zip(node.attrs["strides"], steps[2:], strict=True))
    return context("Conv", source, *node.inputs[1:], **{**node.attrs, "strides": strides})


def scale_shift(context: Context, node: Node) -> Value | None:
    """x * w + b along the channels, which lie second."""
    for i in (0, 1):
        y, shift = node.inputs[i], node.inputs[1 - i]
        maker = context.maker(y, "Mul")
        if maker is None or not context.once(y) or y.rank < 2 or not isinstance(y.shape[1], int):
            continue
        for j in (0, 1):
            x, factor = maker.inputs[j], maker.inputs[1 - j]
            vectors = [to_vector(value, y.rank, 1) for value in (factor, shift)]
            if x.shape != y.shape or x.dtype != np.float32:
                continue
            if all(vector is not None and vector.shape == (y.shape[1],) for vector in vectors):
                return context("ScaleShift", x, *(vector for vector in vectors if vector is not None))
    return None


AFTER: dict[str, list[Rule]] = {
    "Add": [bias, scale_shift],
    "Conv": [padded, strided],
    "Mul": [scaled],
}
