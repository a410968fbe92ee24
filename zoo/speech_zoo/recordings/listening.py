"""A recording as a page carries it: Opus in WebM, which browsers play, and the peaks of its waveform.

It is decoded once; memory grows by two bytes for each hundredth of a second.
"""

from typing import Any, BinaryIO, TypeAlias

import numpy as np
from speech_zoo_core.audio.decode import Decoder
from speech_zoo_core.audio.resample import resampled
from speech_zoo_core.audio.samples import Channel, File
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.progress import progress

from .windows import BAR

Array: TypeAlias = "np.ndarray[Any, Any]"

RATE = 24000  # Hz: all that is in speech, and one of Opus's own rates
BIT_RATE = 24000  # bit/s: 11 MB an hour
OPTIONS = {"application": "voip", "frame_duration": "60"}  # ms; long frames have fewer headers
FINE = RATE // 100  # samples of a peak
MOST = 24000  # peaks of a file: 48 kB


def encode(audio: File, out: BinaryIO, channel: Channel = "mean") -> tuple[Array, float]:
    """Write a recording to `out` as Opus in WebM, mono.

    Args:
        audio: a path, the bytes of a file or a file object.
        out: a binary file that can seek.
        channel: of several, its number from 0 on, "first" or "mean".

    Returns:
        The least and the greatest sample of each of at most `MOST` equal stretches, (P, 2) int8, full scale 127; and
        the length in seconds.

    Raises:
        AudioError: the recording cannot be decoded.
        SpeechZooError: this PyAV comes without an encoder for Opus.
    """
    import av

    if "libopus" not in av.codecs_available:
        raise SpeechZooError("PyAV has no encoder for Opus here: pip install --force-reinstall --only-binary av av")
    peaks: list[Array] = []
    rest, total = np.zeros(0, np.float32), 0
    with Decoder(audio) as decoder, av.open(out, "w", format="webm") as webm:
        stream = webm.add_stream("libopus", rate=RATE, layout="mono", bit_rate=BIT_RATE, options=OPTIONS)
        with progress(total=decoder.seconds, desc="encoding", bar_format=BAR if decoder.seconds else None) as bar:
            for block in resampled(decoder.chunks(channel), decoder.rate, RATE, "soxr_hq"):
                samples = np.clip(block, -1, 1)
                frame = av.AudioFrame.from_ndarray(samples[None], "flt", "mono")
                frame.rate, frame.pts = RATE, total
                webm.mux(stream.encode(frame))
                total += samples.size
                rest = np.concatenate([rest, samples])
                whole = rest.size // FINE * FINE
                peaks.append(_extremes(rest[:whole].reshape(-1, FINE)))
                rest = rest[whole:]
                bar.update(total / RATE - bar.n)
        webm.mux(stream.encode(None))
    if rest.size:
        peaks.append(_extremes(rest[None]))
    return _fewer(np.concatenate(peaks)), total / RATE


def _extremes(stretches: Array) -> Array:
    """The least and the greatest of each row, as int8."""
    both = np.stack([stretches.min(axis=1), stretches.max(axis=1)], axis=1)
    return np.rint(both * 127).astype(np.int8)


def _fewer(peaks: Array) -> Array:
    size = -(-len(peaks) // MOST)
    padded = np.pad(peaks, ((0, -len(peaks) % size), (0, 0)), mode="edge").reshape(-1, size, 2)
    return np.stack([padded[..., 0].min(axis=1), padded[..., 1].max(axis=1)], axis=1)
