"""SpeechBrain's ResNet: pre-activated blocks, the first two stages with squeeze-and-excitation, attentive statistics.

Reference: He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016; Hu et al., "Squeeze-and-Excitation
Networks", CVPR 2018; speechbrain/lobes/models/ResNet.py.
"""

from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn
from speech_zoo_core.checkpoint.weights import fold_batch_norm, fold_into_next, scale_shift_of, to_mlx_layout, to_numpy
from speech_zoo_core.errors import ConfigError, InputError
from speech_zoo_core.layers import ScaleShift, masked, relu, time_mask
from speech_zoo_core.tasks.audio_model import AudioModel
from speech_zoo_core.tasks.speaker import SpeakerConfig

STAGES = 4
EXCITED = 2  # stages with squeeze-and-excitation
ATTENTION = 128  # channels
VARIANCE_FLOOR = 1e-5
MAX_STRIDE = 8
DROPPED = ("projection.",)  # a training loss


@dataclass(frozen=True, kw_only=True)
class ModelConfig(SpeakerConfig):
    """`channels`, `block_sizes` and `strides` have one entry for each of the four stages, as SpeechBrain names them."""

    feat_dim: int = 80
    channels: list[int] = field(default_factory=lambda: [128, 128, 256, 256])
    block_sizes: list[int] = field(default_factory=lambda: [3, 4, 6, 3])
    strides: list[int] = field(default_factory=lambda: [1, 2, 2, 2])

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = (self.channels, self.block_sizes, self.strides)
        if any(len(part) != STAGES for part in parts) or min(map(min, parts)) < 1 or max(self.strides) > MAX_STRIDE:
            raise ConfigError("channels, block_sizes and strides must be four positive numbers each, strides 8 at most")
        if self.feat_dim != self.front_end.n_mels:
            raise ConfigError(f"feat_dim {self.feat_dim} must equal front_end.n_mels {self.front_end.n_mels}")

    @property
    def layers(self) -> int:
        """Layers with weights, at least."""
        return sum(self.block_sizes)

    @property
    def rows(self) -> int:
        """Of the image before the pooling: what the strides leave of the mels."""
        rows = self.feat_dim
        for stride in self.strides:
            rows = (rows - 1) // stride + 1
        return rows


class SEBlock(nn.Module):
    """Squeeze-and-excitation: each channel is scaled by what its mean over the image says."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = [nn.Linear(channels, channels), nn.Identity(), nn.Linear(channels, channels)]

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(B, T, F, C) to (B, T, F, C)."""
        full = x.astype(mx.float32)
        if mask is None:
            mean = mx.mean(full, axis=(1, 2), keepdims=True)
        else:  # padded frames are zero
            mean = mx.sum(mx.mean(full, axis=2, keepdims=True), axis=1, keepdims=True) / mx.sum(
                mask.astype(mx.float32), axis=1, keepdims=True
            )
        return x * mx.sigmoid(self.fc[2](relu(self.fc[0](mean.astype(x.dtype)))))


class Block(nn.Module):
    """BatchNorm and ReLU before each of three convolutions: 3x3, 3x3, 1x1. Only the first BatchNorm does not fold."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, excited: bool) -> None:
        super().__init__()
        self.stride = stride
        self.bn1 = ScaleShift(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        self.conv3 = nn.Linear(out_channels, out_channels, bias=False)
        if excited:
            self.se = SEBlock(out_channels)
        if stride != 1 or in_channels != out_channels:
            self.downsample = [nn.Linear(in_channels, out_channels)]

    def __call__(self, x: mx.array, mask: mx.array | None, mask_out: mx.array | None) -> mx.array:
        """(B, T, F, C) to (B, T', F', C'); the masks (B, T, 1, 1) keep padded frames at zero."""
        out = masked(relu(self.bn1(x)), mask)
        out = masked(relu(self.conv1(out)), mask_out)
        out = masked(self.conv3(relu(self.conv2(out))), mask_out)
        if "se" in self:
            out = self.se(out, mask_out)
        if "downsample" in self:
            x = masked(self.downsample[0](x[:, :: self.stride, :: self.stride]), mask_out)
        return out + x


class Model(nn.Module, AudioModel):
    """Log-mel features to speaker embeddings."""

    min_frames = 9  # two frames are left after three strides of 2: the least that has a deviation

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        in_channels = config.channels[0]
        self.conv1 = nn.Conv2d(1, in_channels, 3, 1, 1)
        stages = zip(config.channels, config.block_sizes, config.strides, strict=True)
        for i, (channels, count, stride) in enumerate(stages):
            blocks = []
            for j in range(count):
                blocks.append(Block(in_channels, channels, 1 if j else stride, excited=i < EXCITED))
                in_channels = channels
            self[f"layer{i + 1}"] = blocks
        pooled = in_channels * config.rows
        self.attention = [nn.Linear(pooled, ATTENTION), *(nn.Identity() for _ in "12"), nn.Linear(ATTENTION, pooled)]
        self.fc_embed = nn.Linear(2 * pooled, config.embed_dim)

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
        x = x.astype(self.conv1.weight.dtype)[..., None]  # T rows, F columns
        mask = _mask(x, lengths)
        x = masked(relu(self.conv1(masked(x, mask))), mask)
        for i, stride in enumerate(self.config.strides, 1):
            lengths = None if lengths is None else (lengths - 1) // stride + 1
            mask_out = _mask(x[:, ::stride], lengths)
            for block in self[f"layer{i}"]:
                x, mask = block(x, mask, mask_out), mask_out
        x = x.transpose(0, 1, 3, 2).reshape(*x.shape[:2], -1)  # the channel outermost
        return self.fc_embed(self._pooled(x, mask).astype(x.dtype))

    def _pooled(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """Mean and deviation in float32, weighted by the attention over time: (B, T, C) to (B, 2*C)."""
        logits = self.attention[3](relu(self.attention[0](x))).astype(mx.float32)
        if mask is not None:
            logits = mx.where(mask[:, :, 0] > 0, logits, -mx.inf)
        weights, x = mx.softmax(logits, axis=1), x.astype(mx.float32)
        mean = mx.sum(weights * x, axis=1)
        variance = mx.sum(weights * mx.square(x - mean[:, None]), axis=1)
        return mx.concatenate([mean, mx.sqrt(mx.maximum(variance, VARIANCE_FLOOR))], axis=1)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Source or converted tensors to converted ones; a fixed point. Folds the BatchNorms beside a layer."""
        kept = {name: value for name, value in weights.items() if not name.startswith(DROPPED)}
        if not any(name.endswith("running_var") for name in kept):
            return to_mlx_layout(to_numpy(kept), self, source_layout=False)
        arrays = to_numpy({name: x for name, x in kept.items() if not name.endswith("num_batches_tracked")})
        for norm in sorted(name.removesuffix(".running_var") for name in arrays if name.endswith(".running_var")):
            block, _, last = norm.rpartition(".")
            if norm in ("attention.2", "norm_stats"):
                fold_into_next(arrays, norm, "fc_embed" if norm == "norm_stats" else "attention.3")
            elif block.startswith("layer") and last == "bn1":
                scale_shift_of(arrays, norm)
            elif block.startswith("layer") and last in ("bn2", "bn3"):  # after the convolution before it
                fold_batch_norm(arrays, f"{block}.conv{int(last[2]) - 1}", norm)
            else:
                folded = {"bn1": "conv1", "norm_embed": "fc_embed"}
                layer = folded.get(norm) or (f"{block}.0" if block.endswith("downsample") else norm)
                fold_batch_norm(arrays, layer, norm)
        return to_mlx_layout(arrays, self, source_layout=True)


def _mask(x: mx.array, lengths: mx.array | None) -> mx.array | None:
    """(B, T, 1, 1) for an image (B, T, F, C)."""
    return None if lengths is None else time_mask(lengths, x.shape[1], x.dtype)[:, :, None, None]
