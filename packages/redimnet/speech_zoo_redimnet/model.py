"""ReDimNet speaker embeddings, B0 to B6: maps of time and frequency, and sequences, of one and the same size by turns.

Reference: Yakovlev et al., "Reshape Dimensions Network for Speaker Recognition", Interspeech 2024; redimnet/model.py of
IDRnD's repository and wespeaker/models/redimnet.py.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from speech_zoo_core.checkpoint.weights import (
    Arrays,
    fold_batch_norm,
    fold_into_next,
    scale_shift_of,
    to_mlx_layout,
    to_numpy,
)
from speech_zoo_core.errors import ConfigError, InputError
from speech_zoo_core.layers import ScaleShift, gelu, gelu_tanh, masked, relu, time_mask
from speech_zoo_core.pooling import VALUES, PoolingName, fits, pooling
from speech_zoo_core.tasks.audio_model import AudioModel
from speech_zoo_core.tasks.speaker import SpeakerConfig

HEADS = 4
KERNELS = (7, 19, 31, 59)  # of the convolutions over time before the attention
LAYER_NORM_EPS = 1e-6
SQUEEZE_EPS = 1e-6  # of the BatchNorm where a stage's channels are squeezed back
DROPPED = ("projection.", "cls_head.", "spec.")  # the training loss; constants of the features


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: `stride` over frequency, `num_blocks` of `conv_exp` times the channels.

    `att_block_red` is what the width of the part over time is divided by; None: there is no such part.
    """

    stride: int
    num_blocks: int
    conv_exp: int = 1
    att_block_red: int | None = None


@dataclass(frozen=True, kw_only=True)
class ModelConfig(SpeakerConfig):
    """Names are those of the originals.

    Attributes:
        feat_dim: F, mels; the strides of all stages divide it.
        C: channels of the first map; each stage multiplies them by its stride.
        block_2d_type: what the blocks over time and frequency are.
        group_divisor: channels in each group of their convolutions.
        stages_setup: the stages.
        out_channels: width before the pooling; None: C * feat_dim.
        global_context_att: whether the attention of ASTP sees the mean and the deviation of the clip.
    """

    feat_dim: int = 72
    C: int
    block_2d_type: Literal["convnext_like", "basic_resnet", "basic_resnet_fwse"]
    group_divisor: int
    stages_setup: list[Stage]
    out_channels: int | None = None
    pooling_func: PoolingName = "ASTP"
    global_context_att: bool = True
    two_emb_layer: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = [self.C, self.group_divisor, self.out_channels or 1]
        for stage in self.stages_setup:
            numbers += [stage.stride, stage.num_blocks + 1, stage.conv_exp, stage.att_block_red or 1]
        if min(numbers) < 1 or not self.stages_setup:
            raise ConfigError("C, group_divisor, out_channels and the numbers of stages_setup must be positive")
        if self.feat_dim != self.front_end.n_mels:
            raise ConfigError(f"feat_dim {self.feat_dim} must equal front_end.n_mels {self.front_end.n_mels}")
        if not fits(self.pooling_func, self.out_channels or self.width):
            raise ConfigError(f"the heads of {self.pooling_func} cannot share the channels evenly")
        channels, rows = self.C, self.feat_dim
        for stage in self.stages_setup:
            channels, rest = channels * stage.stride, rows % stage.stride
            rows //= stage.stride
            if rest or any(x % (groups_of(x, self) or x + 1) for x in (channels, channels * stage.conv_exp)):
                raise ConfigError("the strides of stages_setup must divide feat_dim, and the groups every width")
            width = self.width // (stage.att_block_red or 1)
            if stage.att_block_red and (width < HEADS or width % HEADS):
                raise ConfigError(f"att_block_red {stage.att_block_red} leaves {width} channels, no multiple of 4")

    @property
    def width(self) -> int:
        """Of a frame, whatever its shape."""
        return self.C * self.feat_dim

    def rows(self, i: int) -> int:
        """Frequencies of the map in a stage."""
        return self.feat_dim // math.prod(stage.stride for stage in self.stages_setup[: i + 1])

    @property
    def layers(self) -> int:
        """Layers with weights, at least."""
        return sum(stage.num_blocks for stage in self.stages_setup)


def groups_of(channels: int, config: ModelConfig) -> int:
    """Groups of a convolution of so many channels: of `group_divisor` channels, or, of the last few, more."""
    return channels // config.group_divisor


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

    def __init__(self, channels: int, kernel: int, groups: int, image: bool) -> None:
        super().__init__()
        kind: Any = nn.Conv2d if image else nn.Conv1d
        self.dwconvs = [kind(channels, channels, kernel, padding=kernel // 2, groups=groups)]
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
        size, depth = x.shape[1], x.shape[2] // HEADS
        parts = {}
        for name in "qkv":
            heads = self.attention[f"{name}_proj"](x).reshape(len(x), size, HEADS, depth)
            parts[name] = heads.transpose(0, 2, 1, 3)
        logits = ((parts["q"] * depth**-0.5) @ parts["k"].swapaxes(2, 3)).astype(mx.float32)
        if mask is not None:
            logits = mx.where(mask[:, None, None, :, 0] > 0, logits, -mx.inf)
        heads = mx.softmax(logits, axis=-1).astype(x.dtype) @ parts["v"]
        joined = heads.transpose(0, 2, 1, 3).reshape(*x.shape)
        x = self.layer_norm(x + self.attention["out_proj"](joined))
        hidden = gelu_tanh(self.feed_forward["intermediate_dense"](x))
        return self.final_layer_norm(x + self.feed_forward["output_dense"](hidden))


class TimeContext(nn.Module):
    """Convolutions over time and a transformer layer on fewer channels, around a residual connection."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.red_dim_conv = [nn.Linear(channels, width), nn.LayerNorm(width, LAYER_NORM_EPS)]
        self.tcm = [*(ConvNeXt(width, kernel, width, image=False) for kernel in KERNELS), Encoder(width)]
        self.exp_dim_conv = nn.Linear(width, channels)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(B, T, C) to (B, T, C)."""
        y = self.red_dim_conv[1](self.red_dim_conv[0](x))
        for part in self.tcm:
            y = part(y, mask)
        return x + self.exp_dim_conv(y)


class Model(nn.Module, AudioModel):
    """Log-mel features to speaker embeddings. A map is (B, T, F, C), a sequence the same numbers as (B, T, F * C)."""

    min_frames = 2  # the least that has a variance

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: dict[str, Any] = {
            "stem": [nn.Conv2d(1, config.C, 3, padding=1), nn.LayerNorm(config.C, LAYER_NORM_EPS)]
        }
        channels = config.C
        for i, stage in enumerate(config.stages_setup):
            self.backbone[f"stage{i}"] = _stage(config, i, channels)
            channels *= stage.stride
        self.backbone["fin_wght1d"] = Aggregate(len(config.stages_setup) + 1, config.width)
        width = config.width
        if config.out_channels is not None:
            self.backbone["mfa"] = [nn.Linear(width, config.out_channels)]
            width = config.out_channels
        self.pool = pooling(config.pooling_func, width, config.global_context_att)
        self.linear = nn.Linear(VALUES[config.pooling_func] * width, config.embed_dim)
        if config.two_emb_layer:
            self.seg_2 = nn.Linear(config.embed_dim, config.embed_dim)

    def __call__(self, x: mx.array, lengths: mx.array | None = None) -> mx.array:
        """Embeddings before normalisation.

        Args:
            x: features (B, T, F), or waveforms (N,) or (B, N) at the front end's rate.
            lengths: (B,) frames of each clip, where clips were padded to T; None if all fill it.

        Returns:
            (B, D) in the type of the weights.
        """
        if x.ndim < 3:
            x = self.waveform_features(x, lengths)
        if x.ndim != 3 or x.shape[1] < self.min_frames or x.shape[2] != self.config.feat_dim:
            raise InputError(
                f"an input of shape {x.shape} is not (B, T, {self.config.feat_dim}) with T of {self.min_frames} or more"
            )
        self._check_lengths(lengths, x.shape[1], len(x))
        stem = self.backbone["stem"]
        x = x.astype(stem[0].weight.dtype)
        mask = None if lengths is None else time_mask(lengths, x.shape[1], x.dtype)[..., None]
        outputs = [stem[1](stem[0](masked(x, mask)[..., None])).reshape(*x.shape[:2], -1)]
        for i in range(len(self.config.stages_setup)):
            outputs.append(_run(self.config, i, self.backbone[f"stage{i}"], outputs, mask))
        x = self.backbone["fin_wght1d"](outputs)
        if "mfa" in self.backbone:
            x = self.backbone["mfa"][0](x)
        embedding = self.linear(self.pool(x, mask).astype(x.dtype))
        return self.seg_2(relu(embedding)) if self.config.two_emb_layer else embedding

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Source tensors under IDRnD's names, or converted ones, to converted ones; a fixed point.

        Folds the BatchNorms beside a layer, turns the others into scale and shift, drops `DROPPED`, the counters, and
        the first stage's share of its only input.
        """
        kept = {name: x for name, x in weights.items() if not name.startswith(DROPPED)}
        if not any(name.endswith("running_var") for name in kept):
            return to_mlx_layout(to_numpy(kept), self, source_layout=False)
        arrays = to_numpy({name: x for name, x in kept.items() if not name.endswith("num_batches_tracked")})
        arrays.pop("backbone.stage0.0.w", None)
        for norm in sorted(name.removesuffix(".running_var") for name in arrays if name.endswith(".running_var")):
            _fold(arrays, norm)
        for name, x in arrays.items():
            if name.endswith(".w") and x.ndim == 4:
                arrays[name] = x.reshape(x.shape[1], -1)
            elif re.fullmatch(r"backbone\.stage\d+\.2\.weight", name) and x.ndim == 4:  # neighbours in frequency
                arrays[name] = np.ascontiguousarray(x[..., 0].swapaxes(1, 2)).reshape(len(x), -1)
            elif x.ndim == 4:  # of (…, F, T), where ours is (…, T, F)
                arrays[name] = x.swapaxes(2, 3)
        return to_mlx_layout(arrays, self, source_layout=True)


def _stage(config: ModelConfig, i: int, channels: int) -> list[Any]:
    """The parts of a stage as IDRnD numbers them."""
    stage = config.stages_setup[i]
    inner = channels * stage.stride
    wide, rows = inner * stage.conv_exp, config.rows(i)
    parts: list[Any] = [Aggregate(i + 1, config.width) if i else nn.Identity(), nn.Identity()]
    parts.append(nn.Linear(channels * stage.stride, wide))
    for _ in range(stage.num_blocks):
        if config.block_2d_type == "convnext_like":
            block: nn.Module = ConvNeXt(wide, 3, groups_of(wide, config), image=True)
        else:
            block = ResBasic(wide, groups_of(wide, config), rows if config.block_2d_type.endswith("fwse") else None)
        parts.append({"conv_block": block})
    if stage.conv_exp != 1:
        squeeze = nn.Conv2d(wide, inner, 3, padding=1, groups=groups_of(inner, config))
        parts.append([squeeze, nn.Identity(), nn.Identity(), nn.Linear(inner, inner)])
    parts.append(nn.Identity())
    if stage.att_block_red is not None:
        parts.append(TimeContext(config.width, config.width // stage.att_block_red))
    return parts


def _run(config: ModelConfig, i: int, parts: list[Any], outputs: list[mx.array], mask: mx.array | None) -> mx.array:
    """The output (B, T, F * C) of a stage."""
    stage = config.stages_setup[i]
    x = parts[0](outputs) if i else outputs[0]
    image_mask = None if mask is None else mask[..., None]
    y = parts[2](x.reshape(*x.shape[:2], config.rows(i), -1))  # neighbours in frequency side by side
    for part in parts[3 : 3 + stage.num_blocks]:
        y = part["conv_block"](y, image_mask)
    if stage.conv_exp != 1:
        squeeze = parts[3 + stage.num_blocks]
        y = squeeze[3](gelu(squeeze[0](masked(y, image_mask))))
    y = y.reshape(*x.shape)
    return parts[-1](y, mask) if stage.att_block_red is not None else y


def _fold(arrays: Arrays, norm: str) -> None:
    """Fold a BatchNorm into its neighbour, in place, or turn it into scale and shift."""
    owner, _, last = norm.rpartition(".")
    if norm in ("bn", "seg_bn_1"):
        fold_into_next(arrays, norm, "linear" if norm == "bn" else "seg_2", affine=norm == "bn")
    elif norm == "bn2":
        fold_batch_norm(arrays, "linear", norm)
    elif last == "bn1":
        scale_shift_of(arrays, norm)
    elif last == "norm":
        fold_batch_norm(arrays, f"{owner}.dwconvs.0", norm)
    elif last == "1":  # a list: convolution, BatchNorm, …
        fold_batch_norm(arrays, f"{owner}.0", norm, eps=1e-5 if owner.endswith("mfa") else SQUEEZE_EPS)
    else:
        fold_batch_norm(arrays, f"{owner}.conv2pw" if last == "bn2" else norm, norm)
