"""The fbanks against plain float64 implementations, and what must hold for any input."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import speech_zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from speech_zoo_core.audio import fbank as dsp
from speech_zoo_core.audio import load_audio
from speech_zoo_core.audio.front_end import SPEECHBRAIN, THREE_D_SPEAKER, WESPEAKER, FrontEnd
from speech_zoo_core.errors import ConfigError

RATE, FRAME, SHIFT, N_FFT, N_MELS = 16000, 400, 160, 512, 80
VOICES = sorted((Path(speech_zoo.__file__).parent / "data" / "voices").glob("*.wav"))
EPSILON = np.finfo(np.float32).eps  # Kaldi's floor


def fbank(waveform: mx.array, window: str = "hamming", n_mels: int = N_MELS) -> mx.array:
    return dsp.kaldi_fbank(waveform, RATE, n_mels, window, 25.0, 10.0)


def mel(frequency: float) -> float:
    return 1127 * np.log(1 + frequency / 700)


def reference_fbank(x: np.ndarray, window: str, n_mels: int = N_MELS) -> np.ndarray:
    """compute-fbank-feats --dither=0 --energy-floor=0 in float64: feature-window.cc and mel-computations.cc."""
    phase = 2 * np.pi * np.arange(FRAME) / (FRAME - 1)
    shape = {"hamming": 0.54 - 0.46 * np.cos(phase), "povey": (0.5 - 0.5 * np.cos(phase)) ** 0.85}[window]
    step = (mel(RATE / 2) - mel(20)) / (n_mels + 1)
    banks = np.zeros((n_mels, N_FFT // 2))
    for i in range(n_mels):
        left, centre, right = (mel(20) + (i + k) * step for k in range(3))
        for k in range(N_FFT // 2):
            m = mel(k * RATE / N_FFT)
            if left < m < right:
                banks[i, k] = (m - left) / (centre - left) if m <= centre else (right - m) / (right - centre)
    rows = []
    for start in range(0, len(x) - FRAME + 1, SHIFT):
        frame = x[start : start + FRAME].astype(np.float64)
        frame = frame - frame.mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * shape, N_FFT)) ** 2
        rows.append(np.log(np.maximum(banks @ power[:-1], EPSILON)))
    return np.array(rows)


@pytest.mark.parametrize(("window", "scale"), [("hamming", 32768.0), ("povey", 1.0)])
@pytest.mark.parametrize("n_mels", [80, 40])
def test_a_real_clip_matches_the_float64_reference(window: str, scale: float, n_mels: int) -> None:
    waveform = load_audio(VOICES[0], RATE)[: 4 * RATE] * scale
    features = fbank(waveform, window, n_mels)
    assert features.dtype == mx.float32
    assert np.abs(np.array(features) - reference_fbank(np.array(waveform), window, n_mels)).max() < 1e-3


@pytest.mark.parametrize("front_end", [WESPEAKER, THREE_D_SPEAKER])
def test_a_front_end_is_the_scaled_fbank_less_its_mean(front_end: FrontEnd) -> None:
    waveform = load_audio(VOICES[1], RATE)[:RATE]
    expected = reference_fbank(np.array(waveform) * front_end.scale, front_end.window)
    features = np.array(front_end(waveform))
    assert np.abs(features - (expected - expected.mean(axis=0))).max() < 1e-3


def test_full_scale_noise_matches_the_float64_reference() -> None:
    noise = np.random.default_rng(0).uniform(-32768, 32767, RATE).astype(np.float32)
    assert np.abs(np.array(fbank(mx.array(noise))) - reference_fbank(noise, "hamming")).max() < 1e-3


@pytest.mark.parametrize("window", dsp.WINDOWS)
@pytest.mark.parametrize("level", [0.0, 1000.0])
def test_silence_is_exactly_the_logarithm_of_the_floor(window: str, level: float) -> None:
    features = fbank(mx.full((RATE,), level), window)
    assert features.shape == (98, N_MELS)
    assert np.unique(np.array(features)).tolist() == [np.log(EPSILON)]


@given(n=st.integers(0, 10**7), frame=st.integers(2, 5000), shift=st.integers(1, 5000))
def test_the_frame_count_is_that_of_frames_that_fit_whole(n: int, frame: int, shift: int) -> None:
    count = dsp.num_frames(n, frame, shift)
    assert count >= 0
    assert (count - 1) * shift + frame <= n if count else n < frame  # the last frame fits
    assert count * shift + frame > n  # one more would not


@given(n=st.integers(FRAME, 4000))
@settings(max_examples=20, deadline=None)
def test_the_features_have_that_many_frames(n: int) -> None:
    assert fbank(mx.zeros(n)).shape == (1 + (n - FRAME) // SHIFT, N_MELS)


@given(
    frames=st.integers(1, 1000), rate=st.sampled_from([8000, 16000, 44100]), shift=st.sampled_from([8.0, 10.0, 12.5])
)
def test_seconds_is_the_shortest_clip_with_so_many_frames(frames: int, rate: int, shift: float) -> None:
    front_end = FrontEnd(sample_rate=rate, frame_shift=shift)
    samples = round(front_end.seconds(frames) * rate)
    assert front_end.num_frames(samples) == frames
    assert front_end.num_frames(samples - 1) == frames - 1


@pytest.mark.parametrize(
    ("kind", "ends", "middle"), [("hamming", 0.08, 1), ("hanning", 0, 1), ("povey", 0, 1), ("rectangular", 1, 1)]
)
def test_windows_are_symmetric(kind: str, ends: float, middle: float) -> None:
    window = np.array(dsp._window(kind, 401))
    assert window.dtype == np.float32
    assert np.allclose(window, window[::-1], atol=1e-6)
    assert window[[0, -1]] == pytest.approx([ends, ends], abs=1e-6)
    assert window[200] == pytest.approx(middle)
    assert (np.diff(window[:201]) >= 0).all()


def test_every_window_is_tested() -> None:
    assert set(dsp.WINDOWS) == {"hamming", "hanning", "povey", "rectangular"}


@pytest.mark.parametrize(("n_mels", "n_fft", "rate"), [(80, 512, 16000), (40, 512, 16000), (23, 256, 8000)])
def test_mel_filters_share_the_power_between_them(n_mels: int, n_fft: int, rate: int) -> None:
    banks = np.array(dsp._mel_banks(n_mels, n_fft, rate))
    assert banks.shape == (n_fft // 2 + 1, n_mels)
    assert banks.min() == 0
    assert banks.max() <= 1
    assert (banks.max(axis=0) > 0).all()  # no empty filter
    assert (banks[-1] == 0).all()  # Kaldi gives the Nyquist bin no weight
    bins = mel(np.arange(n_fft // 2) * rate / n_fft)
    step = (mel(rate / 2) - mel(20)) / (n_mels + 1)
    between_centres = (bins >= mel(20) + step) & (bins <= mel(rate / 2) - step)
    assert between_centres.sum() > n_fft / 4
    assert banks[:-1][between_centres].sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert ((banks > 0).sum(axis=1) <= 2).all()


def test_blocks_leave_no_seam() -> None:
    noise = mx.array(np.random.default_rng(0).standard_normal(FRAME + 6004 * SHIFT).astype(np.float32))
    whole = fbank(noise)
    assert whole.shape == (6005, N_MELS)
    parts = [fbank(noise[: FRAME + 2999 * SHIFT]), fbank(noise[3000 * SHIFT :])]
    assert mx.allclose(whole, mx.concatenate(parts), atol=1e-4)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = mx.array(np.random.default_rng(0).standard_normal(FRAME + 9 * SHIFT).astype(np.float32))
    whole = fbank(noise)
    for size in (1, 3, 5, 10):
        monkeypatch.setattr(dsp, "BLOCK_FRAMES", size)
        assert mx.allclose(fbank(noise), whole, atol=1e-4)


def test_a_view_of_a_waveform() -> None:
    noise = mx.array(np.random.default_rng(0).standard_normal(8000).astype(np.float32))
    assert mx.array_equal(fbank(noise[100::2]), fbank(mx.array(np.array(noise)[100::2].copy())))


@given(frames=st.integers(1, 50), offset=st.floats(-100, 100), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_cmn_leaves_a_mean_of_zero(frames: int, offset: float, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((frames, 5)).astype(np.float32) + np.float32(offset)
    normalised = np.array(dsp.cmn(mx.array(x)))
    assert np.abs(normalised.mean(axis=0)).max() < 1e-4
    assert np.allclose(normalised, x - x.mean(axis=0, dtype=np.float64), atol=1e-4)


def test_without_cmn_the_mean_stays() -> None:
    waveform = load_audio(VOICES[0], RATE)[:RATE]
    raw = FrontEnd(cmn=False)(waveform)
    assert mx.array_equal(dsp.cmn(raw), FrontEnd()(waveform))
    assert float(mx.abs(mx.mean(raw, axis=0)).min()) > 1


@given(frames=st.integers(2, 40), extra=st.integers(0, 20), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_cmn_over_the_first_frames_only(frames: int, extra: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((frames + extra, 5)).astype(np.float32)
    normalised = np.array(dsp.cmn(mx.array(x), frames))
    assert np.allclose(normalised, x - x[:frames].mean(axis=0, dtype=np.float64), atol=1e-5)


# SpeechBrain's


def speechbrain_reference(x: np.ndarray, n_mels: int = 80, rate: int = RATE) -> np.ndarray:
    """Fbank of speechbrain/lobes/features.py in float64: STFT, Filterbank, _amplitude_to_DB."""
    frame, shift = rate // 40, rate // 100
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(frame) / frame)  # torch.hamming_window is periodic
    padded = np.pad(x.astype(np.float64), frame // 2)
    spectra = [np.fft.rfft(padded[i : i + frame] * window) for i in range(0, len(padded) - frame + 1, shift)]
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = [700 * (10 ** (top * i / (n_mels + 1) / 2595) - 1) for i in range(n_mels + 2)]
    banks = np.zeros((n_mels, frame // 2 + 1))
    for i in range(n_mels):
        for k in range(frame // 2 + 1):
            banks[i, k] = max(0, 1 - abs(k * rate / frame - edges[i + 1]) / (edges[i + 1] - edges[i]))
    decibels = 10 * np.log10(np.maximum(np.abs(spectra) ** 2 @ banks.T, 1e-10))
    return np.maximum(decibels, decibels.max() - 80)


@pytest.mark.parametrize(("n_mels", "rate"), [(80, RATE), (60, RATE), (23, 8000)])
def test_speechbrains_features_of_a_real_clip(n_mels: int, rate: int) -> None:
    waveform = load_audio(VOICES[0], RATE)[: 4 * rate]  # at 8 kHz it is a slow voice
    features = dsp.speechbrain_fbank(waveform, rate, n_mels, "hamming", 25.0, 10.0)
    assert features.dtype == mx.float32
    assert np.abs(np.array(features) - speechbrain_reference(np.array(waveform), n_mels, rate)).max() < 1e-3


def test_speechbrains_front_end_is_the_fbank_less_its_mean() -> None:
    waveform = load_audio(VOICES[1], RATE)[:RATE]
    expected = speechbrain_reference(np.array(waveform))
    assert np.abs(np.array(SPEECHBRAIN(waveform)) - (expected - expected.mean(axis=0))).max() < 1e-3


def test_speechbrains_silence_is_flat() -> None:
    features = dsp.speechbrain_fbank(mx.zeros(RATE), RATE, 80, "hamming", 25.0, 10.0)
    assert np.unique(np.array(features)).tolist() == [-100.0]  # 10 * log10(1e-10)


def test_what_lies_80_decibels_below_the_loudest_is_raised() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    noise[RATE // 2 :] *= 1e-6
    features = np.array(dsp.speechbrain_fbank(mx.array(noise), RATE, 80, "hamming", 25.0, 10.0))
    assert features.max() - features.min() == pytest.approx(80, abs=1e-4)
    assert (features[60:] == features.min()).all()


@given(n=st.integers(0, 4000))
@settings(max_examples=30, deadline=None)
def test_speechbrains_frames_are_centred(n: int) -> None:
    features = SPEECHBRAIN(mx.zeros(n))
    assert features.shape == (1 + n // SHIFT, N_MELS)
    assert SPEECHBRAIN.num_frames(n) == len(features)


@given(frames=st.integers(1, 1000), rate=st.sampled_from([8000, 16000, 44100]))
def test_seconds_is_the_shortest_clip_with_so_many_centred_frames(frames: int, rate: int) -> None:
    front_end = FrontEnd("speechbrain_fbank", sample_rate=rate, frame_length=20.0)
    samples = round(front_end.seconds(frames) * rate)
    assert front_end.num_frames(samples) == frames
    assert samples == 0 or front_end.num_frames(samples - 1) == frames - 1


@given(n=st.integers(1, 8000), zeros=st.integers(0, 3000), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_zeros_after_a_clip_change_none_of_its_frames(n: int, zeros: int, seed: int) -> None:
    clip = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
    alone, padded = (
        SPEECHBRAIN(mx.array(clip)),
        SPEECHBRAIN(mx.array(np.pad(clip, (0, zeros))), SPEECHBRAIN.num_frames(n)),
    )
    assert mx.allclose(padded[: len(alone)], alone, atol=1e-3)


def test_blocks_of_speechbrains_frames_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = mx.array(np.random.default_rng(0).standard_normal(FRAME + 9 * SHIFT).astype(np.float32))
    whole = SPEECHBRAIN(noise)
    for size in (1, 3, 5, 12):
        monkeypatch.setattr(dsp, "BLOCK_FRAMES", size)
        assert mx.allclose(SPEECHBRAIN(noise), whole, atol=1e-4)


@pytest.mark.parametrize("kind", dsp.WINDOWS)
def test_a_periodic_window_is_a_symmetric_one_without_its_last_sample(kind: str) -> None:
    periodic, symmetric = dsp._speechbrain_window(kind, 400), dsp._window(kind, 401)
    assert periodic.dtype == mx.float32
    assert np.allclose(np.array(periodic), np.array(symmetric)[:-1], atol=1e-5)


def test_a_frame_that_has_no_centre() -> None:
    with pytest.raises(ConfigError, match="even number of samples"):
        FrontEnd("speechbrain_fbank", sample_rate=11000, frame_length=25.0)  # 275 samples
