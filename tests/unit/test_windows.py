"""Windows of a file: where they lie, which hold speech, and that their embeddings are those of the same samples."""

from pathlib import Path

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from speech_zoo.recordings import windows
from speech_zoo.recordings.windows import Window, cut, window_embeddings
from speech_zoo_core.audio import load_audio
from speech_zoo_core.audio.stream import Stream
from speech_zoo_core.audio.vad import speech
from speech_zoo_core.errors import AudioError, ConfigError, InputError
from tiny_models import RATE, tiny_model, voice
from wavs import write_wav

SPEAKER = "ecapa_speechbrain"


def embedded(path: Path, *args: float) -> tuple[list[Window], np.ndarray]:
    batches = list(window_embeddings(tiny_model(SPEAKER), path, *args))
    assert all(len(batch) == len(vectors) <= windows.BATCH for batch, vectors in batches)
    return [window for batch, _ in batches for window in batch], np.concatenate([vectors for _, vectors in batches])


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_the_embedding_of_a_window_is_that_of_its_samples(
    tmp_path: Path, request: pytest.FixtureRequest, rate: int, gpu: bool
) -> None:
    if gpu:
        request.getfixturevalue("on_a_gpu")
    samples = voice(round(11.7 * RATE))
    path = write_wav(tmp_path / "a.wav", soxr.resample(samples, RATE, rate), rate)
    spans, vectors = embedded(path, 1.0, 0.5)
    expected = [Window(0.5 * i, 0.5 * i + 1) for i in range(22)]
    assert spans[:-1] == expected
    assert (spans[-1].start, spans[-1].end) == pytest.approx((10.7, 11.7))  # what is left, at full length
    front_end = tiny_model(SPEAKER).config.front_end
    waveform = np.array(load_audio(path, RATE, resampler=front_end.resampler, channel=front_end.channel))
    clips = [(waveform[round(w.start * RATE) : round(w.end * RATE)], RATE) for w in spans]
    assert vectors.dtype == np.float32
    assert np.abs(vectors - np.array(tiny_model(SPEAKER).embed_batch(clips))).max() < 1e-5
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert np.abs(vectors[1:] - vectors[:-1]).max() > 1e-3  # they are not all the same


@given(total=st.integers(1, 400_000), size=st.integers(1600, 20_000), share=st.floats(0.1, 1.0))
@settings(max_examples=12, deadline=None)
def test_windows_cover_the_file_and_hold_its_samples(
    tmp_path_factory: pytest.TempPathFactory, total: int, size: int, share: float
) -> None:
    total += size  # longer than a window
    hop = max(windows.MIN_HOP, share * size / RATE)
    if hop > size / RATE:
        return
    samples = voice(total)
    samples[total // 3 : total // 2] = 0
    path = write_wav(tmp_path_factory.getbasetemp() / "windows.wav", samples)
    whole = np.array(load_audio(path, RATE))
    speaks = speech(whole, RATE)
    at = 0
    for clip in cut(Stream(path, RATE), size / RATE, hop, True, ""):
        start, end = round(clip.window.start * RATE), round(clip.window.end * RATE)
        assert end - start == size == clip.samples.size
        assert start <= at or not at
        at = end
        assert np.array_equal(clip.samples, whole[start:end])
        first = -(-start // 512)
        assert np.array_equal(clip.speech, speaks[first : max(first + 1, end // 512)])
    assert at == total
    everything = list(cut(Stream(path, RATE), size / RATE, hop, False, ""))
    assert all(clip.speech.all() and clip.speech.size for clip in everything)


def test_silence_is_skipped(tmp_path: Path) -> None:
    samples = voice(30 * RATE)
    samples[8 * RATE : 20 * RATE] = np.random.default_rng(0).standard_normal(12 * RATE) * 3e-4  # the room
    spans, _ = embedded(write_wav(tmp_path / "a.wav", samples), 3.0, 1.0)
    starts = [window.start for window in spans]
    assert starts == [0, 1, 2, 3, 4, 5, 6, 7, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27]  # a third of 7 and 18 is speech


def test_without_the_speech_check_nothing_is_skipped(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", np.random.default_rng(0).standard_normal(10 * RATE) * 0.1)
    with pytest.raises(AudioError, match=r"holds no speech: no window has 20% of it"):
        embedded(path)
    batches = list(window_embeddings(tiny_model(SPEAKER), path, vad=False))
    assert [window.start for batch, _ in batches for window in batch] == pytest.approx([0, 1.5, 3, 4.5, 6, 7])


def test_one_bang_does_not_make_the_rest_silence(tmp_path: Path) -> None:
    samples = voice(20 * RATE) * 0.05
    samples[5 * RATE : 5 * RATE + 1600] = 0.9  # 0.1 s
    samples[5 * RATE : 5 * RATE + 1600 : 2] = -0.9
    spans, _ = embedded(write_wav(tmp_path / "a.wav", samples), 2.0, 1.0)
    assert len(spans) == 19


@pytest.mark.parametrize("seconds", [0.5, 2.99, 3.0])
def test_a_file_that_is_not_longer_than_a_window_is_one(tmp_path: Path, seconds: float) -> None:
    path = write_wav(tmp_path / "a.wav", voice(round(seconds * RATE)))
    spans, vectors = embedded(path)
    assert spans == [Window(0.0, seconds)]
    assert np.array_equal(vectors[0], np.array(tiny_model(SPEAKER).embed(path)))


def test_a_short_file_is_refused_as_by_embed(tmp_path: Path) -> None:
    for samples in (voice(100), np.zeros(RATE)):
        path = write_wav(tmp_path / "a.wav", samples)
        with pytest.raises(AudioError) as by_embed:
            tiny_model(SPEAKER).embed(path)
        with pytest.raises(AudioError) as by_windows:
            embedded(path)
        assert str(by_windows.value) == str(by_embed.value)


@pytest.mark.parametrize(
    ("window", "hop"),
    [(0, 1), (-1, 1), (float("nan"), 1), (float("inf"), 1), (61, 1), (3, 0), (3, 3.1), (3, float("nan")), (3, 0.01)],
)
def test_windows_that_cannot_be_cut(tmp_path: Path, window: float, hop: float) -> None:
    path = write_wav(tmp_path / "a.wav", voice(5 * RATE))
    with pytest.raises(InputError, match=r"^a (window|hop) is "):
        embedded(path, window, hop)


def test_windows_too_short_for_the_model(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", voice(5 * RATE))
    with pytest.raises(InputError, match=r"windows of 0\.1 s are too short: the model needs at least 0\.105 s"):
        list(window_embeddings(tiny_model("basic"), path, 0.1, 0.1))


def test_a_language_model_embeds_no_windows(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="speaker-embedding, not for language-identification"):
        list(window_embeddings(tiny_model("ecapa_lid"), tmp_path / "a.wav"))
