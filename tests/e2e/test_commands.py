"""Every command as people type it: what it prints, what it writes, and its exit status."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from speech_zoo_core import registry
from speech_zoo_core.tasks.methods import TASKS

Run = Callable[..., Any]

COMMAND = Path(sys.executable).with_name("speech-zoo")
COMMANDS = ("list", "info", "embed", "verify", "lid", "convert", "check", "card", "upload", "demo")


# Help and wrong usage


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(cli: Run, option: str) -> None:
    out = cli(option).succeeded().out
    assert "Usage: speech-zoo " in out
    assert all(re.search(rf"│ {name} ", out) for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(cli: Run, command: str) -> None:
    assert f"Usage: speech-zoo {command} " in cli(command, "--help").succeeded().out


def test_no_command_prints_the_help(cli: Run) -> None:
    result = cli()
    assert (result.status, result.err) == (2, "")
    assert "Usage: speech-zoo" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sing", "No such command 'sing'"),
        ("--loud", "No such option: --loud"),
        ("info", "Missing argument 'MODEL'"),
        ("info a b", "unexpected extra argument"),
        ("embed", "Missing argument 'FILE…'"),
        ("embed a.wav --loud", "No such option: --loud"),
        ("embed a.wav --output", "'--output' requires an argument"),
        ("embed a.wav --output vectors.npz", "--output must end in .safetensors"),
        ("embed a.wav a.wav --output vectors.safetensors", "a file is named twice"),
        ("verify a.wav", "Missing argument 'B'"),
        ("verify a.wav b.wav c.wav", "unexpected extra argument"),
        ("verify a.wav b.wav --threshold high", "Invalid value for '--threshold'"),
        ("lid", "Missing argument 'FILE…'"),
        ("lid a.wav --top 0", "Invalid value for '--top'"),
        ("lid a.wav --top few", "Invalid value for '--top'"),
        ("lid a.wav --languages ,", "--languages needs at least one code"),
        ("convert source", "Missing argument 'OUT'"),
        ("check", "Missing argument 'CHECKPOINT'"),
        ("convert source out --bits eight", "Invalid value for '--bits'"),
    ],
)
def test_wrong_usage(cli: Run, tmp_path: Path, arguments: str, message: str) -> None:
    error = cli(*arguments.split()).failed(2)
    assert message.lower() in error.lower()
    command = arguments.split(maxsplit=1)[0]
    everywhere = command in ("sing", "--loud")
    known = "speech-zoo" if everywhere else f"speech-zoo {command}"
    assert error.endswith(f"; see {known} --help")
    assert not list(tmp_path.iterdir())


# list, info


def test_list(cli: Run) -> None:
    title, *lines = cli("list").succeeded().out.splitlines()
    assert title.split() == ["NAME", "WHERE", "PARAMETERS", "LICENCE", "WHAT"]
    languages = cli("list", "--task", "language-identification").succeeded().out.splitlines()[1:]
    assert set() < set(languages) < set(lines)
    assert "--task is audio-classification, " in cli("list", "--task", "singing").failed(2)
    entries = cli("list", "--json").succeeded().json
    assert [line.split()[:2] for line in lines] == [
        [name, "bundled" if entry["bundled"] else "Hub" if entry["repo"] else "file"] for name, entry in entries.items()
    ]
    assert {name for name, entry in entries.items() if entry["bundled"]} == registry.bundled().keys()
    assert {line.split()[0] for line in languages} == {
        name for name, entry in entries.items() if entry["task"] == "language-identification"
    }
    assert entries["wespeaker-resnet34-lm"]["repo"] == "Wespeaker/wespeaker-voxceleb-resnet34-LM"
    for entry in entries.values():
        assert {"model_type", "task", "summary", "licence", "origin", "threshold_from"} <= entry.keys()
        assert entry["task"] in TASKS
        has_threshold = entry["threshold_from"] is not None
        if entry["task"] != "speaker-embedding" or entry["bundled"] or entry["repo"]:  # a file brings its own, perhaps
            assert has_threshold == (entry["task"] == "speaker-embedding")


def test_info_of_a_bundled_name(cli: Run) -> None:
    facts = cli("info", "campplus-zh-en", "--json").succeeded().json
    assert facts["licence"] == "apache-2.0"
    assert facts["embed_dim"] == 192
    assert facts["front_end"]["window"] == "povey"
    assert 0 < facts["threshold"] < 1
    assert 6e6 < facts["parameters"] < 8e6
    assert facts["shortest_clip_seconds"] < 0.1
    first, *rows, usage, more = cli("info", "campplus-zh-en").out.splitlines()
    lines = dict(re.split(r"\s{2,}", row.strip(), maxsplit=1) for row in rows)
    assert first == "campplus-zh-en: CAM++, 192-d, Mandarin and English"
    assert lines["licence"] == "apache-2.0"
    assert lines["size"] == "6.8 million parameters"
    assert lines["threshold"].startswith(f"{facts['threshold']} (")
    assert usage == "Try: speech-zoo verify A.wav B.wav --model campplus-zh-en"
    assert more == "All of it: --json"


def test_info_of_a_name_on_the_hub_fetches_nothing(cli: Run) -> None:
    facts = cli("info", "wespeaker-resnet34-lm", "--json").succeeded().json
    assert facts["repo"] == "Wespeaker/wespeaker-voxceleb-resnet34-LM"
    assert "embed_dim" not in facts


def test_info_of_a_folder_and_a_file(cli: Run, original: Path, converted: Path) -> None:
    infos = [
        cli("info", ref, "--json").succeeded().json
        for ref in (converted, converted / "model.safetensors", original, original / "avg_model.safetensors")
    ]
    for facts in infos:
        assert facts["model_type"] == "resnet34"
        assert (facts["num_blocks"], facts["m_channels"], facts["embed_dim"]) == ([1, 1, 1, 1], 4, 16)
        assert facts["shortest_clip_seconds"] == pytest.approx(0.105)
        assert facts["parameters"] == infos[0]["parameters"]
    assert infos[0]["source"]["form"] == "WeSpeaker ResNet34"


# embed


def test_embed_gives_the_vectors_of_the_python_api(
    cli: Run, python: Run, halves: dict[str, Path], tmp_path: Path
) -> None:
    files = [halves["a1"], halves["b1"]]
    rows = cli("embed", *files, "--json", "--output", "vectors.safetensors").succeeded().json
    assert [(row["file"], row["model"]) for row in rows] == [(str(file), "campplus-zh-en") for file in files]
    vectors = np.array([row["embedding"] for row in rows], np.float32)
    assert vectors.shape == (2, 192)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)

    saved = load_file(tmp_path / "vectors.safetensors")
    assert saved.keys() == {str(file) for file in files}
    for file, vector in zip(files, vectors, strict=True):
        assert saved[str(file)].dtype == np.float32
        assert np.array_equal(saved[str(file)], vector)
    with safe_open(tmp_path / "vectors.safetensors", "np") as file:
        assert file.metadata() == {"model": "campplus-zh-en"}
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.safetensors"]

    code = """
import json, sys, speech_zoo
model = speech_zoo.load("campplus-zh-en")
print(json.dumps([model.embed(file).tolist() for file in sys.argv[1:]]))
"""
    assert np.allclose(python(code, *files).succeeded().json, vectors, atol=1e-6)


def test_embed_prints_a_line_for_each_file(cli: Run, halves: dict[str, Path], clip: Path, converted: Path) -> None:
    files = [halves["a1"], clip, halves["b2"]]  # of unequal length
    arguments = ["embed", *files, "--model", converted]
    lines = cli(*arguments).succeeded().out.splitlines()
    rows = cli(*arguments, "--json").succeeded().json
    assert len(lines) == 3
    for file, line, row in zip(files, lines, rows, strict=True):
        numbers = ", ".join(f"{x:.4f}" for x in row["embedding"][:6])
        assert line == f"{file}  16-d  [{numbers}, …]"


def test_embed_replaces_the_output_of_an_earlier_run(cli: Run, clip: Path, converted: Path, tmp_path: Path) -> None:
    (tmp_path / "vectors.safetensors").write_text("Something else.")
    out = cli("embed", clip, "--model", converted, "--output", "vectors.safetensors").succeeded().out
    assert out == "vectors.safetensors: 1 vectors of 16 values\n"
    assert load_file(tmp_path / "vectors.safetensors")[str(clip)].shape == (16,)
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.safetensors"]


# verify


def test_verify_knows_one_speaker(cli: Run, halves: dict[str, Path]) -> None:
    out = cli("verify", halves["a1"], halves["a2"]).succeeded().out
    match = re.fullmatch(r"score (0\.\d{4}) >= threshold 0\.4700: the same speaker\n", out)
    assert match is not None, out
    assert 0.47 <= float(match[1]) < 0.99


def test_verify_knows_two_speakers(cli: Run, halves: dict[str, Path]) -> None:
    files = [halves["a1"], halves["b1"]]
    result = cli("verify", *files, "--json").succeeded().json
    assert -1 <= result.pop("score") < 0.47
    assert result == {
        "same_speaker": False,
        "threshold": 0.47,
        "seconds": pytest.approx(2.3, abs=0.1),
        "threshold_seconds": 2.1,
        "threshold_source": "checkpoint",
        "model": "campplus-zh-en",
        "files": [str(file) for file in files],
    }


def test_the_threshold_decides(cli: Run, halves: dict[str, Path], converted: Path) -> None:
    arguments = ["verify", halves["a1"], halves["b1"], "--model", converted, "--json"]
    own = cli(*arguments).succeeded().json
    low = cli(*arguments, "--threshold", "-1").succeeded().json
    high = cli(*arguments, "--threshold", "1").succeeded().json
    assert own["threshold"] == json.loads((converted / "config.json").read_text())["threshold"]
    assert (low["threshold"], low["same_speaker"]) == (-1, True)
    assert (high["threshold"], high["same_speaker"]) == (1, False)
    assert own["score"] == low["score"] == high["score"]


# convert


def stored(folder: Path) -> dict[str, str]:
    """The type of each tensor, by name."""
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118


def test_convert_leaves_plain_inference_weights(converted: Path) -> None:
    assert {path.name for path in converted.iterdir()} == {"config.json", "model.safetensors"}
    assert [path.name for path in converted.parent.iterdir()] == [converted.name]
    types = stored(converted)
    assert set(types.values()) == {"F32"}
    assert {"conv1.weight", "conv1.bias", "layer2.0.shortcut.0.weight", "seg_1.weight"} <= types.keys()
    assert not [name for name in types if "bn" in name or "running" in name or "projection" in name]
    config = json.loads((converted / "config.json").read_text())
    assert config["model_type"] == "resnet34"
    assert config["source"]["sha256"].keys() == {"avg_model.safetensors", "config.yaml"}


PRECISIONS = {
    "float32": ([], 0.999999),
    "float16": (["--dtype", "float16"], 0.9999),
    "bfloat16": (["--dtype", "bfloat16"], 0.999),
    "8-bit": (["--bits", "8"], 0.999),
    "float16 8-bit": (["--dtype", "float16", "--bits", "8"], 0.999),
}


def test_convert_to_every_precision_gives_the_same_embedding(
    cli: Run, python: Run, original: Path, clip: Path, tmp_path: Path
) -> None:
    for name, (options, _) in PRECISIONS.items():
        out = cli("convert", original, f"out/{name}", *options).succeeded().out
        size = (tmp_path / "out" / name / "model.safetensors").stat().st_size / 1e6
        assert out == f"out/{name}: resnet34 from WeSpeaker ResNet34, {size:.1f} MB\n"
    code = """
import json, sys, speech_zoo
clip, *folders = sys.argv[1:]
print(json.dumps([speech_zoo.load(folder).embed(clip).tolist() for folder in folders]))
"""
    source, *vectors = python(code, clip, original, *(tmp_path / "out" / name for name in PRECISIONS)).json
    for (name, (_, least)), vector in zip(PRECISIONS.items(), vectors, strict=True):
        assert np.dot(source, vector) >= least, name
    assert set(stored(tmp_path / "out" / "float16").values()) == {"F16"}
    assert set(stored(tmp_path / "out" / "bfloat16").values()) == {"BF16"}
    assert stored(tmp_path / "out" / "8-bit")["seg_1.weight"] == "U32"
    assert stored(tmp_path / "out" / "8-bit")["conv1.weight"] == "F32"
    config = json.loads((tmp_path / "out" / "8-bit" / "config.json").read_text())
    assert config["quantization"]["bits"] == 8


def test_convert_is_a_fixed_point(cli: Run, converted: Path, tmp_path: Path) -> None:
    """Into an empty folder that exists, from a converted folder."""
    (tmp_path / "again").mkdir()
    cli("convert", converted, "again").succeeded()
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (converted / name).read_bytes()


def test_convert_a_single_file(cli: Run, original: Path, converted: Path, tmp_path: Path) -> None:
    cli("convert", original / "avg_model.safetensors", "deep/down/out").succeeded()
    out = tmp_path / "deep" / "down" / "out"
    assert (out / "model.safetensors").read_bytes() == (converted / "model.safetensors").read_bytes()


# The progress bar

# Put on PYTHONPATH, it makes the clock run so fast that two clips take more than a second.
FAST_CLOCK = """
import time
start, real = time.time(), time.time
time.time = lambda: start + 10_000 * (real() - start)
"""


@pytest.fixture
def fast_clock(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(FAST_CLOCK)
    return {"PYTHONPATH": str(tmp_path / "clock")}


def on_a_terminal(arguments: list[Any], environment: dict[str, str]) -> tuple[int, str]:
    """Run a program whose stdout and stderr are a terminal; returns its status and what the terminal got."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))  # rows, columns
    process = subprocess.Popen(
        [str(argument) for argument in arguments], stdin=slave, stdout=slave, stderr=slave, env=environment
    )
    os.close(slave)
    parts = []
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not part:  # macOS
            break
        parts.append(part)
    os.close(master)
    return process.wait(), b"".join(parts).decode()


def test_a_progress_bar_shows_on_a_terminal_only(
    cli: Run, environment: dict[str, str], fast_clock: dict[str, str], halves: dict[str, Path], converted: Path
) -> None:
    arguments = ["embed", *halves.values(), "--model", converted]
    status, text = on_a_terminal([COMMAND, *arguments], environment | fast_clock)
    assert status == 0
    assert re.search(r"embedding: +\d+%\|.*\| \d/4 ", text)
    assert text.count("16-d  [") == 4
    piped = cli(*arguments, env=fast_clock).succeeded()
    assert len(piped.out.splitlines()) == 4
