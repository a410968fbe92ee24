"""What people do with a model: speaker embeddings and verification."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import numpy as np

from .audio import Audio, check_speech, describe, load_audio
from .conv import on_cpu
from .errors import AudioError, ConfigError
from .front_end import FrontEnd

CHUNK_CLIPS = 64  # clips whose features are held at once
BATCH_FRAMES = 16_000  # padded feature frames per forward pass, to bound memory: 160 s of audio


@dataclass(frozen=True)
class Quantization:
    """How the linear layers of a checkpoint are stored."""

    bits: int
    group_size: int = 32


@dataclass(frozen=True, kw_only=True)
class SpeakerConfig:
    """The part of `config.json` that every speaker-embedding model has.

    Attributes:
        front_end: the features that the checkpoint was trained on.
        threshold: cosine from which two clips count as the same speaker; None if nobody chose one.
        quantization: set when linear layers are quantized.
        source: provenance: form, repo, revision, hashes of the files it was converted from.
    """

    model_type: str
    embed_dim: int
    front_end: FrontEnd
    task: Literal["speaker-embedding"] = "speaker-embedding"
    threshold: float | None = None
    quantization: Quantization | None = None
    source: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_threshold(self.threshold)
        if self.embed_dim < 1:
            raise ConfigError(f"embed_dim must be positive, not {self.embed_dim}")


@dataclass(frozen=True)
class Verification:
    """Whether two clips are of the same speaker.

    Attributes:
        score: cosine of the two embeddings, -1 to 1.
        same_speaker: whether the score reaches the threshold.
        threshold: the one that was used.
    """

    score: float
    same_speaker: bool
    threshold: float


def check_threshold(threshold: float) -> float:
    """Raises ConfigError unless the threshold is a cosine."""
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not -1 <= threshold <= 1:
        raise ConfigError(f"threshold is a cosine between -1 and 1, not {threshold!r}")
    return float(threshold)


class SpeakerEmbedding:
    """Embedding and verification for a model that maps features (B, T, F) to embeddings (B, D).

    The model class sets `min_frames` and `config` and defines `__call__(features, lengths=None)`, where `lengths`
    (B,) gives the frames of clips that were padded to T.
    """

    config: Any
    min_frames: int

    def __call__(self, x: mx.array, lengths: mx.array | None = None) -> mx.array:  # pragma: no cover
        raise TypeError("the model class defines __call__")

    def features(self, audio: Audio, sample_rate: int | None = None) -> mx.array:
        """The front end's features of one clip, (T, F) float32.

        Raises:
            AudioError: unusable audio, silence, or a clip shorter than the model's minimum.
        """
        front_end: FrontEnd = self.config.front_end
        waveform = load_audio(audio, front_end.sample_rate, sample_rate)
        n_frames = front_end.num_frames(waveform.size)
        if n_frames < self.min_frames:
            raise AudioError(
                f"{describe(audio)} is too short: {waveform.size / front_end.sample_rate:.3f} s, "
                f"{self.config.model_type} needs at least {front_end.seconds(self.min_frames):.3f} s"
            )
        check_speech(waveform, describe(audio))
        return front_end(waveform)

    def waveform_features(self, waveforms: mx.array) -> mx.array:
        """Features of waveforms (N,) or (B, N), float32 in [-1, 1] at the front end's rate: (B, T, F)."""
        return mx.stack([self.config.front_end(waveform) for waveform in mx.atleast_2d(waveforms)])

    def embed(self, audio: Audio, sample_rate: int | None = None) -> mx.array:
        """The speaker embedding of one clip.

        Args:
            audio: a path; samples (N,) or (N, channels), int or float, NumPy or MLX; or a pair (samples, rate).
            sample_rate: in Hz, for samples that come without a rate.

        Returns:
            (D,) float32, unit length.

        Raises:
            AudioError: unusable audio, silence, or a clip shorter than the model's minimum.
        """
        return _unit(self(self.features(audio, sample_rate)[None]))[0]

    def embed_batch(self, audios: Sequence[Audio], sample_rate: int | None = None) -> mx.array:
        """Embeddings of many clips, equal to `embed` of each; shows progress on a terminal.

        Returns:
            (N, D) float32, rows of unit length, in the order given.

        Raises:
            AudioError: as `embed`, for the first clip that cannot be used.
        """
        pair = isinstance(audios, tuple) and len(audios) == 2 and isinstance(audios[1], (int, float, np.number))
        if pair or isinstance(audios, (str, os.PathLike)) or hasattr(audios, "shape"):
            raise AudioError("embed_batch takes a list of clips; use embed for one")
        from tqdm import tqdm

        rows: list[mx.array] = []
        with tqdm(total=len(audios), desc="embedding", unit="clip", disable=None, leave=False) as bar:
            for start in range(0, len(audios), CHUNK_CLIPS):
                clips = [self.features(audio, sample_rate) for audio in audios[start : start + CHUNK_CLIPS]]
                found: dict[int, mx.array] = {}
                for batch in _batches([len(clip) for clip in clips]):
                    found.update(zip(batch, self._embed_padded([clips[i] for i in batch]), strict=True))
                    bar.update(len(batch))
                rows += [found[i] for i in range(len(clips))]
        return mx.stack(rows) if rows else mx.zeros((0, self.config.embed_dim))

    def verify(
        self, a: Audio, b: Audio, sample_rate: int | None = None, threshold: float | None = None
    ) -> Verification:
        """Score whether two clips are of the same speaker.

        Args:
            a, b: as for `embed`.
            sample_rate: in Hz, for samples that come without a rate.
            threshold: cosine that counts as the same speaker; default: the checkpoint's own.

        Raises:
            AudioError: as `embed`.
            ConfigError: the checkpoint names no threshold and none was given.
        """
        if threshold is None:
            threshold = self.config.threshold
        if threshold is None:
            raise ConfigError(
                "this checkpoint names no threshold: pass threshold=… (--threshold), or set it in its config.json"
            )
        threshold = check_threshold(threshold)
        first, second = self.embed_batch([a, b], sample_rate)
        score = float(first @ second)
        return Verification(score, score >= threshold, threshold)

    def _embed_padded(self, clips: list[mx.array]) -> mx.array:
        """(B, D) unit embeddings of clips (T_i, F), padded to the longest where they differ."""
        sizes = [len(clip) for clip in clips]
        if len(set(sizes)) == 1:
            return _unit(self(mx.stack(clips)))
        padded = mx.stack([mx.pad(clip, [(0, max(sizes) - len(clip)), (0, 0)]) for clip in clips])
        return _unit(self(padded, mx.array(sizes)))


def _batches(sizes: list[int]) -> Iterator[list[int]]:
    """Indices grouped by similar size, each group within BATCH_FRAMES when padded; one by one on a CPU.

    A batch keeps a GPU busy; on a CPU it only adds padding and misses the caches (measured: 1.3 times slower).
    """
    limit = 0 if on_cpu() else BATCH_FRAMES
    batch: list[int] = []
    for i in sorted(range(len(sizes)), key=sizes.__getitem__):
        if batch and sizes[i] * (len(batch) + 1) > limit:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _unit(embeddings: mx.array) -> mx.array:
    """Rows scaled to unit length in float64, so that cosines of the float32 result are exact to the last digit."""
    rows = np.array(embeddings.astype(mx.float32), np.float64)
    if not np.isfinite(rows).all():
        raise AudioError("the embedding is not finite; load the model with dtype='float32'")
    return mx.array((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
