"""Long recordings by command: timelines, windows, "unknown", and what is refused."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from sounds import written
from tiny_models import ECAPA, LID, RATE, speechbrain_folder, voice
from wavs import write_wav

Run = Callable[..., Any]
Unchanged = Callable[[], None]

COMMAND = Path(sys.executable).with_name("speech-zoo")


@pytest.fixture(scope="module")
def lid_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speechbrain_folder(tmp_path_factory.mktemp("timeline") / "tiny-lid", LID)


@pytest.fixture(scope="module")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speechbrain_folder(tmp_path_factory.mktemp("timeline") / "tiny-speakers", ECAPA)


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 s, of which 20 to 35 are silence; its name has blanks and an emoji."""
    samples = voice(60 * RATE)
    samples[20 * RATE : 35 * RATE] = 0
    return write_wav(tmp_path_factory.mktemp("talk") / "my talk 🎙.wav", samples)


# lid --timeline


def test_a_timeline_in_every_form(cli: Run, tmp_path: Path, talk: Path, lid_folder: Path) -> None:
    arguments = ["lid", talk, "--timeline", "--model", lid_folder]
    document = cli(*arguments, "--json").succeeded().json
    assert [{**row, "segments": None} for row in document] == [
        {"file": str(talk), "model": str(lid_folder), "window": 10.0, "hop": 5.0, "segments": None}
    ]
    segments = document[0]["segments"]
    assert [s["end"] for s in segments if s["end"] <= 35][-1] == 20
    assert next(s["start"] for s in segments if s["start"] >= 20) == 35
    assert (segments[0]["start"], segments[-1]["end"]) == (0, 60)
    assert all(s.keys() == {"start", "end", "label", "name", "score", "logit", "unknown"} for s in segments)
    assert not any(s["unknown"] for s in segments)

    rows = list(csv.DictReader(io.StringIO(cli(*arguments, "--format", "csv").succeeded().out)))
    assert [(float(r["start"]), float(r["end"]), r["label"]) for r in rows] == [
        (s["start"], s["end"], s["label"]) for s in segments
    ]
    fields = [line.split() for line in cli(*arguments, "--format", "rttm").succeeded().out.splitlines()]
    assert [(float(f[3]), float(f[3]) + float(f[4]), f[7]) for f in fields] == [
        (s["start"], s["end"], s["label"]) for s in segments
    ]
    assert {f[1] for f in fields} == {"my_talk_🎙"}
    lines = cli(*arguments).succeeded().out.splitlines()
    assert [line.split()[3] for line in lines] == [s["label"] for s in segments]
    saved = cli(*arguments, "--format", "table", "--output", "talk.txt").succeeded().out
    assert saved == f"talk.txt: {len(segments)} segments\n"
    assert (tmp_path / "talk.txt").read_text().splitlines() == lines


def test_a_picture_of_a_timeline(cli: Run, tmp_path: Path, talk: Path, lid_folder: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["lid", talk, "--timeline", "--model", lid_folder, "--min-score", "1", "--json"]
    segments = cli(*arguments, "--plot", "talk.png").succeeded().json[0]["segments"]
    assert {s["label"] for s in segments} == {"unknown"}
    assert all(s["reason"].endswith("is below 1") for s in segments)
    assert (tmp_path / "talk.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [path.name for path in tmp_path.iterdir()] == ["talk.png"]
    gone = cli(*arguments, "--plot", "no/talk.png").failed()
    assert gone == "no/talk.png cannot be written: there is no folder no"


def test_several_files(cli: Run, tmp_path: Path, talk: Path, lid_folder: Path) -> None:
    short = write_wav(tmp_path / "b.wav", voice(3 * RATE))
    rows = cli("lid", talk, short, "--timeline", "--model", lid_folder, "--json").succeeded().json
    assert [row["file"] for row in rows] == [str(talk), str(short)]
    assert [(s["start"], s["end"]) for s in rows[1]["segments"]] == [(0, 3)]


USAGE = {
    "lid a.wav --hop 5": "--hop goes with --timeline",
    "lid a.wav --output a.txt": "--output goes with --timeline",
    "lid a.wav --timeline --hop 11": "a hop is between 0.1 seconds and the window of 10",
    "lid a.wav --timeline --hop 0": "a hop is between",
    "lid a.wav --timeline --window 0": "a window is longer than 0",
    "lid a.wav --timeline --window nan": "a window is longer than 0",
    "lid a.wav --timeline --window 600": "at most 60 seconds",
    "lid a.wav --timeline --format xml": "--format is table, rttm, csv",
    "lid a.wav --timeline --format csv --json": "does not go with --json",
    "lid a.wav --timeline --plot a.jpg": "--plot must end in .png",
    "lid a.wav b.wav --timeline --plot a.png": "--plot draws the timeline of one file",
    "lid x/a.wav y/a.wav --timeline --format rttm": "two are the same",
    "lid a.wav --min-score 1.5": "--min-score",
    "lid a.wav --min-logit high": "--min-logit",
    "embed a.wav --windows 3": "--windows takes seconds of window and hop, as in 3/1.5",
    "embed a.wav --windows 3/x": "--windows takes",
    "embed a.wav --windows 3/4": "a hop is between",
    "embed a.wav --windows nan/1": "a window is",
    "embed --manifest a.jsonl --output out --no-vad": "--no-vad goes with FILE…, not with --manifest",
    "embed a.wav --windows 3/1 --trim": "--trim goes with FILE…, without --windows",
    "embed a.wav --windows 3/1 --output a.npz": "--output must end in .safetensors",
}


@pytest.mark.parametrize("arguments", USAGE)
def test_wrong_usage(cli: Run, tmp_path: Path, arguments: str) -> None:
    assert USAGE[arguments] in cli(*arguments.split()).failed(2)
    assert not list(tmp_path.iterdir())


def test_bad_files_are_told_and_leave_nothing_behind(
    cli: Run, unchanged: Unchanged, tmp_path: Path, talk: Path, lid_folder: Path, speakers: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    content = talk.read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.wav").write_text("no audio " * 100)
    write_wav(tmp_path / "silence.wav", np.zeros(20 * RATE))
    unchanged()
    said = {
        "pipe": "pipe is a pipe or device",
        "cut.wav": "cut.wav is truncated",
        "text.wav": "text.wav is not audio",
        "silence.wav": "silence.wav holds no speech",
        "none.wav": "none.wav does not exist",
    }
    for i, (name, message) in enumerate(said.items()):
        if i % 2:
            command = ["lid", talk, name, "--timeline", "--model", lid_folder, "--output", "out.csv", "--format", "csv"]
        else:
            command = ["embed", talk, name, "--windows", "3/1.5", "--model", speakers, "--output", "out.safetensors"]
        result = cli(*command)
        assert result.status == 1 and result.err.startswith(f"error: {message}") and result.err.count("\n") == 1
        Path(tmp_path, command[-1] if i % 2 == 0 else "out.csv").unlink()  # with what works
        assert cli(*[part for part in command if part != talk]).failed().startswith(message)
    assert cli("lid", talk, "--timeline", "--model", speakers).failed().startswith(f"{speakers} is for speaker-emb")
    unchanged()


def test_interrupted_it_leaves_nothing_behind(tmp_path: Path, environment: dict[str, str]) -> None:
    long = write_wav(tmp_path / "long.wav", voice(600 * RATE))
    command = [COMMAND, "embed", long, "--windows", "3/1.5", "--output", tmp_path / "out.safetensors"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        fds = Path(f"/proc/{process.pid}/fd")
        while fds.exists() and not any(fd.resolve() == long for fd in fds.iterdir()):  # until it reads; else:
            time.sleep(0.05)
        time.sleep(1 if fds.exists() else 5)  # 399 windows take longer than that
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["long.wav"]


# embed --windows


def test_embeddings_of_windows(cli: Run, tmp_path: Path, talk: Path, speakers: Path) -> None:
    arguments = ["embed", talk, "--windows", "4/2", "--model", speakers]
    row = cli(*arguments, "--json").succeeded().json[0]
    assert (row["file"], row["model"], row["window"], row["hop"]) == (str(talk), str(speakers), 4, 2)
    times = [(w["start"], w["end"]) for w in row["windows"]]
    assert times == [(t, t + 4) for t in (*range(0, 19, 2), *range(32, 57, 2))]
    saved = cli(*arguments, "--output", "v.safetensors").succeeded().out
    assert saved == f"v.safetensors: {len(times)} vectors of 8 values\n"
    tensors = load_file(tmp_path / "v.safetensors")
    assert tensors.keys() == {f"{talk}/{what}" for what in ("start", "end", "embedding")}
    assert list(zip(tensors[f"{talk}/start"], tensors[f"{talk}/end"], strict=True)) == times
    vectors = tensors[f"{talk}/embedding"]
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(np.array([w["embedding"] for w in row["windows"]]), abs=1e-5)
    lines = cli(*arguments).succeeded().out.splitlines()
    assert len(lines) == len(times)
    assert lines[0].startswith(f"{talk}       0.00      4.00 s  8-d  [")


# "unknown"


def test_lid_says_unknown(cli: Run, talk: Path, lid_folder: Path) -> None:
    arguments = ["lid", talk, "--model", lid_folder, "--top", "2"]
    plain = cli(*arguments, "--json").succeeded().json[0]
    assert not plain["unknown"]
    assert "reason" not in plain
    floor = str(plain["logit"] + 1)
    row = cli(*arguments, "--json", "--min-logit", floor).succeeded().json[0]
    assert row["unknown"]
    assert row["reason"].startswith("logit ")
    assert {**row, "unknown": False} == plain | {"reason": row["reason"]}
    lines = cli(*arguments, "--min-logit", floor).succeeded().out.splitlines()
    assert [line[len(str(talk)) :].split()[1] for line in lines] == ["unknown", *[x["label"] for x in row["languages"]]]
    assert lines[0].endswith(row["reason"])
    assert cli(*arguments, "--min-logit", str(plain["logit"] - 1), "--json").succeeded().json[0] == plain


# Speech, channels, standard input


def test_noise_has_no_windows_unless_asked_for(cli: Run, tmp_path: Path, speakers: Path) -> None:
    noise = write_wav(tmp_path / "noise.wav", np.random.default_rng(0).standard_normal(6 * RATE) * 0.1)
    arguments = ["embed", noise, "--model", speakers, "--json"]
    assert cli(*arguments).failed() == f"{noise} holds no speech; vad=False (--no-vad) takes it as it is"
    assert len(cli(*arguments, "--no-vad").succeeded().json) == 1
    windows = [*arguments, "--windows", "2/1"]
    assert cli(*windows).failed() == f"{noise} holds no speech: no window has 20% of it"
    assert len(cli(*windows, "--no-vad").succeeded().json[0]["windows"]) == 5


def test_a_channel_of_a_call(cli: Run, tmp_path: Path, speakers: Path) -> None:
    ann, bob = voice(3 * RATE), voice(3 * RATE, 1)
    for name, samples in (("ann.wav", ann), ("bob.wav", bob), ("call.wav", np.stack([ann, bob], 1))):
        (tmp_path / name).write_bytes(written(samples))
    verify = ["verify", "call.wav", "--model", speakers, "--json"]
    assert cli(*verify, "bob.wav", "--channel", "1").succeeded().json["score"] == pytest.approx(1, abs=1e-6)
    assert cli(*verify, "ann.wav", "--channel", "0").succeeded().json["score"] == pytest.approx(1, abs=1e-6)
    assert cli(*verify, "bob.wav", "--channel", "0").succeeded().json["score"] < 1 - 1e-6
    assert cli(*verify, "bob.wav", "--channel", "2").failed() == "call.wav has no channel 2: it has 2, counted from 0"
    assert "--channel is a number from 0 on, or mean" in cli(*verify, "bob.wav", "--channel", "left").failed(2)
    rows = (
        cli("embed", "call.wav", "--windows", "2/1", "--channel", "1", "--model", speakers, "--json").succeeded().json
    )
    alone = cli("embed", "bob.wav", "--windows", "2/1", "--model", speakers, "--json").succeeded().json
    assert rows[0]["windows"] == alone[0]["windows"]


def test_standard_input(tmp_path: Path, environment: dict[str, str], speakers: Path) -> None:
    content = written(voice(3 * RATE))
    (tmp_path / "a.wav").write_bytes(content)
    for pipe, status in ((content, 0), (content[: len(content) // 2], 1)):
        command = [COMMAND, "verify", "-", "a.wav", "--model", speakers, "--json"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, input=pipe, capture_output=True, check=False)
        assert done.returncode == status, done.stderr
        if status == 0:
            assert json.loads(done.stdout)["score"] == pytest.approx(1, abs=1e-6)
        else:
            assert done.stderr.startswith(b"error: standard input is truncated: its header gives 3.00 s, 1.50 s are th")


def test_a_file_below_the_models_rate_is_told_in_one_line(cli: Run, tmp_path: Path, speakers: Path) -> None:
    (tmp_path / "call.wav").write_bytes(written(voice(4 * RATE)[::2], RATE // 2))
    for more in ([], ["--windows", "2/1"]):
        done = cli("embed", "call.wav", "--model", speakers, "--json", *more)
        assert done.status == 0
        assert done.err.startswith("warning: call.wav has 8000 Hz, the model 16000: ")
        assert done.err.count("\n") == 1
