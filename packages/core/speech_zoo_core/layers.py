"""What the model packages share: parameters, strict loading, quantization, masks."""

import math
from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .errors import CheckpointError, ConfigError

GROUP_SIZE = 32  # of quantization; divides every width of the models here


# MLX compiles nn.relu and the like; compiled in a thread that ends, they abort the process at its exit (mlx 0.32.4).


def relu(x: mx.array) -> mx.array:
    return mx.maximum(x, 0)


def leaky_relu(x: mx.array, slope: float = 0.01) -> mx.array:
    """x where it is positive, else `slope` times x; 0 < slope < 1."""
    return mx.maximum(x, slope * x)


def gelu(x: mx.array) -> mx.array:
    """x times the standard normal distribution function of x."""
    return x * (1 + mx.erf(x / math.sqrt(2))) / 2


def gelu_tanh(x: mx.array) -> mx.array:
    """The approximation of `gelu` by a hyperbolic tangent."""
    return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(x)


class ScaleShift(nn.Module):
    """What is left of a BatchNorm at inference where it cannot fold: (..., C) to (..., C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = mx.ones((channels,))
        self.bias = mx.zeros((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        return x * self.weight + self.bias


def parameters(model: nn.Module) -> dict[str, mx.array]:
    """Every parameter by its full name, sorted."""
    return dict(sorted(tree_flatten(model.parameters(), destination={}).items()))  # type: ignore[union-attr]


def load_strict(model: nn.Module, weights: Mapping[str, mx.array], where: str) -> None:
    """Load weights that match the model's parameters exactly.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; names them.
    """
    own = parameters(model)
    shapes = {name: value.shape for name, value in own.items()}
    problems = []
    for what, names in (
        ("missing", [name for name in shapes if name not in weights]),
        ("unexpected", [name for name in weights if name not in shapes]),
        (
            "of another shape",
            [
                f"{name} {tuple(value.shape)} instead of {tuple(shapes[name])}"
                for name, value in weights.items()
                if name in shapes and value.shape != shapes[name]
            ],
        ),
        (
            "of another type",
            [
                f"{name} {value.dtype}"
                for name, value in weights.items()
                if name in own
                and mx.issubdtype(value.dtype, mx.floating) != mx.issubdtype(own[name].dtype, mx.floating)
            ],
        ),
    ):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            problems.append(f"{len(names)} {what}: {', '.join(names[:5])}{more}")
    if problems:
        raise CheckpointError(f"{where} does not fit the model: {'; '.join(problems)}")
    model.load_weights(list(weights.items()))


def quantize(model: nn.Module, bits: int, group_size: int = GROUP_SIZE) -> None:
    """Quantize the linear layers (pointwise convolutions among them); convolutions stay in floating point.

    A model may keep more layers in floating point with a method `quantizable(name)`.

    Raises:
        ConfigError: MLX has no such quantization, or the model has no layer to quantize.
    """
    if bits not in (4, 8) or group_size not in (32, 64, 128):
        raise ConfigError(f"cannot quantize to {bits} bits in groups of {group_size}; use 8 or 4 bits, groups of 32")

    fits_model = getattr(type(model), "quantizable", lambda _model, _name: True)

    def fits(name: str, module: nn.Module) -> bool:
        return isinstance(module, nn.Linear) and module.weight.shape[-1] % group_size == 0 and fits_model(model, name)

    if not any(fits(name, module) for name, module in model.named_modules()):
        raise ConfigError("the model has no linear layer to quantize")
    nn.quantize(model, group_size=group_size, bits=bits, class_predicate=fits)


def time_mask(lengths: mx.array, size: int, dtype: mx.Dtype) -> mx.array:
    """1 where a frame belongs to its clip, 0 where it is padding: lengths (B,) to (B, size)."""
    return (mx.arange(size)[None] < lengths[:, None]).astype(dtype)


def masked(x: mx.array, mask: mx.array | None) -> mx.array:
    """Padding set to 0: `mask`, which broadcasts against x, is 1 where a frame belongs to its clip; None if all do."""
    return x if mask is None else x * mask


def reflected(x: mx.array, size: int, lengths: mx.array | None = None) -> mx.array:
    """`size` more frames at both ends of each clip, mirrored: (B, T, C) to (B, T + 2*size, C).

    `lengths` (B,) says where clips end that are followed by padding; all must be longer than `size`.
    """
    if lengths is None:
        ends = x[:, 1 : size + 1][:, ::-1], x[:, -size - 1 : -1][:, ::-1]
        return mx.concatenate([ends[0], x, ends[1]], axis=1)
    return mx.take_along_axis(x, mirror(x.shape[1], size, lengths), axis=1)


def mirror(frames: int, size: int, lengths: mx.array) -> mx.array:
    """Which of its `frames` each clip has where, after `reflected`: (B, T + 2*size, 1)."""
    last = lengths[:, None] - 1
    at = mx.abs(mx.arange(-size, frames + size)[None])
    return mx.clip(mx.where(at > last, 2 * last - at, at), 0, frames - 1)[..., None]
