"""Features in MLX: the Kaldi fbank, the SpeechBrain fbank, and the mel spectrograms of ReDimNet and ReDimNet2.

Reference: Povey et al., "The Kaldi Speech Recognition Toolkit", ASRU 2011, compute-fbank-feats; Ravanelli et al.,
"SpeechBrain: A General-Purpose Speech Toolkit", 2021, speechbrain/processing/features.py.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

LOW_FREQ = 20.0  # Hz, lower edge of the first mel filter; the last one ends at the Nyquist frequency
PREEMPHASIS = 0.97
LOG_FLOOR = float(np.finfo(np.float32).eps)  # smallest mel energy before the logarithm
SPEECHBRAIN_FLOOR = 1e-10  # the same in SpeechBrain, before 10 * log10
REDIMNET_FLOOR = 1e-6  # added to the mel energy before the logarithm
REDIMNET_HIGH_FREQ = 7600.0  # Hz, upper edge of the last mel filter
REDIMNET2_FLOOR = 1e-8  # of powers and of mel energies, and what is added to these before the logarithm
TOP_DB = 80.0  # what lies further below the loudest value of the clip is raised to it
BLOCK_FRAMES = 6000  # frames per pass, to bound memory: one minute at a shift of 10 ms
SUM_RUN = 256  # samples
FILTER_GROUPS = 4  # of neighbours; each is multiplied by its own bins only, as filters are zero in most others

WINDOWS: dict[str, Callable[[Any], Any]] = {
    "hamming": lambda phase: 0.54 - 0.46 * np.cos(phase),
    "hanning": lambda phase: 0.5 - 0.5 * np.cos(phase),
    "povey": lambda phase: (0.5 - 0.5 * np.cos(phase)) ** 0.85,
    "rectangular": np.ones_like,
}


@lru_cache(maxsize=16)
def _window(kind: str, size: int) -> mx.array:
    """A symmetric window of `size` samples."""
    return mx.array(WINDOWS[kind](2 * math.pi * np.arange(size) / (size - 1)).astype(np.float32))


@lru_cache(maxsize=16)
def _speechbrain_window(kind: str, size: int) -> mx.array:
    """A periodic window of `size` samples, computed in float32 as PyTorch does: its rounding shows in quiet bins."""
    return mx.array(
        WINDOWS[kind](np.arange(size, dtype=np.float32) * np.float32(2 * math.pi / size)).astype(np.float32)
    )


def _speechbrain_banks(n_mels: int, n_fft: int, sample_rate: int) -> Array:
    """SpeechBrain's filters on the HTK mel scale, (n_fft // 2 + 1, n_mels), computed in float32 as there.

    Both slopes of a triangle have the width of its lower side, so that neighbours do not meet as usual.
    """
    mel = _linspace(2595 * math.log10(1 + sample_rate / 2 / 700), n_mels + 2)
    edges = np.float32(700) * (np.float32(10) ** (mel / np.float32(2595)) - np.float32(1))
    band, centre = np.diff(edges)[:-1], edges[1:-1]
    slope = (_linspace(sample_rate // 2, n_fft // 2 + 1)[:, None] - centre) / band
    return np.maximum(np.float32(0), np.minimum(slope + 1, 1 - slope))


def _linspace(end: float, size: int) -> Array:
    """float32 numbers from 0 to `end`, rounded as PyTorch's linspace rounds them: from both ends to the middle."""
    i, last = np.arange(size, dtype=np.float32), np.float32(end)
    step = last / np.float32(size - 1)
    return np.where(np.arange(size) < size // 2, step * i, last - step * (np.float32(size - 1) - i))


def _mel_banks(n_mels: int, n_fft: int, sample_rate: int) -> Array:
    """Triangular filters in the mel domain, (n_fft // 2 + 1, n_mels), float32."""

    def mel(freq: Any) -> Any:
        return 1127.0 * np.log1p(np.asarray(freq, np.float64) / 700.0)

    edges = np.linspace(mel(LOW_FREQ), mel(sample_rate / 2), n_mels + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(np.arange(n_fft // 2) * sample_rate / n_fft)[:, None]
    banks = np.maximum(0.0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))
    return np.pad(banks, ((0, 1), (0, 0))).astype(np.float32)  # Kaldi gives the Nyquist bin no weight


@lru_cache(maxsize=16)
def _groups(
    banks: Callable[[int, int, int], Array], n_mels: int, n_fft: int, sample_rate: int
) -> list[tuple[slice, mx.array]]:
    """Filters in `FILTER_GROUPS`, each as its bins and the weights of these."""
    groups = []
    for filters in np.array_split(banks(n_mels, n_fft, sample_rate), min(FILTER_GROUPS, n_mels), axis=1):
        covered = np.append(np.flatnonzero(filters.any(axis=1)), 0)  # filters that are narrower than a bin have none
        bins = slice(int(covered[0]), int(covered.max()) + 1)
        groups.append((bins, mx.array(filters[bins])))
    return groups


def _filtered(power: mx.array, banks: Callable[[int, int, int], Array], *args: int) -> mx.array:
    """Energies (T, n_mels) of a power spectrum (T, n_fft // 2 + 1) in the filters `banks(n_mels, n_fft, rate)`."""
    return mx.concatenate([power[:, bins] @ weights for bins, weights in _groups(banks, *args)], axis=1)


def num_frames(n_samples: int, frame: int, shift: int) -> int:
    """Frames that fit whole into `n_samples` (Kaldi's `snip_edges=true`)."""
    return 0 if n_samples < frame else 1 + (n_samples - frame) // shift


def kaldi_fbank(
    waveform: mx.array, sample_rate: int, n_mels: int, window: str, frame_length: float, frame_shift: float
) -> mx.array:
    """Log-mel filterbank energies as Kaldi computes them, without dither.

    Args:
        waveform: (N,) float32, at least one frame long, at the scale that the model expects.
        sample_rate: in Hz.
        n_mels: number of mel filters, F.
        window: a key of `WINDOWS`.
        frame_length: in ms.
        frame_shift: in ms.

    Returns:
        (T, F) float32, natural logarithm.
    """
    frame, shift = round(sample_rate * frame_length / 1000), round(sample_rate * frame_shift / 1000)
    n_fft = 1 << (frame - 1).bit_length()
    n_frames = num_frames(waveform.size, frame, shift)
    copy = mx.pad(waveform, (0, 1))  # contiguous, as frames must be; `mx.contiguous` cannot be exported
    frames = mx.as_strided(copy, (n_frames, frame), (shift, 1))
    blocks = []
    for start in range(0, n_frames, BLOCK_FRAMES):
        x = frames[start : start + BLOCK_FRAMES]
        x = x - mx.mean(x, axis=1, keepdims=True)
        x = x - PREEMPHASIS * mx.concatenate([x[:, :1], x[:, :-1]], axis=1)
        power = mx.square(mx.abs(mx.fft.rfft(x * _window(window, frame), n=n_fft, axis=1)))
        blocks.append(mx.log(mx.maximum(_filtered(power, _mel_banks, n_mels, n_fft, sample_rate), LOG_FLOOR)))
    return mx.concatenate(blocks) if len(blocks) > 1 else blocks[0]


def speechbrain_fbank(
    waveform: mx.array, sample_rate: int, n_mels: int, window: str, frame_length: float, frame_shift: float
) -> mx.array:
    """Log-mel filterbank energies as SpeechBrain's `Fbank` computes them.

    Args:
        waveform: (N,) float32 in [-1, 1].
        sample_rate: in Hz.
        n_mels: number of mel filters, F.
        window: a key of `WINDOWS`; its periodic form is taken.
        frame_length: in ms; the FFT has the same length.
        frame_shift: in ms.

    Returns:
        (T, F) float32 in dB, T = 1 + N // shift: frames are centred, with zeros beyond both ends.
    """
    n_fft, shift = round(sample_rate * frame_length / 1000), round(sample_rate * frame_shift / 1000)
    padded = mx.pad(waveform, (n_fft // 2, n_fft // 2))
    frames = mx.as_strided(padded, (num_frames(padded.size, n_fft, shift), n_fft), (shift, 1))
    blocks = []
    for start in range(0, len(frames), BLOCK_FRAMES):
        x = frames[start : start + BLOCK_FRAMES] * _speechbrain_window(window, n_fft)
        power = mx.square(mx.abs(mx.fft.rfft(x, axis=1)))
        energies = _filtered(power, _speechbrain_banks, n_mels, n_fft, sample_rate)
        blocks.append(10 * mx.log10(mx.maximum(energies, SPEECHBRAIN_FLOOR)))
    features = mx.concatenate(blocks)
    return mx.maximum(features, mx.max(features) - TOP_DB)


def _htk_banks(n_mels: int, n_fft: int, sample_rate: int) -> Array:
    """Triangular filters on the HTK mel scale, linear in Hz, (n_fft // 2 + 1, n_mels), float32."""
    low, high = (2595 * math.log10(1 + freq / 700) for freq in (LOW_FREQ, REDIMNET_HIGH_FREQ))
    edges = 700 * (10 ** (np.linspace(low, high, n_mels + 2) / 2595) - 1)
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def redimnet_fbank(
    waveform: mx.array, sample_rate: int, n_mels: int, window: str, frame_length: float, frame_shift: float
) -> mx.array:
    """Log-mel energies as ReDimNet's `MelBanks` computes them with torchaudio's MelSpectrogram.

    Args:
        waveform: (N,) float32 in [-1, 1], longer than half an FFT.
        sample_rate: in Hz.
        n_mels: number of mel filters, F.
        window: a key of `WINDOWS`; its periodic form is taken.
        frame_length: in ms; the FFT has the next power of two.
        frame_shift: in ms.

    Returns:
        (T, F) float32, natural logarithm, T = 1 + N // shift: frames are centred, both ends mirrored.
    """
    frame, shift = round(sample_rate * frame_length / 1000), round(sample_rate * frame_shift / 1000)
    n_fft = 1 << (frame - 1).bit_length()
    half, left = n_fft // 2, (n_fft - frame) // 2
    x = waveform - PREEMPHASIS * mx.concatenate([waveform[1:2], waveform[:-1]])
    padded = mx.concatenate([x[1 : half + 1][::-1], x, x[-half - 1 : -1][::-1]])
    frames = mx.as_strided(padded[left:], (num_frames(padded.size, n_fft, shift), frame), (shift, 1))
    blocks = []
    for start in range(0, len(frames), BLOCK_FRAMES):
        windowed = frames[start : start + BLOCK_FRAMES] * _speechbrain_window(window, frame)
        power = mx.square(mx.abs(mx.fft.rfft(windowed, n=n_fft, axis=1)))
        blocks.append(mx.log(_filtered(power, _htk_banks, n_mels, n_fft, sample_rate) + REDIMNET_FLOOR))
    return mx.concatenate(blocks)


def _redimnet2_banks(n_mels: int, n_fft: int, sample_rate: int) -> Array:
    """Triangular filters in the mel domain, (n_fft // 2 + 1, n_mels), float32.

    The n_fft // 2 bins below the Nyquist frequency are spread as if the last one lay on it.
    """

    def mel(freq: Any) -> Any:
        return 2595 * np.log10(1 + np.asarray(freq, np.float64) / 700)

    edges = np.linspace(mel(LOW_FREQ), mel(REDIMNET_HIGH_FREQ), n_mels + 2)
    bins = mel(np.linspace(0, sample_rate / 2, n_fft // 2))[1:, None]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.pad(np.maximum(0.0, np.minimum(rising, falling)), ((1, 1), (0, 0))).astype(np.float32)


def redimnet2_fbank(
    waveform: mx.array, sample_rate: int, n_mels: int, window: str, frame_length: float, frame_shift: float
) -> mx.array:
    """Log-mel energies as ReDimNet2's `TFMelBanks` computes them, of the clip at zero mean and unit variance.

    Args:
        waveform: (N,) float32, a frame without a shift long at least.
        sample_rate: in Hz.
        n_mels: number of mel filters, F.
        window: a key of `WINDOWS`.
        frame_length: in ms; the FFT has the next power of two.
        frame_shift: in ms.

    Returns:
        (T, F) float32, natural logarithm; half a shift of zeros lies beyond both ends.
    """
    frame, shift = round(sample_rate * frame_length / 1000), round(sample_rate * frame_shift / 1000)
    n_fft = 1 << (frame - 1).bit_length()
    x = waveform - mean(waveform)
    x = x / (mx.sqrt(mean(mx.square(x))) + REDIMNET2_FLOOR)
    x = x - PREEMPHASIS * mx.concatenate([x[1:2], x[:-1]])
    padded = mx.pad(x, (shift // 2, shift // 2))
    frames = mx.as_strided(padded, (num_frames(padded.size, frame, shift), frame), (shift, 1))
    blocks = []
    for start in range(0, len(frames), BLOCK_FRAMES):
        windowed = frames[start : start + BLOCK_FRAMES] * _window(window, frame)
        power = mx.square(mx.abs(mx.fft.rfft(windowed, n=n_fft, axis=1)))
        power = mx.clip(power, REDIMNET2_FLOOR, 1 / REDIMNET2_FLOOR)
        energies = _filtered(power, _redimnet2_banks, n_mels, n_fft, sample_rate)
        blocks.append(mx.log(mx.clip(energies, REDIMNET2_FLOOR, 1 / REDIMNET2_FLOOR) + REDIMNET2_FLOOR))
    return mx.concatenate(blocks)


def mean(x: mx.array) -> mx.array:
    """The mean of (N,), summed in runs: a single float32 sum over a clip is off by 1e-4 of itself on a CPU."""
    runs = mx.pad(x, (0, -x.size % SUM_RUN)).reshape(-1, SUM_RUN)
    return mx.sum(mx.sum(runs, axis=1)) / x.size


def cmn(features: mx.array, n_frames: int | mx.array | None = None) -> mx.array:
    """Cepstral mean normalisation: subtract each feature's mean over time. (T, F) to (T, F).

    `n_frames` takes the mean over the first frames only, where padding follows them; (1,) in a trace, whose numbers are
    not known.
    """
    for _ in range(2):  # the second time what the first sum rounded away
        if isinstance(n_frames, mx.array):
            within = mx.arange(len(features))[:, None] < n_frames
            features = features - mx.sum(mx.where(within, features, 0), axis=0, keepdims=True) / n_frames
        else:
            features = features - mx.mean(features[:n_frames], axis=0, keepdims=True)
    return features
