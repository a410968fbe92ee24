"""ECAPA-TDNN in three dialects by configuration: SpeechBrain, WeSpeaker, and the speaker proxy on RVQ sums.

Reference: Desplanques et al., "ECAPA-TDNN: Emphasized Channel Attention, Propagation and Aggregation in TDNN Based
Speaker Verification", Interspeech 2020; speechbrain/lobes/models/ECAPA_TDNN.py and Xvector.py (`Classifier`);
wespeaker/models/ecapa_tdnn.py and pooling_layers.py (`ASTP`).
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from speech_zoo_core.audio.front_end import FrontEnd
from speech_zoo_core.checkpoint.weights import fold_batch_norm, fold_into_next, scale_shift_of, to_mlx_layout, to_numpy
from speech_zoo_core.errors import CheckpointError, ConfigError, InputError
from speech_zoo_core.layers import ScaleShift, leaky_relu, mirror, reflected, relu
from speech_zoo_core.pooling import (
    VALUES,
    PoolingName,
    fits,
    linear_of_parts,
    mean_and_deviation,
    mean_of,
    pooling,
    weighted_statistics,
)
from speech_zoo_core.tasks.audio_model import AudioModel
from speech_zoo_core.tasks.language import check_labels
from speech_zoo_core.tasks.speaker import SpeakerConfig

NORM_FLOOR = 1e-12  # torch.nn.functional.normalize
COSINE_SCALE = 30.0
MAX_DILATION = 100
LEAKY_SLOPE = 0.01  # of the classifier's LeakyReLU
FLOORS = {"centred": 1e-12, "raw": 1e-7}  # of the weighted variance
DROPPED = ("projection.",)  # WeSpeaker's training loss
# SpeechBrain wraps every layer once more: blocks.0.conv.conv.weight, asp_bn.norm.weight, out.w.weight.
WRAPPED = re.compile(r"\b(?:(conv|conv1|conv2|fc)\.conv|(norm|asp_bn)\.norm|(linear|out)\.w)\.")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(SpeakerConfig):
    """Names and widths are those of SpeechBrain's `ECAPA_TDNN`; the other fields tell the dialects apart.

    Attributes:
        task: the two of classification add the classifier; "audio-classification" where labels are no languages.
        front_end: None where the input is no audio but RVQ sums, which also gives embeddings of unit length.
        feat_dim: width of the input.
        channels: of the first layer, of each SE-Res2Net block, and of the aggregation (mfa).
        padding: of the convolutions, which keep the length.
        res2net_skip: the chunk that a Res2Net block passes on as it is.
        aggregation_norm: whether mfa and the attention's first layer end in ReLU and BatchNorm; without it, in ReLU
            (mfa) and in nothing.
        pooling_func: WeSpeaker's other poolings have neither global context nor `aggregation_norm`.
        moments: "centred": variance about the mean, floor 1e-12; "raw": E[x^2] - mean^2, floor 1e-7, and for the
            global context the unbiased variance plus 1e-7.
        classifier: "cosine" to a vector of each class; None for a hidden layer and one of logits.
        classifier_neurons: width of the classifier's hidden layer.
        id2label: class to language, "ab: Abkhazian" or "ab".
    """

    task: Literal["speaker-embedding", "language-identification", "audio-classification"] = "speaker-embedding"  # type: ignore[assignment]
    front_end: FrontEnd | None = None  # type: ignore[assignment]
    feat_dim: int
    channels: list[int]
    kernel_sizes: list[int] = field(default_factory=lambda: [5, 3, 3, 3, 1])
    dilations: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 1])
    attention_channels: int = 128
    res2net_scale: int = 8
    se_channels: int = 128
    global_context: bool = True
    padding: Literal["reflect", "zeros"] = "reflect"
    res2net_skip: Literal["first", "last"] = "first"
    aggregation_norm: bool = True
    pooling_func: PoolingName = "ASTP"
    moments: Literal["centred", "raw"] = "centred"
    classifier: Literal["cosine"] | None = None
    classifier_neurons: int | None = None
    id2label: dict[str, str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = [*self.channels, *self.kernel_sizes, *self.dilations, self.feat_dim]
        sizes += [self.attention_channels, self.res2net_scale, self.se_channels]
        if min(sizes, default=0) < 1 or any(kernel % 2 == 0 for kernel in self.kernel_sizes):
            raise ConfigError("channels, kernel_sizes, dilations and widths must be positive, kernel_sizes odd")
        if max(self.dilations, default=0) > MAX_DILATION:
            raise ConfigError(f"a dilation is {MAX_DILATION} frames at most")
        if not len(self.channels) == len(self.kernel_sizes) == len(self.dilations) >= 3:
            raise ConfigError("channels, kernel_sizes and dilations must have one entry for each of at least 3 layers")
        if len(set(self.channels[:-1])) > 1 or self.channels[0] % self.res2net_scale or self.res2net_scale < 2:
            raise ConfigError(
                f"channels {self.channels} must be the same but for the last, and a multiple of res2net_scale "
                f"{self.res2net_scale}"
            )
        if not fits(self.pooling_func, self.channels[-1]):
            raise ConfigError(f"the heads of {self.pooling_func} cannot share {self.channels[-1]} channels evenly")
        if self.front_end is not None and self.front_end.n_mels != self.feat_dim:
            raise ConfigError(f"feat_dim {self.feat_dim} must equal front_end.n_mels {self.front_end.n_mels}")
        if (self.task != "speaker-embedding") != (self.id2label is not None):
            raise ConfigError("id2label belongs to a task of classification, and to no other")
        if (self.id2label is not None and self.classifier is None) != (self.classifier_neurons is not None):
            raise ConfigError("classifier_neurons belongs to a classifier of layers, and to nothing else")
        if self.id2label is not None:
            check_labels(self.id2label)
            if self.front_end is None or (self.classifier_neurons is not None and self.classifier_neurons < 1):
                raise ConfigError(f"{self.task} needs a front_end and positive classifier_neurons")

    @property
    def layers(self) -> int:
        """Layers with weights, at least."""
        return (len(self.channels) - 2) * self.res2net_scale


@dataclass(frozen=True)
class Frames:
    """Which frames of a batch (B, T, C) count, and how convolutions see its edges.

    Attributes:
        padding: "reflect" or "zeros".
        mask: (B, T, 1), 1 where a frame belongs to its clip; None if all do.
        lengths: (B,) where each clip ends for a convolution; None if at T.
        mirrors: where frames come from that are mirrored, by the size of the padding.
    """

    padding: str
    mask: mx.array | None = None
    lengths: mx.array | None = None
    mirrors: dict[int, mx.array] = field(default_factory=dict)

    def pad(self, x: mx.array, size: int) -> mx.array:
        """`size` more frames at both ends of each clip: (B, T, C) to (B, T + 2*size, C)."""
        if self.padding == "zeros":
            return mx.pad(x if self.mask is None else x * self.mask.astype(x.dtype), [(0, 0), (size, size), (0, 0)])
        if self.lengths is None:
            return reflected(x, size)
        if size not in self.mirrors:
            self.mirrors[size] = mirror(x.shape[1], size, self.lengths)
        return mx.take_along_axis(x, self.mirrors[size], axis=1)

    def mean(self, x: mx.array) -> mx.array:
        """Mean over time in float32: (B, T, C) to (B, 1, C)."""
        return mean_of(x.astype(mx.float32), self.mask)


class TDNNBlock(nn.Module):
    """Convolution that keeps the length, ReLU, and what is left of the BatchNorm, if it has one."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, dilation: int = 1, norm: bool = True
    ) -> None:
        super().__init__()
        self.pad = (kernel - 1) // 2 * dilation
        self.conv = (
            nn.Conv1d(in_channels, out_channels, kernel, dilation=dilation)
            if kernel > 1
            else nn.Linear(in_channels, out_channels)
        )
        if norm:
            self.norm = ScaleShift(out_channels)

    def __call__(self, x: mx.array, frames: Frames) -> mx.array:
        """(B, T, C) to (B, T, C')."""
        x = relu(self.conv(frames.pad(x, self.pad) if self.pad else x))
        return self.norm(x) if "norm" in self else x


class Res2NetBlock(nn.Module):
    """Chunks of the channels, each convolved after the result of the one before is added; one stays as it is."""

    def __init__(self, channels: int, scale: int, kernel: int, dilation: int, skip: str) -> None:
        super().__init__()
        self.skip = skip
        self.blocks = [TDNNBlock(channels // scale, channels // scale, kernel, dilation) for _ in range(scale - 1)]

    def __call__(self, x: mx.array, frames: Frames) -> mx.array:
        """(B, T, C) to (B, T, C)."""
        chunks = mx.split(x, len(self.blocks) + 1, axis=-1)
        convolved = chunks[1:] if self.skip == "first" else chunks[:-1]
        out: list[mx.array] = []
        for block, chunk in zip(self.blocks, convolved, strict=True):
            out.append(block(chunk + out[-1] if out else chunk, frames))
        return mx.concatenate([chunks[0], *out] if self.skip == "first" else [*out, chunks[-1]], axis=-1)


class SEBlock(nn.Module):
    """Squeeze-and-excitation: each channel is scaled by what its mean over time says."""

    def __init__(self, channels: int, se_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Linear(channels, se_channels)
        self.conv2 = nn.Linear(se_channels, channels)

    def __call__(self, x: mx.array, frames: Frames) -> mx.array:
        """(B, T, C) to (B, T, C)."""
        return x * mx.sigmoid(self.conv2(relu(self.conv1(frames.mean(x).astype(x.dtype)))))


class SERes2NetBlock(nn.Module):
    """TDNN, Res2Net, TDNN, squeeze-and-excitation, around a residual connection."""

    def __init__(self, config: ModelConfig, kernel: int, dilation: int) -> None:
        super().__init__()
        channels = config.channels[0]
        self.tdnn1 = TDNNBlock(channels, channels)
        self.res2net_block = Res2NetBlock(channels, config.res2net_scale, kernel, dilation, config.res2net_skip)
        self.tdnn2 = TDNNBlock(channels, channels)
        self.se_block = SEBlock(channels, config.se_channels)

    def __call__(self, x: mx.array, frames: Frames) -> mx.array:
        """(B, T, C) to (B, T, C)."""
        y = self.tdnn2(self.res2net_block(self.tdnn1(x, frames), frames), frames)
        return x + self.se_block(y, frames)


class AttentiveStatisticsPooling(nn.Module):
    """Mean and standard deviation over time, each channel weighted by its own attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels, self.moments, self.global_context = config.channels[-1], config.moments, config.global_context
        width = channels * (3 if config.global_context else 1)
        self.tdnn: dict[str, nn.Module] = {"conv": nn.Linear(width, config.attention_channels)}
        if config.aggregation_norm:
            self.tdnn["norm"] = ScaleShift(config.attention_channels)
        self.conv = nn.Linear(config.attention_channels, channels)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(B, T, C) to (B, 2*C) float32; the mask is (B, T, 1)."""
        context: list[mx.array] = []
        if self.global_context:
            mean, deviation = mean_and_deviation(x, mask)
            if self.moments == "centred":
                variance = mean_of(mx.square(x.astype(mx.float32) - mean), mask)
                deviation = mx.sqrt(mx.maximum(variance, FLOORS["centred"]))
            context = [mean.astype(x.dtype), deviation.astype(x.dtype)]
        hidden = linear_of_parts(self.tdnn["conv"], [x, *context])
        if "norm" in self.tdnn:
            hidden = self.tdnn["norm"](relu(hidden))
        return weighted_statistics(x, self.conv(mx.tanh(hidden)), mask, FLOORS[self.moments])


class Cosines(nn.Module):
    """Cosines of embeddings (B, D) to a vector of each class, (B, L) float32."""

    def __init__(self, embed_dim: int, classes: int) -> None:
        super().__init__()
        self.weight = mx.zeros((classes, embed_dim))

    def __call__(self, x: mx.array) -> mx.array:
        return _unit(x.astype(mx.float32)) @ _unit(self.weight.astype(mx.float32)).T


class Model(nn.Module, AudioModel):
    """Features to speaker embeddings or to the logits of languages."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        layers = list(zip(config.channels, config.kernel_sizes, config.dilations, strict=True))
        self.blocks: list[nn.Module] = [TDNNBlock(config.feat_dim, *layers[0])]
        self.blocks += [SERes2NetBlock(config, kernel, dilation) for _, kernel, dilation in layers[1:-1]]
        self.mfa = TDNNBlock(config.channels[0] * (len(layers) - 2), *layers[-1], norm=config.aggregation_norm)
        last, attentive = config.channels[-1], config.pooling_func == "ASTP"
        self.asp = AttentiveStatisticsPooling(config) if attentive else pooling(config.pooling_func, last)
        self.fc = nn.Linear(VALUES[config.pooling_func] * last, config.embed_dim)
        if config.id2label is not None and config.classifier == "cosine":
            self.classifier: Any = Cosines(config.embed_dim, len(config.id2label))
        elif config.id2label is not None and config.classifier_neurons is not None:
            self.classifier = {
                "DNN": {"block_0": {"linear": nn.Linear(config.embed_dim, config.classifier_neurons)}},
                "out": nn.Linear(config.classifier_neurons, len(config.id2label)),
            }

    @property
    def scale(self) -> float:
        """Of the scores before the softmax: of cosines, the one that SpeechBrain's recipes train with."""
        return COSINE_SCALE if self.config.classifier == "cosine" else 1.0

    @property
    def half_precision(self) -> bool:  # type: ignore[override]
        """Whether float16 stays within the limits of parity; the speaker proxy, which is differentiated, is held to
        float32.
        """
        return self.config.front_end is not None

    @property
    def min_frames(self) -> int:  # type: ignore[override]
        """The shortest input: reflection needs more frames than it mirrors; CMN leaves nothing of one frame."""
        if self.config.padding == "reflect":
            sizes = zip(self.config.kernel_sizes, self.config.dilations, strict=True)
            return max(2, max((kernel - 1) // 2 * dilation for kernel, dilation in sizes) + 1)
        return 2

    def __call__(self, x: mx.array, lengths: mx.array | None = None) -> mx.array:
        """Embeddings before normalisation, or logits; embeddings of unit length where the input is RVQ sums.

        Args:
            x: features (B, T, F), or waveforms (N,) or (B, N) at the front end's rate.
            lengths: (B,) where clips were padded to T. Integers: frames of each clip, which gives what each clip gives
                alone. Floats: lengths relative to the longest clip, which gives what SpeechBrain's own batches give,
                where the padding is seen by the last frames of a shorter clip. None if all clips fill T.

        Returns:
            (B, D) embeddings or (B, L) logits, in the type of the weights.
        """
        relative = lengths is not None and mx.issubdtype(lengths.dtype, mx.floating)
        sizes = lengths
        if lengths is not None and relative:
            count = 1 if x.ndim == 1 else len(x)
            if lengths.shape != (count,) or not mx.all((lengths > 0) & (lengths <= 1)):
                raise InputError(f"relative lengths must be {count} numbers above 0 and at most 1")
            if x.ndim < 3:  # as InputNormalization counts the frames
                sizes = mx.ceil(lengths * self._front_end().num_frames(x.shape[-1]) - 1e-6).astype(mx.int32)
        if x.ndim < 3:
            x = self.waveform_features(x, sizes)
        if x.ndim != 3 or x.shape[1] < self.min_frames or x.shape[2] != self.config.feat_dim:
            raise InputError(
                f"an input of shape {x.shape} is not (B, T, {self.config.feat_dim}) with T of {self.min_frames} or more"
            )
        mask = None
        if lengths is not None:
            if not relative:
                self._check_lengths(lengths, x.shape[1], len(x))
            ends = lengths * x.shape[1] if relative else lengths
            mask = (mx.arange(x.shape[1])[None] < ends[:, None]).astype(mx.float32)[..., None]
        frames = Frames(self.config.padding, mask, None if relative else lengths)
        embedding = self._embedding(x.astype(self.blocks[0].norm.weight.dtype), frames)
        if "classifier" not in self:
            return embedding if self.config.front_end else _unit(embedding)
        if self.config.classifier == "cosine":
            return self.classifier(embedding)
        hidden = self.classifier["DNN"]["block_0"]["linear"](leaky_relu(embedding, LEAKY_SLOPE))  # type: ignore[index]
        logits: mx.array = self.classifier["out"](leaky_relu(hidden, LEAKY_SLOPE))  # type: ignore[operator]
        return logits

    def _embedding(self, x: mx.array, frames: Frames) -> mx.array:
        """(B, T, F) to (B, D)."""
        x = self.blocks[0](x, frames)
        outputs = []
        for block in self.blocks[1:]:
            x = block(x, frames)
            outputs.append(x)
        x = self.mfa(mx.concatenate(outputs, axis=-1), frames)
        pooled = self.asp(x, frames.mask)
        embedding: mx.array = self.fc(pooled.astype(x.dtype))
        return embedding

    def quantizable(self, name: str) -> bool:
        """The classifier stays in floating point: it is small, and logits are what users see."""
        return not name.startswith("classifier.")

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Source tensors under SpeechBrain's names, or converted ones, to converted ones; a fixed point.

        Folds the BatchNorms beside a linear layer, turns the others into scale and shift, drops `DROPPED` and the
        BatchNorm counters.
        """
        kept = {name: value for name, value in weights.items() if not name.startswith(DROPPED)}
        if not any(name.endswith("running_var") for name in kept):
            return to_mlx_layout(to_numpy(kept), self, source_layout=False)
        plain = {
            name: WRAPPED.sub(lambda match: f"{match[match.lastindex or 0]}.", name)
            for name in kept
            if not name.endswith("num_batches_tracked")
        }
        if len(set(plain.values())) < len(plain):
            raise CheckpointError("a layer stands twice in the checkpoint, with and without SpeechBrain's wrapper")
        arrays = to_numpy({short: kept[name] for name, short in plain.items()})
        following = {
            "asp_bn": "fc",
            "classifier.norm": "classifier.DNN.block_0.linear",
            "classifier.DNN.block_0.norm": "classifier.out",
        }
        for norm in sorted(name.removesuffix(".running_var") for name in arrays if name.endswith(".running_var")):
            if norm in following:
                fold_into_next(arrays, norm, following[norm])
            elif norm == "fc_bn":
                fold_batch_norm(arrays, "fc", norm)
            else:
                scale_shift_of(arrays, norm)
        return to_mlx_layout(arrays, self, source_layout=True)


def _unit(x: mx.array) -> mx.array:
    """Rows of unit length, computed in float32."""
    full = x.astype(mx.float32)
    return (full / mx.maximum(mx.linalg.norm(full, axis=-1, keepdims=True), NORM_FLOOR)).astype(x.dtype)
