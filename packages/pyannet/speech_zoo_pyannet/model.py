"""PyanNet speaker segmentation: sinc filters on the waveform, bidirectional LSTMs, a powerset of speakers.

Reference: Bredin and Laurent, "End-to-end speaker segmentation for overlap-aware resegmentation", Interspeech 2021;
Plaquet and Bredin, "Powerset multi-class cross entropy loss for neural speaker diarization", Interspeech 2023;
pyannote/audio/models/segmentation/PyanNet.py; Ravanelli and Bengio, "Speaker recognition from raw waveform with
SincNet", SLT 2018.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from speech_zoo_core.audio.front_end import WaveformFrontEnd
from speech_zoo_core.checkpoint.weights import to_mlx_layout, to_numpy
from speech_zoo_core.config import Quantization
from speech_zoo_core.errors import CheckpointError, ConfigError
from speech_zoo_core.recurrent import BiLSTM
from speech_zoo_core.tasks.audio_model import AudioModel
from speech_zoo_core.tasks.segmentation import powerset

SAMPLE_RATE = 16000  # Hz, the only one that SincNet is made for
CHANNELS, KERNELS, POOL = (80, 60, 60), (251, 5, 5), 3
MIN_LOW, MIN_BAND = 50.0, 50.0  # Hz, of a sinc filter
NORM_EPS = 1e-5
SLOPE = 0.01  # of the leaky ReLUs
SUM_RUN = 64  # frames

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The `config.json` of a PyanNet.

    Attributes:
        max_speakers: in one window.
        max_overlap: speakers at the same time.
        duration: of the windows that it was trained on, in seconds.
        stride: of the sinc filters, in samples.
        hidden_size, num_layers: of the LSTM, in each direction.
        linear_size, linear_layers: of the layers after it.
        quantization: set when linear layers are quantized.
        source: provenance.
    """

    model_type: str
    front_end: WaveformFrontEnd
    task: Literal["speaker-segmentation"] = "speaker-segmentation"
    max_speakers: int = 3
    max_overlap: int = 2
    duration: float = 10.0
    stride: int = 10
    hidden_size: int = 128
    num_layers: int = 4
    linear_size: int = 128
    linear_layers: int = 2
    quantization: Quantization | None = None
    source: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        sizes = (self.stride, self.hidden_size, self.num_layers, self.linear_size)
        if min(sizes) < 1 or self.linear_layers < 0 or not 0 < self.duration < 3600:
            raise ConfigError("stride, duration and the sizes of the layers give no PyanNet")
        if not 1 <= self.max_overlap <= self.max_speakers <= 16:
            raise ConfigError("max_overlap must lie between 1 and max_speakers, and max_speakers between 1 and 16")
        if self.front_end.sample_rate != SAMPLE_RATE or self.front_end.normalise:
            raise ConfigError(f"front_end must be the waveform at {SAMPLE_RATE} Hz, not normalised")

    @property
    def sets(self) -> int:
        """How many sets of speakers there are: K."""
        return len(powerset(self.max_speakers, self.max_overlap))


class InstanceNorm(nn.Module):
    """Each channel of each clip with zero mean and unit variance over time, then scaled and shifted."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = mx.ones((channels,))
        self.bias = mx.zeros((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, C) to (B, T, C)."""
        x = x - x[:, :1]  # digital silence, which is constant here, stays exactly so
        centred = x - _mean(x)
        return centred * (mx.rsqrt(_mean(mx.square(centred)) + NORM_EPS) * self.weight) + self.bias


class SincNet(nn.Module):
    """Waveforms to frames: band-pass filters and two convolutions, each with pooling and a norm."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        strides = (stride, 1, 1)
        self.wav_norm1d = InstanceNorm(1)
        self.conv1d = [
            nn.Conv1d(before, after, kernel, step, bias=before > 1)
            for before, after, kernel, step in zip((1, *CHANNELS), CHANNELS, KERNELS, strides, strict=False)
        ]
        self.norm1d = [InstanceNorm(channels) for channels in CHANNELS]

    def __call__(self, x: mx.array) -> mx.array:
        """(B, N, 1) to (B, T, 60)."""
        x = self.wav_norm1d(x)
        for i, (conv, norm) in enumerate(zip(self.conv1d, self.norm1d, strict=True)):
            x = conv(x)
            x = _leaky_relu(norm(_max_pool(mx.abs(x) if i == 0 else x)))
        return x


class Model(nn.Module, AudioModel):
    """Waveforms to the log-probabilities of sets of speakers; computes in float32, whatever its weights are kept in."""

    batches_unequal = masks_padding = False  # the norms take in the whole window, as it was padded
    half_precision = False  # the sum of squares of a loud window is too large for it
    one_graph = False  # windows are of one length; the sizes of the sums in `_mean` make too many formulas of it

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.frame_step = config.stride * POOL ** len(KERNELS)
        self.frame_size = 1
        for kernel, stride in zip(KERNELS[::-1], (1, 1, config.stride), strict=True):
            self.frame_size = (POOL * self.frame_size - 1) * stride + kernel
        self.min_frames = self.frame_size  # samples
        self.sincnet = SincNet(config.stride)
        width = 2 * config.hidden_size
        sizes = [CHANNELS[-1], *[width] * (config.num_layers - 1)]
        self.lstm = [BiLSTM(size, config.hidden_size) for size in sizes]
        sizes = [width, *[config.linear_size] * config.linear_layers]
        self.linear = [nn.Linear(size, config.linear_size) for size in sizes[:-1]]
        self.classifier = nn.Linear(sizes[-1], config.sets)

    def num_frames(self, n_samples: int) -> int:
        """Output frames of a clip."""
        return max(0, 1 + (n_samples - self.frame_size) // self.frame_step)

    def __call__(self, x: mx.array, lengths: mx.array | None = None) -> mx.array:
        """Log-probabilities of each set of speakers.

        Args:
            x: (B, N, 1), or waveforms (N,) or (B, N), at the front end's rate.
            lengths: None; or (B,), each of them N, as windows of different length cannot share a batch.

        Returns:
            (B, T, K) float32.
        """
        if x.ndim < 3:
            x = self.waveform_features(x, lengths)
        self._check_lengths(lengths, x.shape[1], len(x))
        x = x.astype(mx.float32)
        x = self.sincnet(x)
        for layer in self.lstm:
            x = layer(x)
        for linear in self.linear:
            x = _leaky_relu(linear(x))
        logits = self.classifier(x)
        return logits - mx.logsumexp(logits, axis=-1, keepdims=True)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Source or converted tensors to converted ones; a fixed point.

        Computes the sinc filters from their cut-off frequencies, and joins the directions and the biases of the LSTM.
        """
        if not any(name.endswith(".low_hz_") for name in weights):
            return to_mlx_layout(to_numpy(weights), self, source_layout=False)
        arrays = to_numpy(weights)
        bank = "sincnet.conv1d.0.filterbank."
        parts = [_take(arrays, bank + name).reshape(-1) for name in ("low_hz_", "band_hz_", "n_", "window_")]
        arrays["sincnet.conv1d.0.weight"] = sinc_filters(*parts)
        for i in range(self.config.num_layers):
            rows = [
                [_take(arrays, f"lstm.{part}_l{i}{way}") for way in ("", "_reverse")]
                for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            arrays[f"lstm.{i}.weight_ih"], arrays[f"lstm.{i}.weight_hh"] = np.stack(rows[0]), np.stack(rows[1])
            arrays[f"lstm.{i}.bias"] = np.stack(rows[2]) + np.stack(rows[3])
        return to_mlx_layout(arrays, self, source_layout=True)


def sinc_filters(low_hz: Array, band_hz: Array, time: Array, window: Array) -> Array:
    """Band-pass filters, half of them even and half of them odd.

    Args:
        low_hz, band_hz: (C / 2,), of the cut-off frequencies.
        time, window: (kernel // 2,), of the left half; time times 2 pi.

    Returns:
        (C, 1, kernel) float32.
    """
    low = np.float32(MIN_LOW) + np.abs(low_hz)[:, None]
    high = np.clip(low + np.float32(MIN_BAND) + np.abs(band_hz)[:, None], MIN_LOW, SAMPLE_RATE / 2)
    begin, end = low * time, high * time
    even = (_rounded(np.sin, end) - _rounded(np.sin, begin)) / (time / 2) * window
    odd = (_rounded(np.cos, begin) - _rounded(np.cos, end)) / (time / 2) * window
    centre = 2 * (high - low)
    filters = [
        np.concatenate([even, centre, even[:, ::-1]], axis=1),
        np.concatenate([odd, np.zeros_like(centre), -odd[:, ::-1]], axis=1),
    ]
    return np.concatenate([part / centre for part in filters])[:, None].astype(np.float32)


def _rounded(function: Callable[[Array], Array], x: Array) -> Array:
    """A function of float32 numbers, correctly rounded, which NumPy's own float32 sine is not."""
    return function(x.astype(np.float64)).astype(np.float32)


def _take(arrays: dict[str, Array], name: str) -> Array:
    """Raises CheckpointError where it is missing."""
    if name not in arrays:
        raise CheckpointError(f"the checkpoint lacks {name}")
    return arrays.pop(name)


def _mean(x: mx.array) -> mx.array:
    """Mean over time, (B, T, C) to (B, 1, C), summed in runs: one long float32 sum is off by 1e-4 of itself."""
    frames = x.shape[1]
    runs = mx.pad(x, [(0, 0), (0, -frames % SUM_RUN), (0, 0)]).reshape(len(x), -1, SUM_RUN, x.shape[-1])
    return mx.sum(mx.sum(runs, axis=2), axis=1, keepdims=True) / frames


def _max_pool(x: mx.array) -> mx.array:
    """The largest of every three frames: (B, T, C) to (B, T // 3, C)."""
    frames = x.shape[1] // POOL
    return mx.max(x[:, : frames * POOL].reshape(len(x), frames, POOL, -1), axis=2)


def _leaky_relu(x: mx.array) -> mx.array:
    return mx.maximum(x, SLOPE * x)
