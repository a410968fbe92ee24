"""Operations of a graph as those of a Core ML program."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb

from .formulas import Formulas
from .graph import ExportError, Graph, Node, Value, is_static
from .lengths import Dim, Length

KINDS = {"b": "bool", "i": "int32", "f": "fp32"}
TYPES: dict[str, Any] = {"bool": np.bool_, "int32": np.int32, "fp32": np.float32}
SAME = {  # operations that have one input, and Core ML's name of each
    **{op: op.lower() for op in "Abs Acos Asin Atan Atanh Ceil Cos Cosh Erf Exp Floor Log Relu Round Sigmoid".split()},
    **{op: op.lower() for op in "Sign Sin Sinh Sqrt Tan Tanh".split()},
    "Not": "logical_not",
}
BINARY = {
    "Add": "add",
    "And": "logical_and",
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Max": "maximum",
    "Min": "minimum",
    "Mod": "mod",
    "Mul": "mul",
    "Or": "logical_or",
    "Pow": "pow",
    "Sub": "sub",
    "Xor": "logical_xor",
}
REDUCTIONS = {
    "ReduceLogSumExp": "reduce_log_sum_exp",
    "ReduceMax": "reduce_max",
    "ReduceMean": "reduce_mean",
    "ReduceMin": "reduce_min",
    "ReduceProd": "reduce_prod",
    "ReduceSum": "reduce_sum",
}


def kind_of(value: Value) -> str:
    return KINDS[value.dtype.kind]


class Writer:
    """Values of a graph as those of the program."""

    def __init__(self, graph: Graph, inputs: Sequence[Any]) -> None:
        self.graph, self.inputs = graph, inputs
        self.formulas: Formulas | None = None
        self.known: dict[int, Any] = {id(value): given for value, given in zip(graph.inputs, inputs, strict=True)}
        self.sizes: dict[Any, Any] = {}

    def write(self) -> list[Any]:
        """What the graph gives."""
        for node in self.graph.nodes:
            self.known[id(node.output)] = self.emit(node)
        return [self(value) for value in self.graph.outputs]

    def __call__(self, value: Value) -> Any:
        if id(value) not in self.known:
            assert value.data is not None
            kind = TYPES[kind_of(value)]
            self.known[id(value)] = np.asarray(value.data, kind, order="C")
        return self.known[id(value)]

    def emit(self, node: Node) -> Any:
        """The value of one node.

        Raises:
            ExportError: there is no such operation.
        """
        xs = [self(value) for value in node.inputs]
        if node.op in SAME:
            return getattr(mb, SAME[node.op])(x=xs[0])
        if node.op in BINARY:
            return getattr(mb, BINARY[node.op])(x=xs[0], y=xs[1])
        if node.op in REDUCTIONS:
            return getattr(mb, REDUCTIONS[node.op])(x=xs[0], axes=node.attrs["axes"], keep_dims=node.attrs["keepdims"])
        if node.op in VARYING and (node.op not in EMIT or not is_static(_sizes_of(node))):
            return VARYING[node.op](self, node, xs)
        if node.op not in EMIT:
            raise ExportError(f"{node.op}, of the primitive {node.origin}, has no form in a Core ML program")
        return EMIT[node.op](node, xs)

    def vector(self, dims: Sequence[Dim]) -> Any:
        """Sizes as an array of int32."""
        if is_static(dims):
            return np.array(dims, np.int32)
        parts = [self.size(dim) for dim in dims]
        return mb.concat(values=parts, axis=0) if len(parts) > 1 else parts[0]

    def size(self, dim: Dim) -> Any:
        """A size as an array of one int32."""
        if isinstance(dim, int):
            return np.array([dim], np.int32)
        if dim not in self.sizes:
            self.formulas = self.formulas or Formulas(self.graph)
            formula = self.formulas.find(dim)
            if formula.factor is not None:
                raise ExportError("a Core ML program has a batch of one size: trace without an axis of batches")
            total: Any = np.array([formula.constant], np.int32)
            for k, name, add, by in formula.terms:
                part = self.axis(name)
                part = mb.add(x=part, y=np.int32(add)) if add else part
                part = mb.floor_div(x=part, y=np.int32(by)) if by != 1 else part
                part = mb.mul(x=part, y=np.int32(k)) if k != 1 else part
                total = part if isinstance(total, np.ndarray) and not total[0] else mb.add(x=part, y=total)
            self.sizes[dim] = total
        return self.sizes[dim]

    def axis(self, name: str) -> Any:
        """The size of the axis of that name."""
        if name not in self.sizes:
            at = ((i, axis) for i, own in enumerate(self.graph.axes) for axis in own if own[axis].name == name)
            i, axis = next(at)
            shape = mb.shape(x=self.inputs[i])
            self.sizes[name] = mb.slice_by_index(x=shape, begin=[axis], end=[axis + 1])
        return self.sizes[name]


def _sizes_of(node: Node) -> list[Dim]:
    """The sizes that an operation is told."""
    told = {"Expand": ("shape",), "Pad": ("before", "after"), "Reshape": ("shape",), "Slice": ("starts", "stops")}
    return [dim for name in told[node.op] for dim in node.attrs[name]]


def _divide(node: Node, xs: list[Any]) -> Any:
    divide = mb.real_div if node.output.dtype.kind == "f" else mb.floor_div
    return divide(x=xs[0], y=xs[1])


def _arg(node: Node, xs: list[Any]) -> Any:
    reduce = mb.reduce_argmax if node.op == "ArgMax" else mb.reduce_argmin
    return reduce(x=xs[0], axis=node.attrs["axes"][0], keep_dims=node.attrs["keepdims"])


def _expand(node: Node, xs: list[Any]) -> Any:
    source, shape = node.inputs[0].shape, node.output.shape
    padded = (1,) * (len(shape) - len(source)) + source
    x = mb.reshape(x=xs[0], shape=padded) if padded != source or isinstance(xs[0], np.ndarray) else xs[0]
    return mb.tile(x=x, reps=[1 if old == new else new for old, new in zip(padded, shape, strict=True)])


def _reshape(node: Node, xs: list[Any]) -> Any:
    if node.output.rank == 0:
        return mb.squeeze(x=xs[0], axes=list(range(node.inputs[0].rank)))
    return mb.reshape(x=xs[0], shape=node.output.shape)


def _slice(node: Node, xs: list[Any]) -> Any:
    starts, stops, steps = (node.attrs[key] for key in ("starts", "stops", "steps"))
    whole = [stop == -1 and step < 0 for stop, step in zip(stops, steps, strict=True)]
    ends = [0 if mask else stop for stop, mask in zip(stops, whole, strict=True)]
    return mb.slice_by_index(x=xs[0], begin=starts, end=ends, stride=steps, end_mask=whole)


def _pad(node: Node, xs: list[Any]) -> Any:
    pads = [n for pair in zip(node.attrs["before"], node.attrs["after"], strict=True) for n in pair]
    if node.attrs["mode"] == "constant":
        return mb.pad(x=xs[0], pad=pads, mode="constant", constant_val=node.attrs["value"])
    if any(pads[:-4]):
        raise ExportError("a Core ML program mirrors the last two axes only")
    return mb.pad(x=xs[0], pad=pads[-4:], mode="reflect")


def _conv(node: Node, xs: list[Any]) -> Any:
    attrs, rank = node.attrs, node.output.rank - 2
    settings: dict[str, Any] = {
        "x": xs[0],
        "weight": xs[1],
        "strides": attrs["strides"],
        "pad_type": "custom",
        "pad": [attrs["pads"][i + side] for i in range(rank) for side in (0, rank)],
        "dilations": attrs["dilations"],
        "groups": attrs["groups"],
    }
    if len(xs) == 3:
        settings["bias"] = xs[2]
    if node.op == "Conv":
        return mb.conv(**settings)
    return mb.conv_transpose(**settings, output_shape=node.output.shape)


def _matmul(node: Node, xs: list[Any]) -> Any:
    weight = node.inputs[1]
    if weight.data is not None and weight.rank == 2 and node.inputs[0].rank <= 3:
        return mb.linear(x=xs[0], weight=np.ascontiguousarray(xs[1].T))
    return mb.matmul(x=xs[0], y=xs[1])


def _n_bits(node: Node, xs: list[Any]) -> Any:
    """The weight as it is before quantization: Core ML of this target has no groups."""
    codes, scales, points = (value.data for value in node.inputs[1:])
    assert codes is not None and scales is not None and points is not None
    if node.attrs["bits"] == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:2], -1)
        points = np.stack([points & 15, points >> 4], axis=-1).reshape(len(points), -1)[:, : codes.shape[1]]
    weight = (codes.astype(np.float32) - points[..., None]) * scales[..., None].astype(np.float32)
    return mb.linear(x=xs[0], weight=weight.reshape(node.attrs["out"], -1))


def _scale_shift(node: Node, xs: list[Any]) -> Any:
    shape = (-1, *(1,) * (node.output.rank - 2))
    return mb.add(x=mb.mul(x=xs[0], y=xs[1].reshape(shape)), y=xs[2].reshape(shape))


def _sort(node: Node, xs: list[Any]) -> Any:
    axis = node.attrs["axis"]
    order = mb.argsort(x=xs[0], axis=axis, ascending=True)
    return order if node.op == "ArgSort" else mb.gather_along_axis(x=xs[0], indices=order, axis=axis)


def _cumsum(node: Node, xs: list[Any]) -> Any:
    attrs = node.attrs
    return mb.cumsum(x=xs[0], axis=attrs["axis"], exclusive=attrs["exclusive"], reverse=attrs["reverse"])


def _layer_norm(node: Node, xs: list[Any]) -> Any:
    return mb.layer_norm(x=xs[0], axes=[-1], gamma=xs[1], beta=xs[2], epsilon=np.float32(node.attrs["eps"]))


def _reshape_varying(writer: Writer, node: Node, xs: list[Any]) -> Any:
    """With -1 for a size that follows, so that little is computed."""
    shape = list(node.attrs["shape"])
    shape[max(i for i, size in enumerate(shape) if isinstance(size, Length))] = -1
    return mb.reshape(x=xs[0], shape=writer.vector(shape))


def _expand_varying(writer: Writer, node: Node, xs: list[Any]) -> Any:
    source, shape = node.inputs[0].shape, node.attrs["shape"]
    ahead = len(shape) - len(source)
    x = mb.expand_dims(x=xs[0], axes=list(range(ahead))) if ahead else xs[0]
    reps = [1 if i >= ahead and source[i - ahead] == size else size for i, size in enumerate(shape)]
    return mb.tile(x=x, reps=writer.vector(reps))


def _slice_varying(writer: Writer, node: Node, xs: list[Any]) -> Any:
    starts, stops, steps = (node.attrs[key] for key in ("starts", "stops", "steps"))
    rows = zip(stops, steps, node.inputs[0].shape, strict=True)
    whole = [stop == size if step > 0 else stop == -1 for stop, step, size in rows]
    ends = [0 if mask else stop for stop, mask in zip(stops, whole, strict=True)]
    begin, end = writer.vector(starts), writer.vector(ends)
    return mb.slice_by_index(x=xs[0], begin=begin, end=end, stride=steps, end_mask=whole)


def _pad_varying(writer: Writer, node: Node, xs: list[Any]) -> Any:
    if node.attrs["mode"] != "constant":
        raise ExportError("a Core ML program mirrors stretches of fixed size only")
    pads = [n for pair in zip(node.attrs["before"], node.attrs["after"], strict=True) for n in pair]
    return mb.pad(x=xs[0], pad=writer.vector(pads), mode="constant", constant_val=node.attrs["value"])


def _range(writer: Writer, node: Node, xs: list[Any]) -> Any:
    bounds = {}
    for key, name in (("start", "start"), ("stop", "end"), ("step", "step")):
        dim = node.attrs[key]
        bounds[name] = np.int32(dim) if isinstance(dim, int) else mb.squeeze(x=writer.size(dim), axes=[0])
    return mb.range_1d(**bounds)


VARYING: dict[str, Callable[[Writer, Node, list[Any]], Any]] = {  # forms with sizes that vary
    "Expand": _expand_varying,
    "Pad": _pad_varying,
    "Range": _range,
    "Reshape": _reshape_varying,
    "Sizes": lambda writer, node, xs: writer.vector(node.attrs["values"]),
    "Slice": _slice_varying,
}


def _static(shape: Sequence[Dim]) -> list[int]:
    """Sizes that do not vary.

    Raises:
        ExportError: they do.
    """
    if not is_static(shape):
        raise ExportError("recurrent layers of a Core ML program have one length")
    return [int(size) for size in shape]  # type: ignore[arg-type]


def _lstm(node: Node, xs: list[Any]) -> Any:
    """Both directions; ONNX has the gates in the order input, output, forget, cell: Core ML forget before output."""
    hidden, (time, _, batch, _) = node.attrs["hidden"], _static(node.output.shape)
    bias = xs[3][:, : 4 * hidden] + xs[3][:, 4 * hidden :]
    parts = [
        [x[way].reshape(4, hidden, -1)[[0, 2, 1, 3]].reshape(x[way].shape) for way in (0, 1)]
        for x in (xs[1], xs[2], bias)
    ]
    names = ("weight_ih", "weight_hh", "bias")
    weights = {name: part[0] for name, part in zip(names, parts, strict=True)}
    weights |= {f"{name}_back": part[1] for name, part in zip(names, parts, strict=True)}
    start = np.zeros((batch, 2 * hidden), np.float32)
    y, _, _ = mb.lstm(
        x=xs[0], initial_h=start, initial_c=start, direction="bidirectional", output_sequence=True, **weights
    )
    return mb.transpose(x=mb.reshape(x=y, shape=(time, batch, 2, hidden)), perm=(0, 2, 1, 3))


EMIT: dict[str, Callable[[Node, list[Any]], Any]] = {
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    **dict.fromkeys(("ArgSort", "Sort"), _sort),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    "Cast": lambda node, xs: mb.cast(x=xs[0], dtype=kind_of(node.output)),
    "Concat": lambda node, xs: mb.concat(values=xs, axis=node.attrs["axis"]),
    "CumSum": _cumsum,
    "Div": _divide,
    "Expand": _expand,
    "Gather": lambda node, xs: mb.gather(x=xs[0], indices=xs[1], axis=node.attrs["axis"]),
    "GatherElements": lambda node, xs: mb.gather_along_axis(x=xs[0], indices=xs[1], axis=node.attrs["axis"]),
    "GatherND": lambda node, xs: mb.gather_nd(x=xs[0], indices=xs[1]),
    "Gelu": lambda node, xs: mb.gelu(x=xs[0], mode="EXACT"),
    "LSTM": _lstm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda node, xs: mb.leaky_relu(x=xs[0], alpha=np.float32(node.attrs["alpha"])),
    "MatMul": _matmul,
    "MatMulNBits": _n_bits,
    "Neg": lambda node, xs: mb.mul(x=xs[0], y=node.output.dtype.type(-1)),
    "Pad": _pad,
    "Reciprocal": lambda node, xs: mb.real_div(x=np.float32(1), y=xs[0]),
    "Reshape": _reshape,
    "ScaleShift": _scale_shift,
    "Slice": _slice,
    "Softmax": lambda node, xs: mb.softmax(x=xs[0], axis=node.attrs["axis"]),
    "Transpose": lambda node, xs: mb.transpose(x=xs[0], perm=node.attrs["perm"]),
    "Where": lambda node, xs: mb.select(cond=xs[0], a=xs[1], b=xs[2]),
}
