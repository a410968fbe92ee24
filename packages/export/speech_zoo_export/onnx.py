"""A graph as ONNX. Needs the extra [onnx]."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .formulas import Formulas
from .graph import Array, Chain, ExportError, Graph, Node, Value, chained
from .lengths import Dim, Length

OPSET, IR_VERSION = 20, 9
CONTRIB = "com.microsoft"  # ONNX Runtime's own operations
EXTERNAL_BYTES = 1024  # of a constant that can stand outside of the model
WEIGHT_BYTES = 1 << 20  # of a weight that can be an input
MAX_INLINE_BYTES = 2**31 - 2**24  # of all constants; a protobuf holds no more than 2 GiB
MAX_INT64, MIN_INT64 = 2**63 - 1, -(2**63) + 1


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
    writer = _Writer(chained(graph), inputs, outputs)
    model = writer.model(metadata or {}, location)
    return model, writer.external


def to_onnx_and_weights(graph: Chain) -> tuple[onnx.ModelProto, dict[str, Array], dict[str, Array]]:
    """The graph as an ONNX model that takes the large weights of its products as inputs, for a session in memory.

    These are arrays of the traced function itself, in its own layout. ONNX Runtime would copy constants.

    Returns:
        The model, the constants that it leaves out as `to_onnx_parts` does, and the inputs that it takes besides.
    """
    writer = _Writer(chained(graph), (), (), {})
    model = writer.model({}, "constants")
    assert writer.weights is not None
    return model, writer.external, writer.weights


class _Writer:
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
                EMIT.get(node.op, _plain)(self, node)

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


def _plain(writer: _Writer, node: Node) -> None:
    """An operation that ONNX has by that name, without settings."""
    writer.node(node.op, [writer.name(value) for value in node.inputs], writer.name(node.output))


def _matmul(writer: _Writer, node: Node) -> None:
    x, y = node.inputs
    name = None if y.data is None or y.rank != 2 or y.dtype != np.float32 else writer.weight(y.data.T)
    if name is None:
        _plain(writer, node)
    else:
        writer.node("FusedMatMul", [writer.name(x), name], writer.name(node.output), CONTRIB, transB=1)


def _with(*names: str) -> Callable[[_Writer, Node], None]:
    """The same with settings of these names."""

    def emit(writer: _Writer, node: Node) -> None:
        attrs = {name: node.attrs[name] for name in names}
        writer.node(node.op, [writer.name(value) for value in node.inputs], writer.name(node.output), **attrs)

    return emit


def _cast(writer: _Writer, node: Node) -> None:
    kind = helper.np_dtype_to_tensor_dtype(node.attrs["to"])
    writer.node("Cast", [writer.name(node.inputs[0])], writer.name(node.output), to=kind)


def _reshape(writer: _Writer, node: Node) -> None:
    """With 0 for a size that stays and -1 for one that follows, so that little is computed."""
    source, shape = node.inputs[0].shape, list(node.attrs["shape"])
    for i, size in enumerate(shape):
        if isinstance(size, Length) and i < len(source) and source[i] == size:
            shape[i] = 0
    left = [i for i, size in enumerate(shape) if isinstance(size, Length)]
    if left:
        shape[left[-1]] = -1
    writer.node("Reshape", [writer.name(node.inputs[0]), writer.ints(shape)], writer.name(node.output))


def _expand(writer: _Writer, node: Node) -> None:
    """With 1 for a size that is there."""
    source, shape = node.inputs[0].shape, node.attrs["shape"]
    ahead = len(shape) - len(source)
    sizes = [1 if i >= ahead and source[i - ahead] == size else size for i, size in enumerate(shape)]
    writer.node("Expand", [writer.name(node.inputs[0]), writer.ints(sizes)], writer.name(node.output))


def _slice(writer: _Writer, node: Node) -> None:
    """Of the axes that it cuts, counted from the end where that is a plain number."""
    x = node.inputs[0]
    rows = zip(node.attrs["starts"], node.attrs["stops"], node.attrs["steps"], x.shape, strict=True)
    cut = [(i, *row) for i, row in enumerate(rows) if row[:3] != (0, row[3], 1)]

    def place(at: Any, size: Dim, step: int) -> Dim:
        if at == size and step > 0:
            return MAX_INT64
        if at == -1 and step < 0:
            return MIN_INT64
        return at - size if isinstance(at, Length) and isinstance(at - size, int) else at

    starts = [place(start, size, 0) for _, start, _, _, size in cut]
    stops = [place(stop, size, step) for _, _, stop, step, size in cut]
    rest = [writer.ints(starts), writer.ints(stops), writer.ints([row[0] for row in cut])]
    if any(row[3] != 1 for row in cut):
        rest.append(writer.ints([row[3] for row in cut]))
    writer.node("Slice", [writer.name(x), *rest], writer.name(node.output))


def _pad(writer: _Writer, node: Node) -> None:
    x, before, after = node.inputs[0], node.attrs["before"], node.attrs["after"]
    axes = [i for i in range(x.rank) if (before[i], after[i]) != (0, 0)]
    pads = writer.ints([*(before[i] for i in axes), *(after[i] for i in axes)])
    value = writer.small(np.array(node.attrs["value"], x.dtype))
    inputs = [writer.name(x), pads, value, writer.ints(axes)]
    writer.node("Pad", inputs, writer.name(node.output), mode=node.attrs["mode"])


def _reduce(writer: _Writer, node: Node) -> None:
    inputs = [writer.name(node.inputs[0]), writer.ints(node.attrs["axes"])]
    writer.node(node.op, inputs, writer.name(node.output), keepdims=int(node.attrs["keepdims"]))


def _arg(writer: _Writer, node: Node) -> None:
    inputs = [writer.name(node.inputs[0])]
    axis = node.attrs["axes"][0]
    writer.node(node.op, inputs, writer.name(node.output), axis=axis, keepdims=int(node.attrs["keepdims"]))


def _cumsum(writer: _Writer, node: Node) -> None:
    inputs = [writer.name(node.inputs[0]), writer.small(np.array(node.attrs["axis"], np.int64))]
    flags: dict[str, Any] = {key: int(node.attrs[key]) for key in ("exclusive", "reverse")}
    writer.node("CumSum", inputs, writer.name(node.output), **flags)


def _sort(writer: _Writer, node: Node) -> None:
    """The smallest first: all of them."""
    x, axis = node.inputs[0], node.attrs["axis"]
    outputs = [writer.fresh("v"), writer.fresh("v")]
    outputs[1 if node.op == "ArgSort" else 0] = writer.name(node.output)
    inputs = [writer.name(x), writer.dim(x.shape[axis])]
    writer.nodes.append(helper.make_node("TopK", inputs, outputs, axis=axis, largest=0, sorted=1))


def _range(writer: _Writer, node: Node) -> None:
    bounds = []
    for key in ("start", "stop", "step"):
        dim = node.attrs[key]
        if isinstance(dim, int):
            bounds.append(writer.small(np.array(dim, np.int64)))
        else:
            bounds.append(writer.node("Reshape", [writer.dim(dim), writer.small(np.array([], np.int64))]))
    writer.node("Range", bounds, writer.name(node.output))


def _sizes(writer: _Writer, node: Node) -> None:
    writer.names[id(node.output)] = writer.ints(node.attrs["values"])


def _conv(writer: _Writer, node: Node) -> None:
    attrs: dict[str, Any] = {key: list(node.attrs[key]) for key in ("strides", "pads", "dilations")}
    if node.op == "ConvTranspose":
        attrs["output_padding"] = list(node.attrs["output_padding"])
    inputs = [writer.name(value) for value in node.inputs]
    writer.node(node.op, inputs, writer.name(node.output), group=node.attrs["groups"], **attrs)


def _scale_shift(writer: _Writer, node: Node) -> None:
    x, scale, shift = node.inputs
    zeros, ones = (writer.array(np.full(scale.shape, fill, np.float32)) for fill in (0, 1))
    inputs = [writer.name(x), writer.name(scale), writer.name(shift), zeros, ones]
    writer.node("BatchNormalization", inputs, writer.name(node.output), epsilon=0.0)


def _layer_norm(writer: _Writer, node: Node) -> None:
    inputs = [writer.name(value) for value in node.inputs]
    writer.node("LayerNormalization", inputs, writer.name(node.output), axis=-1, epsilon=node.attrs["eps"])


def _n_bits(writer: _Writer, node: Node) -> None:
    x, codes, scales, points = node.inputs
    assert codes.data is not None
    inputs = [writer.name(x), writer.weight(codes.data) or writer.name(codes), writer.name(scales), writer.name(points)]
    writer.node(
        "MatMulNBits",
        inputs,
        writer.name(node.output),
        CONTRIB,
        K=x.shape[-1],
        N=node.attrs["out"],
        bits=node.attrs["bits"],
        block_size=node.attrs["group"],
    )


def _lstm(writer: _Writer, node: Node) -> None:
    inputs = [writer.name(value) for value in node.inputs]
    attrs = {"hidden_size": node.attrs["hidden"], "direction": "bidirectional"}
    writer.node("LSTM", inputs, writer.name(node.output), **attrs)


EMIT: dict[str, Callable[[_Writer, Node], None]] = {
    **dict.fromkeys("ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum".split(), _reduce),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    **dict.fromkeys(("ArgSort", "Sort"), _sort),
    **dict.fromkeys(("Concat", "Gather", "GatherElements", "Softmax"), _with("axis")),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    "Cast": _cast,
    "CumSum": _cumsum,
    "Expand": _expand,
    "LayerNormalization": _layer_norm,
    "LSTM": _lstm,
    "LeakyRelu": _with("alpha"),
    "MatMul": _matmul,
    "MatMulNBits": _n_bits,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ScaleShift": _scale_shift,
    "Sizes": _sizes,
    "Slice": _slice,
    "Transpose": _with("perm"),
}
