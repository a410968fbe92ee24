"""Damaged files: one line that refuses them, or samples, and the same whole and streamed."""

import random
import tracemalloc

import numpy as np
import pytest
from sounds import noise, written
from speech_zoo_core.audio import Stream, load_audio
from speech_zoo_core.errors import AudioError

RATE = 16000
FILES = {
    "wav": written(noise(12000, 2), 44100),
    "float wav": written(noise(8000), RATE, "WAV", "FLOAT"),
    "adpcm wav": written(noise(8000), RATE, "WAV", "IMA_ADPCM"),
    "flac": written(noise(12000) * 0.1, 22050, "FLAC", "PCM_24"),
    "mp3": written(noise(24000), 44100, "MP3", "MPEG_LAYER_III"),
    "vorbis": written(noise(24000), 44100, "OGG", "VORBIS"),
    "opus": written(noise(24000), 48000, "OGG", "OPUS"),
}
EACH = 60


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut, doubled, moved or put in; where headers are more often than elsewhere."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        size = len(data)
        at = rng.randrange(min(size, rng.choice([64, 512, size])))
        length = rng.choice([1, 2, 4, 8, 100, 1000])
        match rng.randrange(7):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + length] = rng.randbytes(len(data[at : at + length]))
            case 2:
                data[at : at + 4] = rng.choice([b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80"])
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length]
            case 5:
                data[at:at] = rng.randbytes(length)
            case _:
                del data[rng.randrange(size // 2, size) :]
        data = data or bytearray(b"\0")
    return bytes(data)


def outcome(content: bytes, streamed: bool) -> np.ndarray | str:
    try:
        if streamed:
            return np.concatenate(list(Stream(content, RATE).blocks()))
        return np.array(load_audio(content, RATE))
    except AudioError as error:
        return str(error)


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(name: str) -> None:
    rng = random.Random(name)
    sound = 0
    tracemalloc.start()
    for i in range(EACH):
        content = damaged(FILES[name], rng)
        whole, streamed = outcome(content, False), outcome(content, True)
        if isinstance(whole, str):
            assert streamed == whole, i
            assert "\n" not in whole
            assert whole.startswith(("the clip ", "the clip:")), whole
        else:
            sound += 1
            assert isinstance(streamed, np.ndarray), (i, streamed)
            assert np.array_equal(streamed, whole), i
            assert np.isfinite(whole).all()
            assert whole.size
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert 0 < sound < EACH
