"""Who speaks when: windows, stretches, clusters, votes; made-up conversations; evaluation."""

import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import speech_zoo  # isort: skip  # before MLX, whose TF32 it turns off
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speech_zoo.recordings import diarization
from speech_zoo.recordings.clustering import BLOCK, clustered
from speech_zoo.recordings.conversation import conversation
from speech_zoo.recordings.diarization import Heard, Stretch, diarize, listen
from speech_zoo.recordings.formats import read_rttm, to_rttm
from speech_zoo.recordings.names import alone
from speech_zoo.recordings.segment import Segment
from speech_zoo_core.audio.front_end import WaveformFrontEnd
from speech_zoo_core.audio.stream import Stream
from speech_zoo_core.errors import ConfigError, InputError
from tiny_models import tiny_model

RATE = 16000
STEP, SIZE = 270, 991  # samples
TONES = (500.0, 1500.0, 3000.0)  # Hz: the speakers of the made-up models


def write(path: Path, samples: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path


def spectrum(samples: np.ndarray) -> np.ndarray:
    """How much of each tone there is."""
    times = np.arange(samples.shape[-1]) / RATE
    return np.stack([np.abs((samples * np.exp(-2j * np.pi * tone * times)).mean(axis=-1)) for tone in TONES], -1)


class Segmenter:
    """Hears the tones; its speakers are numbered as they come in a window."""

    config = SimpleNamespace(task="speaker-segmentation", duration=10.0, front_end=WaveformFrontEnd())
    sample_rate, frame_step, frame_size = RATE, STEP, SIZE

    def num_frames(self, samples: int) -> int:
        return max(0, 1 + (samples - SIZE) // STEP)

    def __call__(self, waves: mx.array) -> mx.array:
        return waves

    def speakers(self, waves: mx.array) -> np.ndarray:
        frames = np.lib.stride_tricks.sliding_window_view(np.array(waves), SIZE, axis=1)[:, ::STEP]
        active = spectrum(frames) > 0.05
        for window in active:
            order = np.argsort(np.where(window.any(axis=0), window.argmax(axis=0), len(window)), kind="stable")
            window[:] = window[:, order]
        return active

    def frame_time(self, frame: int) -> float:
        return (frame * STEP + SIZE / 2) / RATE


class FrontEnd:
    """The waveform."""

    def num_frames(self, samples: int) -> int:
        return samples

    def __call__(self, samples: mx.array) -> mx.array:
        return samples


class Embedder:
    """An embedding says which tone there is."""

    config = SimpleNamespace(
        task="speaker-embedding", threshold=0.5, threshold_seconds=None, embed_dim=3, front_end=FrontEnd()
    )
    sample_rate, min_frames = RATE, 400

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, x: mx.array) -> mx.array:
        samples = np.array(x)[0]
        self.seconds += samples.size / RATE
        return mx.array(spectrum(samples)[None])


def played(turns: list[tuple[int, float, float]], seconds: float) -> np.ndarray:
    """Tones from when to when, and a little noise."""
    times = np.arange(round(seconds * RATE)) / RATE
    samples = np.random.default_rng(0).standard_normal(times.size) * 1e-3
    for tone, start, end in turns:
        samples += 0.3 * np.sin(2 * np.pi * TONES[tone] * times) * ((times >= start) & (times < end))
    return samples


class Check:
    """Probabilities of speech in steps of 32 ms: one half, but none in `silence`, seconds from when to when."""

    silence = (0.0, 0.0)

    def __init__(self, sample_rate: int, probabilities: bool) -> None:
        assert (sample_rate, probabilities) == (RATE, True)
        self.size = 0

    def feed(self, samples: np.ndarray) -> np.ndarray:
        self.size += samples.size
        return np.zeros(0, np.float32)

    def finish(self) -> np.ndarray:
        times = np.arange(-(-self.size // 512)) * 0.032
        return np.where((times >= self.silence[0]) & (times < self.silence[1]), 0.0, 0.5)


@pytest.fixture(autouse=True)
def _check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The speech check knows no tones."""
    monkeypatch.setattr(diarization, "SpeechDetector", Check)


TURNS = [(0, 1.0, 7.0), (1, 7.5, 12.0), (0, 12.4, 15.0), (2, 14.0, 21.0), (1, 22.0, 29.0), (2, 30.0, 34.0)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "tones.wav", played(TURNS, 37.3))


def test_turns_and_overlap_are_found(file: Path) -> None:
    segments = diarize(file, model=Embedder(), segmentation=Segmenter())
    names = {0: "speaker 1", 1: "speaker 2", 2: "speaker 3"}  # as they come
    assert [s.label for s in segments] == [names[tone] for tone, _, _ in TURNS]
    for segment, (_, start, end) in zip(segments, TURNS, strict=True):
        assert abs(segment.start - start) < 0.1
        assert abs(segment.end - end) < 0.1
        assert 0.5 < segment.score <= 1


@pytest.mark.parametrize("seconds", [1.2, 9.9, 10.0, 10.1, 12.5, 25.0])
def test_files_of_every_length(tmp_path: Path, seconds: float) -> None:
    file = write(tmp_path / "a.wav", played([(1, 0.0, seconds)], seconds))
    (segment,) = diarize(file, model=Embedder(), segmentation=Segmenter())
    assert segment.start == 0
    assert abs(segment.end - seconds) < 0.1
    assert segment.end <= seconds


def test_nobody(tmp_path: Path) -> None:
    assert diarize(write(tmp_path / "a.wav", played([], 12.0)), model=Embedder(), segmentation=Segmenter()) == []


def test_where_the_speech_check_is_sure_of_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.wav", played([(1, 0.0, 12.0)], 12.0))
    monkeypatch.setattr(Check, "silence", (6.0, 6.15))  # no longer than between words
    assert len(diarize(file, model=Embedder(), segmentation=Segmenter())) == 1
    monkeypatch.setattr(Check, "silence", (6.0, 7.0))
    first, second = diarize(file, model=Embedder(), segmentation=Segmenter())
    assert (first.end, second.start) == (pytest.approx(6, abs=0.05), pytest.approx(7, abs=0.05))
    assert first.label == second.label
    monkeypatch.setattr(Check, "silence", (0.0, 12.0))
    assert diarize(file, model=Embedder(), segmentation=Segmenter()) == []


def test_numbers_of_speakers(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    def labels(**numbers: Any) -> set[str]:
        return {s.label for s in diarize(file, model=Embedder(), segmentation=Segmenter(), **numbers)}

    assert len(labels(speakers=2)) == len(labels(max_speakers=2)) == 2
    assert len(labels(speakers=1)) == 1
    assert len(labels(min_speakers=2)) == len(labels(max_speakers=5)) == 3
    assert not caplog.records


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"speakers": 0}, "speakers is a whole number"),
        ({"speakers": True}, "not True"),
        ({"max_speakers": 2.5}, "not 2.5"),
        ({"speakers": 2, "max_speakers": 3}, "speakers says how many"),
        ({"min_speakers": 3, "max_speakers": 2}, "min_speakers 3 is more than max_speakers 2"),
    ],
)
def test_numbers_that_make_no_sense(file: Path, numbers: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        diarize(file, model=Embedder(), segmentation=Segmenter(), **numbers)


def test_models_for_other_tasks(file: Path) -> None:
    with pytest.raises(ConfigError, match="for speaker-embedding, not for speaker-segmentation"):
        diarize(file, model=Embedder(), segmentation=Embedder())
    with pytest.raises(ConfigError, match="for speaker-segmentation, not for speaker-embedding"):
        diarize(file, model="pyannote-segmentation-3.0")


class Voices:
    """Known tones."""

    def __init__(self, model: Any, **tones: list[float]) -> None:
        self.model, self.tones = model, tones

    def means(self) -> tuple[list[str], np.ndarray]:
        rows = np.array([*self.tones.values()]).reshape(-1, 3)
        return list(self.tones), rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECH_ZOO_HOME", str(tmp_path / "home"))


@pytest.mark.usefixtures("_home")
def test_known_voices_bear_their_names(file: Path) -> None:
    def labels(**tones: list[float]) -> list[str]:
        model = Embedder()
        segments = diarize(file, model=model, segmentation=Segmenter(), voices=Voices(model, **tones))
        return [next(s.label for s in segments if s.start > start - 0.1) for _, start, _ in TURNS[:2] + TURNS[3:4]]

    assert labels(Ann=[0, 1, 0]) == ["speaker 1", "Ann", "speaker 2"]
    assert labels(Ann=[0, 1, 0], Bob=[1, 0, 0]) == ["Bob", "Ann", "speaker 1"]
    assert labels(Ann=[1, 1, 0], Bob=[0.9, 1.1, 0]) == ["Ann", "Bob", "speaker 1"]  # together they fit best so
    assert labels(Ann=[1, 1, 1], Bob=[0, 1, 0], Cy=[1, 0, 0.1]) == ["Cy", "Bob", "Ann"]
    assert labels(Ann=[-1, -1, -1]) == labels() == ["speaker 1", "speaker 2", "speaker 3"]
    assert labels(**{"speaker 1": [0, 0, 1]}) == ["speaker 2", "speaker 3", "speaker 1"]


def test_voices_of_another_checkpoint(file: Path) -> None:
    voices = Voices(tiny_model("basic"), Ann=[1, 0, 0])
    with pytest.raises(ConfigError, match="voices are of another checkpoint"):
        diarize(file, model=tiny_model("campplus"), segmentation=Segmenter(), voices=voices)


def test_a_speaker_on_each_channel(tmp_path: Path) -> None:
    left, right = (played(TURNS[i : i + 1], 20.0) for i in (1, 0))
    path = tmp_path / "call.wav"
    with wave.open(str(path), "wb") as out:
        out.setparams((2, 2, RATE, 0, "NONE", ""))
        out.writeframes(np.round(np.stack([left, right], 1) * 32767).astype("<i2").tobytes())
    models = {"model": Embedder(), "segmentation": Segmenter()}
    first, second = diarize(path, channel="each", **models)
    assert (first.label, second.label) == ("speaker 2", "speaker 1")  # by the channel
    assert (first.start, second.start) == (pytest.approx(1, abs=0.1), pytest.approx(7.5, abs=0.1))
    (only,) = diarize(path, channel=0, **models)
    assert (only.label, only.start) == ("speaker 1", second.start)
    with pytest.raises(InputError, match="with a speaker on each channel their number is known"):
        diarize(path, channel="each", speakers=2, **models)


def test_what_one_says_alone(file: Path) -> None:
    segments = [Segment(start, end, f"speaker {tone + 1}") for tone, start, end in TURNS]
    model = SimpleNamespace(config=SimpleNamespace(front_end=WaveformFrontEnd()))
    samples, rate = alone(file, segments, "speaker 1", model)
    assert rate == RATE
    assert samples.size / RATE == pytest.approx(6 + 1.6, abs=1e-3)  # without the second that is speaker 3's as well
    assert spectrum(samples).argmax() == 0 and spectrum(samples)[2] < 0.01
    long = [Segment(0, 20, "a"), Segment(20, 37, "a"), Segment(36, 37, "b")]
    assert alone(file, long, "a", model)[0].size / RATE == pytest.approx(36, abs=1e-3)
    for label, message in (("c", "has no c; it has a, b"), ("b", "b of .* never speaks alone")):
        with pytest.raises(InputError, match=message):
            alone(file, long, label, model)


def test_what_is_heard_again_is_not_embedded_again(file: Path) -> None:
    embedder = Embedder()
    heard = listen(Stream(file, RATE), Segmenter(), embedder)
    assert embedder.seconds < 1.5 * sum(end - start for _, start, end in TURNS)  # ten windows hold each second
    assert len(heard.vectors) < sum(stretch.vector >= 0 for stretch in heard.stretches)


def test_a_monologue_is_embedded_once(tmp_path: Path) -> None:
    """In every window it is cut off at both ends; the parts that it is cut into are the same in all of them."""
    embedder = Embedder()
    file = write(tmp_path / "a.wav", played([(1, 0.5, 59.5)], 60.0))
    heard = listen(Stream(file, RATE), Segmenter(), embedder)
    assert embedder.seconds < 70
    assert heard.seconds.max() < 3.1
    known = {stretch.begin: stretch.end for stretch in heard.stretches if stretch.vector >= 0}
    assert min(known) * STEP / RATE < 1 and max(known.values()) * STEP / RATE > 59


def test_votes() -> None:
    """Two windows hear a stretch, one of them takes it for somebody else."""
    stretches = [Stretch(0, 0, 0, 10, True, 0), Stretch(1, 0, 5, 10, True, 1), Stretch(2, 0, 5, 10, True, 0)]
    speaking, windows = np.ones(10), np.array([1.0] * 5 + [3.0] * 5)
    heard = Heard(stretches, speaking, windows, np.eye(2), np.ones(2))
    active, shares = diarization._votes(heard, np.array([0, 1]), None)
    assert active[:, 0].all()
    assert not active[:, 1].any()
    assert shares[7].tolist() == pytest.approx([2 / 3, 1 / 3])


# Clustering


def cloud(counts: list[int], spread: float, seed: int = 0, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.standard_normal((size, len(counts))))[0].T
    who = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    rows = centres[who] + spread / np.sqrt(size) * rng.standard_normal((who.size, size))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), who


@given(counts=st.lists(st.integers(8, 40), min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_clusters_are_found(counts: list[int], seed: int) -> None:
    rows, who = cloud(counts, 0.5, seed)
    means = clustered(rows, np.ones(len(rows)), 0.5)
    assert len(means) == len(counts)
    given_to = (rows @ means.T).argmax(axis=1)
    assert len({*zip(who.tolist(), given_to.tolist(), strict=True)}) == len(counts)


def test_many_embeddings_in_blocks() -> None:
    counts = [3 * BLOCK, BLOCK, BLOCK // 2, 90]
    rows, who = cloud(counts, 0.6)
    means = clustered(rows, np.ones(len(rows)), 0.5)
    given_to = (rows @ means.T).argmax(axis=1)
    assert len(means) >= 3  # the last one speaks less than a fiftieth of the time
    for k in range(3):
        assert len(set(given_to[who == k].tolist())) == 1


def test_nothing_alike_in_blocks_ends() -> None:
    rows = np.random.default_rng(0).standard_normal((BLOCK + 500, 192))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert len(clustered(rows, np.ones(len(rows)), 0.9, most=3)) <= 3


@pytest.mark.parametrize("number", [1, 2, 5, 7])
def test_a_number_of_clusters(number: int) -> None:
    rows, _ = cloud([20, 20, 20], 0.8)
    assert len(clustered(rows, np.full(60, 10.0), 0.5, number, number)) == number


def test_one_embedding() -> None:
    assert clustered(np.eye(3)[:1], np.ones(1), 0.5, 2).shape == (1, 3)


# Conversations and evaluation


def test_a_conversation_is_what_it_says() -> None:
    samples, segments = conversation(3, 60, seed=5)
    again, same = conversation(3, 60, seed=5)
    assert np.array_equal(samples, again)
    assert segments == same
    assert not np.array_equal(samples, conversation(3, 60, seed=6)[0])
    assert samples.shape == (60 * RATE,)
    assert np.abs(samples).max() < 1
    assert {s.label for s in segments} == {"voice 1", "voice 2", "voice 3"}
    assert all(0 <= s.start < s.end <= 60 for s in segments)
    heard = np.zeros((3, 6000), bool)
    for s in segments:
        heard[int(s.label[-1]) - 1, int(100 * s.start) : int(100 * s.end)] = True
    assert 0.6 < heard.any(axis=0).mean() < 0.95
    loud = (samples.reshape(-1, 160) ** 2).mean(axis=1)
    assert np.median(loud[heard.any(axis=0)]) > 20 * np.median(loud[~heard.any(axis=0)])


def test_overlap_is_a_tenth() -> None:
    shares = []
    for seed in range(8):
        heard = np.zeros((4, 18000), bool)
        for s in conversation(4, 180, seed)[1]:
            heard[int(s.label[-1]) - 1, int(100 * s.start) : int(100 * s.end)] = True
        shares.append((heard.sum(axis=0) > 1).sum() / heard.any(axis=0).sum())
    assert 0.07 < np.mean(shares) < 0.13


@pytest.mark.parametrize(("speakers", "seconds"), [(0, 10), (10, 10), (2, 0), (2, float("nan"))])
def test_no_such_conversation(speakers: int, seconds: float) -> None:
    with pytest.raises(InputError, match="a conversation has 1 to 9 speakers"):
        conversation(speakers, seconds)


def test_rttm_comes_back(tmp_path: Path) -> None:
    parts = [Segment(0.25, 3.5, "speaker 1", score=0.9), Segment(2.0, 4.0, "speaker 2")]
    path = tmp_path / "a.rttm"
    path.write_text(";; a comment\nSPKR-INFO a 1 <NA>\n" + to_rttm({Path("my talk.wav"): parts}))
    segments = read_rttm(path)["my_talk"]
    assert [(s.start, s.end, s.label) for s in segments] == [(0.25, 3.5, "speaker_1"), (2.0, 4.0, "speaker_2")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SPEAKER a 1 0.0\n", "line 1 of .* is damaged"),
        ("\nSPEAKER a 1 x 1.0 <NA> <NA> b <NA> <NA>\n", "line 2 of .* is damaged"),
        ("SPEAKER a 1 -1 1.0 <NA> <NA> b <NA> <NA>\n", "impossible times"),
        ("SPEAKER a 1 nan 1.0 <NA> <NA> b <NA> <NA>\n", "impossible times"),
        ("hello\n", "is not RTTM"),
        ("", "holds no SPEAKER line"),
    ],
)
def test_damaged_rttm(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.rttm"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_rttm(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_rttm(tmp_path / "none.rttm")


def test_evaluation() -> None:
    pytest.importorskip("pyannote.metrics")
    reference = [Segment(0, 10, "a"), Segment(10, 20, "b")]
    exact = speech_zoo.evaluate({"x": reference}, {"x": [Segment(0, 10, "1"), Segment(10, 20, "2")]})["x"]
    assert (exact.der, exact.jer, exact.seconds, exact.speakers, exact.found) == (0, 0, 20, 2, 2)
    parts = [Segment(0, 12, "1"), Segment(12, 19, "2"), Segment(21, 22, "2")]
    both = speech_zoo.evaluate({"x": reference, "y": reference}, {"x": parts, "y": reference})
    assert both["x"].confusion == pytest.approx(0.1)
    assert both["x"].missed == both["x"].false_alarm == pytest.approx(0.05)
    assert both["x"].der == pytest.approx(0.2)
    assert both["all"].der == pytest.approx(0.1)
    assert speech_zoo.evaluate({"x": reference}, {"x": parts}, collar=6.0)["x"].der < 0.1
    with pytest.raises(InputError, match="y is in the hypothesis alone"):
        speech_zoo.evaluate({"x": reference}, {"x": parts, "y": parts})
    with pytest.raises(InputError, match="nobody speaks"):
        speech_zoo.evaluate({"x": []}, {"x": parts})
