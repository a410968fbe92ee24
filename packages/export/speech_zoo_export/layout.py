"""Transpositions moved down to where they cancel out, so that convolutions follow one another as they are.

A value may be known as a view of another one that has not been made: the source, and for each axis of the value the
axis of the source; axes of the source that are not named have one element. Operations take the source and reorder
their settings. Convolutions over time stay two-dimensional, with one row: runtimes have faster kernels for these.
"""

from typing import Any

import numpy as np

from .graph import Graph, Node, Shape, Value, constant
from .lengths import product
from .rewrite import Context, drop_dead
from .shapes import ELEMENTWISE, REDUCTIONS

Perm = tuple[int, ...]
PASSED = frozenset(("Concat", "MatMul", "Pad", "Reshape", "Slice", "Transpose"))
NEUTRAL = {"starts": 0, "steps": 1, "before": 0, "after": 0}  # settings of an axis that nothing is done to


def order_of(perm: Perm) -> Perm:
    """The axes of a value in the order in which they lie in its source."""
    return tuple(int(i) for i in np.argsort(perm))


class Layout(Context):
    """A graph that is written anew with its transpositions put off."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.late: dict[int, tuple[Value, Perm]] = {}
        self.made: dict[int, Value] = {}
        self.toward_convolutions = _toward_convolutions(graph)

    def run(self) -> None:
        for node in self.graph.nodes:
            self.origin = node.origin
            handler = HANDLERS.get(node.op) or (elementwise if node.op in ELEMENTWISE else None)
            if handler is None or not handler(self, node):
                node.inputs = [self.now(value) for value in node.inputs]
                self.keep(node)
        self.graph.outputs = [self.now(value) for value in self.graph.outputs]
        self.graph.nodes = self.nodes
        drop_dead(self.graph)

    def now(self, value: Value) -> Value:
        """The value itself, transposed if it must be."""
        if id(value) not in self.late:
            return value
        if id(value) not in self.made:
            source, perm = self.late[id(value)]
            if list(perm) != sorted(perm):
                source = self.transpose(source, (*perm, *(i for i in range(source.rank) if i not in perm)))
            self.made[id(value)] = self.reshape(source, value.shape)
        return self.made[id(value)]

    def put_off(self, value: Value, source: Value, perm: Perm) -> bool:
        """Know a value as a view of another."""
        self.late[id(value)] = source, perm
        return True

    def source(self, value: Value) -> tuple[Value, Perm]:
        return self.late.get(id(value), (value, tuple(range(value.rank))))

    def is_late(self, value: Value) -> bool:
        source, perm = self.source(value)
        return perm != tuple(range(source.rank))

    def like(self, value: Value, perm: Perm, rank: int) -> Value | None:
        """The array of that rank that a value is a view of by `perm`, if it costs nothing."""
        if value.size == 1:
            return self.now(value)
        own, own_perm = self.source(value)
        padded = (1,) * (len(perm) - value.rank) + value.shape
        shape: list[Any] = [1] * rank
        for axis, size in zip(perm, padded, strict=True):
            shape[axis] = size
        if value.data is not None:
            sizes = [int(n) for n in padded if isinstance(n, int)]
            return constant(value.data.reshape(sizes).transpose(order_of(perm)).reshape(shape))
        ahead = len(perm) - value.rank
        lying = [axis for axis in order_of(own_perm) if value.shape[axis] != 1]
        wanted = [axis - ahead for axis in order_of(perm) if padded[axis] != 1]
        if lying == wanted:
            return self.reshape(own, tuple(shape))
        lying = [axis for axis in range(value.rank) if value.shape[axis] != 1]
        return self.reshape(self.now(value), tuple(shape)) if lying == wanted else None

    def moved(self, value: Value, perm: Perm, rank: int) -> Value:
        """The same, transposed if it must be."""
        found = self.like(value, perm, rank)
        if found is not None:
            return found
        ahead = len(perm) - value.rank
        moved = self.transpose(self.now(value), tuple(axis - ahead for axis in order_of(perm) if axis >= ahead))
        shape: list[Any] = [1] * rank
        for axis, size in zip(perm[ahead:], value.shape, strict=True):
            shape[axis] = size
        return self.reshape(moved, tuple(shape))


def transpose(layout: Layout, node: Node) -> bool:
    source, perm = layout.source(node.inputs[0])
    return layout.put_off(node.output, source, tuple(perm[i] for i in node.attrs["perm"]))


def elementwise(layout: Layout, node: Node) -> bool:
    """Taken to the sources where all inputs agree, or where those that do not are few."""
    late = [value for value in node.inputs if value.rank == node.output.rank and layout.is_late(value)]
    if not late:
        return False
    source, perm = layout.source(max(late, key=lambda value: _largest(value.shape)))
    known = [layout.like(value, perm, source.rank) for value in node.inputs]
    if known.count(None) * 2 >= len(known):
        return False
    inputs = [layout.moved(value, perm, source.rank) for value in node.inputs]
    return layout.put_off(node.output, layout(node.op, *inputs, **node.attrs), perm)


def _largest(shape: Shape) -> int:
    size: Any = product(shape)
    return size if isinstance(size, int) else max(size.values)


def reduction(layout: Layout, node: Node) -> bool:
    source, perm = layout.source(node.inputs[0])
    axes = tuple(perm[i] for i in node.attrs["axes"])
    y = layout(node.op, source, axes=axes, keepdims=node.attrs["keepdims"])
    if not node.attrs["keepdims"]:
        left = [i for i in range(source.rank) if i not in axes]
        perm = tuple(left.index(i) for i in perm if i not in axes)
    return layout.put_off(node.output, y, perm)


def one_axis(layout: Layout, node: Node) -> bool:
    """Operations along an axis, of which all inputs have the same shape or differ in that axis."""
    late = [value for value in node.inputs if layout.is_late(value)]
    if len(late) * 2 < len(node.inputs) or not late:
        return False
    source, perm = layout.source(late[0])
    moved = [layout.moved(value, perm, source.rank) for value in node.inputs]
    # A single number stays as it is where it is spread, which here it is not.
    inputs = [x if x.rank == source.rank else layout.reshape(x, (1,) * source.rank) for x in moved]
    attrs = {**node.attrs, "axis": perm[node.attrs["axis"]]}
    return layout.put_off(node.output, layout(node.op, *inputs, **attrs), perm)


def all_axes(layout: Layout, node: Node) -> bool:
    """Operations with a setting for each axis."""
    source, perm = layout.source(node.inputs[0])
    attrs = dict(node.attrs)
    for key, value in node.attrs.items():
        if isinstance(value, tuple):
            attrs[key] = tuple(
                value[perm.index(i)] if i in perm else NEUTRAL.get(key, source.shape[i]) for i in range(source.rank)
            )
    return layout.put_off(node.output, layout(node.op, source, **attrs), perm)


def expand(layout: Layout, node: Node) -> bool:
    source, perm = layout.source(node.inputs[0])
    if len(perm) != node.output.rank:
        return False
    shape = tuple(node.attrs["shape"][perm.index(i)] if i in perm else 1 for i in range(source.rank))
    return layout.put_off(node.output, layout("Expand", source, shape=shape), perm)


def product_as_convolution(layout: Layout, node: Node) -> bool:
    """A product of channels that lie second with a constant matrix: a convolution of one tap."""
    x, weight = node.inputs
    source, perm = layout.source(x)
    if weight.data is None or weight.rank != 2 or x.rank not in (3, 4):
        return False
    if x.rank == 3 and not layout.is_late(x) and id(node) in layout.toward_convolutions:
        source, perm = layout.transpose(source, (0, 2, 1)), (0, 2, 1)
    if perm[0] != 0 or perm[-1] != 1:
        return False
    if source.rank == 3:
        source, perm = layout.reshape(source, (*source.shape[:2], 1, source.shape[2])), (0, 3, 1)
    if source.rank != 4:
        return False
    kernel = constant(weight.data.T.reshape(*weight.data.T.shape, 1, 1))
    y = layout("Conv", source, kernel, strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), groups=1)
    return layout.put_off(node.output, y, perm)


def _toward_convolutions(graph: Graph) -> set[int]:
    """Products of whose rows convolutions are taken, by the node's id, with nothing but what a view passes between."""
    found: set[int] = set()
    wanted: set[int] = set()
    for node in reversed(graph.nodes):
        if node.op in ("Conv", "ConvTranspose"):
            wanted.add(id(node.inputs[0]))
        elif id(node.output) in wanted and (node.op in ELEMENTWISE or node.op in PASSED):
            wanted.update(id(value) for value in node.inputs)
            if node.op == "MatMul":
                found.add(id(node))
    return found


def reshape(layout: Layout, node: Node) -> bool:
    """Taken to the source where it puts together or takes apart axes that are neighbours there too."""
    source, perm = layout.source(node.inputs[0])
    groups = _groups(node.inputs[0].shape, node.output.shape)
    if groups is None or not (layout.is_late(node.inputs[0]) or _is_view(groups)):
        return False
    if _is_view(groups):
        return layout.put_off(node.output, source, tuple(perm[axes[0]] for axes, others in groups if others))
    named = sorted(perm)
    dense = [named.index(i) for i in perm]
    places: list[float] = []  # of each group in the source: where it starts; a new axis follows the one before it
    for axes, _ in groups:
        own = [dense[i] for i in axes]
        if own and own != list(range(own[0], own[0] + len(own))):
            return False
        places.append(own[0] if own else (int(places[-1]) if places else -1) + 0.5)
    shape: list[Any] = []
    where: dict[int, int] = {}
    for group in sorted(range(len(groups)), key=lambda g: places[g]):
        for axis in groups[group][1]:
            where[axis] = len(shape)
            shape.append(node.output.shape[axis])
    y = layout.reshape(source, tuple(shape))
    return layout.put_off(node.output, y, tuple(where[axis] for axis in range(node.output.rank)))


def _is_view(groups: list[tuple[list[int], list[int]]]) -> bool:
    """Whether a reshape only leaves axes of one element out."""
    return all(len(axes) == 1 and len(others) <= 1 for axes, others in groups)


def _groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]] | None:
    """Axes before and after a reshape, in groups of equal size, each as small as can be."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        if i < len(old) and j < len(new) and old[i] == new[j]:
            groups.append(([i], [j]))
            i, j = i + 1, j + 1
        elif i < len(old) and old[i] == 1:
            groups.append(([i], []))
            i += 1
        elif j < len(new) and new[j] == 1:
            groups.append(([], [j]))
            j += 1
        else:
            axes, others = _group(old, new, i, j)
            if not axes or not others:
                return None
            groups.append((axes, others))
            i, j = axes[-1] + 1, others[-1] + 1
    return groups


def _group(old: Shape, new: Shape, i: int, j: int) -> tuple[list[int], list[int]]:
    """The shortest runs of axes from i and from j on that have the same size; empty where there are none."""
    for count in range(2, len(old) + len(new) - i - j + 1):
        for many in range(1, count):
            axes, others = list(range(i, i + many)), list(range(j, j + count - many))
            if axes[-1] >= len(old) or others[-1] >= len(new):
                continue
            if product(old[a] for a in axes) == product(new[b] for b in others):
                return axes, others
    return [], []


HANDLERS: dict[str, Any] = {
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(("Concat", "CumSum", "Softmax"), one_axis),
    **dict.fromkeys(("Pad", "Slice"), all_axes),
    "Expand": expand,
    "MatMul": product_as_convolution,
    "Reshape": reshape,
    "Transpose": transpose,
}
