"""What people do with a speaker model: embeddings and verification. `language.py` has language identification."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import numpy as np

from ..audio.front_end import FrontEnd
from ..audio.quality import warn_of_quality
from ..audio.samples import Array, Audio, Channel, describe, is_clip
from ..audio.vad import seconds_of_speech, speech
from ..config import Quantization
from ..errors import AudioError, ConfigError, shown
from ..processes import evaluated
from .audio_model import AudioModel
from .cohort import TOP, Cohort

LOG = logging.getLogger("speech_zoo")


@dataclass(frozen=True, kw_only=True)
class SpeakerConfig:
    """The part of `config.json` that every speaker-embedding model has.

    Attributes:
        front_end: the features that the checkpoint was trained on.
        threshold: cosine from which two clips count as the same speaker; None if nobody chose one.
        threshold_seconds: of speech in the shortest clip that the threshold was chosen on; None if nobody knows.
        quantization: set when linear layers are quantized.
        source: provenance: form, repo, revision, hashes of the files it was converted from.
    """

    model_type: str
    embed_dim: int
    front_end: FrontEnd
    task: Literal["speaker-embedding"] = "speaker-embedding"
    threshold: float | None = None
    threshold_seconds: float | None = None
    quantization: Quantization | None = None
    source: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_threshold(self.threshold)
        if self.threshold_seconds is not None and not self.threshold_seconds >= 0:
            raise ConfigError(f"threshold_seconds must not be negative, not {self.threshold_seconds}")
        if self.embed_dim < 1:
            raise ConfigError(f"embed_dim must be positive, not {self.embed_dim}")


@dataclass(frozen=True)
class Voice:
    """One clip as a model hears it.

    Attributes:
        vector: (D,) float32, its embedding, of unit length.
        seconds: of speech in it, short pauses included; of all of it with `vad=False`.
        waveform: (N,) float32 at the model's rate, what was embedded.
    """

    vector: mx.array
    seconds: float
    waveform: mx.array


@dataclass(frozen=True)
class Verification:
    """Whether two clips are of the same speaker; true where they are.

    Attributes:
        score: cosine of the two embeddings, -1 to 1; normalised where a cohort was given, and then of any size.
        same_speaker: whether the score reaches the threshold.
        threshold: the one that was used.
        seconds: of speech in the shorter clip; of the clip itself where nobody asked for speech (`vad=False`).
        threshold_seconds: of the shortest clip that the threshold was chosen on, None if that is not known. A score
            of less than that is lower than the threshold supposes.
        cosine: of the two embeddings, where the score is another.
    """

    score: float
    same_speaker: bool
    threshold: float
    seconds: float = math.nan
    threshold_seconds: float | None = None
    cosine: float | None = None

    def __bool__(self) -> bool:
        return self.same_speaker


def warn_of_short(name: str, seconds: float, least: float | None) -> None:
    """Warn of a clip that is shorter than those that the threshold was chosen on."""
    if least is not None and seconds < least:
        LOG.warning(
            "warning: %s holds %.1f s of speech; the threshold was chosen on clips of %.1f s or more, and shorter ones "
            "score lower",
            name,
            seconds,
            least,
        )


def check_threshold(threshold: Any) -> float:
    """Raises ConfigError unless the threshold is a cosine."""
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not -1 <= threshold <= 1:
        raise ConfigError(f"threshold is a cosine between -1 and 1, not {shown(threshold)}")
    return float(threshold)


class SpeakerEmbedding(AudioModel):
    """Embedding and verification for a model whose raw output is a speaker embedding."""

    # The user's threshold for a model and its seconds, before the checkpoint's own.
    _find_threshold: Callable[[Any], tuple[float | None, float | None]] | None = None

    def embed(
        self,
        audio: Audio,
        sample_rate: int | None = None,
        *,
        channel: Channel | None = None,
        vad: bool = True,
        trim: bool = False,
    ) -> mx.array:
        """The speaker embedding of one clip.

        Args:
            audio: a path, the bytes of a file or a file object; samples (N,) or (N, channels), int or float; a pair
                (samples, rate); what else `load_audio` takes.
            sample_rate: in Hz, for samples that come without a rate.
            channel: of several, its number from 0 on, or "mean"; default: what the front end says.
            vad: whether a clip without speech is an error.
            trim: leave out what holds no speech, pauses and noise before and after.

        Returns:
            (D,) float32, unit length.

        Raises:
            AudioError: unusable audio, no speech, or a clip shorter than the model's minimum.
        """
        return self.voice(audio, sample_rate, channel=channel, vad=vad, trim=trim).vector

    def voice(
        self,
        audio: Audio,
        sample_rate: int | None = None,
        *,
        channel: Channel | None = None,
        vad: bool = True,
        trim: bool = False,
    ) -> Voice:
        """`embed`, with the waveform that was embedded and the seconds of speech in it."""
        return self._voice(audio, sample_rate, channel, vad, trim)[0]

    def _voice(
        self, audio: Audio, sample_rate: int | None, channel: Channel | None, vad: bool, trim: bool
    ) -> "tuple[Voice, Array | None]":
        """The voice, and the steps of its clip that hold speech; None without `vad`."""
        waveform, speaks = self._clip(audio, sample_rate, channel, vad, trim)
        seconds = waveform.size / self.sample_rate if speaks is None else seconds_of_speech(speaks)
        vector = evaluated(_unit(self._forward(self._front_end()(waveform))[None])[0])
        return Voice(vector, seconds, waveform), speaks

    def encode(self, audio: Audio, sample_rate: int | None = None) -> mx.array:
        """`embed`, under the name that mlx-audio's speaker models have for it."""
        return self.embed(audio, sample_rate)

    def embed_batch(
        self,
        audios: Sequence[Audio],
        sample_rate: int | None = None,
        *,
        channel: Channel | None = None,
        vad: bool = True,
        trim: bool = False,
    ) -> mx.array:
        """Embeddings of many clips, equal to `embed` of each; shows progress on a terminal.

        Returns:
            (N, D) float32, rows of unit length, in the order given.

        Raises:
            AudioError: as `embed`, for the first clip that cannot be used.
        """
        rows = self._outputs(audios, "embedding", sample_rate, channel, vad, trim)
        return _unit(mx.stack(rows)) if rows else evaluated(mx.zeros((0, self.config.embed_dim)))

    def verify(
        self,
        a: "Audio | Sequence[Audio]",
        b: "Audio | Sequence[Audio]",
        sample_rate: int | None = None,
        threshold: float | Literal["checkpoint"] | None = None,
        *,
        channel: Channel | None = None,
        vad: bool = True,
        trim: bool = False,
        cohort: Cohort | None = None,
        top: int = TOP,
    ) -> Verification:
        """Score whether two clips are of the same speaker; warns of clips that are short, noisy or distorted.

        Args:
            a, b: as for `embed`; or a list of clips of one speaker, compared by the mean of their embeddings.
            sample_rate: in Hz, for samples that come without a rate.
            threshold: score that counts as the same speaker; default: the one that the user calibrated, else the
                checkpoint's own, which "checkpoint" asks for. Both are cosines: with a cohort, give one.
            channel, vad, trim: as for `embed`.
            cohort: other voices, against which the score is normalised (adaptive s-norm).
            top: how many of the cohort, the most similar to each side.

        Raises:
            AudioError: as `embed`.
            ConfigError: there is no threshold, or the cohort is another checkpoint's.
        """
        threshold, least = self._threshold(threshold, cohort)
        if cohort is not None:
            cohort.check(self)
        how: dict[str, Any] = {"channel": channel, "vad": vad, "trim": trim}
        first, second = (self._speaker(side, sample_rate, **how) for side in (a, b))
        seconds = min(first.seconds, second.seconds)
        warn_of_short(_named(a if first.seconds <= second.seconds else b), seconds, least)
        cosine = float(first.vector @ second.vector)
        if cohort is None:
            return Verification(cosine, cosine >= threshold, threshold, seconds, least)
        rows, others = (np.array(side.vector)[None] for side in (first, second))
        score = float(cohort.normalise(np.array([cosine]), rows, others, top)[0])
        return Verification(score, score >= threshold, threshold, seconds, least, cosine)

    def _threshold(
        self, threshold: float | Literal["checkpoint"] | None, cohort: Cohort | None
    ) -> tuple[float, float | None]:
        """The threshold in force, and the seconds that it was chosen on."""
        if cohort is not None:
            if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not math.isfinite(threshold):
                raise ConfigError(
                    "normalised scores are no cosines and need a threshold of their own: give threshold=… "
                    "(--threshold); speech-zoo calibrate TRIALS --cohort COHORT finds one"
                )
            return float(threshold), None
        least: float | None = None
        if threshold is None and self._find_threshold is not None:
            threshold, least = self._find_threshold(self)
        elif threshold is None or threshold == "checkpoint":
            threshold, least = self.config.threshold, self.config.threshold_seconds
        if threshold is None:
            raise ConfigError(
                "this checkpoint names no threshold: pass threshold=… (--threshold), or set it in its config.json"
            )
        return check_threshold(threshold), least

    def _speaker(self, side: "Audio | Sequence[Audio]", sample_rate: int | None, **how: Any) -> Voice:
        """One side of a comparison: a clip, or the mean of several and the seconds of all."""
        clips = _clips(side)
        heard = [self._voice(clip, sample_rate, **how) for clip in clips]
        voices = [voice for voice, _ in heard]
        if how["vad"]:
            for clip, (voice, speaks) in zip(clips, heard, strict=True):
                waveform = np.array(voice.waveform)
                if speaks is None or how["trim"]:  # the steps are those of the whole clip
                    speaks = speech(waveform, self.sample_rate)  # noqa: PLW2901
                warn_of_quality(describe(clip), waveform, speaks, self.sample_rate)
        if len(voices) == 1:
            return voices[0]
        vectors = np.stack([np.array(voice.vector) for voice in voices])
        for clip, row in zip(clips, vectors, strict=True):
            rest = vectors.sum(axis=0) - row
            if self.config.threshold is not None and row @ rest < self.config.threshold * np.linalg.norm(rest):
                LOG.warning("warning: %s sounds like another speaker than the rest of its side", describe(clip))
        vector = _unit(mx.array(vectors.mean(axis=0))[None])[0]
        return Voice(vector, sum(voice.seconds for voice in voices), mx.concatenate([v.waveform for v in voices]))


def _clips(side: "Audio | Sequence[Audio]") -> list[Any]:
    """The clips of one side.

    Raises:
        AudioError: there is none.
    """
    if not isinstance(side, (list, tuple)) or is_clip(side):
        return [side]
    if not side:
        raise AudioError("one side to compare has no clip; give one or more of its speaker")
    return list(side)


def _named(side: "Audio | Sequence[Audio]") -> str:
    names = [describe(clip) for clip in _clips(side)]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _unit(embeddings: mx.array) -> mx.array:
    """Rows scaled to unit length in float64, so that cosines of the float32 result are exact to the last digit."""
    rows = np.array(embeddings.astype(mx.float32), np.float64)
    if not np.isfinite(rows).all():
        raise AudioError("the embedding is not finite; load the model with dtype='float32'")
    return mx.array((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
