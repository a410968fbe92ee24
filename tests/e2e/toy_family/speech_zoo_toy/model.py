"""Frames, statistics, an embedding."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from speech_zoo_core.checkpoint.weights import fold_batch_norm, to_mlx_layout, to_numpy
from speech_zoo_core.layers import time_mask
from speech_zoo_core.tasks.audio_model import AudioModel
from speech_zoo_core.tasks.speaker import SpeakerConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig(SpeakerConfig):
    """`width` is that of a frame."""

    width: int


class Model(nn.Module, AudioModel):
    """Log-mel features to speaker embeddings."""

    min_frames = 2

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.frame = nn.Linear(config.front_end.n_mels, config.width)
        self.embedding = nn.Linear(2 * config.width, config.embed_dim)

    def __call__(self, x: mx.array, lengths: mx.array | None = None) -> mx.array:
        """Features (B, T, F), of which `lengths` (B,) frames count, to embeddings (B, D)."""
        if x.ndim < 3:
            x = self.waveform_features(x, lengths)
        self._check_lengths(lengths, x.shape[1], len(x))
        frames = nn.relu(self.frame(x.astype(self.frame.weight.dtype))).astype(mx.float32)
        sizes = mx.full((len(x),), x.shape[1]) if lengths is None else lengths
        mask = time_mask(sizes, x.shape[1], mx.float32)[..., None]
        mean = mx.sum(frames * mask, axis=1) / sizes[:, None]
        variance = mx.sum(mx.square(frames - mean[:, None]) * mask, axis=1) / sizes[:, None]
        pooled = mx.concatenate([mean, mx.sqrt(variance)], axis=1)
        return self.embedding(pooled.astype(self.embedding.weight.dtype))

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Source tensors or converted ones to converted ones; a fixed point. Folds the BatchNorm into `frame`."""
        arrays = to_numpy(weights)
        source = "norm.running_var" in arrays
        if source:
            fold_batch_norm(arrays, "frame", "norm")
        return to_mlx_layout(arrays, self, source_layout=source)
