"""Audio in: what comes out of a path or an array, whatever its rate, type and channel count."""

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import written
from speech_zoo_core.audio import load_audio
from wavs import write_wav

RATE = 16000
FULL_SCALE = {  # samples, and what they are at full scale 1
    "uint8": ([0, 64, 128, 255], [-1, -0.5, 0, 127 / 128]),
    "int8": ([-128, -64, 0, 127], [-1, -0.5, 0, 127 / 128]),
    "int16": ([-32768, -16384, 0, 32767], [-1, -0.5, 0, 32767 / 32768]),
    "int32": ([-(2**31), -(2**30), 0, 2**30], [-1, -0.5, 0, 0.5]),
    "float16": ([-1.5, -0.5, 0, 0.25], [-1.5, -0.5, 0, 0.25]),
    "float32": ([-1.5, -0.5, 0, 0.1], [-1.5, -0.5, 0, 0.1]),
    "float64": ([-1.5, -0.5, 0, 0.1], [-1.5, -0.5, 0, 0.1]),
}


def sine(frequency: float, rate: int, seconds: float = 1.0, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


def amplitude_of(x: mx.array, frequency: float) -> float:
    """The amplitude of a sine in the middle half of a waveform at 16 kHz, where no edge disturbs it."""
    middle = np.array(x)[len(x) // 4 : -len(x) // 4]
    phase = 2 * np.pi * frequency * np.arange(len(middle)) / RATE
    return 2 * abs(np.mean(middle * np.hanning(len(middle)) * 2 * np.exp(-1j * phase)))


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_a_wav_of_any_rate_and_channel_count(tmp_path: Path, rate: int, channels: int) -> None:
    scales = np.linspace(0.2, 1.0, channels) if channels > 1 else np.ones(1)
    x = sine(1000, rate)[:, None] * scales
    waveform = load_audio(write_wav(tmp_path / "a.wav", x, rate), RATE)
    assert waveform.dtype == mx.float32
    assert waveform.shape == (RATE,)
    assert amplitude_of(waveform, 1000) == pytest.approx(0.5 * scales.mean(), abs=2e-3)  # mono is the mean
    spectrum = np.abs(np.fft.rfft(np.array(waveform)))
    assert np.argmax(spectrum) == 1000  # 1 Hz bins


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_path_and_its_samples_agree(tmp_path: Path, rate: int, channels: int) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (rate // 2, channels))
    path = write_wav(tmp_path / "a.wav", x, rate)
    samples = np.round(x * 32767).astype(np.int16)
    expected = load_audio(path, RATE)
    assert mx.array_equal(load_audio(str(path), RATE), expected)
    assert mx.array_equal(load_audio((samples, rate), RATE), expected)
    assert mx.array_equal(load_audio(mx.array(samples), RATE, rate), expected)
    assert mx.allclose(load_audio((samples / 32768.0, rate), RATE), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", FULL_SCALE)
@pytest.mark.parametrize("kind", ["numpy", "mlx"])
def test_every_type_is_brought_to_full_scale_1(kind: str, dtype: str) -> None:
    values, expected = FULL_SCALE[dtype]
    samples = np.array(values, dtype)
    waveform = load_audio(mx.array(samples) if kind == "mlx" else samples, RATE, RATE)
    assert waveform.dtype == mx.float32
    assert np.allclose(np.array(waveform), expected, rtol=1e-3 if dtype == "float16" else 1e-7)


def test_bfloat16_samples() -> None:
    waveform = load_audio(mx.array([-0.5, 0.25, 1.0]).astype(mx.bfloat16), RATE, RATE)
    assert waveform.dtype == mx.float32
    assert waveform.tolist() == [-0.5, 0.25, 1.0]


@pytest.mark.parametrize("dtype", [">i2", ">f4"])
def test_samples_in_foreign_byte_order(dtype: str) -> None:
    samples = np.array([-1, 0, 1], dtype)
    assert np.array_equal(load_audio(samples, RATE, RATE), np.array([-1, 0, 1]) / (32768 if dtype == ">i2" else 1))


def test_mono_is_the_mean_of_the_channels() -> None:
    x = np.array([[0.5, -0.5, 0.75], [0.25, 0.0, 0.5]], np.float32)
    assert load_audio(x, RATE, RATE).tolist() == [0.25, 0.25]
    assert load_audio(x[:, :1], RATE, RATE).tolist() == [0.5, 0.25]


def test_strided_samples() -> None:
    x = np.arange(8, dtype=np.int16)
    assert np.array_equal(np.array(load_audio(x[::-2], RATE, RATE)) * 32768, [7, 5, 3, 1])


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
@pytest.mark.parametrize("frequency", [100, 440, 3000])
def test_resampling_keeps_frequency_and_amplitude(rate: int, frequency: int) -> None:
    assert amplitude_of(load_audio(sine(frequency, rate), RATE, rate), frequency) == pytest.approx(0.5, abs=2e-3)


def test_resampling_removes_what_the_new_rate_cannot_hold() -> None:
    waveform = np.array(load_audio(sine(11000, 48000), RATE, 48000))
    assert np.abs(waveform[100:-100]).max() < 1e-3  # it would come out as 5 kHz


@pytest.mark.parametrize("rate", [44100, np.int32(44100), 44100.0, np.float32(44100)])
def test_the_rate_comes_in_a_pair_or_beside_the_samples(rate: object) -> None:
    x = sine(440, 44100, 0.1).astype(np.float32)
    expected = load_audio(x, RATE, 44100)
    assert mx.array_equal(load_audio((x, rate), RATE), expected)
    assert mx.array_equal(load_audio(x, RATE, rate), expected)
    assert mx.array_equal(load_audio((x, rate), RATE, 44100), expected)  # twice the same is no contradiction


@given(
    n=st.integers(1, 3000),
    channels=st.integers(0, 8),
    dtype=st.sampled_from(sorted(FULL_SCALE)),
    rate=st.sampled_from([8000, 11025, 16000, 22050, 32000, 44100, 48000]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_samples_give_a_finite_waveform_of_the_right_length(
    n: int, channels: int, dtype: str, rate: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (n, channels) if channels else (n,)
    if dtype.startswith("float"):
        samples = rng.uniform(-1, 1, shape).astype(dtype)
    else:
        info = np.iinfo(dtype)
        samples = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    waveform = load_audio(samples, RATE, rate)
    assert waveform.dtype == mx.float32
    assert waveform.shape == (math.ceil(n * RATE / rate),)
    assert bool(mx.isfinite(waveform).all())
    if rate == RATE:
        assert float(mx.abs(waveform).max()) <= 1


def test_a_channel_is_chosen() -> None:
    x = np.array([[0.5, -0.5], [0.25, 0.0]], np.float32)
    for channel, expected in ((0, [0.5, 0.25]), ("first", [0.5, 0.25]), (1, [-0.5, 0.0]), ("mean", [0.0, 0.125])):
        assert load_audio(x, RATE, RATE, channel=channel).tolist() == expected
        assert load_audio(written(x, RATE, "WAV", "FLOAT"), RATE, channel=channel).tolist() == expected
    for channel in (0, 1, "mean"):  # of one there is no choice
        assert load_audio(x[:, 0], RATE, RATE, channel=channel).tolist() == [0.5, 0.25]


def test_decoded_audio_of_datasets() -> None:
    x = sine(440, 44100, 0.1)
    expected = load_audio(x, RATE, 44100)
    assert mx.array_equal(load_audio({"array": x, "sampling_rate": 44100, "path": "a.wav"}, RATE), expected)
    stereo = np.stack([x, 0 * x])  # (channels, n) there
    assert mx.allclose(load_audio({"array": stereo, "sampling_rate": 44100}, RATE), expected / 2, atol=1e-6)


def test_tensors_of_torch_without_torch() -> None:
    """A stand-in with the methods that are called; tests/parity has the real ones."""
    x = sine(440, RATE, 0.1).astype(np.float32)

    class Tensor:
        def __init__(self, values: np.ndarray) -> None:
            self.values, self.dtype = values, f"torch.{values.dtype}"

        def __getattr__(self, name: str) -> Any:
            if name in ("detach", "cpu", "resolve_conj", "resolve_neg"):
                return lambda: self
            if name == "numpy":
                return lambda: self.values
            raise AttributeError(name)

    Tensor.__module__ = "torch"
    assert np.array_equal(load_audio(Tensor(x), RATE, RATE), x)
    assert np.array_equal(load_audio((Tensor(x[None]), RATE), RATE), x)  # (channels, n) there
    assert np.array_equal(load_audio((Tensor(np.stack([x, 0 * x])), RATE), RATE, channel=0), x)
