"""Waveforms to hidden states: a convolutional feature extractor and a transformer.

Reference: Baevski et al., "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations", NeurIPS
2020; transformers/models/wav2vec2/modeling_wav2vec2.py, `Wav2Vec2Model`. Names are the checkpoint's own.
"""

import mlx.core as mx
import mlx.nn as nn
from speech_zoo_core.layers import relu

from .config import ACTIVATIONS, ModelConfig

GROUP_NORM_EPS = LAYER_NORM_EPS = 1e-5  # PyTorch's default, where the config has no say


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


def _norm_over_time(x: mx.array, norm: nn.LayerNorm) -> mx.array:
    """GroupNorm with one group for each channel, in float32: (B, T, C) to (B, T, C)."""
    y = x.astype(mx.float32)
    y = y - mx.mean(y, axis=1, keepdims=True)
    y = y * mx.rsqrt(mx.mean(mx.square(y), axis=1, keepdims=True) + GROUP_NORM_EPS)
    return y.astype(x.dtype) * norm.weight + norm.bias
