"""Convolutions as sums of shifted matrix products on a CPU, where MLX's own are slow; MLX's elsewhere.

MLX's CPU backend copies every patch on one thread, and takes a naive loop for dilated and grouped ones. A product for
each tap, on a shifted view of the input, needs neither. Parameters and results are those of `mlx.nn`.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

FEW_CHANNELS = 16
TAPS_AT_ONCE = 8  # of a grouped convolution, side by side in one product


def on_cpu() -> bool:
    """Whether MLX computes on the CPU by default."""
    return mx.default_device().type == mx.DeviceType.cpu


class Conv1d(nn.Conv1d):
    """`mlx.nn.Conv1d`: (B, T, C) to (B, T', O)."""

    def __call__(self, x: mx.array) -> Any:
        if not on_cpu():
            return super().__call__(x)
        x = mx.pad(x, [(0, 0), (self.padding, self.padding), (0, 0)]) if self.padding else x
        taps = self.weight.shape[1]
        size = (x.shape[1] - (taps - 1) * self.dilation - 1) // self.stride + 1
        last = (size - 1) * self.stride + 1
        if self.groups == 1:
            shifted = [x[:, (t * self.dilation) :][:, : last : self.stride] for t in range(taps)]
            if x.shape[2] < FEW_CHANNELS:  # the taps side by side make one product of a useful width
                y = mx.concatenate(shifted, axis=-1) @ self.weight.reshape(len(self.weight), -1).T
            else:
                y = shifted[0] @ self.weight[:, 0].T
                for tap in range(1, taps):
                    y = y + shifted[tap] @ self.weight[:, tap].T
        else:
            y = self._grouped(x, size, last)
        return y + self.bias if "bias" in self else y

    def _grouped(self, x: mx.array, size: int, last: int) -> mx.array:
        """A product for each tap and group: (B, T, C) to (B, size, O)."""
        batch, frames, channels = x.shape
        width = channels // self.groups
        x = x.reshape(batch, frames, self.groups, width).transpose(0, 2, 1, 3)  # (B, G, T, C/G)
        weight = self.weight.reshape(self.groups, -1, self.weight.shape[1], width)  # (G, O/G, K, C/G)
        y = mx.zeros((), dtype=x.dtype)
        for start in range(0, weight.shape[2], TAPS_AT_ONCE):
            taps = range(start, min(start + TAPS_AT_ONCE, weight.shape[2]))
            part = [x[:, :, (t * self.dilation) :][:, :, : last : self.stride] for t in taps]
            y = y + mx.concatenate(part, axis=-1) @ weight[:, :, taps.start : taps.stop].reshape(
                self.groups, -1, len(taps) * width
            ).transpose(0, 2, 1)
        return y.transpose(0, 2, 1, 3).reshape(batch, size, -1)


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
