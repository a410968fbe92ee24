"""Stretches in which one person speaks alone: each moment once, in order, whatever the windows."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from speech_zoo.recordings.solos import LEAST, MOST, _parts, solo_embeddings
from speech_zoo.recordings.windows import Window
from speech_zoo_core.audio.front_end import WaveformFrontEnd
from speech_zoo_core.errors import AudioError, ConfigError
from wavs import write_wav

RATE, STEP, SIZE = 16000, 270, 991
LEVEL = 0.1  # speaker k is a waveform that is (k + 1) times this; nobody is 0, several are SEVERAL
SEVERAL = 0.9


class Segmenter:
    """Reads who speaks off the waveform; the numbers of the speakers differ from window to window."""

    config = SimpleNamespace(task="speaker-segmentation", duration=10.0)
    sample_rate, frame_step, frame_size = RATE, STEP, SIZE

    def __init__(self) -> None:
        self.windows = 0

    def __call__(self, waves: mx.array) -> mx.array:
        return waves

    def speakers(self, waves: mx.array) -> np.ndarray:
        levels = np.array(waves)[:, SIZE // 2 : 160000 - SIZE // 2 : STEP]
        active = np.zeros((*levels.shape, 3), bool)
        for window, values in zip(active, levels, strict=True):
            self.windows += 1
            for speaker in range(3):
                window[:, (speaker + self.windows) % 3] = np.abs(values - LEVEL * (speaker + 1)) < LEVEL / 2
            window[values > SEVERAL - LEVEL / 2, :2] = True
        return active

    def frame_time(self, frame: int) -> float:
        return (frame * STEP + SIZE / 2) / RATE


class Embedder:
    """The levels that are heard in a clip."""

    config = SimpleNamespace(task="speaker-embedding", front_end=WaveformFrontEnd())
    min_frames = 400

    def embed(self, audio: tuple[np.ndarray, int], vad: bool) -> mx.array:
        assert not vad
        return mx.array(np.bincount(np.round(audio[0] / LEVEL).astype(int), minlength=10))


def played(path: Path, turns: list[tuple[float, float, float]], seconds: float) -> Path:
    samples = np.zeros(round(seconds * RATE))
    for level, start, end in turns:
        samples[round(start * RATE) : round(end * RATE)] = level
    return write_wav(path, samples)


def stretches(path: Path) -> list[tuple[float, float, np.ndarray]]:
    batches = solo_embeddings(Embedder(), Segmenter(), path, vad=False)
    return [
        (window.start, window.end, row) for windows, rows in batches for window, row in zip(windows, rows, strict=True)
    ]


@pytest.mark.parametrize("seconds", [0.5, 1.2, 9.99, 10, 10.1, 12.5, 15.4, 47.3, 95])
def test_each_moment_once(tmp_path: Path, seconds: float) -> None:
    found = stretches(played(tmp_path / "a.wav", [(LEVEL, 0, seconds)], seconds))
    assert found[0][0] == 0
    assert found[-1][1] == pytest.approx(seconds, abs=0.02)
    for one, following in itertools.pairwise(found):
        assert following[0] == one[1]
    assert all(LEAST <= end - start <= MOST for start, end, _ in found)


def test_nobody_shares_a_stretch(tmp_path: Path) -> None:
    one, two, three = LEVEL, 2 * LEVEL, 3 * LEVEL
    turns = [
        (one, 1, 7.5), (two, 7.5, 9.8), (SEVERAL, 9.8, 11), (three, 11, 13), (one, 13.5, 16), (one, 16.1, 17),
        (two, 18, 18.3), (three, 19, 29), (one, 29, 30), (SEVERAL, 30, 35), (two, 35, 36), (one, 37.2, 37.7),
    ]  # fmt: skip
    found = stretches(played(tmp_path / "a.wav", turns, 38))
    for start, end, levels in found:
        heard = np.flatnonzero(levels[1:] > 0.06 * RATE)  # but for the frames at the edges
        assert heard.size == 1 and heard[0] < 3, (start, end, levels)
    expected = [(one, 1, 7.5), (two, 7.5, 9.8), (three, 11, 13), (one, 13.5, 17), (three, 19, 29), (one, 29, 30),
                (two, 35, 36), (one, 37.2, 37.7)]  # fmt: skip
    covered = sum(end - start for start, end, _ in found)
    assert covered == pytest.approx(sum(end - start for _, start, end in expected), abs=0.5)
    for _, start, end in expected:
        assert any(abs(first - start) < 0.05 for first, _, _ in found), start
        assert any(abs(last - end) < 0.05 for _, last, _ in found), end


def test_nobody_alone(tmp_path: Path) -> None:
    for turns in ([], [(SEVERAL, 0, 20)], [(LEVEL, 3, 3.3)]):
        path = played(tmp_path / "a.wav", turns, 20)
        with pytest.raises(AudioError, match=r"a\.wav holds no speech of one person alone"):
            stretches(path)


def test_the_speech_check_has_a_say(tmp_path: Path) -> None:
    path = played(tmp_path / "a.wav", [(LEVEL, 0, 12)], 12)  # a constant is no speech
    with pytest.raises(AudioError, match="holds no speech"):
        list(solo_embeddings(Embedder(), Segmenter(), path))


def test_models_for_other_tasks(tmp_path: Path) -> None:
    for models in ((Segmenter(), Segmenter()), (Embedder(), Embedder())):
        with pytest.raises(ConfigError, match="this model is for"):
            list(solo_embeddings(*models, tmp_path / "a.wav"))


@given(st.lists(st.floats(0.01, 12), min_size=1, max_size=8), st.floats(0, 20), st.floats(0, 30), st.floats(LEAST, 2))
def test_parts(lengths: list[float], done: float, until: float, least: float) -> None:
    edges = np.cumsum([0, *lengths]).tolist()
    runs = [Window(start, end) for start, end in itertools.pairwise(edges)]
    parts = list(_parts(runs, done, until, least))
    assert all(done <= part.start < until for part in parts)
    assert all(min(least, MOST / 2) * 0.999 <= part.end - part.start <= MOST * 1.001 for part in parts)
    assert all(a.end <= b.start for a, b in itertools.pairwise(parts))
    for run in runs:
        if run.end - (start := max(run.start, done)) >= least and start < until:
            assert any(part.start == start for part in parts)
