"""The settings of a Wav2Vec2 with a classification head, under transformers' names."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import mlx.core as mx
from speech_zoo_core.audio.front_end import WaveformFrontEnd
from speech_zoo_core.config import Quantization
from speech_zoo_core.errors import ConfigError, shown
from speech_zoo_core.layers import gelu, gelu_tanh, relu, silu
from speech_zoo_core.tasks.language import check_labels

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": relu,
    "silu": silu,
    "swish": silu,
}
MAX_STRIDE = 1000


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
