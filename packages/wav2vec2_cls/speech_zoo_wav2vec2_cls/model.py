"""Wav2Vec2 with a classification head: hidden states, a projection, mean pooling over time, logits.

Reference: Pratap et al., "Scaling Speech Technology to 1,000+ Languages", 2023 (MMS);
transformers/models/wav2vec2/modeling_wav2vec2.py, `Wav2Vec2ForSequenceClassification`. Names are the checkpoint's own.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from speech_zoo_core.checkpoint.weights import to_mlx_layout
from speech_zoo_core.device import in_trace
from speech_zoo_core.errors import CheckpointError, InputError
from speech_zoo_core.tasks.audio_model import AudioModel

from .config import ModelConfig
from .encoder import Wav2Vec2

DROPPED = ("masked_spec_embed", "quantizer.", "project_q.", "project_hid.")  # training only, under any prefix
POS_CONV = "wav2vec2.encoder.pos_conv_embed.conv"
WEIGHT_NORM = (  # magnitude and direction, in the two spellings of PyTorch
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)


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
