"""diarize, evaluate and conversation, with the bundled models."""

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyannote.metrics")
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conversation of three, 40 s, with its reference beside it."""
    from speech_zoo.cli.main import app
    from typer.testing import CliRunner

    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    result = CliRunner().invoke(app, ["conversation", str(path), "--seconds", "40", "--seed", "1"])
    assert result.exit_code == 0, result.output
    return path


def silence(path: Path, seconds: float) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.zeros(round(16000 * seconds), "<i2").tobytes())
    return path


def test_who_speaks_when(cli: Run, talk: Path, tmp_path: Path) -> None:
    hypothesis, picture, page = tmp_path / "talk.rttm", tmp_path / "talk.png", tmp_path / "talk.html"
    saved = ("--format", "rttm", "--output", hypothesis, "--plot", picture, "--html", page)
    said = cli("diarize", talk, *saved).succeeded().out
    assert said.startswith(f"{hypothesis}: ")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert text.count('class="lane"') == 3
    assert text.count('class="seg ') == len(hypothesis.read_text().splitlines())
    assert picture.read_bytes().startswith(b"\x89PNG")
    (row,) = cli("evaluate", talk.with_suffix(".rttm"), hypothesis, "--json").succeeded().json
    assert (row["name"], row["speakers"], row["found"]) == ("talk", 3, 3)
    assert row["der"] < 0.12
    assert row["confusion"] < 0.03
    assert row["der"] == pytest.approx(row["missed"] + row["false_alarm"] + row["confusion"])
    table = cli("evaluate", talk.with_suffix(".rttm"), hypothesis).succeeded().out
    assert table.splitlines()[-1].endswith("3 of 3")
    (row,) = cli("diarize", talk, "--json", "--speakers", "2").succeeded().json
    assert {segment["label"] for segment in row["segments"]} == {"speaker 1", "speaker 2"}
    assert {"start", "end", "label", "name", "score"} == row["segments"][0].keys()


def test_a_short_turn_of_one_who_says_no_more(cli: Run, tmp_path: Path) -> None:
    """Of the second speaker there are 3.4 seconds, in one piece."""
    cli("conversation", tmp_path / "a.wav", "--speakers", "2", "--seconds", "15", "--seed", "1").succeeded()
    cli("diarize", tmp_path / "a.wav", "--format", "rttm", "--output", tmp_path / "found.rttm").succeeded()
    (row,) = cli("evaluate", tmp_path / "a.rttm", tmp_path / "found.rttm", "--json").succeeded().json
    assert (row["speakers"], row["found"]) == (2, 2)
    assert row["confusion"] == 0


def test_subtitles(cli: Run, talk: Path) -> None:
    lines = cli("diarize", talk, "--format", "vtt").succeeded().out.splitlines()
    assert lines[0] == "WEBVTT"
    assert lines[3].startswith("<v speaker 1>")
    assert " --> " in lines[2]


def test_nobody_speaks(cli: Run, tmp_path: Path) -> None:
    path = silence(tmp_path / "nobody.wav", 3)
    result = cli("diarize", path, "--html", "r.html")
    assert (result.status, result.out, result.err) == (0, "", f"{path}: nobody speaks\n")
    assert "Nobody speaks in this recording." in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--speakers", "2", "--max-speakers", "3"], "speakers says how many there are", 1),
        (["--min-speakers", "3", "--max-speakers", "2"], "min_speakers 3 is more than max_speakers 2", 1),
        (["--speakers", "0"], "should be greater than or equal to 1", 2),
        (["--format", "xml"], "--format is table, rttm, csv, srt, vtt", 2),
        (["--format", "csv", "--json"], "does not go with --json", 2),
        (["--html", "r.htm"], "r.htm, must end in .html", 2),
        (["--html", "no/r.html"], "no/r.html cannot be written: there is no folder no", 1),
        (["--model", "pyannote-segmentation-3.0"], "is for speaker-segmentation, not for speaker-embedding", 1),
        (["--segmentation", "campplus-zh-en"], "is for speaker-embedding, not for speaker-segmentation", 1),
    ],
)
def test_wrong_usage(cli: Run, talk: Path, arguments: list[str], message: str, status: int) -> None:
    assert message in cli("diarize", talk, *arguments).failed(status)


def test_a_page_shows_one_file(cli: Run, talk: Path, tmp_path: Path) -> None:
    other = silence(tmp_path / "nobody.wav", 1)
    assert "--html shows one file" in cli("diarize", talk, other, "--html", "r.html").failed(2)
    other.write_bytes(b"RIFF nonsense")
    assert str(other) in cli("diarize", other, "--html", "r.html").failed()
    assert list(tmp_path.glob("*.html")) == []


def test_names(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECH_ZOO_HOME", str(tmp_path / "home"))
    talk, store = Path("a.wav"), tmp_path / "s.sqlite"
    cli("conversation", talk, "--speakers", "2", "--seconds", "15", "--seed", "1").succeeded()
    out = cli("voices", "enroll", "Ann Lee", "--from", talk, "--speaker", "1", "--store", store).succeeded().out
    assert out == f"Ann Lee: {talk} enrolled\n"
    (before,), (after,) = (cli("diarize", talk, "--json", *more).succeeded().json for more in ([], ["--voices", store]))
    renamed = {"speaker 1": "Ann Lee", "speaker 2": "speaker 1"}
    assert {s["label"] for s in before["segments"]} == renamed.keys()
    assert [renamed[s["label"]] for s in before["segments"]] == [s["label"] for s in after["segments"]]
    assert "there is no store of voices" in cli("diarize", talk, "--voices", "mine").failed()
    enroll = ["voices", "enroll", "Bob", "--store", store]
    assert f"{talk} has no speaker 9; it has " in cli(*enroll, "--from", talk, "--speaker", "9").failed()
    for wrong in ([], [talk, "--from", talk, "--speaker", "1"], ["--from", talk], [talk, "--speaker", "1"]):
        assert "give FILE…, or --from FILE --speaker N" in cli(*enroll, *wrong).failed(2)


def test_a_damaged_file(cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF nonsense")
    assert str(path) in cli("diarize", path).failed()


def test_a_damaged_reference(cli: Run, talk: Path, tmp_path: Path) -> None:
    assert "cannot be read" in cli("evaluate", talk, talk.with_suffix(".rttm")).failed()
    other = tmp_path / "other.rttm"
    other.write_text("SPEAKER other 1 0 1 <NA> <NA> a <NA> <NA>\n")
    assert "other is in the hypothesis alone" in cli("evaluate", talk.with_suffix(".rttm"), other).failed()


def test_no_such_conversation(cli: Run, tmp_path: Path) -> None:
    assert "must end in .wav" in cli("conversation", tmp_path / "a.mp3").failed(2)
    assert "should be less than or equal to 9" in cli("conversation", tmp_path / "a.wav", "--speakers", "10").failed(2)
