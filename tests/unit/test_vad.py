"""Where somebody speaks: what holds no voice is refused, whatever it is; tests/goldens has Silero's own numbers."""

import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from signals import voices
from sounds import written
from speech_zoo_core.audio.vad import STEP, Silero, SpeechDetector, check_speech, only_speech, silero, speech
from speech_zoo_core.errors import AudioError
from speech_zoo_core.layers import parameters
from tiny_models import RATE, tiny_model, voice

RNG = np.random.default_rng(0)
N = 4 * RATE
T = np.arange(N) / RATE
VOICE = voices()["voice 01"]


def pink(n: int) -> np.ndarray:
    spectrum = np.fft.rfft(RNG.standard_normal(n))
    x = np.fft.irfft(spectrum / np.sqrt(np.arange(1, spectrum.size + 1)), n)
    return x / np.abs(x).max()


NO_VOICE = {
    "nothing": np.zeros(N),
    "an offset": np.full(N, 0.3),
    "faint noise": 3e-4 * RNG.standard_normal(N),
    "white noise": 0.1 * RNG.standard_normal(N),
    "full-scale noise": RNG.uniform(-1, 1, N),
    "pink noise": 0.3 * pink(N),
    "hum": 0.05 * np.sin(2 * np.pi * 50 * T) + 1e-3 * RNG.standard_normal(N),
    "a dial tone": 0.1 * (np.sin(2 * np.pi * 350 * T) + np.sin(2 * np.pi * 440 * T)),
    "touch tones": 0.2 * (np.sin(2 * np.pi * 697 * T) + np.sin(2 * np.pi * 1209 * T)) * (T % 0.3 < 0.15),
    "a click": np.eye(1, N, N // 2)[0] * 0.5,
    "clicks": (np.arange(N) % 3200 == 0) * 0.8,
    "a saw": 0.2 * (2 * (110 * T % 1) - 1),
}


@pytest.mark.parametrize("name", NO_VOICE)
def test_what_holds_no_voice_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(written(np.clip(NO_VOICE[name], -1, 1)))
    model, other = tiny_model("ecapa_speechbrain"), voice(RATE)
    reason = f"{path} holds no speech; vad=False (--no-vad) takes it as it is"
    for call in (
        lambda: model.embed(path),
        lambda: model.embed_batch([(other, RATE), path]),
        lambda: model.verify(path, (other, RATE)),
        lambda: model.embed(path, vad=False, trim=True),
        lambda: tiny_model("ecapa_lid").predict(path),
    ):
        with pytest.raises(AudioError) as caught:
            call()
        assert str(caught.value) == reason
    assert model.embed(path, vad=False).size == 8
    assert tiny_model("ecapa_lid").predict(path, vad=False)


@pytest.mark.parametrize("gain", [1e-3, 4e-3, 0.03, 1, 10])
@pytest.mark.parametrize("name", voices())
def test_a_voice_is_heard_at_any_level(name: str, gain: float) -> None:
    speaks = speech(voices()[name] * np.float32(gain), RATE)
    assert speaks.mean() > 0.6
    check_speech(speaks, "it")


@pytest.mark.parametrize("seconds", [0.1, 0.15, 0.3, 1])
def test_short_clips_of_a_voice(seconds: float) -> None:
    check_speech(speech(voice(round(seconds * RATE)), RATE), "it")


def test_probabilities() -> None:
    detector = SpeechDetector(RATE, probabilities=True)
    probabilities = np.concatenate([detector.feed(VOICE), detector.finish()])
    speaks = speech(VOICE, RATE)
    assert probabilities.shape == speaks.shape
    assert 0 <= probabilities.min() < 0.05 and 0.95 < probabilities.max() <= 1
    assert speaks[probabilities >= 0.5].all() and not speaks[probabilities < 0.35].any()


def test_one_step_of_speech_is_too_little_for_a_clip_that_has_more() -> None:
    speaks = np.zeros(50, bool)
    speaks[20:22] = True
    with pytest.raises(AudioError, match=r"^here\.wav holds no speech"):
        check_speech(speaks, "here.wav")
    speaks[22] = True
    check_speech(speaks, "here.wav")


@pytest.mark.parametrize("rate", [16000, 8000, 44100])
@pytest.mark.parametrize("size", [1, 100, STEP, 50_000, 170_000])
def test_pieces_leave_no_trace(rate: int, size: int) -> None:
    x = np.concatenate([VOICE, np.zeros(40_000, np.float32), VOICE * np.float32(0.01), VOICE])[: 40 * size]
    detector = SpeechDetector(rate)
    pieces = [detector.feed(x[i : i + size]) for i in range(0, x.size, size)]
    assert np.array_equal(np.concatenate([*pieces, detector.finish()]), speech(x, rate))
    assert speech(x, rate).size == math.ceil(math.ceil(x.size * RATE / rate) / STEP)


def test_noise_around_a_voice_is_left_out() -> None:
    noise = (3e-4 * RNG.standard_normal(40 * RATE)).astype(np.float32)
    mixed = noise.copy()
    mixed[10 * RATE : 12 * RATE] += VOICE[: 2 * RATE]
    kept = only_speech(mixed, speech(mixed, RATE), RATE)
    assert 1 * RATE < kept.size < 2.3 * RATE
    places = [int(np.flatnonzero(mixed == value)[0]) for value in kept[:: kept.size // 7]]
    assert places == sorted(places)
    assert min(places) >= 9.8 * RATE
    assert max(places) <= 12.2 * RATE


def test_what_is_left_out_of_a_clip() -> None:
    speaks = np.zeros(30, bool)
    speaks[[5, 6, 9, 20]] = True  # two steps between are no pause, ten are
    samples = np.repeat(np.arange(30, dtype=np.float32), STEP)[:-100]
    kept = only_speech(samples, speaks, RATE)
    assert sorted(set(kept)) == [4, 5, 6, 7, 8, 9, 10, 19, 20, 21]
    assert kept.size == 10 * STEP
    assert np.array_equal(only_speech(samples, np.ones(30, bool), RATE), samples)


def test_trimming_is_for_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("ecapa_speechbrain")
    padded = np.concatenate([np.zeros(RATE, np.float32), VOICE, np.zeros(RATE, np.float32)])
    kept = only_speech(padded, speech(padded, RATE), RATE)
    assert mx.array_equal(model.embed(padded, RATE, trim=True), model.embed(kept, RATE, vad=False))
    assert mx.array_equal(model.embed_batch([padded], RATE, trim=True)[0], model.embed(padded, RATE, trim=True))
    monkeypatch.setattr(type(model), "min_frames", 101)
    with pytest.raises(
        AudioError, match=r"^the speech in the clip is too short: 0\.\d* s, ecapa_tdnn needs at least 1"
    ):
        model.embed(np.concatenate([np.zeros(2 * RATE, np.float32), VOICE[: RATE // 2]]), RATE, trim=True)


def test_sanitize_is_a_fixed_point() -> None:
    weights = parameters(silero())
    again = Silero().sanitize(weights)
    assert again.keys() == weights.keys()
    assert all(mx.array_equal(again[name], value) for name, value in weights.items())
    torch = {name: value.swapaxes(1, 2) if value.ndim == 3 else value for name, value in weights.items()}
    assert all(mx.array_equal(Silero().sanitize(torch)[name], value) for name, value in weights.items())
