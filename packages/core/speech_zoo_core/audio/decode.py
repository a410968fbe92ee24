"""Audio in: a path or samples of any rate, channel count and type to a mono waveform at the model's rate."""

import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np

from ..errors import AudioError

Samples: TypeAlias = "np.ndarray[Any, Any] | mx.array"
Audio: TypeAlias = "str | os.PathLike[str] | Samples | tuple[Samples, int]"

MAX_CHANNELS = 64  # more columns than this means that the array is (channels, n)
SILENCE_PEAK = 1e-4  # -80 dBFS, three steps of 16-bit audio: below it nobody speaks
FULL_SCALE = {"uint8": (128.0, 128.0), "int8": (0.0, 128.0), "int16": (0.0, 2.0**15), "int32": (0.0, 2.0**31)}
FLOAT_TAG, EXTENSIBLE_TAG = 3, 0xFFFE  # WAVE_FORMAT_IEEE_FLOAT, WAVE_FORMAT_EXTENSIBLE
MAX_RATIO = 20_000  # the resampling filter has 128 taps for each step of the ratio
SCAN = 1 << 20  # samples of a float WAV that are looked at in one go
UNKNOWN_SIZES = (0xFFFFFFFF, 0x7FFFFFFF)  # what a WAV says that was written to a pipe


def load_audio(audio: Audio, sample_rate: int, source_rate: int | None = None) -> mx.array:
    """Decode, mix down and resample.

    Args:
        audio: a path; samples, (N,) or (N, channels), int or float, NumPy or MLX; or a pair (samples, rate).
        sample_rate: the rate wanted, in Hz.
        source_rate: the rate of samples that come without one, in Hz.

    Returns:
        (N,) float32 in [-1, 1].

    Raises:
        AudioError: nothing that could be used; says why.
    """
    if isinstance(audio, (str, os.PathLike)):
        if source_rate is not None:
            raise AudioError(f"{os.fspath(audio)} has a sample rate of its own; leave sample_rate out")
        name = os.fspath(audio)
        samples, rate = _decode(Path(audio))
    else:
        name = "the clip"
        if isinstance(audio, tuple):
            if len(audio) != 2:
                raise AudioError(f"expected a pair (samples, sample_rate), got a tuple of {len(audio)}")
            audio, rate = audio
            source_rate = rate if source_rate is None else _same(rate, source_rate)
        if source_rate is None:
            raise AudioError("samples need their rate: pass sample_rate=… or a pair (samples, sample_rate)")
        rate = _rate(source_rate)
        samples = _to_float(audio)
    mono = samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    if mono.size == 0:
        raise AudioError(f"{name} is empty: it holds no samples")
    if not np.isfinite(mono).all():
        raise AudioError(f"{name} holds NaN or infinite samples; clean it before use")
    if rate != sample_rate:
        check_ratio(rate, sample_rate, name)
        from mlx_audio.resample import resample_audio_array

        mono = resample_audio_array(mono, rate, sample_rate)
    return mx.array(np.ascontiguousarray(mono, dtype=np.float32))


def check_speech(waveform: mx.array, name: str = "the clip") -> None:
    """Refuse silence, which every model turns into a confident answer.

    Raises:
        AudioError: the waveform never leaves its mean by more than -80 dBFS.
    """
    if bool(mx.abs(waveform - mx.mean(waveform)).max() < SILENCE_PEAK):
        raise AudioError(f"{name} is silent (its peak is below -80 dBFS); there is no voice to work on")


def check_ratio(rate: int, sample_rate: int, name: str) -> None:
    """Raises AudioError where resampling would need a huge filter."""
    if max(rate, sample_rate) // math.gcd(rate, sample_rate) > MAX_RATIO:
        raise AudioError(f"{name} has the odd sample rate {rate} Hz; resample it to a usual one first")


def describe(audio: Audio) -> str:
    """How error messages name an input."""
    return os.fspath(audio) if isinstance(audio, (str, os.PathLike)) else "the clip"


def _same(rate: Any, other: int) -> int:
    if rate != other:
        raise AudioError(f"the pair says {rate} Hz and sample_rate says {other} Hz; give one of them")
    return other


def _rate(rate: Any, where: str = "") -> int:
    number = isinstance(rate, (int, float, np.integer, np.floating)) and not isinstance(rate, bool)
    if not number or not np.isfinite(rate) or rate != int(rate):
        raise AudioError(f"{where}a sample rate is a whole number of Hz, not {rate!r}")
    if not 1000 <= rate <= 768_000:
        raise AudioError(f"{where}a sample rate of {int(rate)} Hz is outside 1000 to 768000 Hz")
    return int(rate)


def _to_float(samples: Any) -> "np.ndarray[Any, Any]":
    """Samples as float32 at full scale 1, (N,) or (N, channels)."""
    if isinstance(samples, mx.array) and samples.dtype == mx.bfloat16:
        samples = samples.astype(mx.float32)
    if not isinstance(samples, (np.ndarray, mx.array)):
        raise AudioError(f"audio is a path, an array or a pair (samples, sample_rate), not {type(samples).__name__}")
    x = np.asarray(samples)
    if x.ndim not in (1, 2):
        raise AudioError(f"samples must have shape (n,) or (n, channels), not {x.shape}")
    if x.ndim == 2 and (x.shape[1] == 0 or x.shape[1] > MAX_CHANNELS):
        raise AudioError(f"samples of shape {x.shape} are not (n, channels); transpose them if they are (channels, n)")
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused
            return x.astype(np.float32)
    if x.dtype.name not in FULL_SCALE:
        raise AudioError(f"samples of type {x.dtype.name} have no full scale; use float, uint8, int8, int16 or int32")
    offset, scale = FULL_SCALE[x.dtype.name]
    return ((x.astype(np.float64) - offset) / scale).astype(np.float32)


def _decode(path: Path) -> "tuple[np.ndarray[Any, Any], int]":
    """Samples and rate of a file, through mlx-audio."""
    header = check_file(path)
    import miniaudio
    from mlx_audio import audio_io

    with decoding(path):
        samples, rate = audio_io.read(path, dtype="float32")
        if header[:4] == b"fLaC" and len(samples) < miniaudio.flac_get_file_info(str(path)).num_frames:
            raise AudioError(f"{path} is truncated: it ends before the length that its header gives")
    return samples, _rate(rate, f"{path}: ")


def check_file(path: Path) -> bytes:
    """The first 12 bytes of a file; AudioError where these or a WAV's structure say that it cannot be used."""
    if not os.path.exists(path):  # noqa: PTH110 (Path.exists raises for a name that is too long)
        raise AudioError(f"{path} does not exist")
    if not path.is_file():
        raise AudioError(f"{path} is {'a folder' if path.is_dir() else 'a pipe or device'}, not an audio file")
    try:
        with path.open("rb") as file:
            header = file.read(12)
        if header[:4] == b"RIFF" and header[8:12] == b"WAVE":
            _check_wav(path)
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror}") from error
    if not header:
        raise AudioError(f"{path} is empty")
    return header


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turns what decoders raise into AudioError."""
    import miniaudio

    try:
        yield
    except miniaudio.MiniaudioError as error:
        raise AudioError(f"{path} is not audio that can be decoded ({error})") from error
    except RuntimeError as error:
        reason = str(error).strip(" =\n").splitlines()[0].strip()
        if "ffmpeg not found" in str(error):
            reason = "this format needs ffmpeg; install it (brew install ffmpeg, apt install ffmpeg) or use WAV or FLAC"
        raise AudioError(f"{path} cannot be decoded: {reason}") from error
    except (OSError, ValueError) as error:
        raise AudioError(f"{path} cannot be decoded: {error}") from error


def _check_wav(path: Path) -> None:
    """Refuse a WAV that was cut off or holds NaN; the decoder would take what is left, and make samples of NaN."""
    size = path.stat().st_size
    is_float, bits, position = False, 0, 12
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            name, length = struct.unpack("<4sI", file.read(8))
            position += 8
            if name == b"fmt ":
                fmt = file.read(26)
                if len(fmt) < 16:
                    break
                # The decoder takes a rate that it does not know for another.
                _rate(int.from_bytes(fmt[4:8], "little"), f"{path}: ")
                tag, bits, subtype = (int.from_bytes(fmt[i : i + 2], "little") for i in (0, 14, 24))
                is_float = FLOAT_TAG in (tag, subtype if tag == EXTENSIBLE_TAG else tag)
            elif name == b"data":
                if length == 0 and size > position:
                    raise AudioError(
                        f"{path} was never finished: its header gives no length; write it anew with ffmpeg"
                    )
                if length not in UNKNOWN_SIZES and position + length > size:
                    raise AudioError(
                        f"{path} is truncated: its header gives {length} bytes of audio, {size - position} are left"
                    )
                if is_float and bits in (32, 64):
                    left = min(length, size - position) // (bits // 8)
                    while left:
                        samples = np.fromfile(file, f"<f{bits // 8}", min(left, SCAN))
                        if not np.isfinite(samples).all():
                            raise AudioError(f"{path} holds NaN or infinite samples; clean it before use")
                        left = left - samples.size if samples.size else 0
                return
            position += length + length % 2
    raise AudioError(f"{path} is truncated: it has no audio data")
