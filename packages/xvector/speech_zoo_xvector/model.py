"""SpeechBrain's x-vectors: time-delay layers, mean and deviation over time, one linear layer.

Reference: Snyder et al., "X-Vectors: Robust DNN Embeddings for Speaker Recognition", ICASSP 2018;
speechbrain/lobes/models/Xvector.py and speechbrain/nnet/pooling.py (`StatisticsPooling`).
"""

from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn
from speech_zoo_core.checkpoint.weights import scale_shift_of, to_mlx_layout, to_numpy
from speech_zoo_core.errors import CheckpointError, ConfigError, InputError
from speech_zoo_core.layers import ScaleShift, leaky_relu, reflected, time_mask
from speech_zoo_core.tasks.audio_model import AudioModel
from speech_zoo_core.tasks.speaker import SpeakerConfig

MAX_DILATION = 100
MEAN_NOISE = 5e-5  # the original adds noise of 1e-5 to 9e-5 to the means; this is the middle of it
STD_EPS = 1e-5
DROPPED = ("projection.",)  # a training loss


@dataclass(frozen=True, kw_only=True)
class ModelConfig(SpeakerConfig):
    """`channels`, `kernel_sizes` and `dilations` have one entry for each time-delay layer."""

    feat_dim: int
    channels: list[int] = field(default_factory=lambda: [512, 512, 512, 512, 1500])
    kernel_sizes: list[int] = field(default_factory=lambda: [5, 3, 3, 1, 1])
    dilations: list[int] = field(default_factory=lambda: [1, 2, 3, 1, 1])

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = [*self.channels, *self.kernel_sizes, *self.dilations]
        if min(sizes, default=0) < 1 or any(kernel % 2 == 0 for kernel in self.kernel_sizes):
            raise ConfigError("channels, kernel_sizes and dilations must be positive, kernel_sizes odd")
        if max(self.dilations) > MAX_DILATION:
            raise ConfigError(f"a dilation is {MAX_DILATION} frames at most")
        if not len(self.channels) == len(self.kernel_sizes) == len(self.dilations):
            raise ConfigError("channels, kernel_sizes and dilations must have one entry for each layer")
        if self.feat_dim != self.front_end.n_mels:
            raise ConfigError(f"feat_dim {self.feat_dim} must equal front_end.n_mels {self.front_end.n_mels}")

    @property
    def pads(self) -> list[int]:
        """Frames that each layer mirrors at both ends."""
        return [(k - 1) // 2 * d for k, d in zip(self.kernel_sizes, self.dilations, strict=True)]


class TDNN(nn.Module):
    """Convolution that keeps the length by reflection, LeakyReLU, and what is left of the BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.pad = (kernel - 1) // 2 * dilation
        self.conv = (
            nn.Conv1d(in_channels, out_channels, kernel, dilation=dilation)
            if kernel > 1
            else nn.Linear(in_channels, out_channels)
        )
        self.norm = ScaleShift(out_channels)

    def __call__(self, x: mx.array, lengths: mx.array | None) -> mx.array:
        """(B, T, C) to (B, T, C')."""
        return self.norm(leaky_relu(self.conv(reflected(x, self.pad, lengths) if self.pad else x)))


class Model(nn.Module, AudioModel):
    """Log-mel features to speaker embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.feat_dim, *config.channels]
        layers = zip(widths, config.channels, config.kernel_sizes, config.dilations, strict=False)
        self.blocks = [TDNN(*layer) for layer in layers]
        self.fc = nn.Linear(2 * widths[-1], config.embed_dim)

    @property
    def min_frames(self) -> int:  # type: ignore[override]
        """The shortest input: reflection needs more frames than it mirrors; one frame has no deviation."""
        return max(2, max(self.config.pads) + 1)

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
        x = x.astype(self.blocks[0].norm.weight.dtype)
        for block in self.blocks:
            x = block(x, lengths)
        return self.fc(_statistics(x, lengths).astype(x.dtype))

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Source tensors under SpeechBrain's names, or converted ones, to converted ones; a fixed point.

        SpeechBrain numbers convolution, activation and BatchNorm of a layer one by one: blocks.3 is the second layer.
        """
        kept = {name: value for name, value in weights.items() if not name.startswith(DROPPED)}
        if not any(name.endswith("running_var") for name in kept):
            return to_mlx_layout(to_numpy(kept), self, source_layout=False)
        names = {f"blocks.{3 * len(self.blocks) + 1}.w.": "fc."}
        for i in range(len(self.blocks)):
            names |= {f"blocks.{3 * i}.conv.": f"blocks.{i}.conv.", f"blocks.{3 * i + 2}.norm.": f"blocks.{i}.norm."}
        renamed: dict[str, mx.array] = {}
        for name, value in kept.items():
            old = next((old for old in names if name.startswith(old)), "")
            new = names.get(old, "") + name.removeprefix(old)
            if new in renamed:
                raise CheckpointError(f"{new} stands twice in the checkpoint")
            if not new.endswith("num_batches_tracked"):
                renamed[new] = value
        arrays = to_numpy(renamed)
        for norm in sorted(name.removesuffix(".running_var") for name in arrays if name.endswith(".running_var")):
            scale_shift_of(arrays, norm)
        return to_mlx_layout(arrays, self, source_layout=True)


def _statistics(x: mx.array, lengths: mx.array | None) -> mx.array:
    """Mean and unbiased deviation over time in float32: (B, T, C) to (B, 2*C)."""
    x = x.astype(mx.float32)
    if lengths is None:
        mean, variance = mx.mean(x, axis=1), mx.var(x, axis=1, ddof=1)
    else:
        mask, n = time_mask(lengths, x.shape[1], x.dtype)[..., None], lengths[:, None]
        mean = mx.sum(x * mask, axis=1) / n
        variance = mx.sum(mx.square(x - mean[:, None]) * mask, axis=1) / (n - 1)
    return mx.concatenate([mean + MEAN_NOISE, mx.sqrt(variance) + STD_EPS], axis=1)
