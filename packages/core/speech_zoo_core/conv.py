"""Convolutions of stride 1 as sums of shifted matrix products on a CPU, where MLX's own are slow; MLX's elsewhere.

MLX's CPU backend copies every patch on one thread, and takes a naive loop for dilated 1-D convolutions. A product for
each tap, on a shifted view of the input, needs neither. Parameters and results are those of `mlx.nn`.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn


def on_cpu() -> bool:
    """Whether MLX computes on the CPU by default."""
    return mx.default_device().type == mx.DeviceType.cpu


class Conv1d(nn.Conv1d):
    """`mlx.nn.Conv1d`: (B, T, C) to (B, T', O)."""

    def __call__(self, x: mx.array) -> Any:
        if self.stride != 1 or self.groups != 1 or not on_cpu():
            return super().__call__(x)
        x = mx.pad(x, [(0, 0), (self.padding, self.padding), (0, 0)])
        taps = self.weight.shape[1]
        size = x.shape[1] - (taps - 1) * self.dilation
        y = x[:, :size] @ self.weight[:, 0].T
        for tap in range(1, taps):
            start = tap * self.dilation
            y = y + x[:, start : start + size] @ self.weight[:, tap].T
        return y + self.bias if "bias" in self else y


class Conv2d(nn.Conv2d):
    """`mlx.nn.Conv2d`: (B, H, W, C) to (B, H', W', O)."""

    def __call__(self, x: mx.array) -> Any:
        plain = self.stride == (1, 1) and self.dilation in (1, (1, 1)) and self.groups == 1 and "bias" in self
        if not plain or not on_cpu():
            return super().__call__(x)
        (rows, columns), (top, left) = self.weight.shape[1:3], self.padding
        x = mx.pad(x, [(0, 0), (top, top), (left, left), (0, 0)])
        batch, height, width, channels = x.shape
        # In the flattened image a tap is a contiguous run; positions that wrap around an edge are cut off at the end.
        flat = x.reshape(-1, channels)
        size = len(flat) - (rows - 1) * width - (columns - 1)
        y = self.bias
        for i in range(rows):
            for j in range(columns):
                start = i * width + j
                y = mx.addmm(y, flat[start : start + size], self.weight[:, i, j].T)
        y = mx.pad(y, [(0, len(flat) - size), (0, 0)]).reshape(batch, height, width, -1)
        return y[:, : height - rows + 1, : width - columns + 1]
