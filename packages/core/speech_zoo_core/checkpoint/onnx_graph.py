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
    def _producers(self) -> dict[str, Node]:
        return {name: node for node in self.nodes for name in node.outputs}

    def producer(self, value: str) -> Node | None:
        """The node that writes a value; None for inputs and constants."""
        return self._producers.get(value)

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


class Walk:
    """Follows the data from the input of an exported graph to its output, whatever the initialisers are called."""

    SKIPPED = ("Transpose", "Unsqueeze", "Identity", "Cast")

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.weights: dict[str, np.ndarray[Any, Any]] = {}

    def next(self, value: str, *ops: str) -> Node | None:
        """The only consumer of a value, if it is one of `ops`; passes over operations that only rearrange."""
        found = self._users(value)
        while len(found) == 1 and found[0].op in self.SKIPPED:
            found = self._users(found[0].outputs[0])
        return found[0] if len(found) == 1 and found[0].op in ops else None

    def _users(self, value: str) -> list[Node]:
        """The nodes that compute with a value, rather than ask for its shape."""
        return [node for node in self.graph.consumers(value) if node.op != "Shape"]

    def constant(self, node: Node, index: int) -> "np.ndarray[Any, Any]":
        """A weight of a node.

        Raises:
            CheckpointError: the input is computed, or left out.
        """
        name = node.inputs[index] if index < len(node.inputs) else ""
        if name not in self.graph.constants:
            raise CheckpointError(
                f"input {index} of a {node.op} of the graph is {name or 'left out'}, where a weight was expected"
            )
        return self.graph.constants[name]

    def scale_shift(self, norm: Node) -> tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]:
        """A BatchNormalization as y = x * scale + shift, float64."""
        weight, bias, mean, var = (self.constant(norm, i).astype(np.float64) for i in range(1, 5))
        scale = weight / np.sqrt(var + norm.attributes.get("epsilon", 1e-5))
        return scale, bias - mean * scale

    def linear(self, node: Node, name: str) -> str:
        """Record a Gemm, or a MatMul with the addition that follows; returns the value that it gives."""
        weight = self.constant(node, 1)
        if node.op == "Gemm":
            if node.attributes.get("alpha", 1.0) != 1.0 or node.attributes.get("beta", 1.0) != 1.0:
                raise CheckpointError(f"{name} of the graph is scaled, which is not supported")
            self.weights[f"{name}.weight"] = weight if node.attributes.get("transB", 0) else weight.T
            self.weights[f"{name}.bias"] = self.constant(node, 2)
            return node.outputs[0]
        self.weights[f"{name}.weight"] = weight.T
        add = self.next(node.outputs[0], "Add")
        if add is None:
            raise CheckpointError(f"{name} of the graph has no bias")
        self.weights[f"{name}.bias"] = self.constant(add, 1 if add.inputs[0] == node.outputs[0] else 0)
        return add.outputs[0]

    def subtract_mean(self, value: str, name: str) -> None:
        """Follow the subtraction of the training set's mean embedding to the output, and take it off `name`'s bias.

        Raises:
            CheckpointError: the graph goes on with something else.
        """
        while value not in self.graph.outputs:
            node = self.next(value, "Sub")
            if node is None or node.inputs[0] != value:
                raise CheckpointError("the graph goes on after its last linear layer in an unknown way")
            bias = self.weights[f"{name}.bias"] - self.constant(node, 1)
            self.weights[f"{name}.bias"] = bias.astype(np.float32)
            value = node.outputs[0]


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
