"""What a saved Core ML program computes, by NumPy: from the operations' own definitions, after the file as it lies.

Every result is rounded to the type that the program gives it; products and sums are taken in float32, as the Neural
Engine and the GPU take them.
"""

import struct
from collections.abc import Callable
from functools import cached_property
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.proto import MIL_pb2, Model_pb2

TYPES = {
    MIL_pb2.BOOL: np.bool_,
    MIL_pb2.FLOAT16: np.float16,
    MIL_pb2.FLOAT32: np.float32,
    MIL_pb2.INT16: np.int16,
    MIL_pb2.INT32: np.int32,
    MIL_pb2.STRING: np.str_,
    MIL_pb2.UINT8: np.uint8,
    MIL_pb2.UINT16: np.uint16,
}
CASTS = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32, "bool": np.bool_}
CASTS |= {"int16": np.int16, "uint8": np.uint8, "uint16": np.uint16}
SENTINEL, HEADER = 0xDEADBEEF, "<IIQQ"  # of a weight in the file: mark, type, bytes, where its values begin
ERF_STEP = 1e-3


class MLProgram:
    """The function `main` of an .mlpackage."""

    def __init__(self, package: Path) -> None:
        self.data = package / "Data" / "com.apple.CoreML"
        self.spec = Model_pb2.Model()
        self.spec.ParseFromString((self.data / "model.mlmodel").read_bytes())
        function = self.spec.mlProgram.functions["main"]
        self.inputs = [value.name for value in function.inputs]
        self.block = function.block_specializations[function.opset]
        self.ops = [op.type for op in self.block.operations if op.type != "const"]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        values: dict[str, Any] = dict(zip(self.inputs, arrays, strict=True))
        for op in self.block.operations:
            if op.type == "const":
                values[op.outputs[0].name] = self._value(op.attributes["val"])
                continue
            given = {key: self._argument(argument, values) for key, argument in op.inputs.items()}
            output = op.outputs[0]
            kind = output.type.tensorType
            with np.errstate(over="ignore"):
                result = np.asarray(OPS[op.type](given)).astype(TYPES[kind.dataType])
            told = [dim.constant.size if dim.HasField("constant") else None for dim in kind.dimensions]
            assert len(told) == result.ndim, (op.type, result.shape)
            assert all(size in (None, n) for size, n in zip(told, result.shape, strict=True)), (op.type, result.shape)
            values[output.name] = result
        return [values[name] for name in self.block.outputs]

    @cached_property
    def weights(self) -> bytes:
        """The file that the large constants lie in."""
        return (self.data / "weights" / "weight.bin").read_bytes()

    def _argument(self, argument: Any, values: dict[str, Any]) -> Any:
        arguments = [
            values[part.name] if part.HasField("name") else self._value(part.value) for part in argument.arguments
        ]
        return arguments if len(arguments) > 1 else arguments[0]

    def _value(self, value: Any) -> np.ndarray:
        kind = value.type.tensorType
        dtype, shape = TYPES[kind.dataType], tuple(dim.constant.size for dim in kind.dimensions)
        if value.HasField("blobFileValue"):
            raw = self.weights
            mark, _, size, start = struct.unpack_from(HEADER, raw, value.blobFileValue.offset)
            assert mark == SENTINEL
            return np.frombuffer(raw, dtype, size // np.dtype(dtype).itemsize, start).reshape(shape)
        tensor = value.immediateValue.tensor
        held = getattr(tensor, tensor.WhichOneof("value")).values
        numbers = np.frombuffer(held, dtype) if isinstance(held, bytes) else np.array(list(held), dtype)
        return numbers.reshape(shape) if numbers.size == prod(shape) else np.broadcast_to(numbers, shape)


def full(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.float32) if np.asarray(x).dtype.kind == "f" else np.asarray(x)


def conv(given: dict[str, Any]) -> np.ndarray:
    x, weight, groups = full(given["x"]), full(given["weight"]), int(given["groups"])
    assert str(given["pad_type"]) == "custom"
    pads = np.reshape(given["pad"], (-1, 2)).tolist()
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    rank = weight.ndim - 2
    strides, dilations = np.reshape(given["strides"], -1), np.reshape(given["dilations"], -1)
    reach = [int(d) * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(2, rank + 2)))
    steps = (..., *(slice(None, None, int(s)) for s in strides), *(slice(None, None, int(d)) for d in dilations))
    views = views[steps]
    parts = []
    for window, kernel in zip(np.split(views, groups, axis=1), np.split(weight, groups, axis=0), strict=True):
        taps = [1, *range(2 + rank, 2 + 2 * rank)]
        parts.append(np.moveaxis(np.tensordot(window, kernel, (taps, list(range(1, rank + 2)))), -1, 1))
    y = np.concatenate(parts, axis=1)
    return y + full(given["bias"]).reshape(-1, *(1,) * rank) if "bias" in given else y


def erf(x: np.ndarray) -> np.ndarray:
    """From a table of its integral."""
    at = np.arange(-6, 6 + ERF_STEP, ERF_STEP)
    density = 2 / sqrt(np.pi) * np.exp(-(at**2))
    table = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)]) * ERF_STEP - 1
    return np.interp(x.astype(np.float64), at, table)


def layer_norm(given: dict[str, Any]) -> np.ndarray:
    x, axes = full(given["x"]), tuple(np.reshape(given["axes"], -1).tolist())
    centred = x - x.mean(axis=axes, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(axis=axes, keepdims=True) + np.float32(given["epsilon"]))
    return y * full(given["gamma"]) + full(given["beta"])


def batch_norm(given: dict[str, Any]) -> np.ndarray:
    x = full(given["x"])
    mean, variance, gamma, beta = (
        full(given[key]).reshape(-1, *(1,) * (x.ndim - 2)) for key in ("mean", "variance", "gamma", "beta")
    )
    return (x - mean) / np.sqrt(variance + np.float32(given["epsilon"])) * gamma + beta


def lstm(given: dict[str, Any]) -> np.ndarray:
    """The whole sequence, both directions side by side; gates are input, forget, output and cell."""
    assert str(given["direction"]) == "bidirectional" and bool(given["output_sequence"])
    x, halves = full(given["x"]), []
    for end, part, way in (("", 0, slice(None)), ("_back", 1, slice(None, None, -1))):
        gates = x[way] @ full(given[f"weight_ih{end}"]).T + full(given[f"bias{end}"])
        h, c = (np.split(full(given[key]), 2, axis=1)[part] for key in ("initial_h", "initial_c"))
        steps = []
        for gate in gates:
            i, f, o, z = np.split(gate + h @ full(given[f"weight_hh{end}"]).T, 4, axis=1)
            i, f, o = (1 / (1 + np.exp(-value)) for value in (i, f, o))
            c = f * c + i * np.tanh(z)
            h = o * np.tanh(c)
            steps.append(h)
        halves.append(np.stack(steps)[way])
    return np.concatenate(halves, axis=2)


def softmax(given: dict[str, Any]) -> np.ndarray:
    x, axis = full(given["x"]), int(given["axis"])
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def slice_by_index(given: dict[str, Any]) -> np.ndarray:
    masks = [np.reshape(given.get(key, [False] * given["x"].ndim), -1) for key in ("begin_mask", "end_mask")]
    strides = np.reshape(given.get("stride", [1] * given["x"].ndim), -1)
    rows = zip(given["begin"].tolist(), given["end"].tolist(), strides.tolist(), *masks, strict=True)
    return given["x"][tuple(slice(None if b else i, None if e else j, step) for i, j, step, b, e in rows)]


def pad(given: dict[str, Any]) -> np.ndarray:
    widths = np.reshape(given["pad"], (-1, 2)).tolist()
    widths = [[0, 0]] * (given["x"].ndim - len(widths)) + widths
    if str(given["mode"]) == "reflect":
        return np.pad(given["x"], widths, mode="reflect")
    return np.pad(given["x"], widths, constant_values=given["constant_val"])


def linear(given: dict[str, Any]) -> np.ndarray:
    return full(given["x"]) @ full(given["weight"]).T + full(given.get("bias", np.float32(0)))


def matmul(given: dict[str, Any]) -> np.ndarray:
    x, y = full(given["x"]), full(given["y"])
    x = x.swapaxes(-1, -2) if given.get("transpose_x", False) else x
    return x @ (y.swapaxes(-1, -2) if given.get("transpose_y", False) else y)


def gelu(given: dict[str, Any]) -> np.ndarray:
    assert str(given["mode"]) == "EXACT"
    return full(given["x"]) * (1 + erf(full(given["x"]) / sqrt(2))) / 2


def of_one(fn: Callable[..., Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda given: fn(full(given["x"]))


def of_two(fn: Callable[..., Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda given: fn(full(given["x"]), full(given["y"]))


def reduction(fn: Callable[..., Any]) -> Callable[[dict[str, Any]], Any]:
    def reduce(given: dict[str, Any]) -> Any:
        axes = tuple(np.reshape(given["axes"], -1).tolist())
        return fn(full(given["x"]), axis=axes, keepdims=bool(given["keep_dims"]))

    return reduce


def log_sum_exp(x: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    return np.log(np.exp(x.astype(np.float64)).sum(axis=axis, keepdims=keepdims))


OPS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "abs": of_one(np.abs),
    "add": of_two(np.add),
    "batch_norm": batch_norm,
    "cast": lambda given: given["x"].astype(CASTS[str(given["dtype"])]),
    "concat": lambda given: np.concatenate(given["values"], axis=int(given["axis"])),
    "conv": conv,
    "cos": of_one(np.cos),
    "equal": of_two(np.equal),
    "exp": of_one(np.exp),
    "expand_dims": lambda given: np.expand_dims(given["x"], tuple(np.reshape(given["axes"], -1).tolist())),
    "floor_div": of_two(np.floor_divide),
    "gather_along_axis": lambda given: np.take_along_axis(given["x"], given["indices"], int(given["axis"])),
    "gather": lambda given: np.take(given["x"], given["indices"], axis=int(given["axis"])),
    "gelu": gelu,
    "greater": of_two(np.greater),
    "greater_equal": of_two(np.greater_equal),
    "identity": lambda given: given["x"],
    "layer_norm": layer_norm,
    "leaky_relu": lambda given: np.where(given["x"] > 0, given["x"], full(given["x"]) * full(given["alpha"])),
    "less": of_two(np.less),
    "linear": linear,
    "log": lambda given: np.log(full(given["x"]) + full(given["epsilon"])),
    "lstm": lstm,
    "matmul": matmul,
    "maximum": of_two(np.maximum),
    "minimum": of_two(np.minimum),
    "mul": of_two(np.multiply),
    "pad": pad,
    "pow": of_two(np.power),
    "range_1d": lambda given: np.arange(int(given["start"]), int(given["end"]), int(given["step"])),
    "real_div": of_two(np.divide),
    "reduce_log_sum_exp": reduction(log_sum_exp),
    "reduce_max": reduction(np.max),
    "reduce_mean": reduction(np.mean),
    "reduce_sum": reduction(np.sum),
    "relu": of_one(lambda x: np.maximum(x, 0)),
    "reshape": lambda given: given["x"].reshape(given["shape"].tolist()),
    "rsqrt": lambda given: 1 / np.sqrt(full(given["x"]) + full(given["epsilon"])),
    "select": lambda given: np.where(given["cond"], full(given["a"]), full(given["b"])),
    "shape": lambda given: np.array(given["x"].shape, np.int32),
    "sigmoid": of_one(lambda x: 1 / (1 + np.exp(-x))),
    "sin": of_one(np.sin),
    "slice_by_index": slice_by_index,
    "softmax": softmax,
    "sqrt": of_one(np.sqrt),
    "square": of_one(np.square),
    "squeeze": lambda given: np.squeeze(given["x"], tuple(np.reshape(given["axes"], -1).tolist())),
    "sub": of_two(np.subtract),
    "tanh": of_one(np.tanh),
    "tile": lambda given: np.tile(given["x"], given["reps"].tolist()),
    "transpose": lambda given: given["x"].transpose(given["perm"].tolist()),
}
