"""ERes2Net and ERes2NetV2 speaker embeddings: a Res2Net whose scales, and whose stages, are joined by attentive fusion.

Reference: Chen et al., "An Enhanced Res2Net with Local and Global Feature Fusion for Speaker Verification", Interspeech
2023, and "ERes2NetV2: Boosting Short-Duration Speaker Verification Performance with Computational Efficiency",
Interspeech 2024; speakerlab/models/eres2net (3D-Speaker) and wespeaker/models/eres2net.py.
"""

import re
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
from speech_zoo_core.checkpoint.weights import fold_batch_norm, fold_into_next, to_mlx_layout, to_numpy
from speech_zoo_core.errors import CheckpointError, ConfigError
from speech_zoo_core.layers import masked, relu, silu, time_mask
from speech_zoo_core.pooling import VALUES, PoolingName, fits, frames_of, pooling
from speech_zoo_core.tasks.audio_model import AudioModel
from speech_zoo_core.tasks.speaker import SpeakerConfig

STRIDES = (1, 2, 2, 2)
FUSED_FROM = 2  # the stage from which on blocks fuse their scales instead of adding them
REDUCTION = 4  # of the channels inside of a fusion
CLIP = 20.0  # upper end of the blocks' ReLU
DROPPED = ("projection.",)  # the training loss

# The BatchNorm after a layer folds into it.
FOLDED = (
    (r"(.*\.)?bn(\d)", r"\1conv\2"),
    (r"(.*)\.bns\.(\d+)", r"\1.convs.\2"),
    (r"(.*\.shortcut)\.1", r"\1.0"),
    (r"(.*\.local_att)\.1", r"\1.0"),
    (r"(.*\.local_att)\.4", r"\1.3"),
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(SpeakerConfig):
    """`m_channels` is the width of the first stage; each of the three others doubles it.

    A block splits `base_width` / 64 of its stage's width into each of `scale` parts, and gives `expansion` times its
    stage's width. `pool_eps` is added to TSTP's variance before the root: 1e-8 in 3D-Speaker, 1e-7 in WeSpeaker.
    """

    variant: Literal["ERes2Net", "ERes2NetV2"]
    num_blocks: list[int]
    m_channels: int
    base_width: int
    scale: int
    expansion: int
    feat_dim: int = 80
    two_emb_layer: bool = False
    pool_eps: float = 1e-8
    pooling_func: PoolingName = "TSTP"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            len(self.num_blocks) != len(STRIDES)
            or min(*self.num_blocks, self.m_channels, self.scale, self.expansion) < 1
            or min(self.width(0), self.width(FUSED_FROM) // REDUCTION) < 1
        ):
            raise ConfigError("num_blocks, m_channels, base_width, scale and expansion give no ERes2Net")
        if not 0 <= self.pool_eps < 1:
            raise ConfigError(f"pool_eps is a small variance, not {self.pool_eps}")
        if self.feat_dim != self.front_end.n_mels or self.feat_dim % 8 or self.feat_dim < 8:
            raise ConfigError(
                f"feat_dim {self.feat_dim} must be a multiple of 8 and equal front_end.n_mels {self.front_end.n_mels}"
            )
        if not fits(self.pooling_func, self.pooled):
            raise ConfigError(f"the heads of {self.pooling_func} cannot share {self.pooled} channels evenly")

    @property
    def pooled(self) -> int:
        """Channels of a frame before the pooling."""
        return self.planes(3) * self.expansion * (self.feat_dim // 8)

    def planes(self, stage: int) -> int:
        """Channels of a stage, before expansion."""
        return self.m_channels * 2**stage

    def width(self, stage: int) -> int:
        """Channels of each part of the blocks of a stage."""
        return self.planes(stage) * self.base_width // 64


class AFF(nn.Module):
    """Attentive feature fusion: the attention decides, per channel and place, between two images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // REDUCTION
        self.local_att = [nn.Linear(2 * channels, inner), nn.Identity(), nn.Identity(), nn.Linear(inner, channels)]

    def __call__(self, x: mx.array, y: mx.array) -> mx.array:
        """Two (B, F, T, C) to one."""
        hidden = silu(self.local_att[0](mx.concatenate([x, y], axis=-1)))
        attention = 1 + mx.tanh(self.local_att[3](hidden))
        return x * attention + y * (2 - attention)


class Block(nn.Module):
    """Pointwise, a 3x3 convolution for each part, pointwise; each part but the first also takes the one before."""

    def __init__(self, config: ModelConfig, stage: int, in_planes: int, stride: int) -> None:
        super().__init__()
        width, out = config.width(stage), config.planes(stage) * config.expansion
        self.stride, self.scale = stride, config.scale
        self.conv1 = nn.Linear(in_planes, width * config.scale)
        self.convs = [nn.Conv2d(width, width, 3, 1, 1) for _ in range(config.scale)]
        if stage >= FUSED_FROM:
            self.fuse_models = [AFF(width) for _ in range(config.scale - 1)]
        self.conv3 = nn.Linear(width * config.scale, out)
        self.shortcut = [nn.Linear(in_planes, out)] if stride != 1 or in_planes != out else []

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(B, F, T, C) to (B, F', T', C'); the mask (B, 1, T', 1) keeps padded frames at zero."""
        x = x[:, :: self.stride, :: self.stride]
        parts = mx.split(masked(_clipped(self.conv1(x)), mask), self.scale, axis=-1)
        outputs: list[mx.array] = []
        for i, (part, conv) in enumerate(zip(parts, self.convs, strict=True)):
            joined = part
            if i:
                joined = self.fuse_models[i - 1](outputs[-1], part) if "fuse_models" in self else outputs[-1] + part
            outputs.append(masked(_clipped(conv(joined)), mask))
        out = self.conv3(mx.concatenate(outputs, axis=-1))
        return masked(_clipped(out + (self.shortcut[0](x) if self.shortcut else x)), mask)


class Model(nn.Module, AudioModel):
    """Log-mel features to speaker embeddings."""

    min_frames = 9  # two frames are left after three strides of 2: the least that has a variance

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv2d(1, config.m_channels, 3, 1, 1)
        in_planes, sizes = config.m_channels, []
        for stage, (count, stride) in enumerate(zip(config.num_blocks, STRIDES, strict=True)):
            blocks = []
            for i in range(count):
                blocks.append(Block(config, stage, in_planes, 1 if i else stride))
                in_planes = config.planes(stage) * config.expansion
            self[f"layer{stage + 1}"] = blocks
            sizes.append(in_planes)
        for stage, (down, fuse) in _fusions(config).items():
            self[down] = nn.Conv2d(sizes[stage - 1], sizes[stage], 3, 2, 1, bias=False)
            self[fuse] = AFF(sizes[stage])
        self.pool = pooling(config.pooling_func, config.pooled, eps=config.pool_eps)
        self.seg_1 = nn.Linear(VALUES[config.pooling_func] * config.pooled, config.embed_dim)
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
        self._check_lengths(lengths, x.shape[1], len(x))
        x = x.astype(self.conv1.weight.dtype).transpose(0, 2, 1)[..., None]  # F rows, T columns
        mask = _mask(x, lengths)
        x = masked(relu(self.conv1(masked(x, mask))), mask)
        fusions, fused = _fusions(self.config), x
        for stage, stride in enumerate(STRIDES):
            lengths = None if lengths is None else (lengths - 1) // stride + 1
            mask = _mask(x[:, :, ::stride], lengths)
            before = fused if stage - 1 in fusions else x
            for block in self[f"layer{stage + 1}"]:
                x = block(x, mask)
            if stage in fusions:
                down, fuse = fusions[stage]
                fused = self[fuse](x, masked(self[down](before), mask))
        pooled = self.pool(frames_of(fused), None if mask is None else mask[:, 0])
        embedding = self.seg_1(pooled.astype(x.dtype))
        return self.seg_2(relu(embedding)) if self.config.two_emb_layer else embedding

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Source or converted tensors to converted ones; a fixed point.

        Folds every BatchNorm into its neighbour, drops `DROPPED` and the BatchNorm counters.
        """
        kept = {name: value for name, value in weights.items() if not name.startswith(DROPPED)}
        if not any(name.endswith("running_var") for name in kept):
            return to_mlx_layout(to_numpy(kept), self, source_layout=False)
        arrays = to_numpy({name: x for name, x in kept.items() if not name.endswith("num_batches_tracked")})
        for norm in sorted(name.removesuffix(".running_var") for name in arrays if name.endswith(".running_var")):
            if norm == "seg_bn_1":  # ReLU -> BatchNorm -> seg_2: folds into the layer that follows
                fold_into_next(arrays, norm, "seg_2", affine=False)
            else:
                layer = next((re.sub(old, new, norm) for old, new in FOLDED if re.fullmatch(old, norm)), norm)
                if "local_att." in layer and f"{layer}.bias" not in arrays:
                    raise CheckpointError(f"the checkpoint lacks {layer}.bias")
                fold_batch_norm(arrays, layer, norm)
        return to_mlx_layout(arrays, self, source_layout=True)


def _fusions(config: ModelConfig) -> dict[int, tuple[str, str]]:
    """Where a stage is joined with what came before it: the names of its downsampling and of its fusion."""
    if config.variant == "ERes2NetV2":
        return {3: ("layer3_ds", "fuse34")}
    return {i: (f"layer{i}_downsample", f"fuse_mode{'1234'[: i + 1]}") for i in (1, 2, 3)}


def _clipped(x: mx.array) -> mx.array:
    return mx.clip(x, 0, CLIP)


def _mask(x: mx.array, lengths: mx.array | None) -> mx.array | None:
    """(B, 1, T, 1) for an image (B, F, T, C)."""
    return None if lengths is None else time_mask(lengths, x.shape[2], x.dtype)[:, None, :, None]
