"""ReDimNet and ReDimNet2 speaker embeddings, B0 to B6: maps of time and frequency, and sequences, of one and the same
size by turns; ReDimNet2 computes a stage on fewer frames.

Reference: Yakovlev et al., "Reshape Dimensions Network for Speaker Recognition", Interspeech 2024; redimnet/model.py of
IDRnD's repository and wespeaker/models/redimnet.py; Yakovlev and Okhotnikov, "ReDimNet2: Scaling Speaker Verification
via Time-Pooled Dimension Reshaping", 2026; redimnet2/redimnet2.py of PalabraAI's repository and
wespeaker/models/redimnet2.py.
"""

import math
import re
from dataclasses import dataclass, field
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
from speech_zoo_core.layers import gelu, masked, relu, time_mask
from speech_zoo_core.pooling import VALUES, PoolingName, fits, frames_of, pooling
from speech_zoo_core.tasks.audio_model import AudioModel
from speech_zoo_core.tasks.speaker import SpeakerConfig

from .blocks import HEADS, LAYER_NORM_EPS, Aggregate, ConvNeXt, GroupNorm, ResBasic, TimeContext

SQUEEZE_EPS = 1e-6  # of the BatchNorm where a stage's channels are squeezed back
DROPPED = ("projection.", "cls_head.", "spec.", "frontend.")  # the training loss; constants of the features


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: `stride` over frequency, `num_blocks` of `conv_exp` times the channels.

    `att_block_red` is what the width of the part over time is divided by; None: there is no such part. Of ReDimNet2
    alone: `time_stride`, on top of those of the stages before, and `kernel_size`, over frequency and time, where blocks
    are convnext_like.
    """

    stride: int
    num_blocks: int
    conv_exp: float = 1
    att_block_red: int | None = None
    time_stride: int = 1
    kernel_size: list[int] = field(default_factory=lambda: [3, 3])


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
        variant: what follows is of ReDimNet2 alone.
        return_2d_output: whether the pooling gets the channels of a map, with `out_channels` at each frequency.
        agg_gnorm: whether outputs that are summed are normalised first.
        dual_agg: whether a stage gives its map beside what the part over time makes of it.
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
    variant: Literal["ReDimNet", "ReDimNet2"] = "ReDimNet"
    return_2d_output: bool = False
    agg_gnorm: bool = False
    dual_agg: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = [self.C, self.group_divisor, self.out_channels or 1]
        for stage in self.stages_setup:
            numbers += [stage.stride, stage.time_stride, stage.num_blocks + 1, stage.att_block_red or 1]
        if min(numbers) < 1 or not self.stages_setup:
            raise ConfigError("C, group_divisor, out_channels and the numbers of stages_setup must be positive")
        if self.feat_dim != self.front_end.n_mels:
            raise ConfigError(f"feat_dim {self.feat_dim} must equal front_end.n_mels {self.front_end.n_mels}")
        channels, rows = self.C, self.feat_dim
        for stage in self.stages_setup:
            channels, rest = channels * stage.stride, rows % stage.stride
            rows //= stage.stride
            wide = round(channels * stage.conv_exp)
            grouped = (wide,) if self.is_redimnet2 else (channels, wide)
            if rest or wide < 1 or any(x % (groups_of(x, self) or x + 1) for x in grouped):
                raise ConfigError("the strides of stages_setup must divide feat_dim, and the groups every width")
            if len(stage.kernel_size) != 2 or any(size < 1 or size % 2 == 0 for size in stage.kernel_size):
                raise ConfigError(f"kernel_size {stage.kernel_size} must be two odd numbers")
            width = self.width // (stage.att_block_red or 1)
            if stage.att_block_red and (width < HEADS or width % HEADS):
                raise ConfigError(f"att_block_red {stage.att_block_red} leaves {width} channels, no multiple of 4")
            plain = stage.time_stride == 1 and stage.kernel_size == [3, 3] and wide == channels * stage.conv_exp
            if not (self.is_redimnet2 or plain):
                raise ConfigError("time_stride, kernel_size and fractions of conv_exp are of ReDimNet2 alone")
        if not self.is_redimnet2 and (self.return_2d_output or self.agg_gnorm or self.dual_agg):
            raise ConfigError("return_2d_output, agg_gnorm and dual_agg are of ReDimNet2 alone")
        if not fits(self.pooling_func, self.pooled):
            raise ConfigError(f"the heads of {self.pooling_func} cannot share the channels evenly")

    @property
    def is_redimnet2(self) -> bool:
        return self.variant == "ReDimNet2"

    @property
    def width(self) -> int:
        """Of a frame, whatever its shape."""
        return self.C * self.feat_dim

    def rows(self, i: int) -> int:
        """Frequencies of the map in a stage."""
        return self.feat_dim // math.prod(stage.stride for stage in self.stages_setup[: i + 1])

    def time_stride(self, i: int) -> int:
        """Frames of the clip to one frame in a stage."""
        return math.prod(stage.time_stride for stage in self.stages_setup[: i + 1])

    def splits(self, i: int) -> bool:
        """Whether a stage has two outputs."""
        return self.dual_agg and self.stages_setup[i].att_block_red is not None

    @property
    def pooled(self) -> int:
        """Channels of a frame in the pooling."""
        each = self.rows(len(self.stages_setup)) if self.return_2d_output else 1
        return self.width if self.out_channels is None else self.out_channels * each

    @property
    def layers(self) -> int:
        """Layers with weights, at least."""
        return sum(stage.num_blocks for stage in self.stages_setup)


def groups_of(channels: int, config: ModelConfig) -> int:
    """Groups of a convolution of so many channels: of `group_divisor` channels, or, of the last few, more."""
    return channels // config.group_divisor


class Model(nn.Module, AudioModel):
    """Log-mel features to speaker embeddings. A map is (B, T, F, C), a sequence the same numbers as (B, T, F * C)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: dict[str, Any] = {
            "stem": [nn.Conv2d(1, config.C, 3, padding=1), nn.LayerNorm(config.C, LAYER_NORM_EPS)]
        }
        if config.agg_gnorm:
            self.backbone["stem_gnorm"] = GroupNorm(config.C, config.width)
        channels, outputs = config.C, 1
        for i, stage in enumerate(config.stages_setup):
            self.backbone |= _stage(config, i, channels, outputs)
            channels *= stage.stride
            outputs += 2 if config.splits(i) else 1
        self.backbone["fin_wght1d"] = Aggregate(outputs, config.width)
        if config.out_channels is not None:
            head = nn.Linear(channels if config.return_2d_output else config.width, config.out_channels)
            self.backbone |= {"head": head} if config.is_redimnet2 else {"mfa": [head]}
        self.pool = pooling(config.pooling_func, config.pooled, config.global_context_att)
        self.linear = nn.Linear(VALUES[config.pooling_func] * config.pooled, config.embed_dim)
        if config.two_emb_layer:
            self.seg_2 = nn.Linear(config.embed_dim, config.embed_dim)

    @property
    def min_frames(self) -> int:  # type: ignore[override]
        """The least that has a variance, or, with strides over time, one frame in the last stage."""
        return max(2, self.config.time_stride(len(self.config.stages_setup)))

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
        config, stem = self.config, self.backbone["stem"]
        if (step := config.time_stride(len(config.stages_setup))) > 1:
            x = x[:, : x.shape[1] // step * step]
            lengths = None if lengths is None else lengths // step * step
        x = x.astype(stem[0].weight.dtype)
        mask = None if lengths is None else time_mask(lengths, x.shape[1], x.dtype)[..., None]
        outputs = [stem[1](stem[0](masked(x, mask)[..., None])).reshape(*x.shape[:2], -1)]
        if config.agg_gnorm:
            outputs = [self.backbone["stem_gnorm"](outputs[0], mask)]
        for i in range(len(config.stages_setup)):
            outputs += _run(config, i, self.backbone, outputs, mask)
        x = self.backbone["fin_wght1d"](outputs)
        if config.return_2d_output:
            x = x.reshape(*x.shape[:2], config.rows(len(config.stages_setup)), -1)
        if config.out_channels is not None:
            x = self.backbone["head"](x) if config.is_redimnet2 else self.backbone["mfa"][0](x)
        if config.return_2d_output:  # here the channel is outermost
            x = frames_of(x.swapaxes(1, 2))
        embedding = self.linear(self.pool(x, mask).astype(x.dtype))
        return self.seg_2(relu(embedding)) if self.config.two_emb_layer else embedding

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Source tensors under IDRnD's or PalabraAI's names, or converted ones, to converted ones; a fixed point.

        Folds the BatchNorms beside a layer, turns the others into scale and shift, drops `DROPPED`, the counters, and
        the first stage's share of its only input.
        """
        kept = {name: x for name, x in weights.items() if not name.startswith(DROPPED)}
        if not any(name.endswith("running_var") for name in kept):
            return to_mlx_layout(to_numpy(kept), self, source_layout=False)
        arrays = to_numpy({name: x for name, x in kept.items() if not name.endswith("num_batches_tracked")})
        arrays.pop("backbone.stage0_pre.0.w" if self.config.splits(0) else "backbone.stage0.0.w", None)
        for norm in sorted(name.removesuffix(".running_var") for name in arrays if name.endswith(".running_var")):
            _fold(arrays, norm)
        for name, x in arrays.items():
            if name.endswith(".w") and x.ndim == 4:
                arrays[name] = x.reshape(x.shape[1], -1)
            elif not self.config.is_redimnet2 and re.fullmatch(r"backbone\.stage\d+\.2\.weight", name) and x.ndim == 4:
                # neighbours in frequency
                arrays[name] = np.ascontiguousarray(x[..., 0].swapaxes(1, 2)).reshape(len(x), -1)
            elif x.ndim == 4:  # of (…, F, T), where ours is (…, T, F)
                arrays[name] = x.swapaxes(2, 3)
        return to_mlx_layout(arrays, self, source_layout=True)


def _stage(config: ModelConfig, i: int, channels: int, outputs: int) -> dict[str, Any]:
    """The parts of a stage as the originals name and number them, after so many outputs."""
    stage = config.stages_setup[i]
    inner = channels * stage.stride
    wide, rows = round(inner * stage.conv_exp), config.rows(i)
    parts: list[Any] = [Aggregate(outputs, config.width) if i else nn.Identity(), nn.Identity()]
    if config.is_redimnet2:
        step = (config.time_stride(i), stage.stride)
        parts.append(nn.Conv2d(channels, wide, step, step, groups=math.gcd(channels, wide)))
    else:
        parts.append(nn.Linear(inner, wide))
    for _ in range(stage.num_blocks):
        if config.block_2d_type == "convnext_like":
            kernel = stage.kernel_size[1], stage.kernel_size[0]
            block: nn.Module = ConvNeXt(wide, kernel, groups_of(wide, config))
        else:
            block = ResBasic(wide, groups_of(wide, config), rows if config.block_2d_type.endswith("fwse") else None)
        parts.append({"conv_block": block})
    if stage.conv_exp != 1 and config.is_redimnet2:
        parts.append([nn.Linear(wide, inner)])
    elif stage.conv_exp != 1:
        squeeze = nn.Conv2d(wide, inner, 3, padding=1, groups=groups_of(inner, config))
        parts.append([squeeze, nn.Identity(), nn.Identity(), nn.Linear(inner, inner)])
    parts.append(nn.Identity())
    context: list[Any] = []
    if stage.att_block_red is not None:
        context.append(TimeContext(config.width, config.width // stage.att_block_red))
    if not config.splits(i):
        return {f"stage{i}": parts + context + _ends(config)}
    split = {f"stage{i}_up_{kind}": _ends(config) for kind in ("1d", "2d")}
    return {f"stage{i}_pre": parts, f"stage{i}_1d": context[0]} | split


def _ends(config: ModelConfig) -> list[Any]:
    """What follows the upsampling of a stage, numbered with it."""
    return [nn.Identity(), GroupNorm(config.C, config.width)] if config.agg_gnorm else []


def _run(
    config: ModelConfig, i: int, backbone: dict[str, Any], outputs: list[mx.array], mask: mx.array | None
) -> list[mx.array]:
    """The outputs (B, T, F * C) of a stage, one or two."""
    stage, step = config.stages_setup[i], config.time_stride(i)
    parts = backbone[f"stage{i}_pre" if config.splits(i) else f"stage{i}"]
    x = parts[0](outputs) if i else outputs[0]
    coarse = None if mask is None else mask[:, ::step]
    image_mask = None if coarse is None else coarse[..., None]
    # ReDimNet has neighbours in frequency side by side, where ReDimNet2 has a convolution with a stride.
    rows = config.rows(i) * (stage.stride if config.is_redimnet2 else 1)
    y = parts[2](x.reshape(*x.shape[:2], rows, -1))
    for part in parts[3 : 3 + stage.num_blocks]:
        y = part["conv_block"](y, image_mask)
    rest = parts[3 + stage.num_blocks :]
    if stage.conv_exp != 1:
        squeeze, *rest = rest
        y = squeeze[0](y) if config.is_redimnet2 else squeeze[3](gelu(squeeze[0](masked(y, image_mask))))
    y = y.reshape(*y.shape[:2], -1)
    if config.splits(i):
        context = backbone[f"stage{i}_1d"](y, coarse)
        ends = [(y, backbone[f"stage{i}_up_2d"]), (context, backbone[f"stage{i}_up_1d"])]
    else:
        ends = [(y if stage.att_block_red is None else rest[1](y, coarse), rest)]
    upsampled = [(mx.repeat(y, step, axis=1) if step > 1 else y, end) for y, end in ends]
    return [end[-1](y, mask) if config.agg_gnorm else y for y, end in upsampled]


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
