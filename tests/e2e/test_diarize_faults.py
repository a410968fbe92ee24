"""diarize on what is no conversation: no speech, music, too little, one speaker, a telephone, damaged samples."""

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speech_zoo
from speech_zoo.recordings.conversation import RATE, conversation
from speech_zoo.settings import VOICES
from speech_zoo_core.audio import load_audio
from speech_zoo_core.errors import AudioError

Run = Callable[..., Any]
RNG = np.random.default_rng(0)


def write(path: Path, samples: np.ndarray, rate: int = RATE, width: int = 2) -> Path:
    """(N,) or (N, channels) as .wav; of 4 bytes as float32."""
    if width == 4:
        import soundfile

        soundfile.write(path, samples, rate, subtype="FLOAT")
        return path
    with wave.open(str(path), "wb") as file:
        file.setparams((1 if samples.ndim == 1 else samples.shape[1], 2, rate, 0, "NONE", ""))
        file.writeframes(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def music(seconds: float) -> np.ndarray:
    """Chords that fade, a bass, a drum on each beat and a hi-hat between."""
    times = np.arange(round(seconds * RATE)) / RATE
    beat = times % 0.5
    chords = [(261.6, 329.6, 392.0), (220.0, 261.6, 329.6), (174.6, 220.0, 261.6), (196.0, 246.9, 293.7)]
    sound = np.zeros(times.size)
    for bar in range(int(seconds // 2) + 1):
        inside = (times >= 2 * bar) & (times < 2 * bar + 2)
        for note in chords[bar % 4]:
            for overtone in (1, 2, 3, 4):
                sound += (
                    inside * np.sin(2 * np.pi * note * overtone * times) / overtone * np.exp(-1.5 * (times - 2 * bar))
                )
        sound += inside * 0.8 * np.sin(np.pi * chords[bar % 4][0] * times)
    sound += 2 * np.sin(2 * np.pi * 60 * beat) * np.exp(-20 * beat)
    sound += 0.3 * RNG.standard_normal(times.size) * np.exp(-60 * (times % 0.25))
    return 0.3 * sound / np.abs(sound).max()


NOBODY = {
    "music": music(14),
    "noise": 0.1 * RNG.standard_normal(12 * RATE),
    "silence": np.zeros(11 * RATE),
    "a moment": np.zeros(1),
    "20 ms": 0.01 * RNG.standard_normal(320),
}


@pytest.mark.parametrize("name", NOBODY)
def test_nobody_speaks(tmp_path: Path, name: str) -> None:
    assert speech_zoo.diarize(write(tmp_path / "a.wav", NOBODY[name])) == []


def test_an_empty_file(cli: Run, tmp_path: Path) -> None:
    said = cli("diarize", write(tmp_path / "a.wav", np.zeros(0))).failed()
    assert "a.wav" in said and "empty" in said
    (tmp_path / "b.wav").touch()
    assert "b.wav" in cli("diarize", tmp_path / "b.wav").failed()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, bad: float) -> None:
    pytest.importorskip("soundfile")
    samples = conversation(2, 12, seed=0)[0]
    samples[5 * RATE] = bad
    with pytest.raises(AudioError, match=r"a\.wav"):
        speech_zoo.diarize(write(tmp_path / "a.wav", samples, width=4))


@pytest.mark.parametrize("seconds", [1.0, 4.0, 12.0])
def test_one_speaker(tmp_path: Path, seconds: float) -> None:
    """In less than a window, too."""
    voice = np.array(load_audio(min(VOICES.glob("*.wav")), RATE))
    segments = speech_zoo.diarize(write(tmp_path / "a.wav", np.resize(voice, round(seconds * RATE))))
    assert {segment.label for segment in segments} == {"speaker 1"}
    assert segments[0].start >= 0 and segments[-1].end <= seconds


def test_more_speakers_than_there_is_speech_for(cli: Run, tmp_path: Path) -> None:
    voice = np.array(load_audio(min(VOICES.glob("*.wav")), RATE))[:RATE]
    result = cli("diarize", write(tmp_path / "a.wav", voice), "--speakers", "4")
    assert result.status == 0
    assert result.err.endswith("a.wav: of 4 speakers no more than 1 can be told apart\n")
    assert result.out.count("speaker") == 1


def test_a_telephone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At 8 kHz: a warning once, and the same speakers."""
    samples, _ = conversation(2, 24, seed=0)
    import soxr

    path = write(tmp_path / "a.wav", soxr.resample(samples, RATE, 8000), 8000)
    assert {segment.label for segment in speech_zoo.diarize(path)} == {"speaker 1", "speaker 2"}
    assert sum("has 8000 Hz" in record.message for record in caplog.records) == 1


def test_a_speaker_on_each_channel(tmp_path: Path) -> None:
    voices = [np.array(load_audio(clip, RATE))[: 4 * RATE] for clip in sorted(VOICES.glob("*.wav"))[:2]]
    both = np.zeros((9 * RATE, 2), np.float32)
    both[: voices[0].size, 0] = voices[0]
    both[5 * RATE : 5 * RATE + voices[1].size, 1] = voices[1]
    segments = speech_zoo.diarize(write(tmp_path / "a.wav", both), channel="each")
    assert {segment.label for segment in segments if segment.end < 5} == {"speaker 1"}
    assert {segment.label for segment in segments if segment.start > 4.9} == {"speaker 2"}
