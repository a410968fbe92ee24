"""How each operation of a graph is written as ONNX."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from .graph import Node
from .lengths import Dim, Length

if TYPE_CHECKING:
    from .onnx import Writer

CONTRIB = "com.microsoft"  # ONNX Runtime's own operations
MAX_INT64, MIN_INT64 = 2**63 - 1, -(2**63) + 1


def write(writer: "Writer", node: Node) -> None:
    """Append what an operation is in ONNX."""
    EMIT.get(node.op, _plain)(writer, node)


def _plain(writer: "Writer", node: Node) -> None:
    """An operation that ONNX has by that name, without settings."""
    writer.node(node.op, [writer.name(value) for value in node.inputs], writer.name(node.output))


def _elementwise(writer: "Writer", node: Node) -> None:
    """With a number as an array of the output's rank: else ONNX Runtime is slow where the last axis has one element."""
    one = (1,) * node.output.rank
    names = [
        writer.small(value.data.astype(value.dtype).reshape(one))
        if value.data is not None and value.data.size == 1
        else writer.name(value)
        for value in node.inputs
    ]
    writer.node(node.op, names, writer.name(node.output))


def _limited(writer: "Writer", node: Node) -> None:
    """To a number, as Clip: ONNX Runtime makes that a part of the convolution before it, and Min is slow."""
    numbers = [value for value in node.inputs if value.data is not None and value.data.size == 1]
    rest = [value for value in node.inputs if value not in numbers]
    if len(numbers) != 1 or len(rest) != 1 or rest[0].shape != node.output.shape or node.output.dtype != np.float32:
        _elementwise(writer, node)
        return
    limit = writer.small(numbers[0].data.astype(np.float32).reshape(()))  # type: ignore[union-attr]
    limits = [limit] if node.op == "Max" else ["", limit]
    writer.node("Clip", [writer.name(rest[0]), *limits], writer.name(node.output))


def _matmul(writer: "Writer", node: Node) -> None:
    x, y = node.inputs
    name = None if y.data is None or y.rank != 2 or y.dtype != np.float32 else writer.weight(y.data.T)
    if name is None:
        _plain(writer, node)
    else:
        writer.node("FusedMatMul", [writer.name(x), name], writer.name(node.output), CONTRIB, transB=1)


def _with(*names: str) -> Callable[["Writer", Node], None]:
    """The same with settings of these names."""

    def emit(writer: "Writer", node: Node) -> None:
        attrs = {name: node.attrs[name] for name in names}
        writer.node(node.op, [writer.name(value) for value in node.inputs], writer.name(node.output), **attrs)

    return emit


def _cast(writer: "Writer", node: Node) -> None:
    kind = helper.np_dtype_to_tensor_dtype(node.attrs["to"])
    writer.node("Cast", [writer.name(node.inputs[0])], writer.name(node.output), to=kind)


def _reshape(writer: "Writer", node: Node) -> None:
    """With 0 for a size that stays and -1 for one that follows, so that little is computed."""
    source, shape = node.inputs[0].shape, list(node.attrs["shape"])
    for i, size in enumerate(shape):
        if isinstance(size, Length) and i < len(source) and source[i] == size:
            shape[i] = 0
    left = [i for i, size in enumerate(shape) if isinstance(size, Length)]
    if left:
        shape[left[-1]] = -1
    writer.node("Reshape", [writer.name(node.inputs[0]), writer.ints(shape)], writer.name(node.output))


def _expand(writer: "Writer", node: Node) -> None:
    """With 1 for a size that is there."""
    source, shape = node.inputs[0].shape, node.attrs["shape"]
    ahead = len(shape) - len(source)
    sizes = [1 if i >= ahead and source[i - ahead] == size else size for i, size in enumerate(shape)]
    writer.node("Expand", [writer.name(node.inputs[0]), writer.ints(sizes)], writer.name(node.output))


def _slice(writer: "Writer", node: Node) -> None:
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


def _pad(writer: "Writer", node: Node) -> None:
    x, before, after = node.inputs[0], node.attrs["before"], node.attrs["after"]
    axes = [i for i in range(x.rank) if (before[i], after[i]) != (0, 0)]
    pads = writer.ints([*(before[i] for i in axes), *(after[i] for i in axes)])
    value = writer.small(np.array(node.attrs["value"], x.dtype))
    inputs = [writer.name(x), pads, value, writer.ints(axes)]
    writer.node("Pad", inputs, writer.name(node.output), mode=node.attrs["mode"])


def _reduce(writer: "Writer", node: Node) -> None:
    inputs = [writer.name(node.inputs[0]), writer.ints(node.attrs["axes"])]
    writer.node(node.op, inputs, writer.name(node.output), keepdims=int(node.attrs["keepdims"]))


def _arg(writer: "Writer", node: Node) -> None:
    inputs = [writer.name(node.inputs[0])]
    axis = node.attrs["axes"][0]
    writer.node(node.op, inputs, writer.name(node.output), axis=axis, keepdims=int(node.attrs["keepdims"]))


def _cumsum(writer: "Writer", node: Node) -> None:
    inputs = [writer.name(node.inputs[0]), writer.small(np.array(node.attrs["axis"], np.int64))]
    flags: dict[str, Any] = {key: int(node.attrs[key]) for key in ("exclusive", "reverse")}
    writer.node("CumSum", inputs, writer.name(node.output), **flags)


def _sort(writer: "Writer", node: Node) -> None:
    """The smallest first: all of them."""
    x, axis = node.inputs[0], node.attrs["axis"]
    outputs = [writer.fresh("v"), writer.fresh("v")]
    outputs[1 if node.op == "ArgSort" else 0] = writer.name(node.output)
    inputs = [writer.name(x), writer.dim(x.shape[axis])]
    writer.nodes.append(helper.make_node("TopK", inputs, outputs, axis=axis, largest=0, sorted=1))


def _range(writer: "Writer", node: Node) -> None:
    bounds = []
    for key in ("start", "stop", "step"):
        dim = node.attrs[key]
        if isinstance(dim, int):
            bounds.append(writer.small(np.array(dim, np.int64)))
        else:
            bounds.append(writer.node("Reshape", [writer.dim(dim), writer.small(np.array([], np.int64))]))
    writer.node("Range", bounds, writer.name(node.output))


def _sizes(writer: "Writer", node: Node) -> None:
    writer.names[id(node.output)] = writer.ints(node.attrs["values"])


def _conv(writer: "Writer", node: Node) -> None:
    attrs: dict[str, Any] = {key: list(node.attrs[key]) for key in ("strides", "pads", "dilations")}
    if node.op == "ConvTranspose":
        attrs["output_padding"] = list(node.attrs["output_padding"])
    inputs = [writer.name(value) for value in node.inputs]
    writer.node(node.op, inputs, writer.name(node.output), group=node.attrs["groups"], **attrs)


def _scale_shift(writer: "Writer", node: Node) -> None:
    x, scale, shift = node.inputs
    zeros, ones = (writer.array(np.full(scale.shape, fill, np.float32)) for fill in (0, 1))
    inputs = [writer.name(x), writer.name(scale), writer.name(shift), zeros, ones]
    writer.node("BatchNormalization", inputs, writer.name(node.output), epsilon=0.0)


def _layer_norm(writer: "Writer", node: Node) -> None:
    inputs = [writer.name(value) for value in node.inputs]
    writer.node("LayerNormalization", inputs, writer.name(node.output), axis=-1, epsilon=node.attrs["eps"])


def _n_bits(writer: "Writer", node: Node) -> None:
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


def _lstm(writer: "Writer", node: Node) -> None:
    inputs = [writer.name(value) for value in node.inputs]
    attrs = {"hidden_size": node.attrs["hidden"], "direction": "bidirectional"}
    writer.node("LSTM", inputs, writer.name(node.output), **attrs)


EMIT: dict[str, Callable[["Writer", Node], None]] = {
    **dict.fromkeys("ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum".split(), _reduce),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    **dict.fromkeys(("ArgSort", "Sort"), _sort),
    **dict.fromkeys(("Concat", "Gather", "GatherElements", "Softmax"), _with("axis")),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    **dict.fromkeys("Add Sub Mul Div Pow".split(), _elementwise),
    **dict.fromkeys(("Max", "Min"), _limited),
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
