"""Sound files for the tests, written by libsndfile, by FFmpeg's encoders, and by hand where a header is to be odd."""

import io
import struct
from typing import Any

import av
import numpy as np
import soundfile

RATE = 16000


def noise(n: int, channels: int = 1) -> np.ndarray:
    """(n,) or (n, channels) float64 in [-0.9, 0.9], reproducible."""
    shape = (n,) if channels == 1 else (n, channels)
    return np.random.default_rng(n + channels).uniform(-0.9, 0.9, shape)


def written(samples: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str | None = None) -> bytes:
    """A file that libsndfile writes from samples (n,) or (n, channels)."""
    out = io.BytesIO()
    soundfile.write(out, samples, rate, subtype, format=form)
    return out.getvalue()


def encoded(samples: np.ndarray, rate: int, form: str, codec: str) -> bytes:
    """A file that FFmpeg writes from mono samples (n,)."""
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.codec_context.layout = "mono"
        fit = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate)
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        frames: list[Any] = [*fit.resample(frame), *fit.resample(None), None]
        for part in frames:
            container.mux(stream.encode(part))
    return out.getvalue()


def chunk(name: bytes, data: bytes, size: int | None = None, pad: bool = True) -> bytes:
    """A chunk of a RIFF file; `size` is what its header says, where that is not the truth."""
    evened = b"\0" if pad and len(data) % 2 else b""
    return name + struct.pack("<I", len(data) if size is None else size) + data + evened


def fmt(rate: int = RATE, bits: int = 16, tag: int = 1, more: bytes = b"") -> bytes:
    """The format chunk of mono samples."""
    width = bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, 1, rate, rate * width % 2**32, width, bits) + more)


def riff(*chunks: bytes, size: int | None = None) -> bytes:
    """A WAV file of chunks."""
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def pcm(samples: np.ndarray) -> bytes:
    """16-bit samples."""
    return np.round(samples * 32767).astype("<i2").tobytes()
