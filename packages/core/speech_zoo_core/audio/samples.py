"""Samples in memory, of any type and from any library, as float32 at full scale 1; and one channel of several."""

import os
import reprlib
from collections.abc import Mapping
from typing import Any, BinaryIO, Literal, TypeAlias, TypeGuard

import mlx.core as mx
import numpy as np

from ..errors import AudioError

Array: TypeAlias = np.ndarray[Any, Any]
File: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO
Audio: TypeAlias = File | Array | mx.array | tuple[Any, int] | Mapping[str, Any]
Channel: TypeAlias = int | Literal["first", "mean"]

MAX_CHANNELS = 64  # more columns than this means that the array is (channels, n)
FULL_SCALE = {"uint8": (128, 2**7), "int8": (0, 2**7), "int16": (0, 2**15), "int32": (0, 2**31), "int64": (0, 2**63)}


def is_file(audio: Any) -> TypeGuard[File]:
    """Whether audio is to be decoded: a path, the bytes of a file, or a file object."""
    return isinstance(audio, (str, os.PathLike, bytes, bytearray, memoryview)) or callable(getattr(audio, "read", None))


def is_clip(audio: Any) -> bool:
    """Whether this is one clip, in whatever form, and not a list of clips."""
    pair = isinstance(audio, tuple) and len(audio) == 2 and isinstance(audio[1], (int, float, np.number))
    return pair or is_file(audio) or isinstance(audio, Mapping) or hasattr(audio, "shape")


def describe(audio: Any) -> str:
    """How error messages name an input."""
    if isinstance(audio, (str, os.PathLike)):
        return os.fsdecode(audio)
    name = getattr(audio, "name", None) if is_file(audio) else None
    return "standard input" if name == "<stdin>" else name if isinstance(name, str) else "the clip"


def unwrapped(audio: Any) -> Any:
    """What datasets' decoded audio, {"array", "sampling_rate"}, holds, as a pair (samples, rate); all else as it is.

    Raises:
        AudioError: a mapping with other keys.
    """
    if not isinstance(audio, Mapping) and not hasattr(audio, "get_all_samples"):  # a decoder, as datasets 4 gives it
        return audio
    try:
        samples = audio["array"]
        if isinstance(samples, np.ndarray) and samples.ndim == 2:  # (channels, n)
            samples = samples.T
        return samples, audio["sampling_rate"]
    except (KeyError, TypeError) as error:
        raise AudioError('a mapping is audio if it has the keys "array" and "sampling_rate"') from error


def in_memory(audio: Any, source_rate: int | None) -> tuple[Array, int]:
    """Samples (N,) or (N, channels) as NumPy's, and their rate in Hz.

    Args:
        audio: samples, or a pair (samples, rate).
        source_rate: the rate of samples that come without one.

    Raises:
        AudioError: they are no samples, or their rate is not known.
    """
    if isinstance(audio, tuple):
        if len(audio) != 2:
            raise AudioError(f"expected a pair (samples, sample_rate), got a tuple of {len(audio)}")
        audio, rate = audio
        if source_rate is not None and rate != source_rate:
            raise AudioError(f"the pair says {rate} Hz and sample_rate says {source_rate} Hz; give one of them")
        source_rate = rate
    if source_rate is None:
        raise AudioError("samples need their rate: pass sample_rate=… or a pair (samples, sample_rate)")
    rate = check_rate(source_rate)
    x = _as_numpy(audio)
    if x.ndim not in (1, 2):
        raise AudioError(f"samples must have shape (n,) or (n, channels), not {x.shape}")
    if x.ndim == 2 and not 0 < x.shape[1] <= MAX_CHANNELS:
        raise AudioError(f"samples of shape {x.shape} are not (n, channels); transpose them if they are (channels, n)")
    if x.dtype.kind != "f" and (x.dtype.name not in FULL_SCALE or x.dtype.name == "int64"):
        raise AudioError(f"samples of type {x.dtype.name} have no full scale; use float, uint8, int8, int16 or int32")
    return x, rate


def check_rate(rate: Any, where: str = "") -> int:
    """A sample rate as a whole number.

    Raises:
        AudioError: it is none, or none that audio has.
    """
    rate = rate.item() if getattr(rate, "ndim", None) == 0 else rate
    number = isinstance(rate, (int, float, np.integer, np.floating)) and not isinstance(rate, bool)
    if not number or not np.isfinite(rate) or rate != int(rate):
        raise AudioError(f"{where}a sample rate is a whole number of Hz, not {reprlib.repr(rate)}")
    if not 1000 <= rate <= 768_000:
        raise AudioError(f"{where}a sample rate of {int(rate)} Hz is outside 1000 to 768000 Hz")
    return int(rate)


def check_channel(channel: Any) -> None:
    """Raises AudioError for what names no channel."""
    number = isinstance(channel, (int, np.integer)) and not isinstance(channel, bool) and channel >= 0
    if not number and channel not in ("first", "mean"):
        raise AudioError(f'channel is a number from 0 on, or "mean", not {reprlib.repr(channel)}')


def to_mono(samples: Array, channel: Channel, name: str) -> Array:
    """One channel of several, or the mean of all, as float32 at full scale 1: (N,) or (N, channels) to (N,).

    Raises:
        AudioError: there is no such channel, or it holds NaN or infinite samples.
    """
    columns = samples if samples.ndim == 2 else samples[:, None]
    count = columns.shape[1]
    number = channel if isinstance(channel, (int, np.integer)) else 0
    if channel == "mean" and count > 1:
        mono = _to_float(columns).mean(axis=1, dtype=np.float64).astype(np.float32)
    elif number < count or count == 1:
        mono = _to_float(columns[:, min(number, count - 1)])
    else:
        raise AudioError(f"{name} has no channel {number}: it has {count}, counted from 0")
    if not np.isfinite(mono).all():
        raise AudioError(f"{name} holds NaN or infinite samples; clean it before use")
    return mono


def _as_numpy(samples: Any) -> Array:
    if type(samples).__module__.partition(".")[0] == "torch":  # never imported: the tensor is there already
        samples = samples.detach().cpu().resolve_conj().resolve_neg()
        samples = samples.float() if str(samples.dtype) == "torch.bfloat16" else samples
        x: Array = samples.numpy()
        return x.T if x.ndim == 2 else x  # torchaudio's are (channels, n)
    if isinstance(samples, mx.array):
        return np.asarray(samples.astype(mx.float32) if samples.dtype == mx.bfloat16 else samples)
    if isinstance(samples, np.ma.MaskedArray):
        raise AudioError("samples are a masked array; fill what is masked, or take the .data of it")
    if isinstance(samples, np.ndarray):
        return samples
    raise AudioError(
        "audio is a path, an array or a pair (samples, sample_rate), the bytes of a file or a file object, not "
        f"{type(samples).__name__}"
    )


def _to_float(x: Array) -> Array:
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused
            return x.astype(np.float32)
    offset, scale = FULL_SCALE[x.dtype.name]
    exact = np.float32 if x.dtype.itemsize < 4 else np.float64
    return ((x.astype(exact) - exact(offset)) / exact(scale)).astype(np.float32)
