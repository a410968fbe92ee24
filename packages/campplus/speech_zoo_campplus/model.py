"""CAM++ speaker embeddings: a densely connected TDNN with context-aware masking behind a 2-D convolution head.

Reference: Wang et al., "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware Masking",
Interspeech 2023; speakerlab/models/campplus/DTDNN.py (3D-Speaker) and wespeaker/models/campplus.py.
"""

import re
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from speech_zoo_core.checkpoint.weights import fold_batch_norm, scale_shift_of, to_mlx_layout, to_numpy
from speech_zoo_core.errors import ConfigError
from speech_zoo_core.layers import ScaleShift, masked, relu, time_mask
from speech_zoo_core.pooling import VALUES, PoolingName, fits, pooling
from speech_zoo_core.tasks.audio_model import AudioModel
from speech_zoo_core.tasks.speaker import SpeakerConfig

HEAD_CHANNELS = 32
LAYERS, KERNEL, DILATIONS = (12, 24, 16), 3, (1, 2, 2)
SEGMENT = 100  # frames of a context segment
DROPPED = ("projection.",)  # the training loss

# The BatchNorm after a layer folds into it; the others stand before a ReLU and stay as scale and shift.
FOLDED = (
    (r"(head\.(?:.*\.)?)bn(\d)", r"\1conv\2"),
    (r"(head\..*\.shortcut)\.1", r"\1.0"),
    (r"(xvector\.(?:tdnn|dense))\.nonlinear\.batchnorm", r"\1.linear"),
    (r"(xvector\..*\.tdnnd\d+)\.nonlinear2\.batchnorm", r"\1.linear1"),
    (r"xvector\.out_nonlinear\.batchnorm", "xvector.transit3.linear"),
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(SpeakerConfig):
    """`pool_eps` is added to the variance of TSTP before the root: 0 in 3D-Speaker, 1e-7 in WeSpeaker."""

    feat_dim: int = 80
    growth_rate: int = 32
    bn_size: int = 4
    init_channels: int = 128
    pool_eps: float = 0.0
    pooling_func: PoolingName = "TSTP"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.growth_rate, self.bn_size, self.init_channels) < 1 or self.bn_size * self.growth_rate % 2:
            raise ConfigError("growth_rate, bn_size and init_channels give no CAM++")
        if not 0 <= self.pool_eps < 1:
            raise ConfigError(f"pool_eps is a small variance, not {self.pool_eps}")
        if self.feat_dim != self.front_end.n_mels or self.feat_dim % 8:
            raise ConfigError(
                f"feat_dim {self.feat_dim} must be a multiple of 8 and equal front_end.n_mels {self.front_end.n_mels}"
            )
        if not fits(self.pooling_func, self.pooled):
            raise ConfigError(f"the heads of {self.pooling_func} cannot share {self.pooled} channels evenly")

    @property
    def pooled(self) -> int:
        """Channels of a frame before the pooling."""
        channels = self.init_channels
        for layers in LAYERS:
            channels = (channels + layers * self.growth_rate) // 2
        return channels


class BasicResBlock(nn.Module):
    """Two 3x3 convolutions; the stride acts on the frequency axis only."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, (stride, 1), 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.shortcut = [nn.Conv2d(channels, channels, 1, (stride, 1))] if stride != 1 else []

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(B, F, T, C) to (B, F', T, C); the mask (B, 1, T, 1) keeps padded frames at zero."""
        out = self.conv2(masked(relu(self.conv1(x)), mask))
        return masked(relu(out + (self.shortcut[0](x) if self.shortcut else x)), mask)


class FCM(nn.Module):
    """The head: front-end convolution module, features (B, T, F) to frames (B, T, C * F/8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, HEAD_CHANNELS, 3, 1, 1)
        self.layer1 = [BasicResBlock(HEAD_CHANNELS, stride) for stride in (2, 1)]
        self.layer2 = [BasicResBlock(HEAD_CHANNELS, stride) for stride in (2, 1)]
        self.conv2 = nn.Conv2d(HEAD_CHANNELS, HEAD_CHANNELS, 3, (2, 1), 1)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        mask = None if mask is None else mask[:, None]
        x = masked(relu(self.conv1(x.transpose(0, 2, 1)[..., None])), mask)  # F rows, T columns
        for block in self.layer1 + self.layer2:
            x = block(x, mask)
        x = masked(relu(self.conv2(x)), mask)
        return x.transpose(0, 2, 3, 1).reshape(x.shape[0], x.shape[2], -1)  # channel outermost


class CAMLayer(nn.Module):
    """Convolution whose output is masked by the context: the mean of the clip plus the mean of the segment."""

    def __init__(self, bn_channels: int, out_channels: int, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(
            bn_channels, out_channels, KERNEL, padding=(KERNEL - 1) // 2 * dilation, dilation=dilation, bias=False
        )
        self.linear1 = nn.Linear(bn_channels, bn_channels // 2)
        self.linear2 = nn.Linear(bn_channels // 2, out_channels)

    def __call__(self, x: mx.array, sizes: tuple[mx.array, mx.array]) -> mx.array:
        """(B, T, C) to (B, T, growth_rate); padded frames of x are zero, `sizes` are those of `_sizes`."""
        context = relu(self.linear1(_segment_context(x, *sizes)))
        gate = mx.repeat(mx.sigmoid(self.linear2(context)), SEGMENT, axis=1)[:, : x.shape[1]]
        return self.linear_local(x) * gate


class CAMDenseTDNNLayer(nn.Module):
    """Bottleneck and CAM layer; its output is appended to its input."""

    def __init__(self, in_channels: int, config: ModelConfig, dilation: int) -> None:
        super().__init__()
        width = config.bn_size * config.growth_rate
        self.nonlinear1 = {"batchnorm": ScaleShift(in_channels)}
        self.linear1 = nn.Linear(in_channels, width)
        self.cam_layer = CAMLayer(width, config.growth_rate, dilation)

    def __call__(self, x: mx.array, mask: mx.array | None, sizes: tuple[mx.array, mx.array]) -> mx.array:
        hidden = masked(relu(self.linear1(relu(self.nonlinear1["batchnorm"](x)))), mask)
        return mx.concatenate([x, self.cam_layer(hidden, sizes)], axis=-1)


class Model(nn.Module, AudioModel):
    """Log-mel features to speaker embeddings."""

    min_frames = 3  # two frames are left after the stride of 2: the least that has a variance

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.head = FCM()
        channels = config.init_channels
        self.xvector: dict[str, dict[str, nn.Module]] = {
            "tdnn": {"linear": nn.Conv1d(HEAD_CHANNELS * config.feat_dim // 8, channels, 5, 2, 2)}
        }
        for i, (layers, dilation) in enumerate(zip(LAYERS, DILATIONS, strict=True), 1):
            block: dict[str, nn.Module] = {}
            for j in range(1, layers + 1):
                block[f"tdnnd{j}"] = CAMDenseTDNNLayer(channels, config, dilation)
                channels += config.growth_rate
            self.xvector[f"block{i}"] = block
            self.xvector[f"transit{i}"] = {
                "nonlinear": {"batchnorm": ScaleShift(channels)},  # type: ignore[dict-item]
                "linear": nn.Linear(channels, channels // 2, bias=i == len(LAYERS)),
            }
            channels //= 2
        self.pool = pooling(config.pooling_func, channels, eps=config.pool_eps)
        self.xvector["dense"] = {"linear": nn.Linear(VALUES[config.pooling_func] * channels, config.embed_dim)}

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
        x = x.astype(self.head.conv1.weight.dtype)
        mask = _mask(x, lengths)
        x = self.head(masked(x, mask), mask)
        lengths = None if lengths is None else (lengths - 1) // 2 + 1
        x = relu(self.xvector["tdnn"]["linear"](x))
        mask, sizes = _mask(x, lengths), _sizes(x.shape[1], lengths)
        for i, layers in enumerate(LAYERS, 1):
            for j in range(1, layers + 1):
                x = self.xvector[f"block{i}"][f"tdnnd{j}"](x, mask, sizes)
            transit = self.xvector[f"transit{i}"]
            x = transit["linear"](relu(transit["nonlinear"]["batchnorm"](x)))  # type: ignore[index]
        pooled = self.pool(masked(relu(x), mask), mask)
        embedding: mx.array = self.xvector["dense"]["linear"](pooled.astype(x.dtype))
        return embedding

    def quantizable(self, name: str) -> bool:
        """The first block and the masks stay in floating point: they cost most of the precision on short clips."""
        return not any(part in name for part in ("block1.", "transit1.", "cam_layer"))

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Source or converted tensors to converted ones; a fixed point.

        Folds every BatchNorm that follows a layer, turns the others into scale and shift, drops `DROPPED` and the
        BatchNorm counters. WeSpeaker's pooling has two names.
        """
        kept = {
            re.sub(r"^xvector\.stats\.", "pool.", name): value
            for name, value in weights.items()
            if not name.startswith(DROPPED)
        }
        if not any(name.endswith("running_var") for name in kept):
            return to_mlx_layout(to_numpy(kept), self, source_layout=False)
        arrays = to_numpy({name: x for name, x in kept.items() if not name.endswith("num_batches_tracked")})
        for norm in sorted(name.removesuffix(".running_var") for name in arrays if name.endswith(".running_var")):
            layer = next((re.sub(pattern, to, norm) for pattern, to in FOLDED if re.fullmatch(pattern, norm)), None)
            if layer is None:
                scale_shift_of(arrays, norm)
            else:
                fold_batch_norm(arrays, layer, norm, affine=not norm.startswith("xvector.dense."))
        return to_mlx_layout(arrays, self, source_layout=True)


def _mask(x: mx.array, lengths: mx.array | None) -> mx.array | None:
    """(B, T, 1) for frames (B, T, C)."""
    return None if lengths is None else time_mask(lengths, x.shape[1], x.dtype)[..., None]


def _sizes(frames: int, lengths: mx.array | None) -> tuple[mx.array, mx.array]:
    """Frames of each clip (B or 1, 1, 1), and of each of its segments (B or 1, S, 1); 1 where all is padding."""
    sizes = mx.array([[frames]]) if lengths is None else lengths[:, None]
    counts = mx.clip(sizes - SEGMENT * mx.arange(-(-frames // SEGMENT))[None], 1, SEGMENT)
    return sizes[..., None], counts[..., None]


def _segment_context(x: mx.array, sizes: mx.array, counts: mx.array) -> mx.array:
    """Mean over the clip plus mean over each segment of 100 frames: (B, T, C) to (B, S, C).

    The last segment is divided by the frames that it has.
    """
    batch, frames, channels = x.shape
    padded = mx.pad(x, [(0, 0), (0, -frames % SEGMENT), (0, 0)])
    sums = mx.sum(padded.reshape(batch, -1, SEGMENT, channels).astype(mx.float32), axis=2)
    return (mx.sum(sums, axis=1, keepdims=True) / sizes + sums / counts).astype(x.dtype)
