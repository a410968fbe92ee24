"""A function of MLX arrays as a graph, for inputs of one size or of any."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from .graph import Array, ExportError, Graph
from .lengths import Axis, Points, floors
from .lower import lower
from .record import UNKNOWN, Recording, record, shortened, together
from .tidy import tidy

FIRST_SIZES = 6  # of an axis, before those that tell formulas apart
CHECKS = 2  # more sizes, at which the formulas must hold
MOST_TRACES = 40
BATCH = 2  # of the traces that formulas are found from: of 1, MLX leaves broadcasts out


def trace(fn: Callable[..., Any], *examples: mx.array, axes: Sequence[Mapping[int, Axis]] = ()) -> Graph:
    """The graph of a function.

    Args:
        fn: of arrays, to an array or a tuple of arrays; parameters that it uses must have been evaluated.
        examples: arrays of the shapes and the types of its inputs; their values do not matter.
        axes: for each input the axes whose size varies. One name may vary beside those of batches; its sizes in the
            function must be sums of multiples of floors of it.

    Raises:
        ExportError: a primitive that has no form here, or a size without a formula; says which and where.
    """
    axes = [*axes, *({} for _ in examples[len(axes) :])]
    inputs = [(tuple(example.shape), example.dtype) for example in examples]
    exploration = _explore(fn, inputs, axes)
    recording, varying = together(exploration.recordings)
    graph = lower(recording, varying, axes, exploration.points)
    length = next((axis.name for own in axes for axis in own.values() if not axis.batch), None)
    graph.hints = {} if length is None else exploration.known(length)
    return tidy(graph)


class _Exploration:
    """Traces of a function at the points that tell its formulas."""

    def __init__(self, fn: Callable[..., Any], inputs: list[Any], axes: Sequence[Mapping[int, Axis]]) -> None:
        self.fn, self.inputs, self.axes = fn, inputs, axes
        self.points: Points = []
        self.recordings: list[Recording] = []
        self.short: list[tuple[dict[str, int], Recording]] = []
        self.aligned: dict[int, Array] = {}  # the integers of a short trace in the places of the others'

    def visit(self, point: dict[str, int]) -> None:
        """Trace at a point; apart where MLX leaves out steps that do nothing at its sizes."""
        shapes = [
            (tuple(point[own[i].name] if i in own else size for i, size in enumerate(shape)), dtype)
            for (shape, dtype), own in zip(self.inputs, self.axes, strict=True)
        ]
        recording = record(self.fn, shapes)
        longest = max((len(other.primitives) for other in self.recordings), default=0)
        size = len(recording.primitives)
        if size < longest and shortened(recording, self.recordings[0]) is not None:
            self.short.append((point, recording))
            return
        if size > longest and all(shortened(other, recording) is not None for other in self.recordings):
            self.short += zip(self.points, self.recordings, strict=True)
            self.points, self.recordings, self.aligned = [], [], {}
        if self.recordings and size != len(self.recordings[0].primitives):
            raise ExportError(f"the function takes {size} steps at {point}, and others at {self.points[0]}")
        self.points.append(point)
        self.recordings.append(recording)

    def known(self, axis: str) -> dict[tuple[int, ...], dict[int, int]]:
        """Every integer that differs, by its values at the points: what it is at the sizes that stand apart."""
        table = np.stack([recording.integers() for recording in self.recordings])
        columns = np.flatnonzero((table != table[0]).any(axis=0))
        rows = [tuple(row) for row in table[:, columns].T.tolist()]
        found: dict[tuple[int, ...], dict[int, int]] = {row: {} for row in rows}
        for point, recording in self.short:
            values = self.aligned.get(id(recording))
            if values is None:
                values = shortened(recording, self.recordings[0])
                assert values is not None
                self.aligned[id(recording)] = values
            for row, value in zip(rows, values[columns].tolist(), strict=True):
                if value != UNKNOWN:
                    found[row][point[axis]] = value
        return found

    def more_sizes(self, axis: Axis) -> Iterator[int]:
        """Sizes at which formulas that fit so far differ, until one is left for each; then some to check them at."""
        rng = np.random.default_rng(0)
        for _ in range(MOST_TRACES):
            sizes = [point[axis.name] for point in self.points]
            tried = {point[axis.name] for point in [*self.points, *(point for point, _ in self.short)]}
            free = [size for size in rng.integers(axis.least, axis.most + 1, 1000).tolist() if size not in tried]
            if not free:
                return
            free = free[:200]
            best, least = free[0], 1.0
            for values, more in self.known(axis.name).items():
                rows = floors([*sizes, *more], [*values, *more.values()])
                if len(rows) > 1:
                    left = _left(rows, rng, free)
                    if left.min() < least:
                        best, least = free[int(left.argmin())], float(left.min())
            if least == 1:
                yield from free[:CHECKS]
                return
            yield best


def _left(rows: Array, rng: np.random.Generator, sizes: list[int]) -> Array:
    """The share of formulas that a trace at each size would leave, if the first is the right one every other time."""
    rows = np.concatenate([rows[:1], rng.permutation(rows[1:])[:300]])
    k, add, by, start = rows.T[..., None]
    there = k * ((np.array(sizes) + add) // by) + start
    groups = [np.unique(column, return_counts=True)[1] for column in there.T]
    others = np.array([(counts**2).sum() for counts in groups]) / len(rows) ** 2
    return 0.5 * (there == there[:1]).mean(axis=0) + 0.5 * others


def _explore(fn: Callable[..., Any], inputs: list[Any], axes: Sequence[Mapping[int, Axis]]) -> _Exploration:
    """Traces at enough points to tell every formula."""
    names = {axis.name: axis for own in axes for axis in own.values()}
    lengths = [axis for axis in names.values() if not axis.batch]
    if len(lengths) > 1:
        raise ExportError(f"axes {', '.join(axis.name for axis in lengths)} vary; one may, and those of batches")
    base = {name: max(axis.least, min(axis.most, BATCH if axis.batch else axis.least)) for name, axis in names.items()}
    exploration = _Exploration(fn, inputs, axes)
    for axis in lengths:
        for size in _first_sizes(axis):
            exploration.visit({**base, axis.name: size})
        for size in exploration.more_sizes(axis):
            exploration.visit({**base, axis.name: size})
    if not lengths:
        exploration.visit(base)
    for axis in names.values():
        if axis.batch and axis.most > base[axis.name]:
            exploration.visit({**exploration.points[-1], axis.name: base[axis.name] + 1})
    return exploration


def _first_sizes(axis: Axis) -> list[int]:
    """Sizes from the least to the most, about as far apart as they are large."""
    return sorted(
        {*np.geomspace(axis.least, axis.most, FIRST_SIZES).astype(int).tolist(), min(axis.least + 1, axis.most)}
    )
