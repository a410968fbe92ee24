"""The front end: channel, resampler and features that a checkpoint was trained on, as a part of its config.

A config without `resampler` and `channel` is older than these keys, and means what the original of its features does.
"""

from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from ..errors import ConfigError, InputError
from . import fbank as dsp
from .resample import Resampler

RATES = range(1000, 400_000)  # Hz
MAX_MELS = 512
MAX_MS = 1000.0  # of a frame and its shift
MAX_FRAME = 1 << 14  # samples
MAX_SCALE = 1e9
VARIANCE_EPS = 1e-7  # transformers/models/wav2vec2/feature_extraction_wav2vec2.py


@dataclass(frozen=True)
class FrontEnd:
    """An fbank of `dsp` with CMN; times in ms, `scale` multiplies the waveform in [-1, 1] first.

    `resampler` brings audio to `sample_rate`, `channel` is what is taken of several. By default: torchaudio's and the
    first, as WeSpeaker; the mean for SpeechBrain's features; soxr's and the first for those of 3D-Speaker.
    """

    kind: Literal["kaldi_fbank", "speechbrain_fbank", "redimnet_fbank", "redimnet2_fbank"] = "kaldi_fbank"
    sample_rate: int = 16000
    n_mels: int = 80
    window: Literal["hamming", "hanning", "povey", "rectangular"] = "hamming"
    frame_length: float = 25.0
    frame_shift: float = 10.0
    scale: float = 32768.0
    cmn: bool = True
    resampler: Resampler = None  # type: ignore[assignment]  # until __post_init__
    channel: Literal["first", "mean"] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        is_3d_speaker = self.window == "povey" and self.scale == 1.0
        _default(self, "resampler", "soxr_hq" if is_3d_speaker else "torchaudio")
        _default(self, "channel", "mean" if self.kind == "speechbrain_fbank" else "first")
        ranges = (
            (self.n_mels, 1, MAX_MELS),
            (self.frame_length, 1, MAX_MS),
            (self.frame_shift, 1, MAX_MS),
            (self.scale, 1e-9, MAX_SCALE),
        )
        if self.sample_rate not in RATES or not all(low <= number <= high for number, low, high in ranges):
            raise ConfigError("front_end: sample_rate, n_mels, frame_length, frame_shift or scale is out of range")
        if not 2 <= self._frame <= MAX_FRAME:
            raise ConfigError(f"front_end: a frame of {self._frame} samples is too short or too long")
        if self.kind == "speechbrain_fbank" and self._frame % 2:
            raise ConfigError("front_end: frame_length must be an even number of samples for centred frames")

    @property
    def _frame(self) -> int:
        return round(self.sample_rate * self.frame_length / 1000)

    @property
    def _shift(self) -> int:
        return round(self.sample_rate * self.frame_shift / 1000)

    @property
    def whole_clips(self) -> bool:
        """Whether the features depend on where a clip ends, so that no zeros may follow it."""
        return self.kind.startswith("redimnet")

    @property
    def _beyond(self) -> int:
        """Samples that are added to a clip, at both ends together."""
        return self._shift // 2 * 2 if self.kind == "redimnet2_fbank" else 0

    @property
    def _centred(self) -> bool:
        return self.kind in ("speechbrain_fbank", "redimnet_fbank")

    @property
    def _least(self) -> int:
        """Samples that a waveform must have: more than are mirrored at its ends."""
        return (1 << (self._frame - 1).bit_length()) // 2 + 1 if self.kind == "redimnet_fbank" else 0

    def num_frames(self, n_samples: int) -> int:
        """Feature frames of a waveform of `n_samples`."""
        if self._centred:
            return 1 + n_samples // self._shift if n_samples >= self._least else 0
        return dsp.num_frames(n_samples + self._beyond, self._frame, self._shift)

    def seconds(self, n_frames: int) -> float:
        """The shortest duration that gives `n_frames` feature frames."""
        first = 0 if self._centred else self._frame - self._beyond
        return max(self._least, first + (n_frames - 1) * self._shift) / self.sample_rate

    def __call__(self, waveform: mx.array, n_frames: int | mx.array | None = None) -> mx.array:
        """Features of one waveform: (N,) float32 in [-1, 1] to (T, F) float32.

        `n_frames` says how many frames the clip has without the zeros after it; CMN is taken over these. In a trace
        it is an array (1,).
        """
        whole = n_frames is None or (isinstance(n_frames, int) and n_frames == self.num_frames(waveform.size))
        if self.whole_clips and not whole:
            raise InputError(
                "these features depend on where a clip ends: give clips without zeros after them, or features"
            )
        fbank = {
            "kaldi_fbank": dsp.kaldi_fbank,
            "speechbrain_fbank": dsp.speechbrain_fbank,
            "redimnet_fbank": dsp.redimnet_fbank,
            "redimnet2_fbank": dsp.redimnet2_fbank,
        }[self.kind]
        features = fbank(
            waveform * self.scale, self.sample_rate, self.n_mels, self.window, self.frame_length, self.frame_shift
        )
        return dsp.cmn(features, n_frames) if self.cmn else features


@dataclass(frozen=True)
class WaveformFrontEnd:
    """The waveform itself, brought to zero mean and unit variance unless `normalise` is false.

    transformers leaves the loading to others: `resampler` and `channel` are by default as librosa's.
    """

    kind: Literal["waveform"] = "waveform"
    sample_rate: int = 16000
    normalise: bool = True
    resampler: Resampler = "soxr_hq"
    channel: Literal["first", "mean"] = "mean"

    def __post_init__(self) -> None:
        if self.sample_rate not in RATES:
            raise ConfigError("front_end: sample_rate is out of range")

    def num_frames(self, n_samples: int) -> int:
        """A frame is a sample."""
        return n_samples

    def seconds(self, n_frames: int) -> float:
        """The duration of `n_frames` samples."""
        return n_frames / self.sample_rate

    def __call__(self, waveform: mx.array, n_frames: int | mx.array | None = None) -> mx.array:
        """(N,) float32 in [-1, 1] to (N, 1) float32.

        `n_frames` says how many samples the clip has without the zeros after it; these stay zeros. In a trace
        it is an array (1,).
        """
        if self.normalise and isinstance(n_frames, mx.array):
            within, share = mx.arange(waveform.size) < n_frames, waveform.size / n_frames
            waveform = mx.where(within, waveform - dsp.mean(mx.where(within, waveform, 0)) * share, 0)
            waveform = waveform * mx.rsqrt(dsp.mean(mx.square(waveform)) * share + VARIANCE_EPS)
        elif self.normalise:
            clip = waveform[:n_frames]
            clip = clip - dsp.mean(clip)
            clip = clip * mx.rsqrt(dsp.mean(mx.square(clip)) + VARIANCE_EPS)
            waveform = mx.pad(clip, (0, waveform.size - clip.size))
        return waveform[:, None]


def _default(config: object, name: str, value: str) -> None:
    """Set a field of a frozen dataclass that was not given."""
    if getattr(config, name) is None:
        object.__setattr__(config, name, value)


WESPEAKER = FrontEnd()  # wespeaker/cli/speaker.py, extract_embedding and compute_fbank
# speechbrain/dataio/preprocess.py, AudioNormalizer; lobes/features.py, Fbank and InputNormalization
SPEECHBRAIN = FrontEnd("speechbrain_fbank", scale=1.0)
REDIMNET = FrontEnd("redimnet_fbank", n_mels=72, scale=1.0)  # redimnet/layers/features.py, MelBanks
REDIMNET2 = FrontEnd("redimnet2_fbank", n_mels=72, scale=1.0)  # wespeaker/frontend/tfmel.py, TFMelBanks, normalising
# speakerlab/bin/infer_sv.py, load_wav, whose SoX `rate` soxr agrees with; process/processor.py, FBank
THREE_D_SPEAKER = FrontEnd(window="povey", scale=1.0)
