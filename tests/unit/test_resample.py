"""Resampling: pieces of any size give what the whole gives, and torchaudio's formula is what it says."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import noise
from speech_zoo_core.audio.resample import STRETCH, resampled

METHODS = ["torchaudio", "soxr_hq"]


def whole(x: np.ndarray, rate: int, target: int, method: Any, pieces: Any = None) -> np.ndarray:
    parts = [x] if pieces is None else np.split(x, pieces)
    return np.concatenate(list(resampled(parts, rate, target, method)) or [np.zeros(0, np.float32)])


def direct(x: np.ndarray, rate: int, target: int) -> np.ndarray:
    """The windowed sinc of torchaudio, sample by sample in float64."""
    cutoff = 0.99 * min(rate, target) / rate  # of the input's Nyquist frequency
    out = np.zeros(math.ceil(x.size * target / rate))
    old, new = (r // math.gcd(rate, target) for r in (rate, target))
    for i in range(out.size):
        place = (i // new + np.float64(np.float32(i % new) / np.float32(new))) * old
        t = np.clip((np.arange(x.size) - place) * cutoff, -6, 6)
        out[i] = (x * np.sinc(t) * np.cos(t * np.pi / 12) ** 2).sum() * cutoff
    return out


@pytest.mark.parametrize(
    ("rate", "target"),
    [*((rate, 16000) for rate in (8000, 16001, 22050, 44100, 48000, 96000)), (16000, 24000), (11025, 8000)],
)
def test_torchaudios_formula(rate: int, target: int) -> None:
    x = noise(600).astype(np.float32)
    resampled = whole(x, rate, target, "torchaudio")
    expected = direct(x, rate, target)
    assert resampled.shape == expected.shape
    assert resampled.dtype == np.float32
    assert np.abs(resampled - expected).max() < 2e-6


@pytest.mark.parametrize("method", METHODS)
@given(
    n=st.integers(1, 9000),
    rate=st.sampled_from([8000, 11025, 16000, 22050, 32000, 44100, 44101, 48000, 96000]),
    target=st.sampled_from([8000, 16000, 24000]),
    pieces=st.lists(st.integers(0, 9000), max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_pieces_give_the_samples_of_the_whole(method: str, n: int, rate: int, target: int, pieces: list[int]) -> None:
    x = noise(n).astype(np.float32)
    resampled = whole(x, rate, target, method, sorted(min(i, n) for i in pieces))
    assert resampled.size == math.ceil(n * target / rate)
    assert np.array_equal(resampled, whole(x, rate, target, method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_long_pieces_give_the_samples_of_the_whole(method: str, rate: int) -> None:
    x = noise(3 * STRETCH + 12345).astype(np.float32)
    resampled = whole(x, rate, 16000, method)
    assert resampled.size == math.ceil(x.size * 16000 / rate)
    for size in (999, 100_000, STRETCH):
        assert np.array_equal(resampled, whole(x, rate, 16000, method, range(size, x.size, size)))
    assert np.abs(whole(x[: STRETCH // 2], rate, 16000, method)[:1000] - resampled[:1000]).max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("rate", "target"), [(1000, 16000), (767_999, 16000), (44101, 16000), (16001, 16000)])
def test_odd_rates(method: str, rate: int, target: int) -> None:
    """They need many filters, but none that is huge."""
    n = rate // 20
    x = np.sin(2 * np.pi * 100 / rate * np.arange(n)).astype(np.float32)
    resampled = whole(x, rate, target, method)
    expected = np.sin(2 * np.pi * 100 / target * np.arange(resampled.size))
    middle = slice(resampled.size // 4, -resampled.size // 4)
    assert np.abs(resampled - expected)[middle].max() < 0.02
