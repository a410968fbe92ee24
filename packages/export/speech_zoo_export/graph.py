"""The graph: values with shape and type, and nodes whose operations are those of ONNX with sizes as attributes.

Operations broadcast as NumPy does. A size that depends on the inputs is a `Length`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from .lengths import Axis, Dim, Points, product

Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[Dim, ...]


class ExportError(Exception):
    """The function or the graph has no form in the format that was asked for."""


@dataclass(eq=False, slots=True)
class Value:
    """An array in the graph; `data` is set where it is a constant."""

    shape: Shape
    dtype: "np.dtype[Any]"
    data: Array | None = None
    name: str = ""

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        return product(self.shape)


@dataclass(eq=False, slots=True)
class Node:
    """One operation with one output; `origin` is the MLX primitive that it comes from, for messages."""

    op: str
    inputs: list[Value]
    output: Value
    attrs: dict[str, Any] = field(default_factory=dict)
    origin: str = ""


@dataclass
class Graph:
    """Nodes in an order in which they can be computed.

    Attributes:
        axes: which axes of each input vary, and how.
        points: the sizes that the function was traced at.
        hints: what sizes were at more values of the axis that varies, by their values at the points.
    """

    inputs: list[Value]
    outputs: list[Value]
    nodes: list[Node]
    axes: list[Mapping[int, Axis]]
    points: Points
    hints: dict[tuple[int, ...], dict[int, int]] = field(default_factory=dict)

    def producers(self) -> dict[int, Node]:
        """The node of each value, by the value's id."""
        return {id(node.output): node for node in self.nodes}

    def uses(self) -> dict[int, int]:
        """How often each value is used, by id; an output of the graph counts as a use."""
        counts: dict[int, int] = {}
        for value in [*(value for node in self.nodes for value in node.inputs), *self.outputs]:
            counts[id(value)] = counts.get(id(value), 0) + 1
        return counts

    def constants(self) -> Iterator[Value]:
        """Every constant that is used, once, in order of use."""
        seen: set[int] = set()
        for value in [*(value for node in self.nodes for value in node.inputs), *self.outputs]:
            if value.data is not None and id(value) not in seen:
                seen.add(id(value))
                yield value

    def replace(self, new: Mapping[int, Value]) -> None:
        """Use other values in place of some, by id."""

        def last(value: Value) -> Value:
            while id(value) in new:
                value = new[id(value)]
            return value

        for node in self.nodes:
            node.inputs = [last(value) for value in node.inputs]
        self.outputs = [last(value) for value in self.outputs]


Chain: TypeAlias = Graph | Sequence[Graph]


def chained(graph: Chain) -> list[Graph]:
    """The graphs of a chain, of which each takes what the one before it gives."""
    return [graph] if isinstance(graph, Graph) else list(graph)


def constant(data: Any, dtype: Any = None) -> Value:
    """A constant of that array or number."""
    array = np.asarray(data, dtype=dtype)
    return Value(tuple(int(size) for size in array.shape), array.dtype, array)


def scalar_of(value: Value) -> float | None:
    """The number that a constant of one element holds; None of other values."""
    return float(value.data.reshape(-1)[0]) if value.data is not None and value.data.size == 1 else None


def is_static(shape: Iterable[Dim]) -> bool:
    """Whether no size depends on the inputs."""
    return all(isinstance(size, int) for size in shape)
