"""Timelines: steps from windows, hysteresis, what is unknown, and the writers."""

import csv
import io
import itertools
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import speech_zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from speech_zoo.recordings import formats
from speech_zoo.recordings.formats import to_csv, to_rttm, to_table
from speech_zoo.recordings.segment import Segment
from speech_zoo.recordings.timeline import Answer, Step, merged, steps, timeline
from speech_zoo.recordings.windows import Clip, Window
from speech_zoo_core.audio.vad import SECONDS
from speech_zoo_core.errors import AudioError, ConfigError, InputError
from speech_zoo_core.tasks.language import Prediction
from tiny_models import RATE, noise, tiny_model, voice
from wavs import write_wav

LANGUAGES = [("en", "English"), ("fr", "French"), ("de", "German")]


def said(*probabilities: float, logit: float = 5.0) -> Answer:
    return Answer(np.array(probabilities), logit)


EN, FR, DE = said(0.9, 0.1, 0), said(0.1, 0.9, 0), said(0, 0.1, 0.9)
HARDLY_FR = said(0.46, 0.54, 0)  # within the margin
NOISE = said(0.9, 0.1, 0, logit=0.5)
SHORT = {"e": EN, "f": FR, "d": DE, "h": HARDLY_FR, "?": NOISE, " ": None}


def labels(spoken: str, min_logit: float | None = None) -> str:
    """Steps, one a letter, to the label of each of them; "." where there is none."""
    given_steps = [Step(float(i), float(i + 1), SHORT[letter]) for i, letter in enumerate(spoken)]
    letters = ["."] * len(spoken)
    for segment in merged(given_steps, LANGUAGES, None, min_logit):
        for i in range(int(segment.start), int(segment.end)):
            assert letters[i] == "."
            letters[i] = segment.label[0]
    return "".join(letters)


# Hysteresis


@pytest.mark.parametrize(
    ("spoken", "expected"),
    [
        ("eeee", "eeee"),
        ("eefff", "eefff"),  # the change is dated back to where it began
        ("eefe", "eeee"),  # one step makes no change
        ("eefdfe", "eeeeee"),  # nor do steps that do not agree
        ("eefdd", "eeedd"),
        ("eehhh", "eeeee"),  # nor do steps within the margin
        ("eehff", "eeeff"),
        ("eef", "eee"),  # at the end
        ("eeff", "eeff"),
        ("effe", "efff"),
        ("ee  ff", "ee..ff"),
        ("ee  f", "ee..f"),  # after silence, the first step decides
        ("eef fee", "eee.fee"),
        ("   e ", "...e."),
        ("", ""),
        ("   ", "..."),
    ],
)
def test_a_change_must_last(spoken: str, expected: str) -> None:
    assert labels(spoken) == expected


@pytest.mark.parametrize(
    ("spoken", "expected"),
    [("ee???ee", "eeuuuee"), ("ee?ee", "eeeee"), ("??ee", "uuee"), ("??e??", "uuuuu"), ("e?fe", "eeee"), ("?", "u")],
)
def test_unknown_lasts_too(spoken: str, expected: str) -> None:
    assert labels(spoken, min_logit=1.0) == expected
    assert "u" not in labels(spoken)


@given(st.text("efdh? ", max_size=30))
def test_every_step_with_speech_has_one_label(spoken: str) -> None:
    letters = labels(spoken, min_logit=1.0)
    assert [letter == "." for letter in letters] == [letter == " " for letter in spoken]
    for stretch in letters.split("."):  # no segment of one step but at the edge of silence
        inner = [stretch[i] for i in range(1, len(stretch) - 1) if stretch[i - 1] != stretch[i] != stretch[i + 1]]
        assert not inner


def test_scores_and_logits_are_means() -> None:
    segments = list(merged([Step(0, 5, EN), Step(5, 9, said(0.5, 0.45, 0.05, logit=2))], LANGUAGES, None, None))
    assert segments == [Segment(0, 9, "en", "English", pytest.approx(0.7), pytest.approx(3.5))]
    low = [Step(0, 5, NOISE), Step(5, 9, said(0.2, 0.3, 0.5, logit=0.7))]
    unknown = list(merged(low, LANGUAGES, None, 1.0))
    reason = "logit 0.5 is below 1"
    assert unknown == [Segment(0, 9, "unknown", "unknown", pytest.approx(0.7), pytest.approx(0.6), reason)]
    assert next(merged(low[1:], LANGUAGES, 0.6, None)).reason == "score 0.5 is below 0.6"


# Steps


def window(start: float, end: float, answer: Answer | None, quiet: tuple[float, float] = (0, 0)) -> tuple[Clip, Any]:
    times = start + SECONDS * np.arange(round((end - start) / SECONDS))
    return Clip(Window(start, end), np.zeros(0), ~((quiet[0] <= times) & (times < quiet[1]))), answer


def test_a_step_is_the_mean_of_the_windows_around_its_middle() -> None:
    answers = [window(0, 10, EN), window(5, 15, FR), window(10, 20, DE), window(13, 23, said(0, 0, 1, logit=1.0))]
    means = list(steps(answers, 5.0))
    assert [(step.start, step.end) for step in means] == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]
    expected = [EN, (EN, FR), (FR, DE), (DE, answers[3][1]), answers[3][1]]
    for step, around in zip(means, expected, strict=True):
        group = around if isinstance(around, tuple) else (around,)
        assert step.answer is not None
        assert step.answer.probabilities == pytest.approx(np.mean([a.probabilities for a in group], axis=0))
        assert step.answer.logit == pytest.approx(np.mean([a.logit for a in group]))


def test_a_step_without_speech_is_silence_even_in_windows_that_hold_some() -> None:
    answers = [window(0, 10, EN, (5, 10)), window(5, 15, EN, (5, 10)), window(10, 20, EN)]
    assert [step.answer is None for step in steps(answers, 5.0)] == [False, True, False, False]
    nobody = [window(0, 10, None), window(5, 15, None)]
    assert [step.answer for step in steps(nobody, 5.0)] == [None] * 3


@given(st.integers(1, 100), st.integers(1, 40), st.integers(10, 100))
@settings(deadline=None)
def test_steps_cover_the_file_once(tenths: int, hop_tenths: int, more: int) -> None:
    hop = hop_tenths / 10
    size = hop + tenths / 10
    length = size + more / 10
    starts = [i * hop for i in range(int((length - size) / hop + 1e-9) + 1)]
    starts += [length - size] if starts[-1] + size < length else []
    sequence = list(steps([window(start, start + size, EN) for start in starts], hop))
    assert sequence[0].start == 0
    assert sequence[-1].end == pytest.approx(length)
    assert all(a.end == pytest.approx(b.start) and a.end > a.start for a, b in itertools.pairwise(sequence))
    assert all(step.answer is not None for step in sequence)


# Files


class Loudness:
    """A language model of sorts: "en" where most of a window is loud, logit 10; else "sw", logit 1."""

    sample_rate = RATE
    min_frames = 5
    batch_seconds = 0.0

    def __init__(self) -> None:
        self.config = tiny_model("ecapa_lid").config
        self.choose = tiny_model("ecapa_lid").choose

    def __call__(self, waveforms: mx.array) -> mx.array:
        loud = mx.mean(mx.abs(waveforms), axis=1) > 0.7 * float(np.abs(voice(10 * RATE)).mean())
        return mx.stack([mx.where(loud, 10.0, 0.0), mx.where(loud, 0.0, 1.0), *[mx.zeros(len(waveforms))] * 4], axis=1)


def test_the_segments_of_a_file(tmp_path: Path) -> None:
    samples = voice(100 * RATE)
    samples[30 * RATE : 60 * RATE] *= 0.05
    samples[70 * RATE : 85 * RATE] = 0
    path = write_wav(tmp_path / "a.wav", samples)
    segments = timeline(Loudness(), path)
    assert [(s.start, s.end, s.label, s.name) for s in segments] == [
        (0, 30, "en", "English"),
        (30, 60, "sw", "Swahili"),
        (60, 70, "en", "English"),
        (85, 100, "en", "English"),
    ]
    assert 10 >= segments[0].logit > 8
    floors = timeline(Loudness(), path, min_logit=5.0)
    assert [(s.start, s.end, s.label) for s in floors if s.label != "en"] == [(30, 60, "unknown")]
    only = timeline(Loudness(), path, languages=["swa", "zh"])
    assert {s.label for s in only} == {"sw"}


def test_a_short_file_is_one_segment(tmp_path: Path) -> None:
    model = tiny_model("ecapa_lid")
    path = write_wav(tmp_path / "a.wav", voice(3 * RATE))
    best = model.predict(path, top_k=1)[0]
    segments = speech_zoo.timeline(model, path)
    assert segments == [Segment(0, 3, best.label, best.name, pytest.approx(best.score), pytest.approx(best.logit))]
    assert isinstance(segments[0], speech_zoo.Segment)
    unknown = speech_zoo.timeline(model, path, min_logit=1e9)[0]
    assert (unknown.label, unknown.reason) == ("unknown", f"logit {best.logit:.4g} is below 1e+09")


def test_windows_are_judged_as_clips_of_their_own(tmp_path: Path) -> None:
    model = tiny_model("ecapa_lid")
    samples = np.round(voice(5 * RATE) * 32767) / 32768
    path = write_wav(tmp_path / "a.wav", samples * 32768 / 32767)
    segments = timeline(model, path, 3.0, 3.0)
    clips = [samples[: 3 * RATE], samples[2 * RATE :]]  # the second step, from 3 to 5 s, lies in the last window alone
    best = [model.predict(clip.astype(np.float32), 1, sample_rate=RATE)[0] for clip in clips]
    assert best[0].label == best[1].label == segments[0].label
    assert segments[0].logit == pytest.approx(np.mean([p.logit for p in best]), rel=1e-3)
    assert segments[0].score == pytest.approx(np.mean([p.score for p in best]), rel=1e-3)


def test_what_a_timeline_refuses(tmp_path: Path) -> None:
    model, path = tiny_model("ecapa_lid"), write_wav(tmp_path / "a.wav", voice(12 * RATE))
    with pytest.raises(ConfigError, match="not for speaker-embedding"):
        timeline(tiny_model("ecapa_speechbrain"), path)
    with pytest.raises(InputError, match="is French, which this checkpoint does not know; it knows"):
        timeline(model, path, languages=["fra"])
    with pytest.raises(InputError, match="min_score"):
        timeline(model, path, min_score=2.0)
    with pytest.raises(InputError, match="a hop is"):
        timeline(model, path, 10.0, 11.0)
    with pytest.raises(AudioError, match="holds no speech"):
        timeline(model, write_wav(tmp_path / "b.wav", np.zeros(12 * RATE)))
    with pytest.raises(AudioError, match="does not exist"):
        timeline(model, tmp_path / "c.wav")


# "unknown" for single clips


@pytest.mark.usefixtures("all_is_speech")
def test_predictions_that_miss_a_floor(tmp_path: Path) -> None:
    model = tiny_model("ecapa_lid")
    clip = noise(2 * RATE)
    plain = model.predict(clip, 6, sample_rate=RATE)
    logits = np.array(model.logits(clip, RATE))
    assert [p.logit for p in plain] == pytest.approx(sorted(logits.tolist(), reverse=True))
    assert not any(p.reason for p in plain)
    score, logit = plain[0].score, plain[0].logit
    for floors in ({"min_score": score}, {"min_logit": logit}, {"min_score": 0.0, "min_logit": logit - 1}):
        assert model.predict(clip, 6, sample_rate=RATE, **floors) == plain
    for floors, word in (({"min_score": 1.0}, "score"), ({"min_logit": logit + 1}, "logit")):
        predictions = model.predict(clip, 6, sample_rate=RATE, **floors)
        assert predictions[0] == ("unknown", score)
        assert (predictions[0].label, predictions[0].logit, predictions[0].name) == ("unknown", logit, "unknown")
        assert predictions[0].reason.startswith(f"{word} ")
        assert predictions[1:] == plain[:5]  # top_k in all
        assert model.predict(clip, 1, sample_rate=RATE, **floors) == predictions[:1]
        assert model.predict_batch([(clip, RATE)] * 2, 6, **floors) == [predictions] * 2


def test_the_logit_is_the_best_among_those_chosen() -> None:
    model, clip = tiny_model("ecapa_lid"), voice(2 * RATE)
    every = {p.label: p.logit for p in model.predict(clip, 6, sample_rate=RATE)}
    predictions = model.predict(clip, 6, ["zh", "nn"], RATE)
    assert {p.label: p.logit for p in predictions} == pytest.approx({label: every[label] for label in ("zh", "nn")})


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), "0.5", True])
def test_a_floor_that_is_no_probability(bad: Any) -> None:
    with pytest.raises(InputError, match="a probability between 0 and 1"):
        tiny_model("ecapa_lid").predict(voice(RATE), sample_rate=RATE, min_score=bad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "5", True])
def test_a_floor_that_is_no_number(bad: Any) -> None:
    with pytest.raises(InputError, match="a finite number"):
        tiny_model("ecapa_lid").predict_batch([(voice(RATE), RATE)], min_logit=bad)


def test_a_prediction_is_still_a_pair() -> None:
    label, score = Prediction("en", 0.5, "English")
    assert (label, score) == ("en", 0.5)


# Writers

FOUND = {
    Path("in/my talk.wav"): [
        Segment(0.0, 3725.5, "en", "English", 0.98765, 7.25),
        Segment(3725.5, 3730.0, "unknown", "unknown", 0.2, 0.5, "score 0.2 is below 0.5"),
    ]
}


def test_a_table() -> None:
    assert to_table(FOUND) == (
        "0:00:00.0  1:02:05.5   98.77%  en       English\n"
        "1:02:05.5  1:02:10.0   20.00%  unknown  score 0.2 is below 0.5\n"
    )
    two = to_table(FOUND | {Path("b.wav"): []})
    assert [line for line in two.splitlines() if not line.startswith(("0:", "1:"))] == ["in/my talk.wav", "b.wav"]


def test_a_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(FOUND))))
    assert list(rows[0]) == ["file", "start", "end", "label", "name", "score", "logit", "reason"]
    assert rows[0]["file"] == str(Path("in/my talk.wav"))
    assert [float(rows[0][key]) for key in ("start", "end", "score", "logit")] == [0, 3725.5, 0.98765, 7.25]
    assert (rows[1]["label"], rows[1]["reason"]) == ("unknown", "score 0.2 is below 0.5")


def test_an_rttm_has_ten_fields_a_line() -> None:
    lines = [line.split(" ") for line in to_rttm(FOUND).splitlines()]
    assert lines[0] == "SPEAKER my_talk 1 0.000 3725.500 <NA> <NA> en 0.9877 <NA>".split()
    assert all(len(fields) == 10 for fields in lines)


def test_clocks() -> None:
    assert [formats.clock(x) for x in (0, 59.96, 60, 3599.95, 36000)] == [
        "0:00:00.0", "0:01:00.0", "0:01:00.0", "1:00:00.0", "10:00:00.0",
    ]  # fmt: skip
