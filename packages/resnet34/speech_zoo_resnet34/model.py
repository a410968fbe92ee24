"""WeSpeaker ResNet speaker embeddings by configuration: ResNet18 to 293, SimAM-ResNet, Res2Net, Gemini DF-ResNet.

Reference: Wang et al., "WeSpeaker: A Research and Production Oriented Speaker Embedding Learning Toolkit", ICASSP 2023;
Qin et al., "Simple Attention Module Based Speaker Verification with Iterative Noisy Label Detection", ICASSP 2022; Liu
et al., "Golden Gemini is All You Need: Finding the Sweet Spots for Speaker Verification", 2023; wespeaker/models/
resnet.py, samresnet.py, res2net.py, gemini_dfresnet.py.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
from speech_zoo_core.checkpoint.weights import fold_batch_norm, fold_into_next, to_mlx_layout, to_numpy
from speech_zoo_core.errors import ConfigError
from speech_zoo_core.layers import masked, relu, time_mask
from speech_zoo_core.pooling import VALUES, PoolingName, fits, frames_of, pooling
from speech_zoo_core.tasks.audio_model import AudioModel
from speech_zoo_core.tasks.speaker import SpeakerConfig

from .blocks import EXPANSION, STRIDES, stage

STAGES = 4
FOLLOWED = {"seg_bn_1": "seg_2", "pool.norm": "pool.linear2"}
DROPPED = ("projection.", "seg_bn_1.num_batches_tracked")  # the training loss; a counter


@dataclass(frozen=True, kw_only=True)
class ModelConfig(SpeakerConfig):
    """`m_channels` is the width of the first stage; each of the three others doubles it.

    `num_blocks` of DF-ResNet, whose block is "inverted", counts the blocks behind each stage's downsampling.
    """

    block: Literal["basic", "bottleneck", "simam", "res2net", "inverted"]
    num_blocks: list[int]
    m_channels: int = 32
    feat_dim: int = 80
    two_emb_layer: bool = False
    pooling_func: PoolingName = "TSTP"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.num_blocks) != STAGES or min(self.num_blocks) < 1 or self.m_channels < 1:
            raise ConfigError(f"num_blocks {self.num_blocks} and m_channels {self.m_channels} give no ResNet")
        if self.block == "res2net" and self.m_channels % 2:
            raise ConfigError(f"the blocks of a Res2Net split m_channels {self.m_channels} evenly")
        if self.feat_dim != self.front_end.n_mels or self.feat_dim % self.rows_step or self.feat_dim < 1:
            raise ConfigError(
                f"feat_dim {self.feat_dim} must be a multiple of {self.rows_step} and equal front_end.n_mels "
                f"{self.front_end.n_mels}"
            )
        if not fits(self.pooling_func, self.pooled):
            raise ConfigError(f"the heads of {self.pooling_func} cannot share {self.pooled} channels evenly")

    @property
    def pooled(self) -> int:
        """Channels of a frame before the pooling."""
        return self.m_channels * 8 * EXPANSION[self.block] * (self.feat_dim // self.rows_step)

    @property
    def rows_step(self) -> int:
        """Mels in a row of the last image."""
        return math.prod(stride for stride, _ in STRIDES[self.block])

    @property
    def layers(self) -> int:
        """Layers with weights, at least."""
        return sum(self.num_blocks)


class Model(nn.Module, AudioModel):
    """Log-mel features to speaker embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.m_channels
        self.conv1 = nn.Conv2d(1, width, 3, 1, 1)
        in_planes = width
        for i, (count, stride) in enumerate(zip(config.num_blocks, STRIDES[config.block], strict=True)):
            planes = width * 2**i
            self[f"layer{i + 1}"] = stage(config.block, in_planes, planes, count, stride)
            in_planes = planes * EXPANSION[config.block]
        self.pool = pooling(config.pooling_func, config.pooled)
        self.seg_1 = nn.Linear(VALUES[config.pooling_func] * config.pooled, config.embed_dim)
        if config.two_emb_layer:
            self.seg_2 = nn.Linear(config.embed_dim, config.embed_dim)

    @property
    def min_frames(self) -> int:  # type: ignore[override]
        """Two frames are left after the strides: the least that has a variance."""
        return math.prod(stride for _, stride in STRIDES[self.config.block]) + 1

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
        for i, (_, step) in enumerate(STRIDES[self.config.block], 1):
            if lengths is not None:
                lengths = (lengths - 1) // step + 1
            mask_out = _mask(x[:, :, ::step], lengths)
            for block in self[f"layer{i}"]:
                x, mask = block(x, mask, mask_out), mask_out
        pooled = self.pool(frames_of(x), None if mask is None else mask[:, 0])
        embedding = self.seg_1(pooled.astype(x.dtype))
        return self.seg_2(relu(embedding)) if self.config.two_emb_layer else embedding

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Source or converted tensors to converted ones; a fixed point.

        Folds every BatchNorm into its neighbour, drops `DROPPED` and the BatchNorm counters.
        """
        kept = {name: value for name, value in weights.items() if not name.startswith(DROPPED)}
        source = any(name.endswith("running_var") for name in kept)
        if not source:
            return to_mlx_layout(to_numpy(kept), self, source_layout=False)
        arrays = to_numpy({name: x for name, x in kept.items() if not name.endswith("num_batches_tracked")})
        for norm in sorted(name.removesuffix(".running_var") for name in arrays if name.endswith(".running_var")):
            if norm in FOLLOWED:  # ReLU -> BatchNorm -> layer: folds into the layer
                fold_into_next(arrays, norm, FOLLOWED[norm], affine=norm != "seg_bn_1")
            else:
                fold_batch_norm(arrays, _convolution(norm), norm)
        return to_mlx_layout(arrays, self, source_layout=True)


def _convolution(norm: str) -> str:
    """The convolution before a BatchNorm: bn2 -> conv2, bns.0 -> convs.0, shortcut.1 -> shortcut.0."""
    return re.sub(r"\bbn(?=s\.\d+$|\d?$)", "conv", re.sub(r"(\bshortcut\.)1$", r"\g<1>0", norm))


def _mask(x: mx.array, lengths: mx.array | None) -> mx.array | None:
    """(B, 1, T, 1) for an image (B, F, T, C)."""
    return None if lengths is None else time_mask(lengths, x.shape[2], x.dtype)[:, None, :, None]
