"""Wav2Vec2 and its kin with a head: hidden states, a projection, pooling over time, then logits or an x-vector.

Reference: Pratap et al., "Scaling Speech Technology to 1,000+ Languages", 2023 (MMS); Yang et al., "SUPERB", 2021;
transformers/models/wav2vec2/modeling_wav2vec2.py, `Wav2Vec2ForSequenceClassification` and `Wav2Vec2ForXVector`.
Names are the checkpoint's own, whose body is `wav2vec2` here whatever it is.
"""

import re
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from speech_zoo_core.checkpoint.weights import scale_shift_of, to_mlx_layout, to_numpy
from speech_zoo_core.device import in_trace
from speech_zoo_core.errors import CheckpointError, InputError
from speech_zoo_core.layers import relu, time_mask
from speech_zoo_core.tasks.audio_model import AudioModel

from .config import ModelConfig
from .encoder import Wav2Vec2

DROPPED = ("masked_spec_embed", "quantizer.", "project_q.", "project_hid.")  # training only, under any prefix
DROPPED_OF_X_VECTORS = ("classifier.", "objective.")  # the loss
BODY = re.compile(r"^(hubert|wavlm|unispeech|unispeech_sat|data2vec_audio)\.")
GATE = re.compile(r"\.gru_rel_pos_linear\.(weight|bias)$")
GATE_ROWS = 8
TDNN = re.compile(r"^tdnn\.(\d+)\.kernel\.weight$")
POS_CONV = "wav2vec2.encoder.pos_conv_embed.conv"
WEIGHT_NORM = (  # magnitude and direction, in the two spellings of PyTorch
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)
BATCH_NORM = "wav2vec2.encoder.pos_conv_embed.batch_norm"


class Model(nn.Module, AudioModel):
    """Waveforms to the logits of the labels, or to x-vectors."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.wav2vec2 = Wav2Vec2(config)
        if config.use_weighted_layer_sum:
            self.layer_weights = mx.ones((config.num_hidden_layers + 1,))
        if config.id2label is not None:
            self.projector = nn.Linear(config.width, config.classifier_proj_size)
            self.classifier = nn.Linear(config.classifier_proj_size, len(config.id2label))
        elif config.embed_dim is not None:
            self.projector = nn.Linear(config.width, config.tdnn_dim[0])
            self.tdnn = [{"kernel": _tdnn(config, i)} for i in range(len(config.tdnn_dim))]
            self.feature_extractor = nn.Linear(2 * config.tdnn_dim[-1], config.embed_dim)

    @property
    def min_frames(self) -> int:  # type: ignore[override]
        """Samples that the result needs: of x-vectors two frames after the TDNN, which have a deviation, else one."""
        samples = 1 if self.config.id2label is not None else 2 + _tdnn_context(self.config)
        for kernel, stride in zip(self.config.conv_kernel[::-1], self.config.conv_stride[::-1], strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def masks_padding(self) -> bool:  # type: ignore[override]
        """Whether zeros after a clip leave its result as it is: not where an adapter's convolutions see them."""
        return not self.config.add_adapter

    @property
    def batches_unequal(self) -> bool:  # type: ignore[override]
        """Whether clips of different length may share a batch."""
        return self.masks_padding

    def _frames(self, samples: Any) -> Any:
        """Frames that the feature extractor makes of samples, a number or an array."""
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def __call__(self, x: mx.array, lengths: mx.array | None = None) -> mx.array:
        """Logits, or x-vectors before normalisation.

        Args:
            x: waveforms (N,) or (B, N) in [-1, 1] at the front end's rate, or what the front end makes of them, as
                (B, N, 1).
            lengths: (B,) samples of each clip, where clips were padded to N; None if all fill it. Padding is masked, as
                transformers does with an attention mask, and left out of a norm over time, as it does not.

        Returns:
            (B, L) or (B, D) in the type of the weights.
        """
        if x.ndim < 3:
            x = self.waveform_features(x, lengths)
        if x.ndim != 3 or x.shape[1] < self.min_frames or x.shape[2] != 1:
            raise InputError(f"an input of shape {x.shape} is not (B, N, 1) with N of {self.min_frames} or more")
        self._check_lengths(lengths, x.shape[1], len(x))
        if lengths is not None and not in_trace():
            x = x[:, : int(np.array(lengths).max())]
        states = self.wav2vec2(x.astype(self.wav2vec2.dtype), lengths)
        if self.config.use_weighted_layer_sum:
            weights = mx.softmax(self.layer_weights.astype(mx.float32)).astype(states[0].dtype)
            hidden = sum(
                (state * weight for state, weight in zip(states[1:], weights[1:], strict=True)), states[0] * weights[0]
            )
        else:
            hidden = states[-1]
        hidden = self.projector(hidden)
        frames = None if lengths is None else self._frames(lengths)
        return self._logits(hidden, frames) if self.config.id2label is not None else self._x_vector(hidden, frames)

    def _logits(self, hidden: mx.array, frames: mx.array | None) -> mx.array:
        """(B, T, C), of which frames (B,) belong to each clip, to (B, L)."""
        hidden = hidden.astype(mx.float32)
        if frames is None:
            pooled = mx.mean(hidden, axis=1)
        else:
            if self.config.add_adapter:
                for _ in range(self.config.num_adapter_layers):
                    frames = (frames - 1) // self.config.adapter_stride + 1
            kept = (mx.arange(hidden.shape[1])[None] < frames[:, None])[..., None]
            pooled = mx.sum(mx.where(kept, hidden, 0), axis=1) / frames[:, None]
        logits: mx.array = self.classifier(pooled.astype(self.wav2vec2.dtype))
        return logits

    def _x_vector(self, hidden: mx.array, frames: mx.array | None) -> mx.array:
        """(B, T, C), of which frames (B,) belong to each clip, to (B, D)."""
        for layer in self.tdnn:
            hidden = relu(layer["kernel"](hidden))
        full = hidden.astype(mx.float32)
        if frames is None:  # counted, as a trace holds one number for T - 1 and whatever else is as large
            kept = mx.ones((1, full.shape[1], 1))
        else:
            kept = time_mask(frames - _tdnn_context(self.config), full.shape[1], mx.float32)[..., None]
        n = mx.sum(kept, axis=1, keepdims=True)
        mean = mx.sum(full * kept, axis=1, keepdims=True) / n
        variance = mx.sum(mx.square(full - mean) * kept, axis=1, keepdims=True) / (n - 1)
        pooled = mx.concatenate([mean, mx.sqrt(variance)], axis=-1)[:, 0]
        embedding: mx.array = self.feature_extractor(pooled.astype(self.wav2vec2.dtype))
        return embedding

    def quantizable(self, name: str) -> bool:
        """The classifier and the small gates of WavLM stay in floating point, as all convolutions do."""
        return name != "classifier" and not name.endswith(".gru_rel_pos_linear")

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """transformers' tensors or converted ones to converted ones, lazily; a fixed point.

        Drops `DROPPED`, resolves weight norm into one plain weight and what WavLM's gates sum up into two rows.
        """
        dropped = DROPPED_OF_X_VECTORS if self.config.id2label is None else ()
        kept = {
            BODY.sub("wav2vec2.", name).replace(".layers.0.attention.rel_attn_embed.", ".rel_attn_embed."): value
            for name, value in weights.items()
            if not name.startswith(dropped) and not any(name.startswith(part) or f".{part}" in name for part in DROPPED)
        }
        source = _resolve_weight_norm(kept)
        if f"{BATCH_NORM}.running_var" in kept:
            norm = to_numpy({name: kept.pop(name) for name in list(kept) if name.startswith(BATCH_NORM)})
            norm.pop(f"{BATCH_NORM}.num_batches_tracked", None)
            scale_shift_of(norm, BATCH_NORM)
            kept |= {name: mx.array(value) for name, value in norm.items()}
        for name, value in kept.items():
            if GATE.search(name) and len(value) == GATE_ROWS:
                kept[name] = mx.sum(value.reshape(2, GATE_ROWS // 2, *value.shape[1:]), axis=1)
            if (match := TDNN.match(name)) and value.ndim == 2 and int(match[1]) < len(self.config.tdnn_kernel):
                taps = self.config.tdnn_kernel[int(match[1])]
                if taps > 1 and value.shape[1] % taps == 0:
                    kept[name], source = mx.moveaxis(value.reshape(len(value), taps, -1), 1, -1), True
        first = kept.get("wav2vec2.feature_extractor.conv_layers.0.conv.weight")
        if first is not None and first.ndim == 3 and first.shape[1] == 1 and first.shape[2] > 1:
            source = True  # (O, 1, K); a converted one is (O, K, 1)
        return to_mlx_layout(kept, self, source_layout=source)


def _resolve_weight_norm(weights: dict[str, mx.array]) -> bool:
    """One plain weight for magnitude and direction, in place; whether they were there."""
    for magnitude, direction in WEIGHT_NORM:
        if f"{POS_CONV}.{direction}" in weights and f"{POS_CONV}.{magnitude}" in weights:
            g, v = (weights.pop(f"{POS_CONV}.{part}").astype(mx.float32) for part in (magnitude, direction))
            if v.ndim != 3 or g.shape != (1, 1, v.shape[2]) or f"{POS_CONV}.weight" in weights:
                raise CheckpointError(f"{POS_CONV} has weights {v.shape} of norms {g.shape}, or stands twice")
            weights[f"{POS_CONV}.weight"] = v * (g / mx.sqrt(mx.sum(mx.square(v), axis=(0, 1), keepdims=True)))
            return True
    return False


def _tdnn(config: ModelConfig, i: int) -> nn.Module:
    """A layer of the TDNN, without padding."""
    inner, out, taps = config.tdnn_dim[max(i - 1, 0)], config.tdnn_dim[i], config.tdnn_kernel[i]
    return nn.Linear(inner, out) if taps == 1 else nn.Conv1d(inner, out, taps, dilation=config.tdnn_dilation[i])


def _tdnn_context(config: ModelConfig) -> int:
    """Frames that the TDNN takes off."""
    return sum((taps - 1) * dilation for taps, dilation in zip(config.tdnn_kernel, config.tdnn_dilation, strict=True))
