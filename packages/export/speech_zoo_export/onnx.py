"""A graph as ONNX. Needs the extra [onnx]."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .formulas import Formulas
from .graph import Array, Chain, ExportError, Graph, Value, chained
from .lengths import Dim
from .onnx_nodes import CONTRIB, write

OPSET, IR_VERSION = 20, 9
EXTERNAL_BYTES = 1024  # of a constant that can stand outside of the model
WEIGHT_BYTES = 1 << 20  # of a weight that can be an input
MAX_INLINE_BYTES = 2**31 - 2**24  # of all constants; a protobuf holds no more than 2 GiB


def to_onnx(
    graph: Chain,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """The graph as an ONNX model with its constants inside.

    Args:
        graph: one; or several, of which each takes what the one before it gives.
        inputs, outputs: their names; "x0", "y0" and so on where none are given.
        metadata: stands in the model's properties.

    Raises:
        ExportError: a size without a formula, or more than 2 GiB of constants.
    """
    model, arrays = to_onnx_parts(graph, inputs, outputs, metadata)
    if sum(array.nbytes for array in arrays.values()) > MAX_INLINE_BYTES:
        raise ExportError("a model of more than 2 GiB has its constants outside: use save_onnx or to_onnx_parts")
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(arrays[tensor.name]), tensor.name))
    return model


def to_onnx_parts(
    graph: Chain,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    location: str = "model.onnx.data",
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The graph as an ONNX model without its larger constants, and these by name, as they lie in memory.

    The model says that they are in a file `location`, one after another in the order given. A session takes them
    without a copy through `SessionOptions.add_external_initializers`.
    """
    writer = Writer(chained(graph), inputs, outputs)
    model = writer.model(metadata or {}, location)
    return model, writer.external


def to_onnx_and_weights(graph: Chain) -> tuple[onnx.ModelProto, dict[str, Array], dict[str, Array]]:
    """The graph as an ONNX model that takes the large weights of its products as inputs, for a session in memory.

    These are arrays of the traced function itself, in its own layout. ONNX Runtime would copy constants.

    Returns:
        The model, the constants that it leaves out as `to_onnx_parts` does, and the inputs that it takes besides.
    """
    writer = Writer(chained(graph), (), (), {})
    model = writer.model({}, "constants")
    assert writer.weights is not None
    return model, writer.external, writer.weights


class Writer:
    """Nodes and constants of the model as they are written."""

    def __init__(
        self,
        graphs: Sequence[Graph],
        inputs: Sequence[str],
        outputs: Sequence[str],
        weights: dict[str, Array] | None = None,
    ) -> None:
        self.weights = weights  # that are inputs; None where all are constants
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.external: dict[str, Array] = {}
        self.names: dict[int, str] = {}
        self.dims: dict[Any, str] = {}
        self.counts: dict[str, int] = {}
        first, last = graphs[0], graphs[-1]
        self.inputs = [*inputs, *(f"x{i}" for i in range(len(inputs), len(first.inputs)))]
        self.outputs = [*outputs, *(f"y{i}" for i in range(len(outputs), len(last.outputs)))]
        self.start(first)
        self.infos = [
            self.info(value, name, own) for value, name, own in zip(first.inputs, self.inputs, first.axes, strict=True)
        ]
        for graph in graphs:
            if graph is not first:
                self.inputs = [self.name(value) for value in self.graph.outputs]
                self.start(graph)
            for node in graph.nodes:
                write(self, node)

    def start(self, graph: Graph) -> None:
        """Go on with a graph, whose inputs have the names `inputs`."""
        self.graph, self.formulas = graph, Formulas(graph)
        for value, name in zip(graph.inputs, self.inputs, strict=True):
            self.names[id(value)] = name
        self.dims = {key: name for key, name in self.dims.items() if isinstance(key, tuple) and key[0] == "constant"}

    def fresh(self, stem: str) -> str:
        self.counts[stem] = self.counts.get(stem, -1) + 1
        return f"{stem}_{self.counts[stem]}"

    def name(self, value: Value) -> str:
        """The name of a value; constants are written when they are first asked for."""
        if id(value) not in self.names:
            if value.data is None:
                self.names[id(value)] = self.fresh("v")
            else:
                self.names[id(value)] = self.array(value.data.astype(value.dtype, copy=False))
        return self.names[id(value)]

    def array(self, data: Array) -> str:
        """A constant that stands outside of the model if it is large."""
        if data.nbytes < EXTERNAL_BYTES:
            return self.small(data)
        name = self.fresh("w")
        self.external[name] = data
        self.initializers[name] = TensorProto(
            name=name, data_type=helper.np_dtype_to_tensor_dtype(data.dtype), dims=data.shape
        )
        return name

    def weight(self, data: Array) -> str | None:
        """The input that a large weight is; None where it is none."""
        if self.weights is None or data.nbytes < WEIGHT_BYTES or not data.flags.c_contiguous:
            return None
        key = ("weight", data.ctypes.data)
        if key not in self.dims:
            name = self.dims[key] = f"weight_{len(self.weights)}"
            self.weights[name] = data
            kind = helper.np_dtype_to_tensor_dtype(data.dtype)
            self.infos.append(helper.make_tensor_value_info(name, kind, data.shape))
        return self.dims[key]

    def small(self, data: Any) -> str:
        """A constant inside the model, written once."""
        array = np.asarray(data)
        key = ("constant", array.tobytes(), array.dtype.str, array.shape)
        if key not in self.dims:
            self.dims[key] = self.fresh("c")
            self.initializers[self.dims[key]] = numpy_helper.from_array(array, self.dims[key])
        return self.dims[key]

    def node(self, op: str, inputs: Sequence[str], output: str | None = None, domain: str = "", **attrs: Any) -> str:
        """Append a node; its output's name."""
        output = output or self.fresh("v")
        self.nodes.append(helper.make_node(op, list(inputs), [output], domain=domain, **attrs))
        return output

    def dim(self, dim: Dim) -> str:
        """A size as an array of one int64."""
        if isinstance(dim, int):
            return self.small(np.array([dim], np.int64))
        if dim not in self.dims:
            formula = self.formulas.find(dim)
            total = None
            for k, name, add, by in formula.terms:
                part = self.size_of(name)
                part = self.arithmetic("Add", part, add, 0)
                part = self.arithmetic("Div", part, by, 1)
                part = self.arithmetic("Mul", part, k, 1)
                total = part if total is None else self.node("Add", [total, part])
            total = self.dim(formula.constant) if total is None else self.arithmetic("Add", total, formula.constant, 0)
            if formula.factor is not None:
                total = self.node("Mul", [total, self.size_of(formula.factor)])
            self.dims[dim] = total
        return self.dims[dim]

    def arithmetic(self, op: str, x: str, number: int, neutral: int) -> str:
        key = (op, x, number)
        if number != neutral and key not in self.dims:
            self.dims[key] = self.node(op, [x, self.dim(number)])
        return x if number == neutral else self.dims[key]

    def size_of(self, name: str) -> str:
        """The size of the axis of that name."""
        if name not in self.dims:
            at = ((i, axis) for i, own in enumerate(self.graph.axes) for axis in own if own[axis].name == name)
            i, axis = next(at)
            self.dims[name] = self.node("Shape", [self.inputs[i]], start=axis, end=axis + 1)
        return self.dims[name]

    def ints(self, dims: Sequence[Dim]) -> str:
        """Sizes as an array of int64."""
        fixed = [dim for dim in dims if isinstance(dim, int)]
        if len(fixed) == len(dims):
            return self.small(np.array(fixed, np.int64))
        key = ("ints", tuple(dims))
        if key not in self.dims:
            parts = [self.dim(dim) for dim in dims]
            self.dims[key] = parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=0)
        return self.dims[key]

    def model(self, metadata: Mapping[str, str], location: str) -> onnx.ModelProto:
        """All that was written."""
        for value, name in zip(self.graph.outputs, self.outputs, strict=True):
            self.node("Identity", [self.name(value)], name)
        offset = 0
        for name, array in self.external.items():
            tensor = self.initializers[name]
            tensor.data_location = TensorProto.EXTERNAL
            for key, entry in (("location", location), ("offset", str(offset)), ("length", str(array.nbytes))):
                tensor.external_data.add(key=key, value=entry)
            offset += array.nbytes
        graph = helper.make_graph(
            self.nodes,
            "graph",
            self.infos,
            [self.info(value, name, {}) for value, name in zip(self.graph.outputs, self.outputs, strict=True)],
            list(self.initializers.values()),
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == CONTRIB for node in self.nodes):
            opsets.append(helper.make_opsetid(CONTRIB, 1))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="speech_zoo_export")
        helper.set_model_props(model, dict(metadata))
        return model

    def info(self, value: Value, name: str, axes: Mapping[int, Any]) -> onnx.ValueInfoProto:
        shape = [axes[i].name if i in axes else self.label(size) for i, size in enumerate(value.shape)]
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), shape)

    def label(self, size: Dim) -> int | str | None:
        """A size as it stands at an output: the name of an axis, where it is one."""
        if isinstance(size, int):
            return size
        formula = self.formulas.find(size)
        if not formula.terms and formula.constant == 1:
            return formula.factor
        single = formula.factor is None and formula.constant == 0 and len(formula.terms) == 1
        return formula.terms[0][1] if single and formula.terms[0][::2] == (1, 0) and formula.terms[0][3] == 1 else None
