"""Source tensors to plain inference weights: BatchNorm folded, MLX's layout."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import CheckpointError
from ..layers import parameters
from .reader import in_memory

BATCH_NORM_EPS = 1e-5  # PyTorch's default, which every supported checkpoint was trained with
Arrays: TypeAlias = dict[str, "np.ndarray[Any, Any]"]


def to_numpy(weights: Mapping[str, mx.array]) -> Arrays:
    """A state dict as NumPy arrays, bfloat16 as float32.

    Raises:
        CheckpointError: a tensor cannot be read from its file.
    """
    return {
        name: np.array(in_memory(name, value.astype(mx.float32) if value.dtype == mx.bfloat16 else value))
        for name, value in weights.items()
    }


def pop_batch_norm(
    weights: Arrays, name: str, affine: bool = True, eps: float = BATCH_NORM_EPS
) -> tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]:
    """Take a BatchNorm out of `weights` as the float64 pair (scale, shift): y = x * scale + shift.

    Args:
        affine: whether it has a weight and a bias.
        eps: added to its variance.

    Raises:
        CheckpointError: a part is missing or of another shape.
    """
    parts: list[Any] = []
    for part in ("running_mean", "running_var", "weight", "bias")[: 4 if affine else 2]:
        if f"{name}.{part}" not in weights:
            raise CheckpointError(f"the checkpoint lacks {name}.{part}")
        parts.append(weights.pop(f"{name}.{part}").astype(np.float64))
        if parts[-1].ndim != 1 or parts[-1].shape != parts[0].shape:
            raise CheckpointError(f"{name}.{part} has shape {parts[-1].shape}, running_mean has {parts[0].shape}")
    mean, var, weight, bias = parts if affine else (*parts, 1.0, 0.0)
    if not np.all(var + eps > 0):
        raise CheckpointError(f"{name}.running_var holds negative variances, or NaN")
    scale = weight / np.sqrt(var + eps)
    return scale, bias - mean * scale


def fold_batch_norm(weights: Arrays, layer: str, norm: str, affine: bool = True, eps: float = BATCH_NORM_EPS) -> None:
    """Fold the BatchNorm `norm` into the convolution or linear `layer` that precedes it, in place.

    Raises:
        CheckpointError: a part is missing or their widths differ.
    """
    if layer == norm:
        raise CheckpointError(f"the checkpoint has a BatchNorm {norm} that follows no layer")
    if f"{layer}.weight" not in weights:
        raise CheckpointError(f"the checkpoint lacks {layer}.weight")
    scale, shift = pop_batch_norm(weights, norm, affine, eps)
    weight = weights[f"{layer}.weight"].astype(np.float64)
    bias = weights.get(f"{layer}.bias", np.zeros(scale.shape))
    if weight.shape[:1] != scale.shape or bias.shape != scale.shape:
        raise CheckpointError(
            f"{norm} has {scale.size} channels, {layer} has a weight of shape {weight.shape} and a bias of {bias.shape}"
        )
    weights[f"{layer}.weight"] = (weight * scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)
    weights[f"{layer}.bias"] = (bias * scale + shift).astype(np.float32)


def scale_shift_of(weights: Arrays, norm: str) -> None:
    """Turn the BatchNorm `norm` into the weight and the bias of a `ScaleShift`, in place.

    Raises:
        CheckpointError: a part is missing or of another shape.
    """
    scale, shift = pop_batch_norm(weights, norm)
    weights[f"{norm}.weight"], weights[f"{norm}.bias"] = scale.astype(np.float32), shift.astype(np.float32)


def fold_into_next(weights: Arrays, norm: str, layer: str, affine: bool = True) -> None:
    """Fold the BatchNorm `norm` into the linear or pointwise `layer` that follows it, in place.

    Raises:
        CheckpointError: a part is missing or their widths differ.
    """
    scale, shift = pop_batch_norm(weights, norm, affine)
    for part in ("weight", "bias"):
        if f"{layer}.{part}" not in weights:
            raise CheckpointError(f"the checkpoint lacks {layer}.{part}")
    weight = weights[f"{layer}.weight"].astype(np.float64)
    if weight.ndim > 2 and set(weight.shape[2:]) == {1}:  # a 1x1 convolution
        weight = weight.reshape(weight.shape[:2])
    bias = weights[f"{layer}.bias"]
    if weight.shape[1:] != scale.shape or bias.shape != weight.shape[:1]:
        raise CheckpointError(
            f"{norm} has {scale.size} channels, {layer} has a weight of shape {weight.shape} and a bias of {bias.shape}"
        )
    weights[f"{layer}.bias"] = (bias + weight @ shift).astype(np.float32)
    weights[f"{layer}.weight"] = (weight * scale).astype(np.float32)


def to_mlx_layout(
    weights: "Mapping[str, np.ndarray[Any, Any] | mx.array]", model: nn.Module, source_layout: bool
) -> dict[str, mx.array]:
    """Bring every tensor into the shape that the model's parameter of that name has; lazy for MLX arrays.

    PyTorch keeps the input channels second, MLX last. Where both orders give the parameter's shape, `source_layout`
    tells whether the tensors come from a source checkpoint. Tensors that fit in neither order stay as they are, for
    the strict loader to name.
    """
    shapes = {name: value.shape for name, value in parameters(model).items()}
    fitted = {}
    for name, value in weights.items():
        x = value if isinstance(value, mx.array) else mx.array(value)
        shape: Any = shapes.get(name, x.shape)
        # In that order in memory, too, or each pass over the model would copy it.
        moved = mx.contiguous(mx.moveaxis(x, 1, -1)) if x.ndim > 2 else x
        if len(shape) == 2 and x.ndim > 2 and x.size and set(moved.shape[1:-1]) == {1}:  # 1x1, a Linear here
            moved = moved.reshape(x.shape[0], -1)
        order = (moved, x) if source_layout else (x, moved)
        fitted[name] = next((y for y in order if y.shape == shape), x)
    return fitted
