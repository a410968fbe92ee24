"""An ONNX file as a small graph that a model package can walk; needs the extra `[onnx]`."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..extras import how_to_install


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
    """Nodes in topological order, and the constants (initialisers and `Constant` nodes) by name.

    Half precision is float32 here. `files` are those beside the file that hold tensors.
    """

    nodes: list[Node]
    constants: "dict[str, np.ndarray[Any, Any]]"
    inputs: list[str]
    outputs: list[str]
    files: list[Path] = field(default_factory=list)

    @cached_property
    def _producers(self) -> dict[str, Node]:
        return {name: node for node in self.nodes for name in node.outputs}

    def producer(self, value: str) -> Node | None:
        """The node that writes a value; None for inputs and constants."""
        return self._producers.get(value)

    @cached_property
    def _consumers(self) -> dict[str, list[Node]]:
        users: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                users.setdefault(name, []).append(node)
        return users

    def consumers(self, value: str) -> list[Node]:
        """The nodes that read a value."""
        return self._consumers.get(value, [])

    def kernel_ranks(self) -> list[int]:
        """Dimensions of the weights of the convolutions, in order: 3 for those over time, 4 for those over images."""
        weights = [self.constants.get(node.inputs[1]) for node in self.nodes if node.op == "Conv" and node.inputs[1:]]
        return [weight.ndim for weight in weights if weight is not None]


class Walk:
    """Follows the data from the input of an exported graph to its output, whatever the initialisers are called."""

    SKIPPED = ("Transpose", "Unsqueeze", "Squeeze", "Identity", "Cast")

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.weights: dict[str, np.ndarray[Any, Any]] = {}

    def next(self, value: str, *ops: str) -> Node | None:
        """The only consumer of a value, if it is one of `ops`; passes over operations that only rearrange."""
        users = self._users(value)
        while len(users) == 1 and users[0].op in self.SKIPPED:
            users = self._users(users[0].outputs[0])
        return users[0] if len(users) == 1 and users[0].op in ops else None

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

    def _is_output(self, value: str) -> bool:
        """Whether only operations that rearrange lie between a value and the output."""
        users = self._users(value)
        while value not in self.graph.outputs and len(users) == 1 and users[0].op in self.SKIPPED:
            value = users[0].outputs[0]
            users = self._users(value)
        return value in self.graph.outputs

    def subtract_mean(self, value: str, name: str) -> None:
        """Follow the subtraction of the training set's mean embedding to the output, and take it off `name`'s bias.

        Raises:
            CheckpointError: the graph goes on with something else.
        """
        while not self._is_output(value):
            node = self.next(value, "Sub")
            if node is None or node.inputs[0] != value:
                raise CheckpointError("the graph goes on after its last linear layer in an unknown way")
            bias = self.weights[f"{name}.bias"] - self.constant(node, 1)
            self.weights[f"{name}.bias"] = bias.astype(np.float32)
            value = node.outputs[0]


def read_graph(path: Path) -> Graph:
    """Parse an ONNX file, with the file of tensors that it names beside it, if any.

    Raises:
        CheckpointError: the `onnx` package is missing, the file or one that it names is damaged, or its operations go
            in a circle.
    """
    try:
        import onnx
    except ImportError as error:
        command = how_to_install("onnx", "mlx-speech-zoo-core")
        raise CheckpointError(f"reading ONNX needs one more package: {command}") from error
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
        external = _External(path)
        constants = {tensor.name: external.array(tensor) for tensor in graph.initializer}
        inputs = [value.name for value in graph.input if value.name not in constants]
        known, nodes = {"", *inputs, *constants}, []
        for node in graph.node:
            if not known.issuperset(node.input) or not known.isdisjoint(name for name in node.output if name):
                raise ValueError(f"its {node.op_type} nodes are not in the order of computation")
            known.update(node.output)
            attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
            if node.op_type == "Constant" and "value" in attributes:
                constants[node.output[0]] = external.array(attributes["value"])
            elif node.op_type == "Identity" and node.input[0] in constants:  # equal tensors are stored once
                constants[node.output[0]] = constants[node.input[0]]
            else:
                own = node.domain in ("", "ai.onnx")
                op = node.op_type if own else f"{node.domain}::{node.op_type}"
                nodes.append(Node(op, list(node.input), list(node.output), attributes))
        outputs = [value.name for value in graph.output]
    except CheckpointError:
        raise
    except Exception as error:  # protobuf raises its own DecodeError, onnx ValueError and others
        raise CheckpointError(f"{path} is not a readable ONNX file: {error or type(error).__name__}") from error
    if not nodes:
        raise CheckpointError(f"{path} is not a readable ONNX file: its graph is empty")
    return Graph(nodes, constants, inputs, outputs, sorted(external.files))


class _External:
    """Reads tensors, those that lie in another file too; onnx's own reader refuses links, of which the Hub's cache is
    made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[Path, int] = {}  # and how much of each may still be read

    def array(self, tensor: Any) -> "np.ndarray[Any, Any]":
        """The content, half precision as float32."""
        from onnx import TensorProto, helper, numpy_helper

        if tensor.data_location == TensorProto.EXTERNAL:
            tensor = self._filled(tensor, helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
        x = numpy_helper.to_array(tensor)
        half = tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
        return x.astype(np.float32) if half else x

    def _filled(self, tensor: Any, itemsize: int) -> Any:
        from onnx import TensorProto

        facts = {entry.key: entry.value for entry in tensor.external_data}
        name = facts.get("location", "")
        file = self.path.parent / name
        if Path(name).name != name or not file.is_file():
            raise CheckpointError(f"{self.path} has tensors in {name[:80]!r}, which is not beside it")
        size = math.prod(tensor.dims) * itemsize
        left = self.files.get(file, file.stat().st_size) - size
        if left < 0 or int(facts.get("length", size)) != size:
            raise CheckpointError(f"{file} is cut off, or {self.path} names more of it than it has")
        self.files[file] = left
        with file.open("rb") as opened:
            opened.seek(int(facts.get("offset", 0)))
            raw = opened.read(size)
        return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=raw)
