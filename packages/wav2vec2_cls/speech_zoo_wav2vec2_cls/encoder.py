"""Waveforms to hidden states: a convolutional feature extractor and a transformer.

Reference: Baevski et al., "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations", NeurIPS
2020; Hsu et al., "HuBERT", TASLP 2021; Chen et al., "WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack
Speech Processing", JSTSP 2022; Chen et al., "UniSpeech-SAT", ICASSP 2022; Baevski et al., "data2vec", ICML 2022;
transformers/models/{wav2vec2,hubert,wavlm,unispeech_sat,data2vec}. Names are the checkpoint's own.
"""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from speech_zoo_core.layers import ScaleShift, relu, time_mask

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

    def __call__(self, x: mx.array, lengths: mx.array | None) -> mx.array:
        """(B, T, C) to (B, T', C'), of which lengths (B,) belong to each clip."""
        x = self.conv(x)
        if "layer_norm" in self:
            x = _norm_over_time(x, self.layer_norm, lengths) if self.over_time else self.layer_norm(x)
        return self.activation(x)


class PositionalConv(nn.Module):
    """A grouped convolution over time that keeps the length."""

    def __init__(self, config: ModelConfig, kernel: int) -> None:
        super().__init__()
        groups = config.num_conv_pos_embedding_groups
        self.conv = nn.Conv1d(config.hidden_size, config.hidden_size, kernel, padding=kernel // 2, groups=groups)
        self.surplus = 1 - kernel % 2

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(B, T, C) to (B, T, C)."""
        y = self.conv(_masked(x, mask))
        return y[:, : y.shape[1] - self.surplus]


class PositionalConvEmbedding(PositionalConv):
    """A convolution with a long kernel, whose output tells positions apart."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.num_conv_pos_embeddings)
        self.activation = ACTIVATIONS[config.feat_extract_activation]
        if config.conv_pos_batch_norm:
            self.batch_norm = ScaleShift(config.hidden_size)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(B, T, C) to (B, T, C)."""
        return self.activation(super().__call__(self.batch_norm(x) if "batch_norm" in self else x, mask))


class PositionalConvStack(nn.Module):
    """Convolutions with short kernels one after the other, each with a norm that has no weights, as in data2vec."""

    def __init__(self, config: ModelConfig, kernel: int) -> None:
        super().__init__()
        self.layers = [PositionalConv(config, kernel) for _ in range(config.num_conv_pos_embeddings)]
        self.activation = ACTIVATIONS[config.feat_extract_activation]

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(B, T, C) to (B, T, C)."""
        for layer in self.layers:
            x = self.activation(mx.fast.layer_norm(layer(x, mask), None, None, LAYER_NORM_EPS))
        return x


class Attention(nn.Module):
    """Multi-head self-attention; with WavLM's gate, logits are shifted by a bias of relative positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            self[name] = nn.Linear(config.hidden_size, config.hidden_size)
        if config.num_buckets is not None:
            self.gru_rel_pos_linear = nn.Linear(config.hidden_size // self.heads, 2)
            self.gru_rel_pos_const = mx.ones((1, self.heads, 1, 1))

    def __call__(self, x: mx.array, mask: mx.array | None, bias: mx.array | None) -> mx.array:
        """(B, T, C) to (B, T, C); the mask (B, T) says which frames may be attended to, the bias is (H, T, T)."""
        batch, frames, width = x.shape
        q, k, v = (self._by_heads(self[name](x)) for name in ("q_proj", "k_proj", "v_proj"))
        attended = None if mask is None else mask[:, None, None]
        if bias is not None:
            gates = mx.sigmoid(self.gru_rel_pos_linear(self._by_heads(x)))
            shift = (gates[..., :1] * (gates[..., 1:] * self.gru_rel_pos_const - 1) + 2) * bias
            attended = shift if attended is None else mx.where(attended, shift, -mx.inf)
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=attended)
        y = y.transpose(0, 2, 1, 3).reshape(batch, frames, width)
        return self.out_proj(y)

    def _by_heads(self, x: mx.array) -> mx.array:
        """(B, T, C) to (B, H, T, C / H)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(0, 2, 1, 3)


class PositionBias(nn.Module):
    """WavLM's bias of relative positions, the same for all layers: near distances have a bucket each, far ones share
    it with distances of about the same logarithm.
    """

    def __init__(self, config: ModelConfig, num_buckets: int) -> None:
        super().__init__()
        self.most = config.max_bucket_distance
        self.weight = mx.zeros((num_buckets, config.num_attention_heads))
        half = num_buckets // 2
        exact = half // 2
        distances = np.arange(self.most + 1)
        far = np.log(np.maximum(distances, 1) / exact) / math.log(self.most / exact) * (half - exact)
        buckets = np.where(distances < exact, distances, np.minimum(exact + far.astype(int), half - 1))
        self.buckets = np.concatenate([buckets[:0:-1], buckets + half * (distances > 0)]).astype(np.int32)

    def __call__(self, frames: int) -> mx.array:
        """(H, T, T): of query i and key j."""
        by_distance = self.weight[mx.array(self.buckets)].T
        at = mx.arange(frames)
        away = mx.clip(at[None] - at[:, None], -self.most, self.most) + self.most
        return mx.take(by_distance, away, axis=1)


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

    def __call__(self, x: mx.array, mask: mx.array | None, bias: mx.array | None) -> mx.array:
        """(B, T, C) to (B, T, C)."""
        if not self.stable:
            x = self.layer_norm(x + self.attention(x, mask, bias))
            return self.final_layer_norm(x + self.feed_forward(x))
        x = x + self.attention(self.layer_norm(x), mask, bias)
        x = x + self.feed_forward(self.final_layer_norm(x))
        return x + self.adapter_layer(x) if "adapter_layer" in self else x


class Encoder(nn.Module):
    """Positions, then transformer layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.stable = config.do_stable_layer_norm
        self.final_norm = self.stable and (config.sum_final_norm or not config.use_weighted_layer_sum)
        self.pos_conv_embed = (
            PositionalConvEmbedding(config)
            if config.conv_pos_kernel_size is None
            else PositionalConvStack(config, config.conv_pos_kernel_size)
        )
        if config.num_buckets is not None:
            self.rel_attn_embed = PositionBias(config, config.num_buckets)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = [EncoderLayer(config) for _ in range(config.num_hidden_layers)]

    def __call__(self, x: mx.array, mask: mx.array | None) -> list[mx.array]:
        """(B, T, C) to the hidden states, each (B, T, C): what enters the first layer, and what each layer gives."""
        x = _masked(x, mask)  # all of it, as an adapter's convolutions see what follows a clip
        x = x + self.pos_conv_embed(x, mask)
        states = [x if self.stable else self.layer_norm(x)]
        bias = self.rel_attn_embed(x.shape[1]) if "rel_attn_embed" in self else None
        for layer in self.layers:
            states.append(layer(states[-1], mask, bias))
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
        self.config = config
        self.feature_extractor = {"conv_layers": [ConvLayer(config, i) for i in range(len(config.conv_dim))]}
        self.feature_projection: dict[str, nn.Module] = {
            "projection": nn.Linear(config.conv_dim[-1], config.hidden_size)
        }
        if config.feat_proj_layer_norm:
            self.feature_projection["layer_norm"] = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.encoder = Encoder(config)
        if config.add_adapter:
            self.adapter = Adapter(config)

    @property
    def dtype(self) -> mx.Dtype:
        """The floating type that it computes in; convolutions are never quantized."""
        return self.feature_extractor["conv_layers"][0].conv.weight.dtype  # type: ignore[no-any-return]

    def __call__(self, x: mx.array, lengths: mx.array | None) -> list[mx.array]:
        """(B, N, 1) to hidden states (B, T, C); lengths (B,) are the samples of each clip."""
        layers = zip(
            self.feature_extractor["conv_layers"], self.config.conv_kernel, self.config.conv_stride, strict=True
        )
        for layer, kernel, stride in layers:
            lengths = None if lengths is None else (lengths - kernel) // stride + 1
            x = layer(x, lengths)
        if "layer_norm" in self.feature_projection:
            x = self.feature_projection["layer_norm"](x)
        mask = None if lengths is None else mx.arange(x.shape[1])[None] < lengths[:, None]
        states = self.encoder(self.feature_projection["projection"](x), mask)
        if "adapter" in self:
            states[-1] = self.adapter(states[-1])
        return states


def _masked(x: mx.array, mask: mx.array | None) -> mx.array:
    return x if mask is None else x * mask[..., None].astype(x.dtype)


def _norm_over_time(x: mx.array, norm: nn.LayerNorm, lengths: mx.array | None) -> mx.array:
    """GroupNorm with one group for each channel, in float32: (B, T, C) to (B, T, C)."""
    y = x.astype(mx.float32)
    if lengths is None:
        y = y - mx.mean(y, axis=1, keepdims=True)
        variance = mx.mean(mx.square(y), axis=1, keepdims=True)
    else:
        mask, n = time_mask(lengths, x.shape[1], mx.float32)[..., None], lengths[:, None, None]
        y = y - mx.sum(y * mask, axis=1, keepdims=True) / n
        variance = mx.sum(mx.square(y) * mask, axis=1, keepdims=True) / n
    return (y * mx.rsqrt(variance + GROUP_NORM_EPS)).astype(x.dtype) * norm.weight + norm.bias
