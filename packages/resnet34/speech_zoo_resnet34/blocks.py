"""The residual blocks of the ResNet family, with the BatchNorms folded in.

Images are (B, F, T, C); the masks (B, 1, T, 1), of a block's input and of its output, keep padded frames at zero.

Reference: wespeaker/models/resnet.py, samresnet.py, res2net.py, gemini_dfresnet.py.
"""

import mlx.core as mx
import mlx.nn as nn
from speech_zoo_core.layers import masked, relu

EXPANSION = {"basic": 1, "bottleneck": 4, "simam": 1, "res2net": 2, "inverted": 1}
# Of each stage, over frequency and over time; DF-ResNet's is the T14c of Golden Gemini.
STRIDES = {
    **dict.fromkeys(("basic", "bottleneck", "simam", "res2net"), ((1, 1), (2, 2), (2, 2), (2, 2))),
    "inverted": ((2, 1), (2, 2), (2, 1), (2, 1)),
}
SIMAM_LAMBDA = 1e-4
RES2NET_CLIP = 20.0  # upper end of the ReLU in Res2Net's blocks
INVERTED_WIDTH = 4  # how much wider an inverted bottleneck is inside


class Block(nn.Module):
    """BasicBlock (two 3x3 convolutions), with SimAM's attention or without, or Bottleneck (1x1, 3x3, 1x1)."""

    def __init__(self, kind: str, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        out = planes * EXPANSION[kind]
        self.attention = kind == "simam"
        if kind == "bottleneck":
            self.conv1 = nn.Conv2d(in_planes, planes, 1)
            self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1)
            self.conv3 = nn.Conv2d(planes, out, 1)
        else:
            self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1)
        self.shortcut = [nn.Conv2d(in_planes, out, 1, stride)] if stride != 1 or in_planes != out else []

    def __call__(self, x: mx.array, mask: mx.array | None, mask_out: mx.array | None) -> mx.array:
        """(B, F, T, C) to (B, F', T', C')."""
        out = relu(self.conv1(x))
        out = self.conv2(masked(out, mask if "conv3" in self else mask_out))
        if "conv3" in self:
            out = self.conv3(relu(out))
        if self.attention:
            out = simam(out, mask_out)
        return masked(relu(out + (self.shortcut[0](x) if self.shortcut else x)), mask_out)


def simam(x: mx.array, mask: mx.array | None) -> mx.array:
    """Weigh every place of a channel by how far it stands out from the channel's others; without parameters.

    Yang et al., "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks", ICML 2021.
    """
    full = x.astype(mx.float32)
    ones = mx.ones((1, 1, x.shape[2], 1)) if mask is None else mask.astype(mx.float32)
    count = x.shape[1] * mx.sum(ones, axis=2, keepdims=True)
    mean = mx.sum(masked(full, mask), axis=(1, 2), keepdims=True) / count
    squares = mx.square(full - mean)
    variance = mx.sum(masked(squares, mask), axis=(1, 2), keepdims=True) / (count - 1)
    return (full * mx.sigmoid(squares / (4 * (variance + SIMAM_LAMBDA)) + 0.5)).astype(x.dtype)


class Res2NetBlock(nn.Module):
    """Pointwise, a 3x3 convolution on one half of the channels, which the other half passes by, pointwise.

    Gao et al., "Res2Net: A New Multi-scale Backbone Architecture", TPAMI 2021.
    """

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        width, out = planes // 2, planes * EXPANSION["res2net"]
        self.stride = stride
        self.conv1 = nn.Linear(in_planes, 2 * width)
        self.convs = [nn.Conv2d(width, width, 3, 1, 1)]
        self.conv3 = nn.Linear(2 * width, out)
        self.shortcut = [nn.Linear(in_planes, out)] if stride != 1 or in_planes != out else []

    def __call__(self, x: mx.array, mask: mx.array | None, mask_out: mx.array | None) -> mx.array:
        """(B, F, T, C) to (B, F', T', C')."""
        x = x[:, :: self.stride, :: self.stride]
        first, second = mx.split(masked(_clipped(self.conv1(x)), mask_out), 2, axis=-1)
        out = self.conv3(mx.concatenate([_clipped(self.convs[0](first)), second], axis=-1))
        return masked(_clipped(out + (self.shortcut[0](x) if self.shortcut else x)), mask_out)


class InvertedBottleneck(nn.Module):
    """Pointwise to four times the channels, a 3x3 convolution of each channel, pointwise back.

    Liu et al., "DF-ResNet: Boosting Speaker Verification Performance with Depth-First Design", Interspeech 2022.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = INVERTED_WIDTH * channels
        self.conv1 = nn.Linear(channels, inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, 1, 1, groups=inner)
        self.conv3 = nn.Linear(inner, channels)

    def __call__(self, x: mx.array, mask: mx.array | None, mask_out: mx.array | None) -> mx.array:
        """(B, F, T, C) to (B, F, T, C)."""
        out = self.conv3(relu(self.conv2(masked(relu(self.conv1(x)), mask_out))))
        return masked(relu(out + x), mask_out)


class Downsampling(nn.Module):
    """The convolution that opens a stage of DF-ResNet."""

    def __init__(self, in_planes: int, planes: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_planes, planes, 3, stride, 1)

    def __call__(self, x: mx.array, mask: mx.array | None, mask_out: mx.array | None) -> mx.array:
        """(B, F, T, C) to (B, F', T', C')."""
        return masked(self.conv(x), mask_out)


def stage(kind: str, in_planes: int, planes: int, count: int, stride: tuple[int, int]) -> list[nn.Module]:
    """The blocks of a stage; DF-ResNet's downsampling stands before its `count` blocks."""
    if kind == "inverted":
        return [Downsampling(in_planes, planes, stride), *(InvertedBottleneck(planes) for _ in range(count))]
    blocks: list[nn.Module] = []
    for j in range(count):
        step = 1 if j else stride[0]
        blocks.append(
            Res2NetBlock(in_planes, planes, step) if kind == "res2net" else Block(kind, in_planes, planes, step)
        )
        in_planes = planes * EXPANSION[kind]
    return blocks


def _clipped(x: mx.array) -> mx.array:
    return mx.clip(x, 0, RES2NET_CLIP)
