"""Adaptive s-norm against a plain computation, cohorts as files, and comparisons of several clips of one side."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from speech_zoo_core.audio.quality import clipped, snr, warn_of_quality
from speech_zoo_core.errors import AudioError, ConfigError, InputError, SpeechZooError
from speech_zoo_core.tasks.cohort import Cohort
from tiny_models import CONFIGS, RATE, model_of, tiny_model, tiny_source, voice
from wavs import write_wav


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def some(count: int, seed: int, width: int = 16) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, width)))


@given(size=st.integers(3, 40), top=st.integers(2, 60), seed=st.integers(0, 99))
def test_s_norm(size: int, top: int, seed: int) -> None:
    cohort = Cohort(some(size, seed), "", "")
    a, b = some(5, seed + 100), some(5, seed + 200)
    scores = (a * b).sum(axis=1)
    expected = []
    for x, y, score in zip(a, b, scores, strict=True):  # as the paper has it, trial by trial
        sides = []
        for side in (x, y):
            highest = sorted((float(np.dot(side, other)) for other in cohort.vectors), reverse=True)[:top]
            mean = sum(highest) / len(highest)
            sides.append((score - mean) / (sum((h - mean) ** 2 for h in highest) / len(highest)) ** 0.5)
        expected.append(sum(sides) / 2)
    assert cohort.normalise(scores, a, b, top) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_what_moves_all_cosines_of_a_side_alike_leaves_the_score(tmp_path: Path) -> None:
    cohort = Cohort(some(50, 0), "", "")
    mean, deviation = cohort.statistics(some(3, 1), 10)
    assert (mean > cohort.statistics(some(3, 1), 50)[0]).all()
    assert (deviation > 0).all()


def test_a_speaker_is_the_mean_of_the_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speech_zoo_core.tasks.cohort.identity", lambda model: "it")
    speakers = [some(3, 0), some(1, 1), some(2, 2)]
    cohort = Cohort.of(None, "tiny", speakers)
    assert cohort.vectors[0] == pytest.approx(unit(speakers[0].mean(axis=0)[None])[0], abs=1e-6)
    assert cohort.vectors[1] == pytest.approx(speakers[1][0], abs=1e-6)
    assert (cohort.identity, cohort.model) == ("it", "tiny")


def test_a_cohort_is_kept(tmp_path: Path) -> None:
    Cohort(some(4, 0), "it", "tiny").save(tmp_path / "c.safetensors")
    read = Cohort.load(tmp_path / "c.safetensors")
    assert np.array_equal(read.vectors, some(4, 0))
    assert (read.identity, read.model) == ("it", "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_file_that_is_no_cohort(tmp_path: Path) -> None:
    with pytest.raises(SpeechZooError, match="gone does not exist; speech-zoo cohort makes one"):
        Cohort.load(tmp_path / "gone")
    for name, tensors, metadata in (
        ("other", {"x": some(3, 0)}, {}),
        ("nameless", {"cohort": some(3, 0)}, {"model": "m"}),
        ("long", {"cohort": 2 * some(3, 0)}, {"model": "m", "identity": "i"}),
        ("flat", {"cohort": some(1, 0)[0]}, {"model": "m", "identity": "i"}),
        ("double", {"cohort": some(3, 0).astype(np.float64)}, {"model": "m", "identity": "i"}),
    ):
        save_file(tensors, tmp_path / name, metadata)
        with pytest.raises(SpeechZooError, match=f"{name} is no cohort"):
            Cohort.load(tmp_path / name)
    (tmp_path / "text").write_text("none")
    with pytest.raises(SpeechZooError, match="text is no cohort"):
        Cohort.load(tmp_path / "text")


def test_too_few_or_the_same_voices() -> None:
    with pytest.raises(InputError, match="takes 2 speakers or more, best some hundreds, not 1"):
        Cohort(some(1, 0), "", "")
    with pytest.raises(ConfigError, match="are all the same"):
        Cohort(np.repeat(some(1, 0), 5, axis=0), "", "").statistics(some(2, 1))
    with pytest.raises(ConfigError, match="at least 2 voices count, not 1"):
        Cohort(some(5, 0), "", "").statistics(some(2, 1), 1)


def test_verify_with_a_cohort() -> None:
    model = tiny_model("basic")
    others = [np.array(model.embed(voice(RATE, seed), RATE))[None] for seed in range(2, 8)]
    cohort = Cohort.of(model, "tiny", others)
    a, b = voice(RATE), voice(RATE, 1)
    plain = model.verify(a, b, RATE, threshold=0.5)
    result = model.verify(a, b, RATE, threshold=-99, cohort=cohort, top=4)
    sides = [np.array(model.embed(clip, RATE))[None] for clip in (a, b)]
    assert result.score == pytest.approx(float(cohort.normalise(np.array([plain.score]), *sides, 4)[0]), rel=1e-3)
    assert (result.cosine, result.same_speaker, plain.cosine) == (pytest.approx(plain.score), True, None)
    for threshold in (None, "checkpoint", float("nan"), True):
        with pytest.raises(ConfigError, match="need a threshold of their own"):
            model.verify(a, b, RATE, threshold=threshold, cohort=cohort)
    with pytest.raises(ConfigError, match="made with tiny, another checkpoint"):
        model.verify(a, b, RATE, threshold=1, cohort=replace(cohort, identity="another"))


def test_several_clips_of_a_side() -> None:
    model = tiny_model("basic")
    clips = [voice(n * RATE, seed) for seed, n in enumerate((1, 2, 3))]
    vectors = np.stack([np.array(model.embed(clip, RATE)) for clip in clips])
    mean = vectors[:2].mean(axis=0)
    expected = float(mean @ vectors[2] / np.linalg.norm(mean))
    result = model.verify(clips[:2], clips[2], RATE, threshold=0.5)
    assert result.score == pytest.approx(expected, abs=1e-6)
    assert result.seconds == pytest.approx(3, abs=0.3)  # of both clips together, as of the other one
    assert model.verify(clips[2], clips[:2], RATE, threshold=0.5).score == pytest.approx(expected, abs=1e-6)
    with pytest.raises(AudioError, match="has no clip"):
        model.verify([], clips[0], RATE, threshold=0.5)


def test_a_clip_of_another_speaker_among_several(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    model = tiny_model("basic")
    one, two = (write_wav(tmp_path / f"{seed}.wav", voice(RATE, seed)) for seed in (0, 1))
    cosine = model.verify(one, two, threshold=0).score
    for threshold, told in ((cosine - 0.01, []), (min(1, cosine + 0.01), [one, two])):
        caplog.clear()
        loaded = model_of(replace(CONFIGS["basic"], threshold=threshold), tiny_source("basic"))
        loaded.verify([one, two], one, threshold=0)
        expected = [f"warning: {path} sounds like another speaker than the rest of its side" for path in told]
        assert caplog.messages == expected


# Quality


def with_noise(decibels: float) -> Any:
    speech = np.concatenate([voice(RATE), np.zeros(RATE // 2, np.float32), voice(RATE, 1)])
    noise = np.random.default_rng(0).normal(size=speech.size)
    return (speech + noise * np.sqrt((voice(RATE) ** 2).mean()) * 10 ** (-decibels / 20)).astype(np.float32)


@pytest.mark.parametrize("decibels", [20, 10, 3])
def test_the_noise_is_measured(decibels: float) -> None:
    clip = with_noise(decibels)
    speaks = np.ones(clip.size // 512, bool)
    speaks[RATE // 512 : RATE // 512 + 15] = False
    exact = 10 * np.log10(10 ** (decibels / 10) + 1)  # speech with its noise, over noise
    assert snr(clip, speaks, RATE) == pytest.approx(exact, abs=1)
    assert np.isnan(snr(clip, np.zeros_like(speaks), RATE))


def test_what_is_cut_off_is_counted() -> None:
    clip = np.sin(np.arange(16000) / 10).astype(np.float32)
    assert clipped(clip / 2) == 0
    assert clipped(np.clip(4 * clip, -0.7, 0.7)) == pytest.approx(1 - 2 / np.pi * np.arcsin(0.7 / 4), abs=0.01)


@pytest.mark.usefixtures("all_is_speech")
def test_noisy_and_distorted_clips_are_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    speaks = np.ones(with_noise(30).size // 512, bool)
    warn_of_quality("a.wav", with_noise(30), speaks, RATE)
    assert caplog.messages == []
    warn_of_quality("a.wav", with_noise(3), speaks, RATE)
    warn_of_quality("b.wav", np.clip(8 * with_noise(30), -0.5, 0.5), speaks, RATE)
    assert caplog.messages[0].startswith("warning: a.wav is noisy, speech 5 dB above the noise")
    assert caplog.messages[1].startswith("warning: b.wav is distorted, ")
    caplog.clear()
    tiny_model("basic").verify(with_noise(3), with_noise(3), RATE, threshold=0, vad=False)
    assert caplog.messages == []
    monkeypatch.setattr("speech_zoo_core.tasks.speaker.speech", None)  # the check has been made already
    tiny_model("basic").verify(with_noise(3), with_noise(3), RATE, threshold=0)
    assert len(caplog.messages) == 2 and caplog.messages[0].endswith("one voice scores lower there")
