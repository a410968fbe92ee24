"""Resampling as the originals do it: pieces of any size come in, and give the samples that the whole would give.

`torchaudio`: a windowed sinc, as in torchaudio.transforms.Resample with its defaults (sinc_interp_hann); its formula is
that of J. O. Smith, Digital Audio Resampling Home Page, https://ccrma.stanford.edu/~jos/resample/.
`soxr_hq`: the library soxr, quality HQ, which is librosa's default and agrees with SoX's `rate`.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

import numpy as np

from .samples import Array

Resampler: TypeAlias = Literal["torchaudio", "soxr_hq"]

LOWPASS_WIDTH = 6  # zero crossings of the sinc on each side
ROLLOFF = 0.99  # of the lower Nyquist frequency, where the filter cuts
STRETCH = 1 << 17  # samples at the lower rate that are computed at once


def resampled(chunks: Iterable[Array], rate: int, target: int, method: Resampler) -> Iterator[Array]:
    """Chunks (N,) float32 at `rate` Hz brought to `target` Hz: ceil(N * target / rate) samples in all, none empty."""
    if rate == target:
        yield from chunks
        return
    resampler = Sinc(rate, target) if method == "torchaudio" else Soxr(rate, target)
    for chunk in chunks:
        if (part := resampler.feed(chunk)).size:
            yield part
    if (part := resampler.finish()).size:
        yield part


class Sinc:
    """torchaudio's windowed sinc.

    For `new` samples out, `old` come in, and each of the `new` has taps of its own. Neighbours lie near to each other,
    so a block of them is one matrix product with the samples that any of them needs.
    """

    def __init__(self, rate: int, target: int) -> None:
        divisor = math.gcd(rate, target)
        self._old, self._new = rate // divisor, target // divisor
        cutoff = min(self._old, self._new) * ROLLOFF
        self._width = math.ceil(LOWPASS_WIDTH * self._old / cutoff)
        self._scale = cutoff / self._old
        self._blocks = list(self._kernels())
        self._frames = max(1, STRETCH // max(self._old, self._new))
        self._waiting, self._size = [np.zeros(self._width, np.float32)], self._width
        self._came, self._went = 0, 0

    def _kernels(self) -> Iterator[tuple[int, int, Array]]:
        """The first of a block's samples out, the first sample in that they need, and their taps (in, out) float32."""
        block = max(1, min(self._new, 2 * self._width * self._new // self._old))
        for first in range(0, self._new, block):
            out = np.arange(first, min(first + block, self._new))
            low = first * self._old // self._new
            high = math.ceil(out[-1] * self._old / self._new) + 2 * self._width + 1
            places = np.arange(low - self._width, high - self._width)
            phase = out.astype(np.float32) / np.float32(self._new)  # in float32 there, too
            t = (places[:, None] / self._old - phase) * self._scale * self._old
            t = np.clip(t, -LOWPASS_WIDTH, LOWPASS_WIDTH)
            taps = np.sinc(t) * np.cos(t * math.pi / LOWPASS_WIDTH / 2) ** 2 * self._scale
            yield first, low, taps.astype(np.float32)

    def feed(self, samples: Array) -> Array:
        """More samples (N,); returns those that can be computed by now."""
        self._waiting.append(samples)
        self._size += samples.size
        self._came += samples.size
        done: list[Array] = []
        step = self._frames * self._old
        if self._size >= step + 2 * self._width:
            buffer, start = np.concatenate(self._waiting), 0
            while buffer.size - start >= step + 2 * self._width:
                done.append(self._compute(buffer[start:], self._frames))
                start += step
            self._waiting, self._size = [buffer[start:]], buffer.size - start
        return np.concatenate(done) if done else np.zeros(0, np.float32)

    def finish(self) -> Array:
        """What is left."""
        left = math.ceil(self._came * self._new / self._old) - self._went
        if left <= 0:
            return np.zeros(0, np.float32)
        frames = math.ceil(left / self._new)
        buffer = np.concatenate(self._waiting)
        buffer = np.pad(buffer, (0, max(0, frames * self._old + 2 * self._width - buffer.size)))
        return self._compute(buffer, frames)[:left]

    def _compute(self, buffer: Array, frames: int) -> Array:
        """`frames` times `new` samples from a buffer that begins `width` samples before the first of them."""
        out = np.empty((frames, self._new), np.float32)
        for first, low, taps in self._blocks:
            rows = np.lib.stride_tricks.as_strided(
                buffer[low:], (frames, len(taps)), (self._old * 4, 4), writeable=False
            )
            np.matmul(np.ascontiguousarray(rows), taps, out=out[:, first : first + taps.shape[1]])
        self._went += out.size
        return out.reshape(-1)


class Soxr:
    """soxr at quality HQ."""

    def __init__(self, rate: int, target: int) -> None:
        import soxr

        self._stream = soxr.ResampleStream(rate, target, 1, dtype="float32", quality="HQ")
        self._rate, self._target = rate, target
        self._came, self._went = 0, 0

    def feed(self, samples: Array, last: bool = False) -> Array:
        """More samples (N,); returns those that can be computed by now."""
        self._came += samples.size
        resampled: Array = self._stream.resample_chunk(np.ascontiguousarray(samples, np.float32), last=last)
        self._went += resampled.size
        return resampled

    def finish(self) -> Array:
        """What is left; soxr's own count may be one sample short or over."""
        resampled = self.feed(np.zeros(0, np.float32), last=True)
        over = self._went - -(-self._came * self._target // self._rate)
        return resampled[: resampled.size - over] if over > 0 else np.pad(resampled, (0, -over))
