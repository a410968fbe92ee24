"""Primitives that multiply and add: matrix products, convolutions, Fourier transforms."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .graph import Array, ExportError, Value, constant
from .terms import Call, Complex, Term

NEAR = 1e-3  # of an integer, where a quantized zero point is one


def _matmul(call: Call) -> Term:
    return call.build("MatMul", *call.inputs)


def _addmm(call: Call) -> Term:
    build, (a, b, c) = call.build, call.inputs
    alpha, beta = call.args
    y = build("MatMul", a, b)
    y = y if alpha == 1 else build("Mul", y, build.full(alpha, y))
    return build("Add", y, c if beta == 1 else build("Mul", c, build.full(beta, c)))


def _quantized_matmul(call: Call) -> Term:
    """x times (q * scale + bias) transposed, with q of 8 or 4 bits in groups."""
    group, bits, mode, transposed = call.args
    x, (_, packed, scales, biases) = call.inputs[0], call.raw
    if packed is None or scales is None or biases is None or mode != 0 or not transposed or bits not in (4, 8):
        raise ExportError("quantized products are those of constants of 8 or 4 bits, in MLX's affine form")
    build, out = call.build, len(packed)
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = np.where(scales == 0, 0, -biases.astype(np.float64) / scales)
    points = np.rint(zero)
    whole = np.abs(zero - points).max() < NEAR and points.min() >= 0 and points.max() < 2**bits
    if not whole:
        points = np.full(zero.shape, 2 ** (bits - 1))
    codes = np.ascontiguousarray(packed).view(np.uint8).reshape(out, -1, group * bits // 8)
    y = build(
        "MatMulNBits",
        x,
        constant(codes),
        constant(scales),
        constant(_packed(points.astype(np.uint8), bits)),
        bits=bits,
        group=group,
        out=out,
    )
    if whole:
        return y
    rest = (biases.astype(np.float64) + scales.astype(np.float64) * points).astype(scales.dtype)
    groups = build.reshape(x, (*x.shape[:-1], rest.shape[1], group))
    sums = build("ReduceSum", groups, axes=(x.rank,), keepdims=False)
    return build("Add", y, build("MatMul", sums, constant(rest.T)))


def _packed(points: Array, bits: int) -> Array:
    """Zero points (O, groups) as ONNX Runtime packs them: of 4 bits two in a byte, the first in its lower half."""
    if bits == 8:
        return points
    even = np.pad(points, ((0, 0), (0, points.shape[1] % 2)))
    return even[:, ::2] | (even[:, 1::2] << 4)


def _convolution(call: Call) -> Term:
    strides, low, high, dilations, spread, groups, flip = call.args
    build, (x, weight) = call.build, call.inputs
    if x.rank == 3 and all(step == 1 for step in spread):  # over time: an image of one row
        x, weight = (build.reshape(value, (value.shape[0], 1, *value.shape[1:])) for value in (x, weight))
        strides, low, high, dilations = (1, *strides), (0, *low), (0, *high), (1, *dilations)
    rank = x.rank - 2
    first, last = (0, rank + 1, *range(1, rank + 1)), (0, *range(2, rank + 2), 1)
    x = build.transpose(x, first)
    if any(step != 1 for step in spread):
        if any(step != 1 for step in strides):
            raise ExportError("a convolution has strides at its input or at its output")
        y = _transposed(call, x, weight)
    else:
        weight = _flipped(call, weight) if flip else weight
        y = build(
            "Conv",
            x,
            build.transpose(weight, first),
            strides=tuple(strides),
            pads=(*low, *high),
            dilations=tuple(dilations),
            groups=groups,
        )
    return build.reshape(build.transpose(y, last), call.shapes[0])


def _flipped(call: Call, weight: Value) -> Value:
    inner = range(1, weight.rank - 1)
    starts = tuple(weight.shape[i] - 1 if i in inner else 0 for i in range(weight.rank))
    stops = tuple(-1 if i in inner else size for i, size in enumerate(weight.shape))
    return call.build(
        "Slice", weight, starts=starts, stops=stops, steps=tuple(-1 if i in inner else 1 for i in range(weight.rank))
    )


def _transposed(call: Call, x: Value, weight: Value) -> Value:
    """A transposed convolution; the weight (O, K, C / groups) becomes (C, O / groups, K)."""
    _, low, high, dilations, spread, groups, flip = call.args
    build, kernel = call.build, weight.shape[1:-1]
    weight = weight if flip else _flipped(call, weight)
    split = build.reshape(weight, (groups, weight.shape[0] // groups, *kernel, weight.shape[-1]))
    moved = build.transpose(split, (0, split.rank - 1, 1, *range(2, split.rank - 1)))
    weight = build.reshape(moved, (groups * moved.shape[1], *moved.shape[2:]))
    reach = [dilation * (size - 1) for dilation, size in zip(dilations, kernel, strict=True)]
    begin = [size - pad for size, pad in zip(reach, low, strict=True)]
    end = [size - pad for size, pad in zip(reach, high, strict=True)]
    if min(begin) < 0:
        raise ExportError("a transposed convolution with more padding than its kernel reaches")
    return build(
        "ConvTranspose",
        x,
        weight,
        strides=tuple(spread),
        pads=(*begin, *(max(pad, 0) for pad in end)),
        output_padding=tuple(max(-pad, 0) for pad in end),
        dilations=tuple(dilations),
        groups=groups,
    )


def _fft(call: Call) -> Term:
    """Of real numbers along one axis, forward: two products with a constant."""
    axes, inverse, real = call.args[:3]
    x, build = call.inputs[0], call.build
    if inverse or not real or len(axes) != 1 or not isinstance(x.shape[axes[0]], int):
        raise ExportError("of Fourier transforms only that of real numbers along one axis has one")
    axis, size = axes[0] % x.rank, x.shape[axes[0]]
    to_last = (*(i for i in range(x.rank) if i != axis), axis)
    back = tuple(int(i) for i in np.argsort(to_last))
    x = build.transpose(x, to_last)
    phase = 2 * np.pi * (np.outer(np.arange(size), np.arange(size // 2 + 1)) % size) / size
    parts = [build("MatMul", x, constant(part.astype(x.dtype))) for part in (np.cos(phase), -np.sin(phase))]
    return Complex(*(build.transpose(part, back) for part in parts))


def _lstm(call: Call) -> Term:
    """Both directions; ONNX has the gates in another order, time before the batch, and all of one type."""
    build, (x, *weights) = call.build, call.inputs
    arrays = [value.data.astype(x.dtype, copy=False) for value in weights if value.data is not None]
    if len(arrays) < len(weights):
        raise ExportError("the weights of an LSTM are constants")
    rows = [data.reshape(2, 4, -1, *data.shape[2:])[:, [0, 3, 1, 2]].reshape(data.shape) for data in arrays]
    bias = np.concatenate([rows[2], np.zeros_like(rows[2])], axis=1)
    x = build.transpose(x, (1, 0, 2))
    y = build("LSTM", x, *(constant(row) for row in (*rows[:2], bias)), hidden=rows[1].shape[2])
    return build.reshape(build.transpose(y, (2, 0, 1, 3)), call.shapes[0])


PRODUCTS: dict[str, Callable[[Call], Any]] = {
    "AddMM": _addmm,
    "Convolution": _convolution,
    "FFT": _fft,
    "LSTM": _lstm,
    "Matmul": _matmul,
    "QuantizedMatmul": _quantized_matmul,
}
