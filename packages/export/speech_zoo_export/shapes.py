"""Shape and type of what each operation gives, and a builder of nodes that relies on them."""

from typing import Any

import numpy as np

from .graph import ExportError, Node, Shape, Value, constant
from .lengths import Dim, product

SAME = set(
    "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh CumSum Erf Exp Floor Gelu LayerNormalization LeakyRelu Log Neg "
    "Not Reciprocal Relu Round ScaleShift Sigmoid Sign Sin Sinh Softmax Softplus Sort Sqrt Tan Tanh".split()
)
BINARY = set("Add And BitwiseAnd BitwiseOr BitwiseXor Div Max Min Mod Mul Or Pow Sub Xor".split())
COMPARISONS = set("Equal Greater GreaterOrEqual Less LessOrEqual".split())
ELEMENTWISE = BINARY | COMPARISONS | (SAME - {"CumSum", "LayerNormalization", "ScaleShift", "Softmax", "Sort"})
ELEMENTWISE |= {"Cast", "Where"}
REDUCTIONS = set("ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum".split())
BOOL, INT64 = np.dtype(bool), np.dtype(np.int64)


def broadcast(*shapes: Shape) -> Shape:
    """The shape that these have together, by NumPy's rules."""
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    result: list[Dim] = []
    for sizes in zip(*padded, strict=True):
        others = [size for size in sizes if size != 1]
        if any(size != others[0] for size in others):
            raise ExportError(f"shapes {', '.join(map(str, shapes))} do not go together")
        result.append(others[0] if others else 1)
    return tuple(result)


def infer(op: str, inputs: list[Value], attrs: dict[str, Any]) -> tuple[Shape, "np.dtype[Any]"]:
    """The shape and the type of the output of an operation."""
    if op in SAME:
        return inputs[0].shape, inputs[0].dtype
    if op in BINARY | COMPARISONS:
        shape = broadcast(*(value.shape for value in inputs))
        return shape, BOOL if op in COMPARISONS else inputs[0].dtype
    if op == "Where":
        return broadcast(*(value.shape for value in inputs)), inputs[1].dtype
    if op in REDUCTIONS or op in ("ArgMax", "ArgMin"):
        return _reduced(inputs[0].shape, attrs), INT64 if op.startswith("Arg") else inputs[0].dtype
    if op in _OTHERS:
        return _OTHERS[op](inputs, attrs)
    raise ExportError(f"no operation {op}")


def _reduced(shape: Shape, attrs: dict[str, Any]) -> Shape:
    axes = attrs["axes"]
    if attrs["keepdims"]:
        return tuple(1 if i in axes else size for i, size in enumerate(shape))
    return tuple(size for i, size in enumerate(shape) if i not in axes)


def _slice(inputs: list[Value], attrs: dict[str, Any]) -> tuple[Shape, "np.dtype[Any]"]:
    bounds = zip(attrs["starts"], attrs["stops"], attrs["steps"], strict=True)
    shape = tuple(-((start - stop) // step) for start, stop, step in bounds)
    return shape, inputs[0].dtype


def _concat(inputs: list[Value], attrs: dict[str, Any]) -> tuple[Shape, "np.dtype[Any]"]:
    axis, shape = attrs["axis"], list(inputs[0].shape)
    shape[axis] = sum((value.shape[axis] for value in inputs[1:]), shape[axis])
    return tuple(shape), inputs[0].dtype


def _matmul(inputs: list[Value], attrs: dict[str, Any]) -> tuple[Shape, "np.dtype[Any]"]:
    x, y = (value.shape for value in inputs[:2])
    return (*broadcast(x[:-2], y[:-2]), x[-2], y[-1]), inputs[0].dtype


def _conv(inputs: list[Value], attrs: dict[str, Any]) -> tuple[Shape, "np.dtype[Any]"]:
    x, weight = inputs[0].shape, inputs[1].shape
    rank = len(x) - 2
    sizes = []
    for i in range(rank):
        padded = x[2 + i] + attrs["pads"][i] + attrs["pads"][rank + i]
        reach = attrs["dilations"][i] * (weight[2 + i] - 1) + 1
        sizes.append((padded - reach) // attrs["strides"][i] + 1)
    return (x[0], weight[0], *sizes), inputs[0].dtype


def _conv_transpose(inputs: list[Value], attrs: dict[str, Any]) -> tuple[Shape, "np.dtype[Any]"]:
    x, weight = inputs[0].shape, inputs[1].shape
    rank = len(x) - 2
    sizes = []
    for i in range(rank):
        reach = attrs["dilations"][i] * (weight[2 + i] - 1) + 1
        size = (x[2 + i] - 1) * attrs["strides"][i] + reach - attrs["pads"][i] - attrs["pads"][rank + i]
        sizes.append(size + attrs["output_padding"][i])
    return (x[0], weight[1] * attrs["groups"], *sizes), inputs[0].dtype


def _pad(inputs: list[Value], attrs: dict[str, Any]) -> tuple[Shape, "np.dtype[Any]"]:
    sizes = zip(inputs[0].shape, attrs["before"], attrs["after"], strict=True)
    return tuple(size + before + after for size, before, after in sizes), inputs[0].dtype


def _gather(inputs: list[Value], attrs: dict[str, Any]) -> tuple[Shape, "np.dtype[Any]"]:
    shape, axis = inputs[0].shape, attrs["axis"]
    return (*shape[:axis], *inputs[1].shape, *shape[axis + 1 :]), inputs[0].dtype


_OTHERS: dict[str, Any] = {
    "Cast": lambda x, a: (x[0].shape, a["to"]),
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Expand": lambda x, a: (a["shape"], x[0].dtype),
    "Gather": _gather,
    "GatherElements": lambda x, a: (x[1].shape, x[0].dtype),
    "GatherND": lambda x, a: ((*x[1].shape[:-1], *x[0].shape[x[1].shape[-1] :]), x[0].dtype),
    "ArgSort": lambda x, a: (x[0].shape, INT64),
    "Attention": lambda x, a: (x[0].shape, x[0].dtype),
    "LSTM": lambda x, a: ((x[0].shape[0], 2, x[0].shape[1], a["hidden"]), x[0].dtype),
    "MatMul": _matmul,
    "MatMulNBits": lambda x, a: ((*x[0].shape[:-1], a["out"]), x[0].dtype),
    "Pad": _pad,
    "Range": lambda x, a: ((-((a["start"] - a["stop"]) // a["step"]),), INT64),
    "Reshape": lambda x, a: (a["shape"], x[0].dtype),
    "Sizes": lambda x, a: ((len(a["values"]),), INT64),
    "Slice": _slice,
    "Transpose": lambda x, a: (tuple(x[0].shape[i] for i in a["perm"]), x[0].dtype),
}


class Builder:
    """Appends nodes; `origin` is noted at each."""

    def __init__(self, nodes: list[Node] | None = None) -> None:
        self.nodes: list[Node] = [] if nodes is None else nodes
        self.origin = ""

    def __call__(self, op: str, *inputs: Value, **attrs: Any) -> Value:
        """The output of a new node."""
        shape, dtype = infer(op, list(inputs), attrs)
        output = Value(shape, dtype)
        self.nodes.append(Node(op, list(inputs), output, attrs, self.origin))
        return output

    def reshape(self, x: Value, shape: Shape) -> Value:
        if x.shape == shape:
            return x
        if product(x.shape) != product(shape):
            raise ExportError(f"{self.origin}: {x.shape} has not as many elements as {shape}")
        return self("Reshape", x, shape=shape)

    def transpose(self, x: Value, perm: tuple[int, ...]) -> Value:
        """A reshape where only axes of one element move."""
        moved = [axis for axis in perm if x.shape[axis] != 1]
        if moved == sorted(moved):
            return self.reshape(x, tuple(x.shape[axis] for axis in perm))
        return self("Transpose", x, perm=perm)

    def cast(self, x: Value, dtype: Any) -> Value:
        return x if x.dtype == np.dtype(dtype) else self("Cast", x, to=np.dtype(dtype))

    def slice(self, x: Value, axis: int, start: Dim, stop: Dim) -> Value:
        """A stretch of one axis."""
        starts: list[Dim] = [0] * x.rank
        stops = list(x.shape)
        starts[axis], stops[axis] = start, stop
        if tuple(stops) == x.shape and start == 0:
            return x
        return self("Slice", x, starts=tuple(starts), stops=tuple(stops), steps=(1,) * x.rank)

    def reduce(self, op: str, x: Value, axes: tuple[int, ...]) -> Value:
        """With the reduced axes kept as 1."""
        return self(op, x, axes=axes, keepdims=True)

    def full(self, value: float, like: Value) -> Value:
        """A number of the type of another value."""
        return constant(value, like.dtype)
