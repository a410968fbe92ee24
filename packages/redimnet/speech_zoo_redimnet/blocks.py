"""The blocks of ReDimNet and ReDimNet2: over maps (B, T, F, C) of time and frequency, and over sequences (B, T, C).

The mask (B, T, 1…) is 1 where a frame belongs to its clip; None if all do.
"""

import mlx.core as mx
import mlx.nn as nn
from speech_zoo_core.layers import ScaleShift, gelu, gelu_tanh, masked, relu
from speech_zoo_core.pooling import mean_of

HEADS = 4
KERNELS = (7, 19, 31, 59)  # of the convolutions over time before the attention
GROUP_NORM_EPS = 1e-5
LAYER_NORM_EPS = 1e-6


class Aggregate(nn.Module):
    """The sum of all outputs so far, each channel with shares of its own."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.w = mx.zeros((count, width))

    def __call__(self, outputs: list[mx.array]) -> mx.array:
        """Several (B, T, C) to one."""
        shares = mx.softmax(self.w.astype(mx.float32), axis=0).astype(outputs[0].dtype)
        total = outputs[0] * shares[0]
        for i, output in enumerate(outputs[1:], 1):
            total = total + output * shares[i]
        return total


class ConvNeXt(nn.Module):
    """A convolution in groups, the BatchNorm folded in, GELU and a pointwise layer, around a residual connection."""

    def __init__(self, channels: int, kernel: int | tuple[int, int], groups: int) -> None:
        super().__init__()
        if isinstance(kernel, int):
            conv: nn.Module = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=groups)
        else:
            around = (kernel[0] // 2, kernel[1] // 2)
            conv = nn.Conv2d(channels, channels, kernel, padding=around, groups=groups)
        self.dwconvs = [conv]
        self.pwconv1 = nn.Linear(channels, channels)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(B, T, …, C) to the same shape; the mask (B, T, 1…) keeps padded frames at zero."""
        return x + self.pwconv1(gelu(self.dwconvs[0](masked(x, mask))))


class ResBasic(nn.Module):
    """Two convolutions in groups, each with a pointwise layer; with `rows`, frequencies are weighed, too."""

    def __init__(self, channels: int, groups: int, rows: int | None) -> None:
        super().__init__()
        for i in (1, 2):
            self[f"conv{i}"] = nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False)
            self[f"conv{i}pw"] = nn.Linear(channels, channels)
        self.bn1 = ScaleShift(channels)
        if rows is not None:
            hidden = min(64, max(channels, 32))
            self.se = {"squeeze": nn.Linear(rows, hidden), "exitation": nn.Linear(hidden, rows)}

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(B, T, F, C) to (B, T, F, C)."""
        out = self.bn1(relu(self.conv1pw(self.conv1(masked(x, mask)))))
        out = self.conv2pw(self.conv2(masked(out, mask)))
        if "se" in self:
            frames = mx.mean(out.astype(mx.float32), axis=3)
            if mask is None:
                mean = mx.sum(frames, axis=1) / frames.shape[1]
            else:
                mean = mx.sum(frames * mask[..., 0], axis=1) / mx.sum(mask[..., 0], axis=1)
            hidden = relu(self.se["squeeze"](mean.astype(x.dtype)))
            out = out * mx.sigmoid(self.se["exitation"](hidden))[:, None, :, None]
        return relu(out + x)


class Encoder(nn.Module):
    """A transformer layer that normalises after each of its two parts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = {f"{name}_proj": nn.Linear(width, width) for name in ("q", "k", "v", "out")}
        self.layer_norm = nn.LayerNorm(width, LAYER_NORM_EPS)
        self.feed_forward = {
            "intermediate_dense": nn.Linear(width, width),
            "output_dense": nn.Linear(width, width),
        }
        self.final_layer_norm = nn.LayerNorm(width, LAYER_NORM_EPS)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(B, T, C) to (B, T, C); frames attend to those that the mask (B, T, 1) leaves."""
        q, k, v = (
            self.attention[f"{name}_proj"](x).reshape(*x.shape[:2], HEADS, -1).transpose(0, 2, 1, 3) for name in "qkv"
        )
        attended = None if mask is None else mask[:, None, None, :, 0] > 0
        heads = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=attended)
        joined = heads.transpose(0, 2, 1, 3).reshape(*x.shape)
        x = self.layer_norm(x + self.attention["out_proj"](joined))
        hidden = gelu_tanh(self.feed_forward["intermediate_dense"](x))
        return self.final_layer_norm(x + self.feed_forward["output_dense"](hidden))


class TimeContext(nn.Module):
    """Convolutions over time and a transformer layer on fewer channels, around a residual connection."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.red_dim_conv = [nn.Linear(channels, width), nn.LayerNorm(width, LAYER_NORM_EPS)]
        self.tcm = [*(ConvNeXt(width, kernel, width) for kernel in KERNELS), Encoder(width)]
        self.exp_dim_conv = nn.Linear(width, channels)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(B, T, C) to (B, T, C)."""
        y = self.red_dim_conv[1](self.red_dim_conv[0](x))
        for part in self.tcm:
            y = part(y, mask)
        return x + self.exp_dim_conv(y)


class GroupNorm(nn.Module):
    """Zero mean and unit variance of each group of neighbouring channels over a whole clip."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = mx.ones((channels,))
        self.bias = mx.zeros((channels,))

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(B, T, C) to (B, T, C)."""
        y = x.astype(mx.float32).reshape(*x.shape[:2], self.groups, -1)
        y = y - mean_of(mx.mean(y, axis=3), mask)[..., None]
        y = y * mx.rsqrt(mean_of(mx.mean(mx.square(y), axis=3), mask) + GROUP_NORM_EPS)[..., None]
        return y.reshape(*x.shape).astype(x.dtype) * self.weight + self.bias
