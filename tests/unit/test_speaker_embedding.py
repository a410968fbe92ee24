"""What people do with a model: embed, embed_batch, verify."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st
from speech_zoo_core.errors import AudioError, ConfigError
from speech_zoo_core.tasks import audio_model
from speech_zoo_core.tasks.speaker import Verification
from tiny_models import CONFIGS, RATE, model_of, tiny_model, tiny_source, voice
from wavs import write_wav

each_family = pytest.mark.parametrize("name", ["basic", "campplus", "ecapa_speechbrain", "ecapa_wespeaker"])
LENGTHS = [9000, 4000, 12345, 4000, 20000, 5000]


# embed


@each_family
def test_an_embedding_has_unit_length(name: str) -> None:
    model = tiny_model(name)
    vector = model.embed(voice(RATE), RATE)
    assert vector.shape == (model.config.embed_dim,)
    assert vector.dtype == mx.float32
    assert float(mx.linalg.norm(vector)) == pytest.approx(1, abs=1e-6)
    raw = model(mx.array(voice(RATE)))[0]
    assert mx.allclose(vector, raw / mx.linalg.norm(raw), atol=1e-5)


@each_family
def test_every_form_of_the_same_clip_gives_the_same_embedding(tmp_path: Path, name: str) -> None:
    model = tiny_model(name)
    samples = (voice(RATE) * 32767).astype(np.int16)
    path = write_wav(tmp_path / "a.wav", samples)
    expected = model.embed(path)
    for audio in (str(path), (samples, RATE), (mx.array(samples), RATE), (np.stack([samples] * 2, 1), RATE)):
        assert mx.allclose(model.embed(audio), expected, atol=1e-5)
    assert mx.allclose(model.embed(samples, sample_rate=RATE), expected, atol=1e-5)


def test_errors_name_the_file(tmp_path: Path) -> None:
    short, silent = write_wav(tmp_path / "short.wav", voice(160)), write_wav(tmp_path / "silent.wav", np.zeros(RATE))
    for path, reason in ((short, "is too short"), (silent, "holds no speech")):
        with pytest.raises(AudioError) as caught:
            tiny_model("basic").embed(path)
        assert str(caught.value).startswith(f"{path} {reason}")


def test_a_model_that_overflows_says_so() -> None:
    model = model_of(CONFIGS["basic"], tiny_source("basic"))
    model.seg_1.weight = model.seg_1.weight * mx.inf
    with pytest.raises(AudioError, match="the embedding is not finite"):
        model.embed(voice(RATE), RATE)


# embed_batch


@each_family
def test_a_batch_equals_one_at_a_time(name: str) -> None:
    model = tiny_model(name)
    clips = [voice(n, seed) for seed, n in enumerate(LENGTHS)]
    batch = model.embed_batch(clips, RATE)
    assert batch.shape == (len(clips), model.config.embed_dim)
    assert batch.dtype == mx.float32
    for clip, row in zip(clips, batch, strict=True):
        assert float(row @ model.embed(clip, RATE)) > 0.999999


@each_family
@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("frames", [60, 200, 16_000])
def test_a_padded_batch_equals_one_at_a_time(monkeypatch: pytest.MonkeyPatch, name: str, frames: int) -> None:
    monkeypatch.setattr(audio_model, "BATCH_SECONDS", frames / 100)
    monkeypatch.setattr(audio_model, "CHUNK_CLIPS", 4)
    model = tiny_model(name)
    clips = [voice(n, seed) for seed, n in enumerate(LENGTHS)]
    batch = model.embed_batch(clips, RATE)
    assert batch.shape == (len(clips), model.config.embed_dim)
    for clip, row in zip(clips, batch, strict=True):
        raw = model(model.features(clip, RATE)[None])[0]  # without padding
        assert float(row @ raw / mx.linalg.norm(raw)) > 0.999999


def test_a_batch_of_mixed_inputs(tmp_path: Path) -> None:
    model = tiny_model("basic")
    path = write_wav(tmp_path / "a.wav", voice(RATE))
    batch = model.embed_batch([path, (soxr.resample(voice(RATE, 1), RATE, 44100), 44100), str(path)])
    assert mx.array_equal(batch[0], batch[2])
    assert mx.allclose(batch[1], model.embed(soxr.resample(voice(RATE, 1), RATE, 44100), 44100), atol=1e-5)


def test_an_empty_batch() -> None:
    assert tiny_model("basic").embed_batch([]).shape == (0, 8)


@pytest.mark.parametrize(
    "audios", ["a.wav", Path("a.wav"), voice(100), mx.zeros(100), (voice(100), RATE), (voice(100), np.int64(RATE))]
)
def test_a_single_clip_is_no_batch(audios: Any) -> None:
    with pytest.raises(AudioError, match="takes a list of clips"):
        tiny_model("basic").embed_batch(audios)


@given(sizes=st.lists(st.integers(1, 400), max_size=30), limit=st.integers(0, 2000), mixed=st.booleans())
def test_batches_hold_every_clip_once(sizes: list[int], limit: int, mixed: bool) -> None:
    batches = list(audio_model._batches(dict(enumerate(sizes)), limit, mixed))
    assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == 1 or max(sizes[i] for i in batch) * len(batch) <= limit
        assert mixed or len({sizes[i] for i in batch}) == 1


# verify


@each_family
def test_verify_scores_with_the_cosine(name: str) -> None:
    model = tiny_model(name)
    a, b = voice(RATE), voice(2 * RATE, 1)
    result = model.verify((a, RATE), (b, RATE))
    assert isinstance(result, Verification)
    assert result.score == pytest.approx(float(model.embed(a, RATE) @ model.embed(b, RATE)), abs=1e-6)
    assert result.threshold == model.config.threshold
    assert result.same_speaker is (result.score >= model.config.threshold)
    assert model.verify(a, b, sample_rate=RATE) == result


def test_verify_tells_a_clip_that_is_short_for_its_threshold(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("basic")
    monkeypatch.setattr(model, "config", replace(model.config, threshold=0.5, threshold_seconds=2.0))
    path = write_wav(tmp_path / "a.wav", voice(RATE, 1))
    result = model.verify((voice(3 * RATE), RATE), path)
    assert result.seconds == pytest.approx(1, abs=0.05)
    assert result.threshold_seconds == 2.0
    assert caplog.messages == [
        f"warning: {path} holds 1.0 s of speech; the threshold was chosen on clips of 2.0 s or more, and shorter ones "
        "score lower"
    ]
    caplog.clear()
    given = model.verify((voice(3 * RATE), RATE), path, threshold=0.4)  # of which nobody knows
    assert given.threshold_seconds is None
    assert model.verify(voice(3 * RATE), voice(4 * RATE, 1), RATE).seconds == pytest.approx(3, abs=0.2)
    assert model.verify(voice(3 * RATE), voice(2 * RATE, 1), RATE, vad=False).seconds == 2.0
    assert caplog.messages == []


def test_silence_around_a_word_does_not_make_it_longer() -> None:
    word = np.concatenate([np.zeros(3 * RATE, np.float32), voice(RATE), np.zeros(3 * RATE, np.float32)])
    assert 0.9 < tiny_model("basic").voice(word, RATE).seconds < 1.7
    assert tiny_model("basic").voice(word, RATE, vad=False).seconds == 7.0


def test_a_clip_is_of_its_own_speaker() -> None:
    result = tiny_model("basic").verify(voice(RATE), voice(RATE), RATE)
    assert result.score == pytest.approx(1, abs=1e-5)
    assert result.same_speaker is True


def test_the_threshold_can_be_set() -> None:
    model = tiny_model("basic")
    a, b = voice(RATE), voice(RATE, 1)
    score = model.verify(a, b, RATE).score
    for threshold, same in ((score - 1e-3, True), (score, True), (min(score + 1e-3, 1), False), (-1, True)):
        result = model.verify(a, b, RATE, threshold=threshold)
        assert (result.same_speaker, result.threshold, result.score) == (same, threshold, score)
        assert isinstance(result.threshold, float)


def test_a_checkpoint_without_a_threshold() -> None:
    model = model_of(replace(CONFIGS["basic"], threshold=None), tiny_source("basic"))
    with pytest.raises(ConfigError, match="pass threshold="):
        model.verify(voice(RATE), voice(RATE), RATE)
    assert model.verify(voice(RATE), voice(RATE), RATE, threshold=0).same_speaker is True


@pytest.mark.parametrize("threshold", [1.5, -1.5, 47, math.nan, math.inf, "0.3", True, [0.3], np.array([0.3])])
def test_a_threshold_that_is_no_cosine(threshold: Any) -> None:
    with pytest.raises(ConfigError, match="threshold is a cosine between -1 and 1"):
        tiny_model("basic").verify(voice(RATE), voice(RATE), RATE, threshold=threshold)


def test_both_clips_are_checked() -> None:
    for pair in ((voice(RATE), voice(160)), (voice(160), voice(RATE))):
        with pytest.raises(AudioError, match="is too short"):
            tiny_model("basic").verify(*pair, RATE)
