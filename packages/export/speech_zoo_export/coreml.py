"""A graph as a Core ML program. Needs the extra [coreml]; works on any system, though only a Mac runs the program."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, types

from .graph import ExportError, Graph, Node, Value, is_static

TARGET = ct.target.iOS17
KINDS = {"b": "bool", "i": "int32", "f": "fp32"}
PLACEHOLDERS = {"bool": types.bool, "int32": types.int32, "fp32": types.fp32}
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


def to_coreml(
    graph: Graph,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    precision: Literal["float16", "float32"] = "float16",
) -> ct.models.MLModel:
    """A graph of fixed sizes, which is what the Neural Engine takes, as an ML program; `save` it as an .mlpackage.

    Args:
        inputs, outputs: their names; "x0", "y0" and so on where none are given. They are float32, int32 or bool.
        metadata: stands in the model's user-defined metadata.
        precision: of what is computed.

    Raises:
        ExportError: a size that varies, or an operation that ML programs lack.
    """
    names = [*inputs, *(f"x{i}" for i in range(len(inputs), len(graph.inputs)))]
    placeholders = {}
    for value, name in zip(graph.inputs, names, strict=True):
        if not is_static(value.shape):
            raise ExportError(f"a Core ML model has fixed sizes, not {value.shape}: trace without axes")
        placeholders[name] = mb.placeholder(shape=value.shape, dtype=PLACEHOLDERS[_kind(value)])
    with Function(placeholders, opset_version=TARGET) as function:
        writer = _Writer()
        for value, name in zip(graph.inputs, names, strict=True):
            writer.known[id(value)] = function.inputs[name]
        for node in graph.nodes:
            writer.known[id(node.output)] = writer.emit(node)
        results = []
        for i, value in enumerate(graph.outputs):
            name = outputs[i] if i < len(outputs) else f"y{i}"
            results.append(mb.identity(x=writer(value), name=name))
        function.set_outputs(results)
    program = Program()
    program.add_function("main", function)
    compute = {"float16": ct.precision.FLOAT16, "float32": ct.precision.FLOAT32}[precision]
    model = ct.convert(program, convert_to="mlprogram", minimum_deployment_target=TARGET, compute_precision=compute)
    model.user_defined_metadata.update(metadata or {})
    return model


def _kind(value: Value) -> str:
    return KINDS[value.dtype.kind]


class _Writer:
    """Values of the graph as those of the program."""

    def __init__(self) -> None:
        self.known: dict[int, Any] = {}

    def __call__(self, value: Value) -> Any:
        if id(value) not in self.known:
            assert value.data is not None
            kind = {"bool": np.bool_, "int32": np.int32, "fp32": np.float32}[_kind(value)]
            self.known[id(value)] = np.ascontiguousarray(value.data.astype(kind, copy=False))
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
        if node.op not in EMIT:
            raise ExportError(f"{node.op}, of the primitive {node.origin}, has no form in a Core ML program")
        return EMIT[node.op](node, xs)


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


EMIT: dict[str, Callable[[Node, list[Any]], Any]] = {
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    **dict.fromkeys(("ArgSort", "Sort"), _sort),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    "Cast": lambda node, xs: mb.cast(x=xs[0], dtype=_kind(node.output)),
    "Concat": lambda node, xs: mb.concat(values=xs, axis=node.attrs["axis"]),
    "CumSum": _cumsum,
    "Div": _divide,
    "Expand": _expand,
    "Gather": lambda node, xs: mb.gather(x=xs[0], indices=xs[1], axis=node.attrs["axis"]),
    "GatherElements": lambda node, xs: mb.gather_along_axis(x=xs[0], indices=xs[1], axis=node.attrs["axis"]),
    "GatherND": lambda node, xs: mb.gather_nd(x=xs[0], indices=xs[1]),
    "Gelu": lambda node, xs: mb.gelu(x=xs[0], mode="EXACT"),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda node, xs: mb.leaky_relu(x=xs[0], alpha=np.float32(node.attrs["alpha"])),
    "MatMul": _matmul,
    "MatMulNBits": _n_bits,
    "Neg": lambda node, xs: mb.mul(x=xs[0], y=node.output.dtype.type(-1)),
    "Pad": _pad,
    "Reciprocal": lambda node, xs: mb.real_div(x=np.float32(1), y=xs[0]),
    "Reshape": lambda node, xs: mb.reshape(x=xs[0], shape=node.output.shape),
    "ScaleShift": _scale_shift,
    "Slice": _slice,
    "Softmax": lambda node, xs: mb.softmax(x=xs[0], axis=node.attrs["axis"]),
    "Transpose": lambda node, xs: mb.transpose(x=xs[0], perm=node.attrs["perm"]),
    "Where": lambda node, xs: mb.select(cond=xs[0], a=xs[1], b=xs[2]),
}
