"""Rules about views: reshapes, broadcasts, slices, paddings and parts side by side."""

from .graph import Node, Value, constant, scalar_of
from .lengths import product
from .rewrite import Context, Rule
from .shapes import ELEMENTWISE, broadcast


def drop_expands(context: Context, node: Node) -> Value | None:
    """Elementwise operations broadcast by themselves."""
    if node.op not in ELEMENTWISE or len(node.inputs) < 2:
        return None
    makers = [context.maker(value, "Expand") for value in node.inputs]
    if not any(makers):
        return None
    inputs = [value if maker is None else maker.inputs[0] for value, maker in zip(node.inputs, makers, strict=True)]
    shape = broadcast(*(value.shape for value in inputs))
    rank = len(node.output.shape)
    padded = (1,) * (rank - len(shape)) + shape
    if padded != node.output.shape:
        return context("Expand", context(node.op, *inputs, **node.attrs), shape=node.output.shape)
    y = context(node.op, *inputs, **node.attrs)
    return context.reshape(y, node.output.shape)


def unary_of_expand(context: Context, node: Node) -> Value | None:
    """What is the same for all is computed once."""
    if node.op not in ELEMENTWISE or len(node.inputs) != 1:
        return None
    maker = context.maker(node.inputs[0], "Expand")
    if maker is None:
        return None
    return context("Expand", context(node.op, maker.inputs[0], **node.attrs), shape=node.output.shape)


def reshape(context: Context, node: Node) -> Value | None:
    """A reshape of a reshape, or to the same shape."""
    x = node.inputs[0]
    if x.shape == node.output.shape:
        return x
    maker = context.maker(x, "Reshape")
    if maker is not None:
        return context.reshape(maker.inputs[0], node.output.shape)
    maker = context.maker(x, "ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceLogSumExp")
    if maker is not None and maker.attrs["keepdims"] and context.once(x):
        axes = maker.attrs["axes"]
        if tuple(size for i, size in enumerate(x.shape) if i not in axes) == node.output.shape:
            return context(maker.op, maker.inputs[0], axes=axes, keepdims=False)
    return None


def same_shape(context: Context, node: Node) -> Value | None:
    """An expansion to the shape that is there."""
    return node.inputs[0] if node.inputs[0].shape == node.output.shape else None


def transpose(context: Context, node: Node) -> Value | None:
    """A transposition of a transposition, or none."""
    perm, x = node.attrs["perm"], node.inputs[0]
    moved = [axis for axis in perm if x.shape[axis] != 1]
    if moved == sorted(moved):
        return context.reshape(x, node.output.shape)
    maker = context.maker(x, "Transpose")
    if maker is None:
        return None
    return context.transpose(maker.inputs[0], tuple(maker.attrs["perm"][i] for i in perm))


def slice_whole(context: Context, node: Node) -> Value | None:
    plain = all(step == 1 for step in node.attrs["steps"])
    return node.inputs[0] if plain and node.output.shape == node.inputs[0].shape else None


def slice_of_slice(context: Context, node: Node) -> Value | None:
    """Of the same axis; others stay apart, so that what is mirrored at its ends is seen to be."""
    maker = context.maker(node.inputs[0], "Slice")
    if maker is None or any(step != 1 for step in maker.attrs["steps"]) or _cut(maker) != _cut(node):
        return None
    starts = tuple(a + b for a, b in zip(maker.attrs["starts"], node.attrs["starts"], strict=True))
    stops = tuple(
        a + b if step > 0 or b != -1 or a != 0 else -1
        for a, b, step in zip(maker.attrs["starts"], node.attrs["stops"], node.attrs["steps"], strict=True)
    )
    return context("Slice", maker.inputs[0], starts=starts, stops=stops, steps=node.attrs["steps"])


def _cut(node: Node) -> list[int]:
    """The axes that a slice cuts or turns round."""
    rows = zip(node.attrs["starts"], node.attrs["stops"], node.attrs["steps"], node.inputs[0].shape, strict=True)
    return [i for i, (start, stop, step, size) in enumerate(rows) if (start, stop, step) != (0, size, 1)]


def _only_axis(node: Node) -> int | None:
    """The one axis that a slice with steps of 1 cuts."""
    cut = _cut(node)
    return cut[0] if len(cut) == 1 and all(step == 1 for step in node.attrs["steps"]) else None


def slice_of_concat(context: Context, node: Node) -> Value | None:
    """Those parts that a slice takes whole, or a slice of the one that it takes from."""
    maker, axis = context.maker(node.inputs[0], "Concat"), _only_axis(node)
    if maker is None or axis is None or axis != maker.attrs["axis"]:
        return None
    start, stop = node.attrs["starts"][axis], node.attrs["stops"][axis]
    edges = [maker.inputs[0].shape[axis] * 0]
    for value in maker.inputs:
        edges.append(edges[-1] + value.shape[axis])
    if start in edges and stop in edges:
        parts = maker.inputs[edges.index(start) : edges.index(stop)]
        return parts[0] if len(parts) == 1 else context("Concat", *parts, axis=axis)
    if not all(isinstance(edge, int) for edge in [*edges, start, stop]):
        return None
    for value, first, last in zip(maker.inputs, edges[:-1], edges[1:], strict=True):
        if first <= start and stop <= last:
            return context.slice(value, axis, start - first, stop - first)
    return None


def slice_of_pad(context: Context, node: Node) -> Value | None:
    """A slice that takes none of the padding of its axis, or only padding."""
    maker, axis = context.maker(node.inputs[0], "Pad"), _only_axis(node)
    if maker is None or axis is None or maker.attrs["mode"] != "constant":
        return None
    x, before, after = maker.inputs[0], maker.attrs["before"], maker.attrs["after"]
    padded = [i for i in range(x.rank) if (before[i], after[i]) != (0, 0)]
    start, stop, size = node.attrs["starts"][axis], node.attrs["stops"][axis], x.shape[axis]
    if padded != [axis] or not all(isinstance(n, int) for n in (start, stop, size, before[axis])):
        return None
    first, last = start - before[axis], stop - before[axis]
    if first >= 0 and last <= size:
        return context.slice(x, axis, first, last)
    if last <= 0 or first >= size:
        return context("Expand", constant(maker.attrs["value"], x.dtype), shape=node.output.shape)
    return None


def concat(context: Context, node: Node) -> Value | None:
    """Parts that are themselves parts side by side; zeros at an end are padding."""
    axis, parts = node.attrs["axis"], node.inputs
    if len(parts) == 1:
        return parts[0]
    makers = [context.maker(value, "Concat") for value in parts]
    inner = [maker if maker is not None and maker.attrs["axis"] == axis else None for maker in makers]
    if any(inner):
        flat = [x for value, maker in zip(parts, inner, strict=True) for x in (maker.inputs if maker else [value])]
        return context("Concat", *flat, axis=axis)
    fills = [_filled(context, value) for value in (parts[0], parts[-1])]
    number = fills[0] if fills[0] is not None else fills[1]
    if number is None or len(parts) > 3:
        return None
    ends = [fill == number for fill in fills]
    middle = parts[1 if ends[0] else 0 : -1 if ends[1] else len(parts)]
    if len(middle) != 1:
        return None
    before, after = [0] * middle[0].rank, [0] * middle[0].rank
    before[axis] = parts[0].shape[axis] if ends[0] else 0  # type: ignore[call-overload]
    after[axis] = parts[-1].shape[axis] if ends[1] else 0  # type: ignore[call-overload]
    return context("Pad", middle[0], before=tuple(before), after=tuple(after), mode="constant", value=number)


def _filled(context: Context, value: Value) -> float | None:
    """The number that all elements of a value are; None where it is not one."""
    maker = context.maker(value, "Expand")
    return None if maker is None else scalar_of(maker.inputs[0])


def slice_of_expand(context: Context, node: Node) -> Value | None:
    maker = context.maker(node.inputs[0], "Expand")
    if maker is None or maker.inputs[0].size != 1:
        return None
    return context("Expand", maker.inputs[0], shape=node.output.shape)


def reflect(context: Context, node: Node) -> Value | None:
    """The mirrored ends of an array at its sides: one padding."""
    axis, parts = node.attrs["axis"], node.inputs
    if len(parts) != 3:
        return None
    x, sides = parts[1], [context.maker(parts[0], "Slice"), context.maker(parts[2], "Slice")]
    if any(side is None or side.inputs[0] is not x for side in sides):
        return None
    sizes = [part.shape[axis] for part in (parts[0], parts[2])]
    first = (sizes[0], 0, -1)
    last = (x.shape[axis] - 2, x.shape[axis] - 2 - sizes[1], -1)
    for side, bounds in zip(sides, (first, last), strict=True):
        assert side is not None
        rows = list(zip(side.attrs["starts"], side.attrs["stops"], side.attrs["steps"], strict=True))
        whole = all(row == (0, x.shape[i], 1) for i, row in enumerate(rows) if i != axis)
        if not whole or rows[axis] != bounds:
            return None
    before, after = ([size if i == axis else 0 for i in range(x.rank)] for size in sizes)
    return context("Pad", x, before=tuple(before), after=tuple(after), mode="reflect", value=0.0)


def flat_product(context: Context, node: Node) -> Value | None:
    """A product of flattened rows: the rows need not be flattened."""
    x, weight = node.inputs[:2]
    maker = context.maker(x, "Reshape")
    if maker is None or x.rank != 2 or weight.data is None or (node.op == "MatMul" and weight.rank != 2):
        return None
    source = maker.inputs[0]
    if source.rank < 3 or source.shape[-1] != x.shape[-1]:
        return None
    return context.reshape(context(node.op, source, *node.inputs[1:], **node.attrs), node.output.shape)


def flat_elementwise(context: Context, node: Node) -> Value | None:
    """The same of what is done to each row afterwards."""
    if node.op not in ELEMENTWISE:
        return None
    makers = [context.maker(value, "Reshape") for value in node.inputs]
    for maker, value in zip(makers, node.inputs, strict=True):
        if maker is None or value.shape != node.output.shape or value.rank != 2:
            continue
        source = maker.inputs[0]
        if source.rank < 3 or source.shape[-1] != value.shape[-1]:
            continue
        others = [other for other in node.inputs if other is not value]
        if all(other.size in (1, other.shape[-1] if other.rank else 1) and other.rank < 3 for other in others):
            inputs = [source if other is value else _as_row(context, other) for other in node.inputs]
            return context.reshape(context(node.op, *inputs, **node.attrs), node.output.shape)
    return None


def _as_row(context: Context, value: Value) -> Value:
    return context.reshape(value, (value.shape[-1],)) if value.rank == 2 else value


def product_of_pad(context: Context, node: Node) -> Value | None:
    """Zeros beside the rows of a product: their part of the constant is left out."""
    x, weight = node.inputs
    maker = context.maker(x, "Pad")
    if maker is None or weight.data is None or weight.rank != 2 or maker.attrs["mode"] != "constant":
        return None
    before, after = maker.attrs["before"], maker.attrs["after"]
    if maker.attrs["value"] != 0 or any((before[i], after[i]) != (0, 0) for i in range(x.rank - 1)):
        return None
    rows = constant(weight.data[before[-1] : weight.data.shape[0] - after[-1]])
    return context("MatMul", maker.inputs[0], rows)


def to_vector(value: Value, rank: int, axis: int) -> Value | None:
    """A constant that differs along one axis of an array of that rank only, as (C,)."""
    if value.data is None or value.rank > rank or axis >= rank:
        return None
    shape = (1,) * (rank - value.rank) + value.shape
    if product(shape) != shape[axis]:
        return None
    return constant(value.data.reshape(-1))


MOVES: dict[str, list[Rule]] = {
    "Concat": [reflect, concat],
    "Expand": [same_shape],
    "MatMul": [flat_product, product_of_pad],
    "MatMulNBits": [flat_product],
    "Reshape": [reshape],
    "Slice": [slice_whole, slice_of_slice, slice_of_expand, slice_of_concat, slice_of_pad],
    "Transpose": [transpose],
    "": [drop_expands, unary_of_expand, flat_elementwise],
}
