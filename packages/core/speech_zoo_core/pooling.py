"""Poolings over time under WeSpeaker's names: the frames (B, T, C) of each clip to one vector (B, D), in float32.

The mask (B, T, 1) is 1 where a frame belongs to its clip; None if all do.

Reference: wespeaker/models/pooling_layers.py.
"""

from typing import Any, Literal, TypeAlias

import mlx.core as mx
import mlx.nn as nn

from .layers import relu

PoolingName: TypeAlias = Literal["TSTP", "ASTP", "ASP", "TAP", "TSDP", "MHASTP", "MQMHASTP"]
ASP_FLOOR = 1e-5
EPS = 1e-7  # added to a variance before its root, or its floor where frames are weighted
BOTTLENECK = 128  # of ASTP's attention
HEAD_BOTTLENECK = 64  # of a head of the multi-head attentions
HEADS, QUERIES = {"MHASTP": 2, "MQMHASTP": 8}, 2
# How many values each channel gives.
VALUES = {"TAP": 1, "TSDP": 1, "TSTP": 2, "ASTP": 2, "ASP": 2, "MHASTP": 2, "MQMHASTP": 2 * QUERIES}


class TAP(nn.Module):
    """Temporal average pooling: the mean alone.

    Li et al., "Deep Speaker: an End-to-End Neural Speaker Embedding System", 2017.
    """

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        return mean_of(x.astype(mx.float32), mask)[:, 0]


class TSDP(nn.Module):
    """Temporal standard deviation pooling: the deviation alone.

    Wang et al., "Revisiting the Statistics Pooling Layer in Deep Speaker Embedding Learning", ISCSLP 2021.
    """

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        return mean_and_deviation(x, mask)[1][:, 0]


class TSTP(nn.Module):
    """Temporal statistics pooling: mean and deviation.

    Snyder et al., "X-Vectors: Robust DNN Embeddings for Speaker Recognition", ICASSP 2018.
    """

    def __init__(self, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        return mx.concatenate([part[:, 0] for part in mean_and_deviation(x, mask, self.eps)], axis=-1)


class ASTP(nn.Module):
    """Attentive statistics pooling: mean and deviation, each channel weighted over time by an attention of its own.

    Okabe et al., "Attentive Statistics Pooling for Deep Speaker Embedding", Interspeech 2018; with the clip's own mean
    and deviation as `global_context`, as in ECAPA-TDNN (Desplanques et al., Interspeech 2020).
    """

    def __init__(self, channels: int, global_context: bool = False) -> None:
        super().__init__()
        self.global_context = global_context
        self.linear1 = nn.Linear(channels * (3 if global_context else 1), BOTTLENECK)
        self.linear2 = nn.Linear(BOTTLENECK, channels)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        context = [part.astype(x.dtype) for part in mean_and_deviation(x, mask)] if self.global_context else []
        return weighted_statistics(x, self.linear2(mx.tanh(linear_of_parts(self.linear1, [x, *context]))), mask)


class ASP(nn.Module):
    """ASTP with a ReLU and a BatchNorm in its attention; the BatchNorm is folded into what follows it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, BOTTLENECK)
        self.linear2 = nn.Linear(BOTTLENECK, channels)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        return weighted_statistics(x, self.linear2(relu(self.linear1(x))), mask, ASP_FLOOR)


class MHASTP(nn.Module):
    """Multi-head attentive statistics pooling: each head weighs its part of the channels.

    India et al., "Self Multi-Head Attention for Speaker Recognition", Interspeech 2019.

    Args:
        channels: of the frames, which the heads share evenly.
        heads: how many.
        each_channel: whether every channel has a weight of its own, instead of one for its head.
    """

    def __init__(self, channels: int, heads: int = HEADS["MHASTP"], each_channel: bool = False) -> None:
        super().__init__()
        width = channels // heads
        self.heads_att_trans = [
            {
                "att_0": nn.Linear(width, HEAD_BOTTLENECK),
                "att_1": nn.Linear(HEAD_BOTTLENECK, width if each_channel else 1),
            }
            for _ in range(heads)
        ]

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        chunks = mx.split(x, len(self.heads_att_trans), axis=-1)
        pooled = []
        for chunk, head in zip(chunks, self.heads_att_trans, strict=True):
            pooled.append(weighted_statistics(chunk, head["att_1"](mx.tanh(head["att_0"](chunk))), mask))
        return mx.concatenate(pooled, axis=-1)


class MQMHASTP(nn.Module):
    """Multi-query multi-head attentive statistics pooling: several of the above, a weight for every channel.

    Zhao et al., "Multi-Query Multi-Head Attention Pooling and Inter-Topk Penalty for Speaker Verification", ICASSP
    2022.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.n_query = [MHASTP(channels, HEADS["MQMHASTP"], each_channel=True) for _ in range(QUERIES)]

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        return mx.concatenate([query(x, mask) for query in self.n_query], axis=-1)


def pooling(name: PoolingName, channels: int, global_context: bool = False, eps: float = EPS) -> Any:
    """The pooling of that name for frames of so many channels; `global_context` is of ASTP alone, `eps` of TSTP."""
    if name == "ASTP":
        return ASTP(channels, global_context)
    if name == "ASP":
        return ASP(channels)
    if name in HEADS:
        return MHASTP(channels) if name == "MHASTP" else MQMHASTP(channels)
    return TSTP(eps) if name == "TSTP" else {"TAP": TAP, "TSDP": TSDP}[name]()


def fits(name: PoolingName, channels: int) -> bool:
    """Whether the heads of a pooling share so many channels evenly."""
    return channels % HEADS.get(name, 1) == 0


def frames_of(image: mx.array) -> mx.array:
    """(B, F, T, C) to frames (B, T, C * F), the channel outermost."""
    return image.transpose(0, 2, 3, 1).reshape(image.shape[0], image.shape[2], -1)


def counted(x: mx.array, mask: mx.array | None) -> mx.array:
    """Frames of each clip (B or 1, 1, 1)."""
    # Summed, not taken from the shape: where T is a number that a model has anyway, a trace holds one for both.
    ones = mx.ones((1, x.shape[1], 1)) if mask is None else mask.astype(mx.float32)
    return mx.sum(ones, axis=1, keepdims=True)


def mean_of(x: mx.array, mask: mx.array | None) -> mx.array:
    """Mean over time of float32 frames: (B, T, C) to (B, 1, C)."""
    total = mx.sum(x if mask is None else x * mask.astype(mx.float32), axis=1, keepdims=True)
    return total / counted(x, mask)


def mean_and_deviation(x: mx.array, mask: mx.array | None, eps: float = EPS) -> tuple[mx.array, mx.array]:
    """Mean and root of the unbiased variance plus `eps` over time, in float32: (B, T, C) to (B, 1, C) each."""
    x = x.astype(mx.float32)
    mean = mean_of(x, mask)
    squares = mx.square(x - mean)
    total = mx.sum(squares if mask is None else squares * mask.astype(mx.float32), axis=1, keepdims=True)
    return mean, mx.sqrt(total / (counted(x, mask) - 1) + eps)


def weighted_statistics(x: mx.array, logits: mx.array, mask: mx.array | None, floor: float = EPS) -> mx.array:
    """Mean and deviation under the softmax over time of `logits` (B, T, C or 1): (B, T, C) to (B, 2*C) float32."""
    x, logits = x.astype(mx.float32), logits.astype(mx.float32)
    if mask is not None:
        logits = mx.where(mask > 0, logits, -mx.inf)
    weights = mx.softmax(logits, axis=1)
    mean = mx.sum(weights * x, axis=1)
    variance = mx.sum(weights * mx.square(x - mean[:, None]), axis=1)
    return mx.concatenate([mean, mx.sqrt(mx.maximum(variance, floor))], axis=-1)


def linear_of_parts(layer: nn.Module, parts: list[mx.array]) -> mx.array:
    """The linear layer of parts (B, T or 1, C) side by side; a part that is the same for all frames is taken once."""
    if len(parts) == 1 or isinstance(layer, nn.QuantizedLinear):
        return layer(mx.concatenate([mx.broadcast_to(part, parts[0].shape) for part in parts], axis=-1))
    weights = mx.split(layer.weight, len(parts), axis=1)
    once = sum((part @ weight.T for part, weight in zip(parts[1:], weights[1:], strict=True)), layer.bias)
    return parts[0] @ weights[0].T + once
