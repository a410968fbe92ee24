"""Primitives that move, take and put elements."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from .graph import ExportError, Shape, Value, constant
from .lengths import Dim, always
from .shapes import Builder
from .terms import Call, Complex, Term

UPDATES = {0: "Max", 1: "Min", 2: "Add", 3: "Mul", 4: None}


def _to_shape(call: Call) -> Term:
    return call.build.reshape(call.inputs[0], call.shapes[0])


def _each_part(handler: Callable[[Call], Term]) -> Callable[[Call], Term]:
    """The handler for real and for complex numbers."""

    def both(call: Call) -> Term:
        x = call.inputs[0]
        if not isinstance(x, Complex):
            return handler(call)
        parts = []
        for part in (x.real, x.imag):
            call.inputs = [part, *call.inputs[1:]]
            parts.append(handler(call))
        return Complex(*parts)  # type: ignore[arg-type]

    return both


def _transpose(call: Call) -> Term:
    return call.build.transpose(call.inputs[0], tuple(call.args[0]))


def _broadcast(call: Call) -> Term:
    x = call.inputs[0]
    return x if x.shape == call.shapes[0] else call.build("Expand", x, shape=call.shapes[0])


def _slice(call: Call) -> Term:
    starts, stops, steps = call.args
    x: Value = call.inputs[0]
    stops = tuple(
        (stop + size if step > 0 else -1) if always(stop, lambda at: at < 0) else stop
        for stop, step, size in zip(stops, steps, x.shape, strict=True)
    )
    if call.shapes[0] == x.shape and all(step == 1 for step in steps):
        return x
    return call.build("Slice", x, starts=tuple(starts), stops=stops, steps=tuple(steps))


def _slice_update(call: Call) -> Term:
    kind, starts, stops, steps = call.args
    base, update = call.inputs
    if any(step != 1 for step in steps):
        raise ExportError("only neighbouring elements can be written")
    build = call.build
    change = UPDATES[kind]
    if change is not None:
        old = build("Slice", base, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))
        update = build(change, old, update)
    if base.data is not None and base.data.size == 1:  # what is left of a filled array
        base = build("Expand", base, shape=call.shapes[0])
    return _put(build, base, update, list(zip(starts, stops, strict=True)), 0)


def _put(build: Builder, base: Value, update: Value, region: list[tuple[Dim, Dim]], axis: int) -> Value:
    """`base` with `update` in a region, as parts side by side along one axis after another."""
    while axis < base.rank and region[axis] == (0, base.shape[axis]):
        axis += 1
    if axis == base.rank:
        return update
    (start, stop), size = region[axis], base.shape[axis]
    inner = build.slice(base, axis, start, stop)
    parts = [_put(build, inner, update, [*region[:axis], (0, inner.shape[axis]), *region[axis + 1 :]], axis + 1)]
    if start != 0:
        parts.insert(0, build.slice(base, axis, 0, start))
    if stop != size:
        parts.append(build.slice(base, axis, stop, size))
    return build("Concat", *parts, axis=axis)


def _pad(call: Call) -> Term:
    axes, low, high = call.args
    x, value = call.inputs
    number = None if value.data is None else float(value.data)
    if number is None:
        raise ExportError("padding with a number that is computed")
    before, after = [0] * x.rank, [0] * x.rank
    for axis, left, right in zip(axes, low, high, strict=True):
        before[axis], after[axis] = left, right
    return call.build("Pad", x, before=tuple(before), after=tuple(after), mode="constant", value=number)


def _concatenate(call: Call) -> Term:
    return call.build("Concat", *call.inputs, axis=call.args[0] % call.inputs[0].rank)


def _split(call: Call) -> list[Term]:
    x, axis = call.inputs[0], call.args[1] % call.inputs[0].rank
    edges = (0, *call.args[0], x.shape[axis])
    return [call.build.slice(x, axis, start, stop) for start, stop in pairwise(edges)]


def _gather(call: Call) -> Term:
    axes, sizes = tuple(call.args[0]), tuple(call.args[1])
    x, *indices = call.inputs
    build: Builder = call.build
    for axis, (size, taken) in enumerate(zip(x.shape, sizes, strict=True)):
        if taken != (1 if axis in axes else size):
            raise ExportError("only single elements along an axis, or all of them, can be gathered")
    indices = [build.cast(index, np.int64) for index in indices]
    others = [axis for axis in range(x.rank) if axis not in axes]
    if len(axes) == 1:
        moved = build.transpose(x, (axes[0], *others))
        return build.reshape(build("Gather", moved, indices[0], axis=0), call.shapes[0])
    shape: Shape = call.shapes[0][: len(call.shapes[0]) - x.rank]
    columns = [build.reshape(build("Expand", index, shape=shape), (*shape, 1)) for index in indices]
    moved = build.transpose(x, (*axes, *others))
    found = build("GatherND", moved, build("Concat", *columns, axis=len(shape)))
    return build.reshape(found, call.shapes[0])


def _gather_axis(call: Call) -> Term:
    x, index = call.inputs
    axis = call.args[0] % x.rank
    wide = tuple(size if i == axis else x.shape[i] for i, size in enumerate(index.shape))
    index = call.build.cast(index, np.int64)
    index = index if wide == index.shape else call.build("Expand", index, shape=wide)
    return call.build("GatherElements", x, index, axis=axis)


def _as_strided(call: Call) -> Term:
    shape, strides, offset = call.args
    x, build = call.inputs[0], call.build
    flat = build.reshape(x, (x.size,))
    if len(shape) == 2 and strides[1] == 1 and offset == 0 and all(isinstance(n, int) for n in (strides[0], shape[1])):
        return _framed(build, flat, shape[0], shape[1], strides[0])
    at = _number(build, offset)
    for i, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        steps = constant(np.arange(size)) if isinstance(size, int) else build("Range", start=0, stop=size, step=1)
        column: Shape = tuple(size if j == i else 1 for j in range(len(shape)))
        at = build("Add", at, build.reshape(build("Mul", steps, _number(build, stride)), column))
    return build("Gather", flat, at, axis=0)


def _number(build: Builder, dim: Dim) -> Value:
    """A size as a value."""
    return constant(np.int64(dim)) if isinstance(dim, int) else build.reshape(build("Sizes", values=(dim,)), ())


def _framed(build: Builder, x: Value, count: Dim, size: int, shift: int) -> Value:
    """Stretches of `size` elements, one every `shift`: blocks of `shift` side by side."""
    blocks = -(-size // shift)
    need = count * shift + (blocks - 1) * shift
    extra: Any = need - x.shape[0]
    if always(extra, lambda n: n < 0):
        x = build.slice(x, 0, 0, need)
    elif extra != 0:
        x = build("Pad", x, before=(0,), after=(shift,), mode="constant", value=0.0)
    parts = []
    for i in range(blocks):
        part = build.reshape(build.slice(x, 0, i * shift, i * shift + count * shift), (count, shift))
        parts.append(build.slice(part, 1, 0, min(shift, size - i * shift)))
    return build("Concat", *parts, axis=1) if blocks > 1 else parts[0]


VIEWS: dict[str, Callable[[Call], Any]] = {
    **dict.fromkeys(("ExpandDims", "Flatten", "Reshape", "Squeeze", "Unflatten"), _each_part(_to_shape)),
    "AsStrided": _as_strided,
    "Broadcast": _each_part(_broadcast),
    "Concatenate": _concatenate,
    "Gather": _gather,
    "GatherAxis": _gather_axis,
    "Pad": _pad,
    "Slice": _each_part(_slice),
    "SliceUpdate": _slice_update,
    "Split": _split,
    "Transpose": _each_part(_transpose),
}
