"""Whether several people speak in a clip that is to have one name."""

import speech_zoo  # isort: skip  # before MLX, whose TF32 it turns off
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from signals import voices
from speech_zoo.recordings.conversation import conversation
from speech_zoo.recordings.several import several_speak

RATE = 16000


@pytest.fixture(scope="module")
def model() -> Any:
    return speech_zoo.load("campplus-zh-en")


@pytest.mark.parametrize("name", voices())
def test_one_reader_is_one(model: Any, name: str, caplog: pytest.LogCaptureFixture) -> None:
    clip = voices()[name]
    assert not any(several_speak("a.wav", samples, model, 0.47) for samples in (clip, np.tile(clip, 2)))
    assert caplog.messages == []


def test_a_reader_who_plays_a_part_is_one(model: Any) -> None:
    samples = np.tile(voices()["voice 01"], 2)
    muffled = soxr.resample(samples.repeat(2), 2 * RATE, RATE)  # two speakers to the segmentation
    assert not several_speak("a.wav", muffled, model, 0.47)
    assert several_speak("a.wav", muffled, model, 0.99)  # where nothing is one voice


@pytest.mark.parametrize(("speakers", "seconds", "seed"), [(2, 12, 0), (2, 30, 1), (3, 20, 2), (4, 60, 3), (6, 20, 0)])
def test_a_conversation_is_told(
    model: Any, speakers: int, seconds: float, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    samples, _ = conversation(speakers, seconds, seed)
    assert several_speak("a.wav", samples, model, 0.47)
    assert caplog.messages == [
        "warning: several people speak in a.wav: speech-zoo diarize tells who speaks when, speech-zoo voices search "
        "where one of them does"
    ]


def test_one_after_the_other_is_told_and_a_short_clip_is_not_looked_at(model: Any) -> None:
    first, second = voices()["voice 04"], voices()["voice 05"]
    assert several_speak("a.wav", np.concatenate([*[first] * 4, *[second] * 4]), model, 0.47)
    assert not several_speak("a.wav", np.concatenate([first[: 2 * RATE], second[: 2 * RATE]]), model, 0.47)


def test_the_store_says_so(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECH_ZOO_HOME", str(tmp_path / "home"))
    store = speech_zoo.VoiceStore(tmp_path / "voices.sqlite", model)
    store.enroll("Ann", (voices()["voice 01"], RATE))
    assert not store.identify((voices()["voice 01"], RATE)).several
    assert store.identify((np.concatenate([voices()["voice 01"], voices()["voice 05"]]), RATE)).several
