"""A long file block by block: the waveform that `load_audio` gives, in memory that does not grow with the file."""

import json
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..errors import AudioError
from .decode import _decode, _rate, check_file, check_ratio, decoding

Chunks: TypeAlias = "Generator[np.ndarray[Any, Any], None, None]"

BLOCK_SECONDS = 10.0
HALF_TAPS = 64  # of mlx-audio's resampling filter on each side, for each step of the ratio
FFMPEG_HEADS = (b"OggS", b"\x1a\x45\xdf\xa3", b"caff", b"FORM")  # Ogg, WebM, CAF, AIFF; MP4 has ftyp at byte 4


@dataclass(frozen=True)
class _Source:
    """How a file is decoded: its rate in Hz, its length in frames, and what reads it in chunks of so many frames."""

    rate: int
    frames: int | None
    read: Callable[[int], Chunks]


class Stream:
    """The waveform of a file; every call of `blocks` decodes it from the start.

    WAV, FLAC and MP3 are decoded as they are read, through miniaudio; Ogg, MP4, WebM, CAF and AIFF come through a pipe
    from ffmpeg. Whatever else mlx-audio can read is decoded whole first.

    Attributes:
        path: of the file.
        sample_rate: of the waveform, in Hz.
        seconds: duration; None where only the end of the decoding tells.
    """

    def __init__(self, path: str | os.PathLike[str], sample_rate: int) -> None:
        """Raises AudioError as `load_audio`, for all that shows before the samples are decoded."""
        self.path, self.sample_rate = Path(path), sample_rate
        header = check_file(self.path)
        with decoding(self.path):
            self._source = _miniaudio(self.path, header) or _ffmpeg(self.path, header) or _whole(self.path)
        check_ratio(self._source.rate, sample_rate, str(path))
        self.seconds = self._source.frames / self._source.rate if self._source.frames else None

    def blocks(self, seconds: float = BLOCK_SECONDS) -> "Iterator[np.ndarray[Any, Any]]":
        """The waveform in blocks of about `seconds`, (N,) float32 in [-1, 1], none of them empty.

        Raises:
            AudioError: the file turns out to be empty, truncated or not decodable; blocks may have come before that.
        """
        rate, empty = self._source.rate, True
        with decoding(self.path), closing(self._source.read(max(1, round(seconds * rate)))) as chunks:
            mono = (chunk if chunk.ndim == 1 else _mean(chunk) for chunk in chunks)
            for block in mono if rate == self.sample_rate else _resampled(mono, rate, self.sample_rate, seconds):
                if block.size:
                    empty = False
                    yield block
        if empty:
            raise AudioError(f"{self.path} is empty: it holds no samples")


def blocks(
    path: str | os.PathLike[str], sample_rate: int, seconds: float = BLOCK_SECONDS
) -> "Iterator[np.ndarray[Any, Any]]":
    """The waveform of a file, mono at `sample_rate`, in blocks of about `seconds`: (N,) float32 in [-1, 1].

    Raises:
        AudioError: as `Stream` and its `blocks`; what shows before the samples are decoded, at once.
    """
    return Stream(path, sample_rate).blocks(seconds)


def _mean(samples: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    mean: np.ndarray[Any, Any] = samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    return mean


def _samples(data: Any, channels: int) -> "np.ndarray[Any, Any]":
    """16-bit samples as float32, (N,) or (N, channels), as mlx-audio scales them."""
    samples = np.frombuffer(data, np.int16).astype(np.float32) / np.float32(32768)
    return samples if channels == 1 else samples.reshape(-1, channels)


def _miniaudio(path: Path, header: bytes) -> _Source | None:
    """WAV, FLAC and MP3; None for others, and for files that need mlx-audio to find out what is wrong with them."""
    import miniaudio

    if header[:4] == b"RIFF" and header[8:12] == b"WAVE":
        get_info = miniaudio.wav_get_file_info
    elif header[:4] == b"fLaC":
        get_info = miniaudio.flac_get_file_info
    elif header[:3] == b"ID3" or (header[0] == 0xFF and len(header) > 1 and header[1] & 0xE0 == 0xE0 and header[1] & 6):
        get_info = miniaudio.mp3_get_file_info  # layer bits of 0 would be AAC's
    else:
        return None
    try:
        info = get_info(str(path))
    except miniaudio.MiniaudioError:
        return None

    def read(frames: int) -> Chunks:
        found = 0
        chunks = miniaudio.stream_file(
            str(path), nchannels=info.nchannels, sample_rate=info.sample_rate, frames_to_read=frames
        )
        with closing(chunks):
            for chunk in chunks:
                found += len(chunk) // info.nchannels
                yield _samples(chunk, info.nchannels)
        if header[:4] == b"fLaC" and found < info.num_frames:
            raise AudioError(f"{path} is truncated: it ends before the length that its header gives")

    return _Source(_rate(info.sample_rate, f"{path}: "), info.num_frames, read)


def _ffmpeg(path: Path, header: bytes) -> _Source | None:
    """What mlx-audio decodes through ffmpeg; None for others, and where ffmpeg is not installed or finds nothing."""
    if not (header.startswith(FFMPEG_HEADS) or header[4:8] == b"ftyp"):
        return None
    if shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None:
        return None
    name = str(path.absolute())  # no colon or dash at its start, which ffmpeg would take for a protocol or an option
    probe = ["ffprobe", "-v", "quiet", "-print_format", "json", "-show_streams", "-select_streams", "a:0"]
    done = subprocess.run([*probe, name], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    streams = json.loads(done.stdout or b"{}").get("streams") if done.returncode == 0 else None
    if not streams:
        return None
    rate, channels = int(streams[0].get("sample_rate", 44100)), int(streams[0].get("channels", 2))
    seconds = streams[0].get("duration")
    frames = None if seconds is None else round(float(seconds) * rate)
    command = ["ffmpeg", "-v", "error", "-i", name, "-f", "s16le", "-acodec", "pcm_s16le"]
    command += ["-ar", str(rate), "-ac", str(channels), "pipe:1"]
    return _Source(_rate(rate, f"{path}: "), frames, partial(_piped, command, channels))


def _piped(command: list[str], channels: int, frames: int) -> Chunks:
    """What a command writes as 16-bit samples, in chunks of so many frames."""
    with (
        tempfile.TemporaryFile() as messages,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages) as process,
    ):
        assert process.stdout is not None
        while data := process.stdout.read(frames * channels * 2):
            yield _samples(data[: len(data) // (2 * channels) * 2 * channels], channels)
        if process.wait():
            messages.seek(0)
            raise RuntimeError(f"ffmpeg decoding failed: {messages.read().decode(errors='replace')}")


def _whole(path: Path) -> _Source:
    """What is decoded in one go by mlx-audio."""
    samples, rate = _decode(path)

    def read(frames: int) -> Chunks:
        for start in range(0, len(samples), frames):
            yield samples[start : start + frames]

    return _Source(rate, len(samples), read)


def _resampled(
    chunks: "Iterable[np.ndarray[Any, Any]]", rate: int, sample_rate: int, seconds: float
) -> "Iterator[np.ndarray[Any, Any]]":
    """Chunks (N,) at `rate` brought to `sample_rate`, the samples that resampling all at once gives.

    Every stretch is resampled with as much on both sides as the filter reaches, and starts at a multiple of the ratio's
    lower part, so that the filter has the same phase there as in the whole.
    """
    from mlx_audio.resample import resample_audio_array

    divisor = math.gcd(rate, sample_rate)
    up, down = sample_rate // divisor, rate // divisor
    reach = math.ceil((HALF_TAPS * max(up, down) + down) / up / down) * down
    least = reach + max(down, round(seconds * rate))
    buffer, start, done = np.zeros(0, np.float32), 0, 0  # positions in samples at `rate`, multiples of `down`
    for chunk in chunks:
        buffer = np.concatenate([buffer, chunk])
        end = (start + buffer.size - reach) // down * down
        if start + buffer.size - done >= least:
            yield resample_audio_array(buffer, rate, sample_rate)[_part(start, done, end, up, down)]
            done = end
            kept = max(0, done - reach)
            buffer, start = buffer[kept - start :], kept
    if buffer.size:
        yield resample_audio_array(buffer, rate, sample_rate)[_part(start, done, None, up, down)]


def _part(start: int, done: int, end: int | None, up: int, down: int) -> slice:
    """Where the samples from `done` to `end` lie in what was resampled from `start` on."""
    return slice((done - start) // down * up, None if end is None else (end - start) // down * up)
