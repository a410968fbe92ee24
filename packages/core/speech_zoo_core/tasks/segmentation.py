"""What people do with a segmentation model: who of the few speakers in a window speaks in each of its frames."""

from itertools import combinations
from typing import Any

import mlx.core as mx
import numpy as np

from ..audio.samples import Audio, Channel
from ..processes import evaluated
from .audio_model import AudioModel

Array = np.ndarray[Any, Any]


class SpeakerSegmentation(AudioModel):
    """Segmentation for a model whose raw output is, frame by frame, the log-probability of each set of speakers.

    The sets are those of at most `config.max_overlap` of the window's `config.max_speakers` speakers, the small ones
    first: nobody, each alone, each pair. Which speaker comes first differs from window to window.

    Reference: Plaquet and Bredin, "Powerset multi-class cross entropy loss for neural speaker diarization",
    Interspeech 2023.
    """

    frame_step: int  # samples from the start of one frame to the next
    frame_size: int  # samples that a frame sees

    def log_probs(self, audio: Audio, sample_rate: int | None = None, *, channel: Channel | None = None) -> mx.array:
        """The log-probabilities of one clip in one pass, (T, K) float32.

        Args:
            audio: a path; samples (N,) or (N, channels), int or float, NumPy or MLX; or a pair (samples, rate).
            sample_rate: in Hz, for samples that come without a rate.
            channel: of several, its number from 0 on, or "mean"; default: what the front end says.

        Raises:
            AudioError: unusable audio, or a clip shorter than a frame.
        """
        return evaluated(
            self._forward(self.features(audio, sample_rate, channel=channel, vad=False)).astype(mx.float32)
        )

    def speakers(self, log_probs: "mx.array | Array") -> Array:
        """Who speaks: the most probable set of each frame, log-probabilities (…, T, K) to bool (…, T, S)."""
        return self._members[np.array(mx.argmax(mx.array(log_probs), axis=-1))]

    def frame_time(self, frame: int) -> float:
        """The middle of a frame, in seconds from the start of its window."""
        return (frame * self.frame_step + self.frame_size / 2) / self.sample_rate

    @property
    def _members(self) -> Array:
        """Which speakers each set holds, bool (K, S)."""
        sets = powerset(self.config.max_speakers, self.config.max_overlap)
        return np.array([[speaker in members for speaker in range(self.config.max_speakers)] for members in sets])


def powerset(speakers: int, overlap: int) -> list[tuple[int, ...]]:
    """The sets of at most `overlap` speakers, in the order of the classes."""
    return [members for size in range(overlap + 1) for members in combinations(range(speakers), size)]
