"""FLAC, written here by hand: whole files decode exactly, truncated ones are refused."""

from pathlib import Path

import numpy as np
import pytest
from speech_zoo_core.audio.decode import load_audio
from speech_zoo_core.errors import AudioError

RATE = 16000
BLOCK = 1000  # samples of a frame
SAMPLES = (np.random.default_rng(0).standard_normal(3 * BLOCK) * 3000).astype(np.int16)


def crc(data: bytes, bits: int, polynomial: int) -> int:
    value = 0
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (bits - 1) & 1 else 0)
        value &= (1 << bits) - 1
    return value


def frame(number: int, samples: np.ndarray) -> bytes:
    """A mono frame of 16-bit samples, stored as they are (RFC 9639, verbatim subframe)."""
    header = bytes([0xFF, 0xF8, 0x75, 0x08, number]) + (len(samples) - 1).to_bytes(2, "big")
    header += bytes([crc(header, 8, 0x07)])
    body = header + b"\x02" + samples.astype(">i2").tobytes()
    return body + crc(body, 16, 0x8005).to_bytes(2, "big")


def flac(samples: np.ndarray) -> bytes:
    """A file of one STREAMINFO block and frames of BLOCK samples."""
    packed = RATE << 44 | 0 << 41 | 15 << 36 | len(samples)  # rate, channels - 1, bits - 1, number of samples
    info = BLOCK.to_bytes(2, "big") * 2 + bytes(6) + packed.to_bytes(8, "big") + bytes(16)
    frames = b"".join(frame(i, samples[i * BLOCK : (i + 1) * BLOCK]) for i in range(len(samples) // BLOCK))
    return b"fLaC" + bytes([0x80, 0, 0, len(info)]) + info + frames


def test_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(flac(SAMPLES))
    assert np.array_equal(np.array(load_audio(path, RATE)) * 32768, SAMPLES)


@pytest.mark.parametrize("kept", [5, 20, 41, 42, 43, 60, 2000, 2052, 2053, 4000, 5000, len(flac(SAMPLES)) - 1])
def test_a_truncated_file(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.flac"
    path.write_bytes(flac(SAMPLES)[:kept])
    with pytest.raises(AudioError) as caught:
        load_audio(path, RATE)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_frames_that_are_missing_in_the_middle(tmp_path: Path) -> None:
    content = flac(SAMPLES)
    size = len(frame(0, SAMPLES[:BLOCK]))
    path = tmp_path / "gap.flac"
    path.write_bytes(content[: 42 + size] + content[42 + 2 * size :])
    with pytest.raises(AudioError, match="truncated"):
        load_audio(path, RATE)
