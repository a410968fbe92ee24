"""What people do with a model whose labels exclude each other not: what of them holds, or how much of each there is."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..audio.samples import Array, Audio, Channel
from ..processes import evaluated
from .language import AudioClassification, Labelled, finite

LEAST = 1e-30  # of a probability, before its logarithm is taken


class AudioTagging(AudioClassification):
    """Classification whose labels hold or not, each for itself: scores are probabilities that do not sum to 1.

    The probabilities of a long clip's windows are averaged.
    """

    def log_probs(
        self, audio: Audio, sample_rate: int | None = None, *, channel: Channel | None = None, vad: bool = True
    ) -> mx.array:
        """The logarithm of each label's probability for one clip, (L,) float32, in the order of `labels`."""
        logits = self.logits(audio, sample_rate, channel=channel, vad=vad)
        return evaluated(-mx.logaddexp(mx.zeros_like(logits), -logits))

    def _scores(self, logits: mx.array) -> mx.array:
        return mx.sigmoid(logits)

    def _together(self, windows: list[mx.array], weights: Array) -> Array:
        rows = np.stack([np.array(window, np.float64) for window in windows])
        holds, holds_not = weights @ (1 / (1 + np.exp(-rows))), weights @ (1 / (1 + np.exp(rows)))
        return np.log(np.maximum(holds, LEAST)) - np.log(np.maximum(holds_not, LEAST))


class AudioRegression(Labelled):
    """Values, one for each label, as the model gives them. Those of a long clip's windows are averaged."""

    def measure(
        self, audio: Audio, sample_rate: int | None = None, *, channel: Channel | None = None, vad: bool = True
    ) -> mx.array:
        """The values of one clip, (L,) float32, in the order of `labels`.

        Args:
            audio: a path, the bytes of a file or a file object; samples (N,) or (N, channels), int or float; a pair
                (samples, rate); what else `load_audio` takes.
            sample_rate: in Hz, for samples that come without a rate.
            channel: of several, its number from 0 on, or "mean"; default: what the front end says.
            vad: whether a clip without speech is an error.

        Raises:
            AudioError: unusable audio, no speech, or a clip shorter than the model's minimum.
        """
        return self._numbers(audio, sample_rate, channel, vad)

    def measure_batch(
        self,
        audios: Sequence[Audio],
        sample_rate: int | None = None,
        *,
        channel: Channel | None = None,
        vad: bool = True,
    ) -> mx.array:
        """`measure` of many clips, (N, L), equal to one at a time; shows progress on a terminal."""
        rows = [finite(row) for row in self._outputs(audios, "measuring", sample_rate, channel, vad)]
        return evaluated(mx.stack(rows) if rows else mx.zeros((0, len(self.labels))))
