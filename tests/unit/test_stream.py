"""Streaming: the blocks of a file are what `load_audio` gives, and bad files fail in the same words."""

import math
import os
import stat
import struct
import tracemalloc
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speech_zoo_core.audio.decode import load_audio
from speech_zoo_core.audio.stream import Stream, blocks
from speech_zoo_core.errors import AudioError

RATE = 16000
SECONDS = 2.6


def noise(n: int, channels: int = 1) -> np.ndarray:
    """(n, channels) float64 in [-0.9, 0.9], reproducible."""
    return np.random.default_rng(n + channels).uniform(-0.9, 0.9, (n, channels))


def pcm(samples: np.ndarray, bits: int, is_float: bool) -> bytes:
    """Interleaved little-endian samples."""
    if is_float:
        return samples.astype(f"<f{bits // 8}").tobytes()
    whole = np.round(samples * (2 ** (bits - 1) - 1)).astype("<i4")
    if bits == 8:
        return (whole + 128).astype(np.uint8).tobytes()
    return whole.astype("<i4").view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()


def wav(samples: np.ndarray, rate: int, bits: int = 16, is_float: bool = False, size: int | None = None) -> bytes:
    """A WAV file of samples (n, channels); `size` is what its header says of the data, where that is not the truth."""
    data, channels, width = pcm(samples, bits, is_float), samples.shape[1], bits // 8
    form = 3 if is_float else 1
    chunk = struct.pack("<HHIIHH", form, channels, rate, rate * width * channels, width * channels, bits)
    body = struct.pack("<4sI", b"fmt ", 16) + chunk + struct.pack("<4sI", b"data", len(data) if size is None else size)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(body) + len(data), b"WAVE") + body + data


def crc(data: bytes, bits: int, polynomial: int) -> int:
    value = 0
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (bits - 1) & 1 else 0)
        value &= (1 << bits) - 1
    return value


def flac(samples: np.ndarray, rate: int) -> bytes:
    """Verbatim frames of 1000 16-bit samples (RFC 9639)."""
    x = np.round(samples * 32767).astype(">i2")
    channels = x.shape[1]
    info = (1000).to_bytes(2, "big") * 2 + bytes(6)
    info += (rate << 44 | (channels - 1) << 41 | 15 << 36 | len(x)).to_bytes(8, "big") + bytes(16)
    frames = b""
    for i, start in enumerate(range(0, len(x), 1000)):
        part = x[start : start + 1000]
        number = bytes([i]) if i < 128 else bytes([0xC0 | i >> 6, 0x80 | i & 63])
        head = bytes([0xFF, 0xF8, 0x70, (channels - 1) << 4 | 8]) + number + (len(part) - 1).to_bytes(2, "big")
        head += bytes([crc(head, 8, 0x07)])
        body = head + b"".join(b"\x02" + part[:, c].tobytes() for c in range(channels))
        frames += body + crc(body, 16, 0x8005).to_bytes(2, "big")
    return b"fLaC" + bytes([0x80, 0, 0, len(info)]) + info + frames


def mp3(n_frames: int) -> bytes:
    """MPEG-1 Layer III, mono, 44.1 kHz, 128 kbit/s: frames whose spectrum is what random bits decode to."""
    rng = np.random.default_rng(0)
    granule = f"{1400:012b}{60:09b}{170:08b}{0:04b}0{1:05b}{1:05b}{1:05b}{7:04b}{7:03b}000"
    side = f"{0:09b}{0:05b}{0:04b}" + 2 * granule
    head = b"\xff\xfb\x90\xc0" + int(side, 2).to_bytes(17, "big")
    return b"".join(head + rng.bytes(417 - len(head)) for _ in range(n_frames))


def joined(path: Path, rate: int = RATE, seconds: float = 0.5) -> np.ndarray:
    found = list(blocks(path, rate, seconds))
    assert all(block.dtype == np.float32 and block.ndim == 1 and block.size for block in found)
    return np.concatenate(found)


def same(path: Path, rate: int = RATE, seconds: float = 0.5) -> None:
    """The blocks are the waveform, however long they are."""
    expected = np.array(load_audio(path, rate))
    assert np.abs(expected).max() > 0.01
    for length in (seconds, 10.0):
        found = joined(path, rate, length)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-6


FILES: dict[str, Callable[[int, int], bytes]] = {
    "8-bit.wav": lambda rate, channels: wav(noise(round(SECONDS * rate), channels), rate, 8),
    "16-bit.wav": lambda rate, channels: wav(noise(round(SECONDS * rate), channels), rate),
    "24-bit.wav": lambda rate, channels: wav(noise(round(SECONDS * rate), channels), rate, 24),
    "32-bit.wav": lambda rate, channels: wav(noise(round(SECONDS * rate), channels), rate, 32),
    "float.wav": lambda rate, channels: wav(noise(round(SECONDS * rate), channels), rate, 32, is_float=True),
    "double.wav": lambda rate, channels: wav(noise(round(SECONDS * rate), channels), rate, 64, is_float=True),
    "16-bit.flac": lambda rate, channels: flac(noise(round(SECONDS * rate / 8) * 2, channels), rate),
}


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 1), (48000, 2), (11025, 1)])
@pytest.mark.parametrize("name", FILES)
def test_the_blocks_of_a_file_are_its_waveform(tmp_path: Path, name: str, rate: int, channels: int) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name](rate, channels))
    same(path)
    assert Stream(path, RATE).seconds == pytest.approx(len(joined(path)) / RATE, abs=1 / 8000)


def test_an_mp3(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(mp3(100))
    same(path)
    assert Stream(path, RATE).seconds == pytest.approx(len(joined(path)) / RATE, abs=1e-3)
    path.write_bytes(b"ID3\3\0\0\0\0\0\x0a" + bytes(10) + mp3(100)[:-200])  # a tag; the last frame cut off
    same(path)


@given(
    n=st.integers(1, 9000),
    rate=st.sampled_from([8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000]),
    target=st.sampled_from([8000, 16000, 24000]),
    seconds=st.floats(1e-4, 0.3),
)
@settings(max_examples=60, deadline=None)
def test_block_edges_leave_no_trace(
    tmp_path_factory: pytest.TempPathFactory, n: int, rate: int, target: int, seconds: float
) -> None:
    path = tmp_path_factory.getbasetemp() / "edges.wav"
    path.write_bytes(wav(noise(n), rate))
    expected = np.array(load_audio(path, target))
    found = joined(path, target, seconds)
    assert found.shape == expected.shape == (math.ceil(n * target / rate),)
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_that_says_no_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "pipe.wav"
    path.write_bytes(wav(noise(40000), RATE, size=size))
    same(path)
    assert Stream(path, RATE).seconds in (None, 2.5)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    peaks = []
    for minutes in (1, 4):
        with path.open("wb") as raw, wave.open(raw) as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(44100)
            for _ in range(minutes * 6):
                file.writeframes(bytes(10 * 44100 * 4))
        tracemalloc.start()
        assert sum(block.size for block in blocks(path, RATE)) == minutes * 60 * RATE
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


# Bad files


def refusals(path: Path) -> tuple[str, str]:
    """What `load_audio` says, and what streaming says."""
    said = []
    for read in (lambda: load_audio(path, RATE), lambda: joined(path)):
        with pytest.raises(AudioError) as caught:
            read()
        said.append(str(caught.value))
    return said[0], said[1]


GOOD = wav(noise(1000), RATE)
NAN = noise(400000).astype(np.float32)
NAN[-1] = np.nan
BROKEN: dict[str, bytes] = {
    "empty.wav": b"",
    "text.wav": b"this is no audio, it is a line of text\n" * 20,
    "noise.wav": bytes(range(256)) * 20,
    "noise.mp3": b"ID3" + bytes(200),
    "noise.flac": b"fLaC" + bytes(200),
    "notes.txt": b"a text file",
    "one_byte.mp3": b"\xff",
    "riff_alone.wav": b"RIFF",
    "header_alone.wav": b"RIFF\0\0\0\0WAVE",
    "no_data_chunk.wav": GOOD[:36],
    "no_samples.wav": wav(noise(0), RATE),
    "cut.wav": GOOD[:-1],
    "never_finished.wav": wav(noise(1000), RATE, size=0),
    "rate_0.wav": wav(noise(1000), 0),
    "rate_1.wav": wav(noise(1000), 1),
    "odd_rate.wav": wav(noise(1000), 96001),
    "nan.wav": wav(NAN, RATE, 32, is_float=True),
    "infinite.wav": wav(NAN - np.inf, RATE, 64, is_float=True),
    "cut.flac": flac(noise(3000), RATE)[:-3000],
    "cut_in_the_header.flac": flac(noise(3000), RATE)[:30],
    "voice.ogg": b"OggS" + bytes(100),
    "voice.m4a": b"\0\0\0\x20ftypM4A " + bytes(100),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_file_is_refused_in_the_words_of_load_audio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no ffmpeg
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    expected, found = refusals(path)
    assert found == expected


def test_no_file_at_all(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing.wav", tmp_path, tmp_path / "pipe", tmp_path / ("a" * 300)):
        expected, found = refusals(path)
        assert found == expected
        with pytest.raises(AudioError):
            blocks(path, RATE)  # before anything is iterated


# ffmpeg, played by a script


def fake_ffmpeg(folder: Path, monkeypatch: pytest.MonkeyPatch, samples: np.ndarray, status: int = 0) -> Path:
    """`ffprobe` and `ffmpeg` that find `samples` (n, channels) at 44.1 kHz in any file; returns such a file."""
    (folder / "pcm").write_bytes(pcm(samples, 16, False))
    stream = f'{{"streams": [{{"sample_rate": "44100", "channels": {samples.shape[1]}, "duration": "2.0"}}]}}'
    scripts = {
        "ffprobe": f"echo '{stream}'",
        "ffmpeg": f'cat "{folder / "pcm"}"; [ {status} = 0 ] || {{ echo "broken here" >&2; echo "and so" >&2; }}; '
        f"exit {status}",
    }
    (folder / "bin").mkdir()
    for name, script in scripts.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / "bin" / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    path = folder / "a.ogg"
    path.write_bytes(b"OggS" + bytes(100))
    return path


@pytest.mark.parametrize("channels", [1, 2])
def test_what_ffmpeg_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    path = fake_ffmpeg(tmp_path, monkeypatch, noise(88200, channels))
    same(path)
    assert Stream(path, RATE).seconds == 2.0
    first = next(blocks(path, RATE, 0.5))  # what is not read is left in the pipe, and the process ends
    assert np.array_equal(first, joined(path)[: first.size])


def test_ffmpeg_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_ffmpeg(tmp_path, monkeypatch, noise(44100), status=1)
    expected, found = refusals(path)
    assert found == expected == f"{path} cannot be decoded: ffmpeg decoding failed: broken here"
