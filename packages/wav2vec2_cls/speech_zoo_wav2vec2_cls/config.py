"""The settings of Wav2Vec2 and its kin with a head on it, under transformers' names."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import mlx.core as mx
from speech_zoo_core.audio.front_end import WaveformFrontEnd
from speech_zoo_core.config import Quantization
from speech_zoo_core.errors import ConfigError, shown
from speech_zoo_core.layers import gelu, gelu_tanh, relu, silu
from speech_zoo_core.tasks.language import check_labels
from speech_zoo_core.tasks.speaker import check_threshold

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": relu,
    "silu": silu,
    "swish": silu,
}
MAX_STRIDE = 1000
MAX_DILATION = 100
MAX_DISTANCE = 100_000  # frames


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Names and meanings of transformers' `Wav2Vec2Config`, and of those of HuBERT, WavLM, UniSpeech-SAT and data2vec
    where they differ; what is not listed there stands here.

    Attributes:
        task: "audio-classification" where the labels are no languages, "audio-tagging" where several may hold,
            "audio-regression" where they name values; "speaker-embedding" has the head of x-vectors.
        front_end: whether waveforms are brought to zero mean and unit variance.
        id2label: class to label; None for x-vectors.
        attention_mask: whether the original masks the padding of its batches. A clip's result is the one that it has
            alone here, whatever the original does in a batch.
        window: length in seconds of the windows that clips above `single_pass` are cut into.
        single_pass: seconds up to which a clip is classified in one pass.
        sum_final_norm: whether the last hidden state enters the weighted layer sum after the encoder's final norm, as
            in transformers 4, or before it, as in transformers 5; matters for `do_stable_layer_norm` only.
        embed_dim: width of an x-vector, `xvector_output_dim` of transformers; None for a classifier.
        threshold, threshold_seconds: of x-vectors, see `SpeakerConfig`.
        num_buckets: of distances that the gated relative position bias of WavLM tells apart; None without one.
        conv_pos_kernel_size: of data2vec's stack of `num_conv_pos_embeddings` convolutions; None for one convolution of
            `num_conv_pos_embeddings` taps.
    """

    model_type: str
    front_end: WaveformFrontEnd
    id2label: dict[str, str] | None = None
    task: Literal[
        "language-identification", "audio-classification", "audio-tagging", "audio-regression", "speaker-embedding"
    ] = "language-identification"
    attention_mask: bool = True
    window: float = 30.0
    single_pass: float = 60.0
    sum_final_norm: bool = False
    embed_dim: int | None = None
    threshold: float | None = None
    threshold_seconds: float | None = None
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
    conv_pos_batch_norm: bool = False
    conv_pos_kernel_size: int | None = None
    feat_proj_layer_norm: bool = True
    num_buckets: int | None = None
    max_bucket_distance: int = 800
    do_stable_layer_norm: bool = False
    use_weighted_layer_sum: bool = False
    classifier_proj_size: int = 256
    add_adapter: bool = False
    adapter_kernel_size: int = 3
    adapter_stride: int = 2
    num_adapter_layers: int = 3
    output_hidden_size: int | None = None
    adapter_attn_dim: int | None = None
    tdnn_dim: list[int] = field(default_factory=lambda: [512, 512, 512, 512, 1500])
    tdnn_kernel: list[int] = field(default_factory=lambda: [5, 3, 3, 1, 1])
    tdnn_dilation: list[int] = field(default_factory=lambda: [1, 2, 3, 1, 1])
    quantization: Quantization | None = None
    source: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        sizes = [self.hidden_size, self.num_hidden_layers, self.num_attention_heads, self.intermediate_size]
        sizes += [self.classifier_proj_size, self.num_conv_pos_embeddings, self.num_conv_pos_embedding_groups]
        sizes += [self.adapter_kernel_size, self.adapter_stride, self.num_adapter_layers, self.width]
        sizes += [*self.conv_dim, *self.conv_stride, *self.conv_kernel, self.adapter_attn_dim or 1]
        sizes += [1 if self.conv_pos_kernel_size is None else self.conv_pos_kernel_size]
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
        self._check_variants()
        self._check_head()

    def _check_variants(self) -> None:
        """Raises ConfigError for settings of one of Wav2Vec2's kin that make no sense."""
        if self.num_buckets is not None and not (
            self.num_buckets >= 4 and self.num_buckets % 2 == 0 and self.num_buckets // 4 < self.max_bucket_distance
        ):
            raise ConfigError(
                f"num_buckets {self.num_buckets} must be even, 4 or more, and below 4 times max_bucket_distance "
                f"{self.max_bucket_distance}"
            )
        if self.max_bucket_distance > MAX_DISTANCE:
            raise ConfigError(f"max_bucket_distance is {MAX_DISTANCE} at most")

    def _check_head(self) -> None:
        """Raises ConfigError for settings of the head that do not go together."""
        speakers = self.task == "speaker-embedding"
        if speakers != (self.id2label is None) or speakers != (self.embed_dim is not None):
            raise ConfigError("embed_dim belongs to speaker-embedding, and id2label to every other task")
        if self.id2label is not None:
            check_labels(self.id2label)
            return
        if self.add_adapter:
            raise ConfigError("add_adapter goes with a classifier, not with x-vectors")
        if not len(self.tdnn_dim) == len(self.tdnn_kernel) == len(self.tdnn_dilation) >= 1:
            raise ConfigError("tdnn_dim, tdnn_kernel and tdnn_dilation must have one entry for each layer")
        if min(*self.tdnn_dim, *self.tdnn_kernel, *self.tdnn_dilation, self.embed_dim or 0) < 1:
            raise ConfigError("embed_dim, tdnn_dim, tdnn_kernel and tdnn_dilation must be positive")
        if max(self.tdnn_dilation) > MAX_DILATION:
            raise ConfigError(f"a dilation is {MAX_DILATION} frames at most")
        if self.threshold is not None:
            check_threshold(self.threshold)
        if self.threshold_seconds is not None and not self.threshold_seconds >= 0:
            raise ConfigError(f"threshold_seconds must not be negative, not {self.threshold_seconds}")

    @property
    def width(self) -> int:
        """Width of the last hidden state."""
        return self.hidden_size if self.output_hidden_size is None else self.output_hidden_size

    @property
    def layers(self) -> int:
        """Layers with weights, at least."""
        return self.num_hidden_layers + len(self.conv_dim) + (self.num_adapter_layers if self.add_adapter else 0)
