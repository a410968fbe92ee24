"""The page of who speaks when: what it holds, and that what it quotes is harmless. tests/browser looks at it."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from speech_zoo.recordings import listening
from speech_zoo.recordings.report import report, talk_time
from speech_zoo.recordings.segment import Segment
from speech_zoo_core.audio import load_audio
from speech_zoo_core.errors import InputError, SpeechZooError
from wavs import write_wav

SEGMENTS = [Segment(0.5, 1.5, "Ann Lee", score=0.91234), Segment(1.2, 2.0, "speaker 1"), Segment(3, 4, "Ann Lee")]


class Elements(HTMLParser):
    """The start tags of a page, and the text of each script by its id."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.scripts: dict[str, str] = {}
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            name = self.tags[-1][1].get("id") or "code"
            self.scripts[name] = self.scripts.get(name, "") + data

    def of_class(self, name: str) -> list[dict[str, Any]]:
        return [facts for _, facts in self.tags if name in (facts.get("class") or "").split()]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tone of 440 Hz from the second second of five on."""
    path = tmp_path_factory.mktemp("sound") / "our talk.wav"
    times = np.arange(5 * 16000) / 16000
    write_wav(path, (0.5 * np.sin(2 * np.pi * 440 * times) * (times >= 1)))
    return path


def test_the_page_holds_lanes_data_and_sound(sound: Path, tmp_path: Path) -> None:
    page = Elements(report(sound, SEGMENTS[::-1], tmp_path / "r.html"))
    assert len(page.of_class("lane")) == 2
    assert [facts["data-i"] for facts in page.of_class("seg")] == ["0", "2", "1"]  # lane by lane
    data = json.loads(page.scripts["data"])
    assert data["stem"] == "our_talk"
    assert data["seconds"] == 5
    assert data["segments"] == [
        {"speaker": 0, "start": 0.5, "length": 1.0, "score": 0.9123},
        {"speaker": 1, "start": 1.2, "length": 0.8, "score": None},
        {"speaker": 0, "start": 3, "length": 1, "score": None},
    ]
    peaks = np.frombuffer(base64.b64decode(data["peaks"]), np.int8).reshape(-1, 2)
    assert len(peaks) == 500
    assert np.abs(peaks[:95]).max() <= 1
    assert peaks[105:-5].min(axis=0).tolist() == pytest.approx([-64, 63], abs=2)
    opus = b"".join(base64.b64decode(line) for line in page.scripts["opus"].split())
    heard = np.array(load_audio(io.BytesIO(opus), 16000))
    assert heard.size == pytest.approx(5 * 16000, abs=320)
    assert np.abs(heard[:15000]).max() < 0.02
    assert 0.3 < heard[20000:].std() < 0.4
    assert np.abs(np.fft.rfft(heard[20000:36000])).argmax() == 440


def test_it_asks_for_nothing_from_elsewhere(sound: Path, tmp_path: Path) -> None:
    page = Elements(report(sound, SEGMENTS, tmp_path / "r.html"))
    assert not {"link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert not [facts for _, facts in page.tags if {"src", "href"} & facts.keys()]
    (policy,) = (facts["content"] for _, facts in page.tags if facts.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_names_of_files_and_speakers_are_text(sound: Path, tmp_path: Path) -> None:
    hostile = '</script><script>alert(1)</script><img src=x onerror="alert(1)">'
    path = tmp_path / "<b>'\"&amp; ]]> <!--.wav"
    path.write_bytes(sound.read_bytes())
    page = Elements(report(path, [Segment(0, 1, hostile), Segment(1, 2, "b")], tmp_path / "r.html"))
    plain = Elements(report(sound, [Segment(0, 1, "a"), Segment(1, 2, "b")], tmp_path / "p.html"))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert json.loads(page.scripts["data"])["speakers"][0]["label"] == hostile
    assert next(facts["value"] for tag, facts in page.tags if tag == "input") == hostile


def test_nobody_speaks(sound: Path, tmp_path: Path) -> None:
    text = report(sound, [], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Nobody speaks in this recording." in text
    assert 'id="save"' not in text


def test_more_speakers_than_colours_have_stripes(sound: Path, tmp_path: Path) -> None:
    many = [Segment(i / 3, (i + 1) / 3, f"speaker {i + 1}") for i in range(9)]
    looks = [facts["class"] for facts in Elements(report(sound, many, tmp_path / "r.html")).of_class("seg")]
    assert ["striped" in look.split() for look in looks] == [False] * 7 + [True] * 2


def test_talk_time() -> None:
    talk, speech, overlap = talk_time([*SEGMENTS, Segment(3.5, 4.5, "Ann Lee")])  # who overlaps with herself
    assert talk == pytest.approx({"Ann Lee": 2.5, "speaker 1": 0.8})
    assert (speech, overlap) == (pytest.approx(3.0), pytest.approx(0.3))
    assert talk_time([]) == ({}, 0, 0)


def test_long_files_have_fewer_peaks(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_of_them, _ = listening.encode(sound, io.BytesIO())
    monkeypatch.setattr(listening, "MOST", 7)
    few, seconds = listening.encode(sound, io.BytesIO())
    assert (few.shape, seconds) == ((7, 2), 5)
    assert (few.min(), few.max()) == (all_of_them.min(), all_of_them.max())
    assert np.abs(few[0]).max() <= 1


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [("r.txt", InputError, "must end in .html"), ("no/r.html", SpeechZooError, "there is no folder")],
)
def test_a_page_that_cannot_be_written(
    sound: Path, tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        report(sound, SEGMENTS, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_no_encoder(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    monkeypatch.setattr(av, "codecs_available", {"aac"})
    with pytest.raises(SpeechZooError, match="no encoder for Opus"):
        report(sound, SEGMENTS, tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []
