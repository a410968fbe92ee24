"""WeSpeaker ResNet speaker embeddings: ResNet34, 152, 221, 293 and the sizes between, by configuration.

Reference: Wang et al., "WeSpeaker: A Research and Production Oriented Speaker Embedding Learning Toolkit", ICASSP 2023;
wespeaker/models/resnet.py and pooling_layers.py.
"""

from dataclasses import dataclass
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
from speech_zoo_core.checkpoint.weights import fold_batch_norm, fold_into_next, to_mlx_layout, to_numpy
from speech_zoo_core.errors import ConfigError
from speech_zoo_core.layers import relu, time_mask
from speech_zoo_core.tasks.audio_model import AudioModel
from speech_zoo_core.tasks.speaker import SpeakerConfig

STRIDES = (1, 2, 2, 2)
VARIANCE_FLOOR = 1e-7
DROPPED = ("projection.", "seg_bn_1.num_batches_tracked")  # the training loss; a counter
EXPANSION = {"basic": 1, "bottleneck": 4}


@dataclass(frozen=True, kw_only=True)
class ModelConfig(SpeakerConfig):
    """`m_channels` is the width of the first stage; each of the three others doubles it."""

    block: Literal["basic", "bottleneck"]
    num_blocks: list[int]
    m_channels: int = 32
    feat_dim: int = 80
    two_emb_layer: bool = False
    pooling_func: Literal["TSTP"] = "TSTP"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.num_blocks) != len(STRIDES) or min(self.num_blocks) < 1 or self.m_channels < 1:
            raise ConfigError(f"num_blocks {self.num_blocks} and m_channels {self.m_channels} give no ResNet")
        if self.feat_dim != self.front_end.n_mels or self.feat_dim % 8:
            raise ConfigError(
                f"feat_dim {self.feat_dim} must be a multiple of 8 and equal front_end.n_mels {self.front_end.n_mels}"
            )

    @property
    def layers(self) -> int:
        """Layers with weights, at least."""
        return sum(self.num_blocks)


class Block(nn.Module):
    """BasicBlock (two 3x3 convolutions) or Bottleneck (1x1, 3x3, 1x1), with the BatchNorms folded in."""

    def __init__(self, kind: str, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        out = planes * EXPANSION[kind]
        if kind == "basic":
            self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1)
        else:
            self.conv1 = nn.Conv2d(in_planes, planes, 1)
            self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1)
            self.conv3 = nn.Conv2d(planes, out, 1)
        self.shortcut = [nn.Conv2d(in_planes, out, 1, stride)] if stride != 1 or in_planes != out else []

    def __call__(self, x: mx.array, mask: mx.array | None, mask_out: mx.array | None) -> mx.array:
        """(B, F, T, C) to (B, F', T', C'); the masks (B, 1, T, 1) keep padded frames at zero."""
        out = relu(self.conv1(x))
        if "conv3" in self:
            out = self.conv3(relu(self.conv2(_masked(out, mask))))
        else:
            out = self.conv2(_masked(out, mask_out))
        return _masked(relu(out + (self.shortcut[0](x) if self.shortcut else x)), mask_out)


class Model(nn.Module, AudioModel):
    """Log-mel features to speaker embeddings."""

    min_frames = 9  # two frames are left after three strides of 2: the least that has a variance

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.m_channels
        self.conv1 = nn.Conv2d(1, width, 3, 1, 1)
        in_planes = width
        for i, (count, stride) in enumerate(zip(config.num_blocks, STRIDES, strict=True)):
            planes = width * 2**i
            blocks = []
            for j in range(count):
                blocks.append(Block(config.block, in_planes, planes, stride if j == 0 else 1))
                in_planes = planes * EXPANSION[config.block]
            self[f"layer{i + 1}"] = blocks
        self.seg_1 = nn.Linear(2 * in_planes * (config.feat_dim // 8), config.embed_dim)
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
        x = _masked(relu(self.conv1(_masked(x, mask))), mask)
        for i, stride in enumerate(STRIDES, 1):
            if lengths is not None:
                lengths = (lengths - 1) // stride + 1
            mask_out = _mask(x[:, :, ::stride], lengths)
            for block in self[f"layer{i}"]:
                x, mask = block(x, mask, mask_out), mask_out
        embedding = self.seg_1(_tstp(x, lengths).astype(x.dtype))
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
            if norm == "seg_bn_1":  # ReLU -> BatchNorm -> seg_2: folds into the layer that follows
                fold_into_next(arrays, norm, "seg_2", affine=False)
            else:
                fold_batch_norm(arrays, _convolution(norm), norm)
        return to_mlx_layout(arrays, self, source_layout=True)


def _convolution(norm: str) -> str:
    """The convolution before a BatchNorm: bn2 -> conv2, shortcut.1 -> shortcut.0."""
    head, _, last = norm.rpartition(".")
    last = "0" if last == "1" else last.replace("bn", "conv")
    return f"{head}.{last}" if head else last


def _masked(x: mx.array, mask: mx.array | None) -> mx.array:
    return x if mask is None else x * mask


def _mask(x: mx.array, lengths: mx.array | None) -> mx.array | None:
    """(B, 1, T, 1) for an image (B, F, T, C)."""
    return None if lengths is None else time_mask(lengths, x.shape[2], x.dtype)[:, None, :, None]


def _tstp(x: mx.array, lengths: mx.array | None) -> mx.array:
    """Temporal statistics pooling in float32: (B, F, T, C) to (B, 2*C*F), channel outermost, mean before deviation."""
    x = x.astype(mx.float32)
    if lengths is None:
        mean = mx.mean(x, axis=2)
        variance = mx.var(x, axis=2, ddof=1)
    else:
        n = lengths[:, None, None]
        mean = mx.sum(x, axis=2) / n  # padded frames are zero
        variance = mx.sum(_masked(mx.square(x - mean[:, :, None]), _mask(x, lengths)), axis=2) / (n - 1)
    stats = [mean, mx.sqrt(variance + VARIANCE_FLOOR)]
    return mx.concatenate([s.transpose(0, 2, 1).reshape(len(s), -1) for s in stats], axis=1)
