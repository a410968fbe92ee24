"""Audio that cannot be used: each gives one line that says what is wrong and what to do."""

import struct
import warnings
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from speech_zoo_core.audio.decode import load_audio
from speech_zoo_core.errors import AudioError

RATE = 16000
SAMPLES = np.sin(np.arange(1000)).astype(np.float32)
PCM = (SAMPLES * 20000).astype("<i2").tobytes()


def wav(data: bytes = PCM, size: int | None = None, rate: int = RATE, form: int = 1, bits: int = 16) -> bytes:
    """A mono WAV file; `size` is what its header says of the data, where that is not the truth."""
    width = bits // 8
    chunk = struct.pack("<4sIHHIIHH", b"fmt ", 16, form, 1, rate, rate * width % 2**32, width, bits)
    data_chunk = struct.pack("<4sI", b"data", len(data) if size is None else size) + data
    return struct.pack("<4sI4s", b"RIFF", 4 + len(chunk) + len(data_chunk), b"WAVE") + chunk + data_chunk


def refusal(audio: Any, *args: Any) -> str:
    """The message with which audio is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be a second line on stderr
        with pytest.raises(AudioError) as caught:
            load_audio(audio, RATE, *args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


BROKEN_FILES = {  # content, and what the message says
    "empty.wav": (b"", "is empty"),
    "text.wav": (b"this is no audio, it is a line of text\n" * 20, "not audio that can be decoded"),
    "noise.wav": (bytes(range(256)) * 20, "not audio that can be decoded"),
    "noise.mp3": (b"ID3" + bytes(200), "not audio that can be decoded"),
    "noise.flac": (b"fLaC" + bytes(200), "not audio that can be decoded"),
    "notes.txt": (b"a text file", "not audio that can be decoded"),
    "no_extension": (b"a text file", "not audio that can be decoded"),
    "riff_alone.wav": (b"RIFF", "not audio that can be decoded"),
    "header_alone.wav": (b"RIFF\0\0\0\0WAVE", "truncated"),
    "no_data_chunk.wav": (wav()[:36], "truncated"),
    "no_samples.wav": (wav(b""), "is empty"),
    "rate_0.wav": (wav(rate=0), ""),
    "rate_1.wav": (wav(rate=1), "outside 1000 to 768000 Hz"),
    "rate_max.wav": (wav(rate=2**32 - 1), ""),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_file_that_is_not_audio(tmp_path: Path, name: str) -> None:
    content, reason = BROKEN_FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(str(path))
    assert reason in message


@pytest.mark.parametrize("kept", [12, 20, 36, 40, 43, 44, 45, 46, 1000, len(wav()) - 2, len(wav()) - 1])
def test_a_truncated_wav(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.wav"
    path.write_bytes(wav()[:kept])
    assert "truncated" in refusal(str(path))


def test_a_wav_whose_header_was_never_finished(tmp_path: Path) -> None:
    path = tmp_path / "open.wav"
    path.write_bytes(wav(size=0))
    assert "gives no length" in refusal(path)


@pytest.mark.parametrize("rate", [96001, 767999])
def test_a_rate_whose_ratio_needs_a_huge_filter(rate: int) -> None:
    assert "odd sample rate" in refusal((np.ones(1000, np.float32), rate))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_that_was_written_to_a_pipe_says_no_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "pipe.wav"
    path.write_bytes(wav(size=size))
    waveform = load_audio(path, RATE)
    assert np.array_equal(np.array(waveform) * 32768, np.frombuffer(PCM, "<i2"))


def test_chunks_before_the_data_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "tagged.wav"
    content = wav()
    path.write_bytes(content[:36] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + content[36:])
    assert load_audio(path, RATE).shape == (1000,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_file_with_nan_or_infinite_samples(tmp_path: Path, bad: float) -> None:
    x = SAMPLES.astype("<f4")
    x[500] = bad
    path = tmp_path / "float.wav"
    path.write_bytes(wav(x.tobytes(), form=3, bits=32))
    assert "NaN or infinite" in refusal(path)


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.wav") == f"{tmp_path / 'no.wav'} does not exist"


@pytest.mark.parametrize("name", ["a" * 300 + ".wav", "nul\0.wav", ""])
def test_a_path_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    assert refusal(str(tmp_path / name) if name else "")


def test_a_folder(tmp_path: Path) -> None:
    assert "is a folder, not an audio file" in refusal(tmp_path)


def test_a_path_has_a_rate_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav())
    assert "leave sample_rate out" in refusal(path, 8000)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_nan_and_infinite_samples(bad: float, rate: int) -> None:
    x = SAMPLES.copy()
    x[500] = bad
    assert "NaN or infinite" in refusal(x, rate)
    assert "NaN or infinite" in refusal(mx.array(x), rate)
    assert "NaN or infinite" in refusal(np.stack([SAMPLES, x], 1), rate)


def test_float64_samples_that_float32_cannot_hold() -> None:
    assert "infinite" in refusal(np.full(100, 1e300), RATE)


def test_samples_need_a_rate() -> None:
    assert "pass sample_rate=… or a pair (samples, sample_rate)" in refusal(SAMPLES)
    assert "rate" in refusal((SAMPLES, None))


def test_two_rates_that_differ() -> None:
    message = refusal((SAMPLES, 16000), 8000)
    assert "16000" in message
    assert "8000" in message


@pytest.mark.parametrize(
    "rate", [16000.5, "16000", True, b"16000", [16000], 16000 + 0j, float("nan"), float("inf"), np.array([16000, 8000])]
)
def test_a_rate_that_is_not_a_whole_number(rate: Any) -> None:
    assert "a whole number of Hz" in refusal(SAMPLES, rate)
    assert "a whole number of Hz" in refusal((SAMPLES, rate))


@pytest.mark.parametrize("rate", [0, -16000, 999, 768_001, 2**63, 1e300])
def test_a_rate_out_of_range(rate: Any) -> None:
    assert "outside 1000 to 768000 Hz" in refusal(SAMPLES, rate)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((2, 1000), "transpose them if they are (channels, n)"),
        ((1, 65), "transpose them if they are (channels, n)"),
        ((1000, 0), "not (n, channels)"),
        ((2, 100, 3), "(n,) or (n, channels)"),
        ((), "(n,) or (n, channels)"),
        ((0,), "is empty"),
        ((0, 2), "is empty"),
    ],
)
def test_samples_of_a_wrong_shape(shape: tuple[int, ...], reason: str) -> None:
    assert reason in refusal(np.ones(shape, np.float32), RATE)
    assert reason in refusal(mx.ones(shape), RATE)


@pytest.mark.parametrize(
    "dtype", ["int64", "uint16", "uint32", "uint64", "bool", "complex64", "complex128", "object", "S1", "M8[s]"]
)
def test_samples_of_a_type_without_a_full_scale(dtype: str) -> None:
    assert "use float, uint8, int8, int16 or int32" in refusal(np.ones(100).astype(dtype), RATE)


@pytest.mark.parametrize("dtype", [mx.int64, mx.uint16, mx.uint32, mx.uint64, mx.bool_, mx.complex64])
def test_mlx_samples_of_a_type_without_a_full_scale(dtype: mx.Dtype) -> None:
    assert "use float, uint8, int8, int16 or int32" in refusal(mx.ones(100).astype(dtype), RATE)


@pytest.mark.parametrize("audio", [[0.1, 0.2], None, 5, b"a.wav", {"a": 1}, {1, 2}, object()])
def test_something_else_than_audio(audio: Any) -> None:
    assert "audio is a path, an array or a pair" in refusal(audio, RATE)


@pytest.mark.parametrize("audio", [(), (SAMPLES,), (SAMPLES, RATE, 1)])
def test_a_tuple_that_is_no_pair(audio: Any) -> None:
    assert "expected a pair" in refusal(audio)
