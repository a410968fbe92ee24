"""Audio that cannot be used: each gives one line that says what is wrong and what to do."""

import warnings
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from sounds import written
from speech_zoo_core.audio import load_audio
from speech_zoo_core.errors import AudioError

RATE = 16000
SAMPLES = np.sin(np.arange(1000)).astype(np.float32)


def refusal(audio: Any, *args: Any) -> str:
    """The message with which audio is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be a second line on stderr
        with pytest.raises(AudioError) as caught:
            load_audio(audio, RATE, *args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.wav") == f"{tmp_path / 'no.wav'} does not exist"


@pytest.mark.parametrize("name", ["a" * 300 + ".wav", "nul\0.wav", ""])
def test_a_path_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    assert refusal(str(tmp_path / name) if name else "")


def test_a_folder(tmp_path: Path) -> None:
    assert "is a folder, not an audio file" in refusal(tmp_path)


def test_a_path_has_a_rate_of_its_own(tmp_path: Path) -> None:
    content = written(SAMPLES)
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    for given in (path, content):
        assert "leave sample_rate out" in refusal(given, 8000)


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


@pytest.mark.parametrize("audio", [[0.1, 0.2], None, 5, {1, 2}, object()])
def test_something_else_than_audio(audio: Any) -> None:
    assert "audio is a path, an array or a pair" in refusal(audio, RATE)


@pytest.mark.parametrize("audio", [(), (SAMPLES,), (SAMPLES, RATE, 1)])
def test_a_tuple_that_is_no_pair(audio: Any) -> None:
    assert "expected a pair" in refusal(audio)


@pytest.mark.parametrize("mapping", [{}, {"a": 1}, {"array": SAMPLES}, {"path": "a.wav", "bytes": None}])
def test_a_mapping_that_is_no_decoded_audio(mapping: Any) -> None:
    assert refusal(mapping) == 'a mapping is audio if it has the keys "array" and "sampling_rate"'


def test_a_masked_array() -> None:
    assert "masked" in refusal(np.ma.masked_array(SAMPLES, SAMPLES > 0.5), RATE)


@pytest.mark.parametrize("channel", [-1, 1.0, True, "left", None, [0], "0"])
def test_a_channel_that_is_none(channel: Any) -> None:
    with pytest.raises(AudioError, match='channel is a number from 0 on, or "mean"'):
        load_audio(SAMPLES, RATE, RATE, channel=channel)


@pytest.mark.parametrize("audio", [(np.ones((100, 2)), RATE), written(np.ones((100, 2)))])
def test_a_channel_that_the_audio_does_not_have(audio: Any) -> None:
    with pytest.raises(AudioError, match="the clip has no channel 2: it has 2, counted from 0"):
        load_audio(audio, RATE, channel=2)
