"""Convolutions as matrix products on a CPU, where MLX's own are slow; MLX's elsewhere.

MLX's CPU backend copies every patch on one thread, and takes a naive loop for dilated and grouped ones. Parameters and
results are those of `mlx.nn`. Each layer keeps its weight in the order that its product needs.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .tiles import cpu_layers, each

WINOGRAD_CHANNELS = 64  # below it, Winograd's transforms cost more than they save
TAPS_AT_ONCE = 128  # of a grouped convolution, side by side in one product

# Winograd's F(4, 3), interpolated at 0, 1, -1, 2, -2 and infinity: Lavin and Gray, "Fast Algorithms for Convolutional
# Neural Networks", CVPR 2016. In two dimensions each is its own Kronecker product, one matrix product for all tiles.
WEIGHT = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]]
WEIGHT += [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
INPUT = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
INPUT += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


WEIGHT_2D, INPUT_2D, OUTPUT_2D = (np.kron(one, one).astype(np.float32) for one in (WEIGHT, INPUT, OUTPUT))


class Conv1d(nn.Conv1d):
    """`mlx.nn.Conv1d`: (B, T, C) to (B, T', O)."""

    def __call__(self, x: mx.array) -> Any:
        if not cpu_layers():
            return super().__call__(x)
        x = mx.pad(x, [(0, 0), (self.padding, self.padding), (0, 0)]) if self.padding else x
        if self.groups > 1:
            y = self._grouped(x)
        elif self.stride == 1 and self.weight.shape[0] < self.weight.shape[2]:
            y = self._product_first(x)
        else:
            y = self._product(x)
        return y + self.bias if "bias" in self else y

    def _product(self, x: mx.array) -> mx.array:
        """One product with the taps side by side."""
        batch, frames, channels = x.shape
        taps = self.weight.shape[1]
        size = (frames - (taps - 1) * self.dilation - 1) // self.stride + 1
        shape = (batch, size, taps, channels)
        strides = (frames * channels, self.stride * channels, self.dilation * channels, 1)
        patches = mx.as_strided(x, shape, strides).reshape(batch, size, -1)
        return patches @ _kept(self, lambda weight: weight.reshape(len(weight), -1).T)

    def _product_first(self, x: mx.array) -> mx.array:
        """One product for all taps, of whose few channels shifted parts are added up."""
        out, taps = self.weight.shape[:2]
        size = x.shape[1] - (taps - 1) * self.dilation
        y = x @ _kept(self, lambda weight: weight.transpose(2, 1, 0).reshape(weight.shape[2], -1))
        parts = [y[:, i * self.dilation :][:, :size, i * out : (i + 1) * out] for i in range(taps)]
        return sum(parts[1:], parts[0])

    def _grouped(self, x: mx.array) -> mx.array:
        """A product for each group and some of the taps."""
        batch, frames = x.shape[:2]
        taps, width = self.weight.shape[1:]
        size = (frames - (taps - 1) * self.dilation - 1) // self.stride + 1
        weight = _kept(self, lambda weight: weight.reshape(self.groups, -1, taps * width).transpose(0, 2, 1))
        shape, strides = (batch, size), (frames * width, self.stride * width)

        def group(i: int) -> mx.array:
            mine = mx.contiguous(x[:, :, i * width : (i + 1) * width]).reshape(-1)
            y = mx.zeros((), dtype=x.dtype)
            for start in range(0, taps, TAPS_AT_ONCE):
                count = min(TAPS_AT_ONCE, taps - start)
                patches = mx.as_strided(
                    mine,
                    (*shape, count, width),
                    (*strides, self.dilation * width, 1),
                    start * self.dilation * width,
                )
                rows = weight[i, start * width : (start + count) * width]
                y = y + patches.reshape(*shape, -1) @ rows
            return y

        return mx.concatenate(each(group, range(self.groups)), axis=-1)


class Conv2d(nn.Conv2d):
    """`mlx.nn.Conv2d`: (B, H, W, C) to (B, H', W', O)."""

    def __call__(self, x: mx.array) -> Any:
        if self.dilation not in (1, (1, 1)) or self.groups != 1 or not cpu_layers():
            return super().__call__(x)
        kernel, (top, left), (down, right) = self.weight.shape[1:3], self.padding, self.stride
        if kernel == (1, 1):
            x = mx.pad(x, [(0, 0), (top, top), (left, left), (0, 0)]) if top or left else x
            y = x[:, ::down, ::right] @ _kept(self, lambda weight: weight.reshape(len(weight), -1).T)
        elif right == 1 and min(self.weight.shape[0], x.shape[3]) > 1:
            many = min(self.weight.shape[0], x.shape[3]) >= WINOGRAD_CHANNELS
            winograd = many and kernel == (3, 3) and down == 1 and x.dtype == mx.float32
            y = self._winograd(x) if winograd else self._shifted(x)
        else:
            x = mx.pad(x, [(0, 0), (top, top), (left, left), (0, 0)])
            batch, height, width, channels = x.shape
            rows, columns = (height - kernel[0]) // down + 1, (width - kernel[1]) // right + 1
            row = width * channels
            patches = mx.as_strided(
                x,
                (batch, rows, columns, kernel[0], kernel[1] * channels),
                (height * row, down * row, right * channels, row, 1),
            ).reshape(batch, rows, columns, -1)
            y = patches @ _kept(self, lambda weight: weight.reshape(len(weight), -1).T)
        return y + self.bias if "bias" in self else y

    def _shifted(self, x: mx.array) -> mx.array:
        """A product for each tap, on a contiguous run of the flattened image: of every `down`-th row, for a stride."""
        (top, left), down, kernel = self.padding, self.stride[0], self.weight.shape[1:3]
        batch, height, width, channels = x.shape
        rows, columns = (height + 2 * top - kernel[0]) // down + 1, width + 2 * left - kernel[1] + 1
        tall, wide = -(-(height + 2 * top) // down), width + 2 * left
        x = mx.pad(x, [(0, 0), (top, tall * down - height - top), (left, left), (0, 0)])
        x = mx.contiguous(x.reshape(batch, tall, down, wide, channels).transpose(2, 0, 1, 3, 4))
        images = x.reshape(down, -1, channels)
        weight = _kept(self, lambda weight: weight.transpose(1, 2, 3, 0))
        size = images.shape[1] - (kernel[0] - 1) // down * wide - (kernel[1] - 1)
        y = mx.zeros((), dtype=x.dtype)
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                start = i // down * wide + j
                y = mx.addmm(y, images[i % down, start : start + size], weight[i, j])
        # Positions that wrap around an edge are cut off.
        y = mx.pad(y, [(0, images.shape[1] - size), (0, 0)]).reshape(batch, tall, wide, -1)
        return y[:, :rows, :columns]

    def _winograd(self, x: mx.array) -> mx.array:
        """F(4x4, 3x3) on tiles of 6 by 6 that overlap by 2."""
        weight = _kept(
            self, lambda weight: (mx.array(WEIGHT_2D) @ weight.reshape(len(weight), 9, -1)).transpose(1, 2, 0)
        )
        (top, left), (batch, height, width, channels) = self.padding, x.shape
        rows, columns = height + 2 * top - 2, width + 2 * left - 2
        down, right = -(-rows // 4), -(-columns // 4)
        x = mx.pad(x, [(0, 0), (top, top + 4 * down - rows), (left, left + 4 * right - columns), (0, 0)])
        row, image = x.shape[2] * channels, x.shape[1] * x.shape[2] * channels
        strides = (row, channels, image, 4 * row, 4 * channels, 1)
        tiles = mx.as_strided(x, (6, 6, batch, down, right, channels), strides).reshape(36, -1)
        products = (mx.array(INPUT_2D) @ tiles).reshape(36, -1, channels) @ weight
        y = (mx.array(OUTPUT_2D) @ products.reshape(36, -1)).reshape(4, 4, batch, down, right, -1)
        y = y.transpose(2, 3, 0, 4, 1, 5).reshape(batch, 4 * down, 4 * right, -1)
        return y[:, :rows, :columns]


def _kept(layer: nn.Module, order: Callable[[mx.array], mx.array]) -> mx.array:
    """The layer's weight as `order` makes it, made once for each weight that the layer is given.

    In training nothing is kept: the weight changes, and its gradient must pass.
    """
    weight = layer.weight
    if layer.training or weight.dtype != mx.float32:
        return order(weight)
    # An array that is changed in place stays the same object, but gets other memory while `alias` holds the old.
    address = np.array(weight, copy=False).ctypes.data
    key = f"_ordered_by_{order.__qualname__}"
    kept = layer.get(key)
    if kept is None or kept[0] != address:
        alias, ordered = weight.reshape(weight.shape), mx.contiguous(order(weight))
        mx.eval(alias, ordered)
        kept = layer[key] = address, alias, ordered
    ordered_weight: mx.array = kept[2]
    return ordered_weight
