"""Wav2Vec2 with a classification head: a convolutional feature extractor, a transformer, mean pooling over time.

Reference: Baevski et al., "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations", NeurIPS
2020; Pratap et al., "Scaling Speech Technology to 1,000+ Languages", 2023 (MMS);
transformers/models/wav2vec2/modeling_wav2vec2.py, `Wav2Vec2ForSequenceClassification`. Names are the checkpoint's own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from speech_zoo_core.audio.front_end import WaveformFrontEnd
from speech_zoo_core.checkpoint.weights import to_mlx_layout
from speech_zoo_core.config import Quantization
from speech_zoo_core.device import in_trace
from speech_zoo_core.errors import CheckpointError, ConfigError, InputError, shown
from speech_zoo_core.layers import gelu, gelu_tanh, relu, silu
from speech_zoo_core.tasks.audio_model import AudioModel
from speech_zoo_core.tasks.language import check_labels

GROUP_NORM_EPS = LAYER_NORM_EPS = 1e-5  # PyTorch's default, where the config has no say
ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": relu,
    "silu": silu,
    "swish": silu,
}
MAX_STRIDE = 1000
DROPPED = ("masked_spec_embed", "quantizer.", "project_q.", "project_hid.")  # training only, under any prefix
POS_CONV = "wav2vec2.encoder.pos_conv_embed.conv"
WEIGHT_NORM = (  # magnitude and direction, in the two spellings of PyTorch
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Names and meanings of transformers' `Wav2Vec2Config`; what is not listed there stands here.

    Attributes:
        task: "audio-classification" where the labels are no languages.
        front_end: whether waveforms are brought to zero mean and unit variance.
        id2label: class to label.
        attention_mask: whether padding is masked in batches; where not, clips of different length are never padded.
        window: length in seconds of the windows that clips above `single_pass` are cut into.
        single_pass: seconds up to which a clip is taken in one pass.
        sum_final_norm: whether the last hidden state enters the weighted layer sum after the encoder's final norm, as
            in transformers 4, or before it, as in transformers 5; matters for `do_stable_layer_norm` only.
    """

    model_type: str
    front_end: WaveformFrontEnd
    id2label: dict[str, str]
    task: Literal["language-identification", "audio-classification"] = "language-identification"
    attention_mask: bool = True
    window: float = 30.0
    single_pass: float = 60.0
    sum_final_norm: bool = False
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    feat_extract_norm: Literal["group", "layer"] = "group"
    feat_extract_activation: str = "gelu"
    conv_dim: list[int] = field(default_factory=lambda: [512] * 7)
    conv_stride: list[int] = field(default_factory=lambda: [5, 2, 2, 2, 2, 2, 2])
    conv_kernel: list[int] = field(default_factory=lambda: [10, 3, 3, 3, 3, 2, 2])
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    do_stable_layer_norm: bool = False
    use_weighted_layer_sum: bool = False
    classifier_proj_size: int = 256
    add_adapter: bool = False
    adapter_kernel_size: int = 3
    adapter_stride: int = 2
    num_adapter_layers: int = 3
    output_hidden_size: int | None = None
    adapter_attn_dim: int | None = None
    quantization: Quantization | None = None
    source: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_labels(self.id2label)
        sizes = [self.hidden_size, self.num_hidden_layers, self.num_attention_heads, self.intermediate_size]
        sizes += [self.classifier_proj_size, self.num_conv_pos_embeddings, self.num_conv_pos_embedding_groups]
        sizes += [self.adapter_kernel_size, self.adapter_stride, self.num_adapter_layers, self.width]
        sizes += [*self.conv_dim, *self.conv_stride, *self.conv_kernel, self.adapter_attn_dim or 1]
        if min(sizes) < 1 or self.layer_norm_eps <= 0:
            raise ConfigError("widths, kernels, strides, counts and layer_norm_eps must be positive")
        if not len(self.conv_dim) == len(self.conv_stride) == len(self.conv_kernel) >= 1:
            raise ConfigError("conv_dim, conv_stride and conv_kernel must have one entry for each layer")
        if self.hidden_size % self.num_attention_heads or self.hidden_size % self.num_conv_pos_embedding_groups:
            raise ConfigError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads} "
                f"and of num_conv_pos_embedding_groups {self.num_conv_pos_embedding_groups}"
            )
        for key in ("hidden_act", "feat_extract_activation"):
            if (name := getattr(self, key)) not in ACTIVATIONS:
                raise ConfigError(f"{key} {shown(name)} is not supported (only {', '.join(ACTIVATIONS)})")
        if not 1 <= self.window <= self.single_pass:
            raise ConfigError(f"window {self.window} must be 1 s or more, and at most single_pass {self.single_pass}")
        if max(*self.conv_stride, self.adapter_stride) > MAX_STRIDE:
            raise ConfigError(f"a stride is {MAX_STRIDE} at most")
        if self.add_adapter and self.use_weighted_layer_sum:
            raise ConfigError("add_adapter and use_weighted_layer_sum exclude each other: layers have no adapter")
        if not self.add_adapter and self.width != self.hidden_size:
            raise ConfigError("output_hidden_size differs from hidden_size, which goes with add_adapter only")

    @property
    def width(self) -> int:
        """Width of the last hidden state."""
        return self.hidden_size if self.output_hidden_size is None else self.output_hidden_size

    @property
    def layers(self) -> int:
        """Layers with weights, at least."""
        return self.num_hidden_layers + len(self.conv_dim) + (self.num_adapter_layers if self.add_adapter else 0)


class ConvLayer(nn.Module):
    """Convolution over time, a norm (over channels, over time, or none), activation."""

    def __init__(self, config: ModelConfig, i: int) -> None:
        super().__init__()
        channels = config.conv_dim[i]
        self.conv = nn.Conv1d(
            config.conv_dim[i - 1] if i else 1,
            channels,
            config.conv_kernel[i],
            config.conv_stride[i],
            bias=config.conv_bias,
        )
        self.over_time = config.feat_extract_norm == "group"
        self.activation = ACTIVATIONS[config.feat_extract_activation]
        if not self.over_time or i == 0:
            self.layer_norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, C) to (B, T', C')."""
        x = self.conv(x)
        if "layer_norm" in self:
            x = _norm_over_time(x, self.layer_norm) if self.over_time else self.layer_norm(x)
        return self.activation(x)


class PositionalConvEmbedding(nn.Module):
    """A grouped convolution with a long kernel, whose output tells positions apart."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        kernel, groups = config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
        self.conv = nn.Conv1d(config.hidden_size, config.hidden_size, kernel, padding=kernel // 2, groups=groups)
        self.surplus = 1 - kernel % 2
        self.activation = ACTIVATIONS[config.feat_extract_activation]

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, C) to (B, T, C)."""
        y = self.conv(x)
        return self.activation(y[:, : y.shape[1] - self.surplus])


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            self[name] = nn.Linear(config.hidden_size, config.hidden_size)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(B, T, C) to (B, T, C); the mask (B, 1, 1, T) says which frames may be attended to."""
        batch, frames, width = x.shape
        q, k, v = (
            self[name](x).reshape(batch, frames, self.heads, -1).transpose(0, 2, 1, 3)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)
        y = y.transpose(0, 2, 1, 3).reshape(batch, frames, width)
        return self.out_proj(y)


class FeedForward(nn.Module):
    """Two linear layers around an activation."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: mx.array) -> mx.array:
        return self.output_dense(self.activation(self.intermediate_dense(x)))


class AttnAdapterLayer(nn.Module):
    """A bottleneck after a transformer layer, as in MMS."""

    def __init__(self, config: ModelConfig, bottleneck: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.linear_1 = nn.Linear(config.hidden_size, bottleneck)
        self.linear_2 = nn.Linear(bottleneck, config.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_2(relu(self.linear_1(self.norm(x))))


class EncoderLayer(nn.Module):
    """A transformer layer, with its norms before (stable) or after attention and feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.stable = config.do_stable_layer_norm
        self.attention = Attention(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if config.adapter_attn_dim is not None and self.stable:
            self.adapter_layer = AttnAdapterLayer(config, config.adapter_attn_dim)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(B, T, C) to (B, T, C)."""
        if not self.stable:
            x = self.layer_norm(x + self.attention(x, mask))
            return self.final_layer_norm(x + self.feed_forward(x))
        x = x + self.attention(self.layer_norm(x), mask)
        x = x + self.feed_forward(self.final_layer_norm(x))
        return x + self.adapter_layer(x) if "adapter_layer" in self else x


class Encoder(nn.Module):
    """Positions, then transformer layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.stable = config.do_stable_layer_norm
        self.final_norm = self.stable and (config.sum_final_norm or not config.use_weighted_layer_sum)
        self.pos_conv_embed = PositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = [EncoderLayer(config) for _ in range(config.num_hidden_layers)]

    def __call__(self, x: mx.array, mask: mx.array | None) -> list[mx.array]:
        """(B, T, C) to the hidden states, each (B, T, C): what enters the first layer, and what each layer gives."""
        if mask is not None:
            x = x * mask[..., None].astype(x.dtype)
        x = x + self.pos_conv_embed(x)
        states = [x if self.stable else self.layer_norm(x)]
        attended = None if mask is None else mask[:, None, None]
        for layer in self.layers:
            states.append(layer(states[-1], attended))
        if self.final_norm:
            states[-1] = self.layer_norm(states[-1])
        return states


class AdapterLayer(nn.Module):
    """A convolution with a stride, and a gated linear unit."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.conv = nn.Conv1d(config.width, 2 * config.width, config.adapter_kernel_size, config.adapter_stride, 1)

    def __call__(self, x: mx.array) -> mx.array:
        values, gates = mx.split(self.conv(x), 2, axis=-1)
        return values * mx.sigmoid(gates)


class Adapter(nn.Module):
    """Convolutions that shorten the output of the encoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.width != config.hidden_size:
            self.proj = nn.Linear(config.hidden_size, config.width)
            self.proj_layer_norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.layers = [AdapterLayer(config) for _ in range(config.num_adapter_layers)]

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, C) to (B, T', C')."""
        if "proj" in self:
            x = self.proj_layer_norm(self.proj(x))
        for layer in self.layers:
            x = layer(x)
        return x


class Wav2Vec2(nn.Module):
    """Normalised waveforms to hidden states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.feature_extractor = {"conv_layers": [ConvLayer(config, i) for i in range(len(config.conv_dim))]}
        self.feature_projection = {
            "layer_norm": nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps),
            "projection": nn.Linear(config.conv_dim[-1], config.hidden_size),
        }
        self.encoder = Encoder(config)
        if config.add_adapter:
            self.adapter = Adapter(config)

    def __call__(self, x: mx.array, mask: mx.array | None) -> list[mx.array]:
        """(B, N, 1) to hidden states (B, T, C); the mask (B, T) is for the frames of the feature extractor."""
        for layer in self.feature_extractor["conv_layers"]:
            x = layer(x)
        states = self.encoder(self.feature_projection["projection"](self.feature_projection["layer_norm"](x)), mask)
        if "adapter" in self:
            states[-1] = self.adapter(states[-1])
        return states


class Model(nn.Module, AudioModel):
    """Waveforms to the logits of the labels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.wav2vec2 = Wav2Vec2(config)
        if config.use_weighted_layer_sum:
            self.layer_weights = mx.ones((config.num_hidden_layers + 1,))
        self.projector = nn.Linear(config.width, config.classifier_proj_size)
        self.classifier = nn.Linear(config.classifier_proj_size, len(config.id2label))

    @property
    def min_frames(self) -> int:  # type: ignore[override]
        """Samples that the feature extractor needs for one frame: its receptive field."""
        samples = 1
        for kernel, stride in zip(self.config.conv_kernel[::-1], self.config.conv_stride[::-1], strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def batches_unequal(self) -> bool:  # type: ignore[override]
        """Whether clips of different length may share a batch."""
        return self.config.attention_mask

    @property
    def masks_padding(self) -> bool:  # type: ignore[override]
        """Whether zeros after a clip leave its result as it is: not where the norm of the whole clip, or the adapter's
        convolutions, see them.
        """
        return self.batches_unequal and self.config.feat_extract_norm == "layer" and not self.config.add_adapter

    def _frames(self, samples: Any) -> Any:
        """Frames that the feature extractor makes of samples, a number or an array."""
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def __call__(self, x: mx.array, lengths: mx.array | None = None) -> mx.array:
        """Logits.

        Args:
            x: waveforms (N,) or (B, N) in [-1, 1] at the front end's rate, or what the front end makes of them, as
                (B, N, 1).
            lengths: (B,) samples of each clip, where clips were padded to N; None if all fill it. Padding is masked, as
                transformers does with an attention mask.

        Returns:
            (B, L) in the type of the weights.
        """
        if x.ndim < 3:
            x = self.waveform_features(x, lengths)
        if x.ndim != 3 or x.shape[1] < self.min_frames or x.shape[2] != 1:
            raise InputError(f"an input of shape {x.shape} is not (B, N, 1) with N of {self.min_frames} or more")
        self._check_lengths(lengths, x.shape[1], len(x))
        frames = mask = None
        if lengths is not None:
            frames = self._frames(lengths)
            if not in_trace():
                x = x[:, : int(np.array(lengths).max())]
            mask = mx.arange(self._frames(x.shape[1]))[None] < frames[:, None]
        states = self.wav2vec2(x.astype(self.classifier.weight.dtype), mask)
        if self.config.use_weighted_layer_sum:
            weights = mx.softmax(self.layer_weights.astype(mx.float32)).astype(states[0].dtype)
            hidden = sum(
                (state * weight for state, weight in zip(states[1:], weights[1:], strict=True)), states[0] * weights[0]
            )
        else:
            hidden = states[-1]
        hidden = self.projector(hidden).astype(mx.float32)
        if frames is None:
            pooled = mx.mean(hidden, axis=1)
        else:
            if self.config.add_adapter:
                for _ in range(self.config.num_adapter_layers):
                    frames = (frames - 1) // self.config.adapter_stride + 1
            kept = (mx.arange(hidden.shape[1])[None] < frames[:, None])[..., None]
            pooled = mx.sum(mx.where(kept, hidden, 0), axis=1) / frames[:, None]
        logits: mx.array = self.classifier(pooled.astype(self.classifier.weight.dtype))
        return logits

    def quantizable(self, name: str) -> bool:
        """The classifier stays in floating point, as all convolutions do."""
        return name != "classifier"

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """transformers' tensors or converted ones to converted ones, lazily; a fixed point.

        Drops `DROPPED`, resolves weight norm into one plain weight.
        """
        kept = {
            name: value
            for name, value in weights.items()
            if not any(name.startswith(part) or f".{part}" in name for part in DROPPED)
        }
        source = False
        for magnitude, direction in WEIGHT_NORM:
            if f"{POS_CONV}.{direction}" in kept and f"{POS_CONV}.{magnitude}" in kept:
                g, v = (kept.pop(f"{POS_CONV}.{part}").astype(mx.float32) for part in (magnitude, direction))
                if v.ndim != 3 or g.shape != (1, 1, v.shape[2]) or f"{POS_CONV}.weight" in kept:
                    raise CheckpointError(f"{POS_CONV} has weights {v.shape} of norms {g.shape}, or stands twice")
                kept[f"{POS_CONV}.weight"] = v * (g / mx.sqrt(mx.sum(mx.square(v), axis=(0, 1), keepdims=True)))
                source = True
        first = kept.get("wav2vec2.feature_extractor.conv_layers.0.conv.weight")
        if first is not None and first.ndim == 3 and first.shape[1] == 1 and first.shape[2] > 1:
            source = True  # (O, 1, K); a converted one is (O, K, 1)
        return to_mlx_layout(kept, self, source_layout=source)


def _norm_over_time(x: mx.array, norm: nn.LayerNorm) -> mx.array:
    """GroupNorm with one group for each channel, in float32: (B, T, C) to (B, T, C)."""
    y = x.astype(mx.float32)
    y = y - mx.mean(y, axis=1, keepdims=True)
    y = y * mx.rsqrt(mx.mean(mx.square(y), axis=1, keepdims=True) + GROUP_NORM_EPS)
    return y.astype(x.dtype) * norm.weight + norm.bias
