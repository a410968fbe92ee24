"""An ONNX file as a small graph that a model package can walk; needs the extra `[onnx]`."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    Attributes:
        op: the ONNX operator, `Conv` or `Gemm`, say.
        inputs: names of values; "" where an optional one is left out.
        outputs: names of values.
        attributes: by name, as numbers, lists and arrays.
    """

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order, and the constants (initialisers and `Constant` nodes) by name."""

    nodes: list[Node]
    constants: "dict[str, np.ndarray[Any, Any]]"
    inputs: list[str]
    outputs: list[str]

    @cached_property
    def _consumers(self) -> dict[str, list[Node]]:
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return found

    def consumers(self, value: str) -> list[Node]:
        """The nodes that read a value."""
        return self._consumers.get(value, [])


def read_graph(path: Path) -> Graph:
    """Parse an ONNX file.

    Raises:
        CheckpointError: the `onnx` package is missing, or the file is damaged.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise CheckpointError("reading ONNX needs one more package: pip install 'mlx-speech-zoo[onnx]'") from error
    try:
        graph = onnx.load(str(path)).graph
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        nodes = []
        for node in graph.node:
            attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
            if node.op_type == "Constant" and "value" in attributes:
                constants[node.output[0]] = numpy_helper.to_array(attributes["value"])
            else:
                nodes.append(Node(node.op_type, list(node.input), list(node.output), attributes))
        inputs = [value.name for value in graph.input if value.name not in constants]
        outputs = [value.name for value in graph.output]
    except Exception as error:  # protobuf raises its own DecodeError, onnx ValueError and others
        raise CheckpointError(f"{path} is not a readable ONNX file: {error or type(error).__name__}") from error
    if not nodes:
        raise CheckpointError(f"{path} is not a readable ONNX file: its graph is empty")
    return Graph(nodes, constants, inputs, outputs)
