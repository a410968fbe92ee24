"""`speech-zoo voices` in fresh processes: what it prints and what it keeps."""

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from speech_zoo.voices.database import Checkpoint, StoreFile
from speech_zoo.voices.rows import Clip, Recording, add_clip, put_recording, times
from wavs import read_wav, write_wav

Run = Callable[..., Any]


@pytest.fixture
def recordings(tmp_path: Path, voices: list[Path]) -> Path:
    """A folder with one voice followed by another, and with the other alone in a folder below."""
    folder = tmp_path / "my recordings"
    (folder / "more 🎙").mkdir(parents=True)
    other, voice = read_wav(voices[1]), read_wav(voices[0])
    write_wav(folder / "talk.wav", np.concatenate([other, voice]))
    write_wav(folder / "more 🎙" / "other.wav", other)
    return folder


# Usage


def test_help_needs_no_mlx(python: Run) -> None:
    code = """
import sys
from typer.testing import CliRunner
from speech_zoo.cli.main import app
for arguments in (["--help"], ["voices", "--help"], ["voices", "search", "--help"]):
    print(CliRunner().invoke(app, arguments).output)
assert not {"mlx.core", "numpy", "matplotlib"} & sys.modules.keys()
"""
    out = python(code).succeeded().out
    for command in ("enroll", "list", "remove", "identify", "search", "index", "export", "import", "map"):
        assert f"│ {command} " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("enroll Ann", "give FILE…, or --from FILE --speaker N"),
        ("identify a.wav --top 0", "Invalid value for '--top'"),
        ("search a.wav", "Missing option '--in'"),
        ("index . --jobs 0", "Invalid value for '--jobs'"),
        ("map picture.pdf", "OUT must end in .png"),
        ("export out.csv", "out.csv must end in .parquet or .safetensors"),
        ("import in.csv", "in.csv must end in .parquet or .safetensors"),
    ],
)
def test_wrong_usage(voices_cli: Run, tmp_path: Path, arguments: str, message: str) -> None:
    assert message in voices_cli(*arguments.split()).failed(2)
    assert not list(tmp_path.iterdir())


def test_without_a_store(voices_cli: Run, clip: Path, tmp_path: Path) -> None:
    for arguments in (["list"], ["identify", clip], ["export", "a.safetensors"]):
        message = voices_cli(*arguments).failed()
        assert re.match(r"there is no store of voices at .*home/voices.sqlite: speech-zoo voices enroll", message)
    assert "at nowhere: " in voices_cli("search", clip, "--in", "nowhere").failed()
    assert not list(tmp_path.iterdir())


# Known voices


def test_enroll_list_identify_remove(voices_cli: Run, halves: dict[str, Path], voices: list[Path], home: Path) -> None:
    name = "Ann / 🎤 ../O'Hara"
    out = voices_cli("enroll", name, halves["a1"], halves["a1"]).succeeded().out
    assert out == f"{name}: {halves['a1']} enrolled\n{name}: {halves['a1']} was enrolled already\n"
    rows = voices_cli("enroll", "Bob", halves["b1"], "--json").succeeded().json
    assert rows == [{"name": "Bob", "file": str(halves["b1"]), "new": True}]
    assert voices_cli("list").succeeded().out == f"    1  {name}\n    1  Bob\n"
    assert [path.name for path in home.iterdir()] == ["voices.sqlite"]

    first, stranger = voices_cli("identify", halves["a2"], voices[6], "--json").succeeded().json
    assert (first["file"], first["model"], first["name"]) == (str(halves["a2"]), "campplus-zh-en", name)
    assert first["threshold"] == 0.47 <= first["matches"][0]["score"]
    assert [match["name"] for match in first["matches"]] == [name, "Bob"]
    assert stranger["name"] is None and stranger["matches"][0]["score"] < 0.47
    lines = voices_cli("identify", halves["a2"], voices[6], "--top", "1").succeeded().out.splitlines()
    assert lines[0::2] == [f"{halves['a2']}: {name}", f"{voices[6]}: unknown"]
    assert re.fullmatch(rf"   0\.\d{{4}} >= 0\.4700  {re.escape(name)}", lines[1])
    assert re.fullmatch(r"  .0\.\d{4} <  0\.4700  .*", lines[3])
    assert voices_cli("remove", name).succeeded().out == f"{name}: removed, with 1 clip\n"
    assert "knows no voice named " in voices_cli("remove", name).failed()
    assert voices_cli("list").succeeded().out == "    1  Bob\n"


def test_what_works_is_enrolled(voices_cli: Run, halves: dict[str, Path]) -> None:
    result = voices_cli("enroll", "Ann", halves["a1"], "nothing.wav", halves["a2"])
    assert (result.status, result.err) == (1, "error: nothing.wav does not exist\n")
    assert result.out == "".join(f"Ann: {halves[name]} enrolled\n" for name in ("a1", "a2"))
    assert voices_cli("list", "--json").json == [{"name": "Ann", "clips": 2}]


def test_another_checkpoint_is_refused(
    voices_cli: Run, halves: dict[str, Path], converted: Path, unchanged: Callable[[], None]
) -> None:
    voices_cli("enroll", "Ann", halves["a1"]).succeeded()
    unchanged()
    message = voices_cli("enroll", "Ann", halves["a2"], "--model", converted).failed()
    assert re.search(rf"holds vectors of campplus-zh-en \(\w{{12}}\), which .* of {converted} \(\w{{12}}\)", message)
    unchanged()


def test_the_python_interface(python: Run, halves: dict[str, Path]) -> None:
    code = """
import sys, speech_zoo
store = speech_zoo.VoiceStore("voices.sqlite")
print(store.enroll("Ann", sys.argv[1]), store.identify(sys.argv[2]).name)
from speech_zoo.calibration import thresholds
thresholds.threshold_in_force = lambda model: (0.99, None)
again = speech_zoo.VoiceStore("voices.sqlite", store.model)
print(again.identify(sys.argv[2]).name, again.identify(sys.argv[2], threshold=0.47).name)
"""
    assert python(code, halves["a1"], halves["a2"]).succeeded().out == "1 Ann\nNone Ann\n"
    code = """
import sys, speech_zoo
store = speech_zoo.VoiceStore("voices.sqlite")
print(store.names(), store.remove("Ann"), "mlx.core" in sys.modules)
"""
    assert python(code).succeeded().out == "{'Ann': 1} 1 False\n"


# Search


def test_search_in_a_folder_and_in_an_index(voices_cli: Run, halves: dict[str, Path], recordings: Path) -> None:
    length = len(read_wav(recordings / "talk.wav")) / 16000
    report = voices_cli("index", recordings, "--output", "own.sqlite", "--jobs", "2", "--json").succeeded().json
    assert {key: report[key] for key in ("index", "indexed", "unchanged", "removed", "skipped", "files")} == {
        "index": "own.sqlite", "indexed": 2, "unchanged": 0, "removed": 0, "skipped": [], "files": 2,
    }  # fmt: skip
    [passage] = voices_cli("search", halves["a1"], "--in", "own.sqlite", "--json").succeeded().json
    assert passage["file"] == str(recordings / "talk.wav")
    assert 3 <= passage["from"] < 8 and passage["to"] == pytest.approx(length, abs=1e-3)
    assert 0.47 <= passage["score"] <= 1
    [line] = voices_cli("search", halves["a1"], "--in", recordings).succeeded().out.splitlines()
    assert re.fullmatch(r" +\d\.\d\d s +11\.\d\d s   0\.\d{4}  my recordings/talk\.wav", line)
    both = voices_cli("search", halves["b1"], "--in", "own.sqlite", "--json").succeeded().json
    assert {Path(row["file"]).name for row in both} == {"talk.wav", "other.wav"}
    none = voices_cli("search", halves["a1"], "--in", "own.sqlite", "--threshold", "1").succeeded().out
    assert none == "not found: no passage reaches the threshold\n"


def test_windows_hold_one_person_and_find_his_turns(
    cli: Run, voices_cli: Run, voices: list[Path], tmp_path: Path
) -> None:
    """No window reaches more than 0.3 s into what two say at once; a voice is found where it speaks, nowhere else."""
    from speech_zoo.recordings.formats import read_rttm

    cli("conversation", "talk.wav", "--speakers", 3, "--seconds", 60, "--seed", 7).succeeded()
    [turns] = read_rttm(tmp_path / "talk.rttm").values()
    labels = sorted({turn.label for turn in turns})
    heard = np.zeros((len(labels), 6000), bool)
    for turn in turns:
        heard[labels.index(turn.label), round(100 * turn.start) : round(100 * turn.end)] = True
    voices_cli("index", ".", "-o", "talk.sqlite").succeeded()
    with StoreFile(tmp_path / "talk.sqlite").reading() as db:
        [(_, spans)] = times(StoreFile(tmp_path / "talk.sqlite"), db)
    covered = np.zeros(6000, bool)
    for start, end in np.round(100 * np.frombuffer(spans, "<f8").reshape(-1, 2)).astype(int):
        assert not covered[start + 1 : end].any()
        covered[start:end] = True
        assert not (heard[:, start + 30 : end - 30].sum(axis=0) > 1).any(), (start, end)
    alone = heard.sum(axis=0) == 1
    assert (covered & alone).sum() > 0.9 * alone.sum()
    taken = np.random.default_rng(7).permutation(len(voices))[:3]  # as `conversation` chooses them
    for k, number in enumerate(taken):
        rows = voices_cli("search", voices[number], "--in", "talk.sqlite", "--json").succeeded().json
        found = np.zeros(6000, bool)
        for row in rows:
            found[round(100 * row["from"]) : round(100 * row["to"])] = True
        assert (found & heard[k] & alone).sum() > 0.75 * (heard[k] & alone).sum(), labels[k]
        assert (found & ~heard[k] & heard.any(axis=0)).sum() < 0.05 * found.sum(), labels[k]


def sparse_wav(path: Path, data: int, said: int) -> None:
    """A WAV of `data` bytes of silence that take no room, whose header says that they are `said`."""
    riff = struct.pack("<4sI4s", b"RIFF", 36 + said, b"WAVE")
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    with path.open("wb") as file:
        file.write(riff + fmt + struct.pack("<4sI", b"data", said))
        file.truncate(44 + data)


def test_an_index_follows_its_folder(voices_cli: Run, recordings: Path, voices: list[Path]) -> None:
    (recordings / "empty.wav").touch()
    (recordings / "notes.mp3").write_text("Not audio.\n" * 100)
    write_wav(recordings / "silent.wav", np.zeros(80000))
    sparse_wav(recordings / "lying.wav", 5000, 4_000_000_000)
    sparse_wav(recordings / "huge.wav", 50_000_000, 50_000_000)
    (recordings / "gone.wav").symlink_to("nowhere")
    (recordings / ".hidden.wav").write_bytes(voices[0].read_bytes())
    reasons = {
        "empty.wav": "is empty",
        "gone.wav": "cannot be read: No such file or directory",
        "huge.wav": "holds no speech",
        "lying.wav": "is truncated",
        "notes.mp3": "is not audio",
        "silent.wav": "holds no speech",
    }
    *lines, summary = voices_cli("index", recordings).succeeded().out.splitlines()
    for line, (name, reason) in zip(lines, reasons.items(), strict=True):
        assert line.startswith(f"skipped my recordings/{name}: {reason}"), line
    counts, place = summary.split("; ")
    assert counts == "2 indexed, 0 unchanged, 0 removed, 6 skipped"
    assert re.fullmatch(r"2 files with \d+ windows in .*/home/indexes/\w{16}\.sqlite", place)

    for name in reasons:
        (recordings / name).unlink()
    (recordings / "more 🎙" / "other.wav").rename(recordings / "new.wav")
    assert (
        voices_cli("index", recordings).succeeded().out.startswith("1 indexed, 1 unchanged, 1 removed, 0 skipped; 2 ")
    )
    result = voices_cli("index", recordings, "--json").succeeded().json
    assert (result["indexed"], result["unchanged"], result["removed"], result["skipped"]) == (0, 2, 0, [])
    (recordings / "empty.wav").touch()
    result = voices_cli("search", voices[0], "--in", recordings)
    assert (result.status, result.err) == (0, "warning: 1 file skipped; speech-zoo voices index says why\n")


def test_a_clip_that_is_no_use_is_told_before_the_folder_is_indexed(
    voices_cli: Run, recordings: Path, home: Path
) -> None:
    assert voices_cli("search", "none.wav", "--in", recordings).failed() == "none.wav does not exist"
    assert not list(home.rglob("*.sqlite"))
    assert voices_cli("index", "nowhere").failed() == "nowhere is no folder"


# Export, import, map


@pytest.mark.parametrize("out", ["a.parquet", "a.safetensors"])
def test_export_and_import(voices_cli: Run, home: Path, out: str) -> None:
    if out == "a.parquet":
        pytest.importorskip("pyarrow")
    home.mkdir()
    with StoreFile(home / "voices.sqlite").writing(Checkpoint("a" * 64, "m", 1)) as db:
        one = np.ones(1, "<f4").tobytes()
        add_clip(db, Clip("Ann", "1", "a.wav", one))
        put_recording(db, Recording("/a.wav", 1, 1, np.array([0, 3.0]).tobytes(), one))
    assert voices_cli("export", out).succeeded().out == f"{out}: 1 clip, 1 window\n"
    result = voices_cli("import", out, "--store", "b.sqlite", "--json").succeeded().json
    assert result == {"input": out, "clips": 1, "files": 1, "windows": 1}
    assert voices_cli("import", out, "--store", "b.sqlite").succeeded().out == f"{out}: 0 new clips, 1 window\n"
    assert voices_cli("list", "--store", "b.sqlite").succeeded().out == "    1  Ann\n"


def test_map(voices_cli: Run, home: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    home.mkdir()
    with StoreFile(home / "voices.sqlite").writing(Checkpoint("a" * 64, "m", 4)) as db:
        for i, name in enumerate(["Ann $x^2$ 🎤", "Ann $x^2$ 🎤", "Bob"]):
            add_clip(db, Clip(name, str(i), "a.wav", np.eye(4, dtype="<f4")[i].tobytes()))
    assert voices_cli("map", "map.png").succeeded().out == "map.png\n"
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
