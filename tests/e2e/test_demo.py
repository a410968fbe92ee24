"""The demo in a fresh process, and the commands that it suggests."""

import importlib.util
import os
import re
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

COMMAND = Path(sys.executable).with_name("speech-zoo")

# Put on PYTHONPATH, it makes every connection fail and leaves a file that tells of it.
NO_NETWORK = """
import socket
from pathlib import Path

def refuse(*args, **kwargs):
    Path(__file__).with_name("touched").write_text(repr(args))
    raise OSError("the network was touched")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = socket.create_connection = refuse
"""


def without_network(folder: Path) -> dict[str, str]:
    """The environment that cuts a Python process off; the file `folder/touched` appears if it tries to connect."""
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    return {"PYTHONPATH": str(folder)}


def test_the_network_is_really_cut(python: Run, tmp_path: Path) -> None:
    result = python("import socket; socket.socket().connect(('127.0.0.1', 9))", env=without_network(tmp_path))
    assert "the network was touched" in result.err
    assert (tmp_path / "touched").exists()


# As in an activated virtual environment.
ON_PATH = {"PATH": f"{COMMAND.parent}{os.pathsep}{os.environ.get('PATH', '')}"}


@dataclass(frozen=True)
class Demo:
    """What one run of the demo printed, the folder that it ran in, and the files that it left there."""

    lines: list[str]
    folder: Path
    files: dict[str, bytes]
    touched_network: bool


@pytest.fixture(scope="module")
def demo(run_process: Run, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    blocker, folder = tmp_path_factory.mktemp("no-network"), tmp_path_factory.mktemp("demo")
    result = run_process([COMMAND, "demo"], folder, without_network(blocker) | ON_PATH)
    assert result.status == 0
    # matplotlib says that once on each machine
    assert [line for line in result.err.splitlines() if "building the font cache" not in line] == []
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return Demo(result.out.splitlines(), folder, files, (blocker / "touched").exists())


def test_the_demo_needs_no_network(demo: Demo) -> None:
    assert demo.lines
    assert not demo.touched_network


def test_the_demo_prints_the_matrix(demo: Demo, voices: list[Path]) -> None:
    names = [voice.stem.split("spk")[1] for voice in voices]
    header = next(i for i, line in enumerate(demo.lines) if line.split() == names)
    for i, (name, line) in enumerate(zip(names, demo.lines[header + 1 : header + 10], strict=True)):
        first, *cells = line.split()
        assert first == name
        assert len(cells) == 9
        # only the diagonal is one speaker, marked [0.73*]
        assert [bool(re.fullmatch(r"\[0\.\d\d\*\]", cell)) for cell in cells] == [i == j for j in range(9)]
        assert all(re.fullmatch(r"-?0\.\d\d", cell) for j, cell in enumerate(cells) if j != i)


def test_the_demo_says_which_pairs_pass(demo: Demo) -> None:
    text = " ".join(" ".join(demo.lines).split())
    assert "Threshold 0.47: 9 of 9 same-speaker pairs pass" in text
    assert ", 0 of 72 different-speaker pairs pass" in text


def test_the_demo_writes_a_heat_map(demo: Demo) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        assert any(line.startswith("Heat map: not written, pictures need matplotlib") for line in demo.lines)
        assert not demo.files
        return
    assert "Heat map: speech-zoo-demo.png" in demo.lines
    assert demo.files.keys() == {"speech-zoo-demo.png"}
    chunks = read_png(demo.files["speech-zoo-demo.png"])
    first, *_, last = chunks
    assert (first, last) == (b"IHDR", b"IEND")
    width, height, depth, colour = (
        int.from_bytes(chunks[b"IHDR"][i:j], "big") for i, j in ((0, 4), (4, 8), (8, 9), (9, 10))
    )
    assert (width, height, depth) == (1050, 900, 8)
    pixels = zlib.decompress(chunks[b"IDAT"])
    assert len(pixels) == height * (1 + {2: 3, 3: 1, 6: 4}[colour] * width)  # RGB, palette, RGBA
    assert len(set(pixels)) > 50


def read_png(content: bytes) -> dict[bytes, bytes]:
    """The chunks of a PNG, by type; every checksum must hold."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    position = 8
    while position < len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        kind = content[position + 4 : position + 8]
        data = content[position + 8 : position + 8 + length]
        checksum = content[position + 8 + length : position + 12 + length]
        assert zlib.crc32(kind + data).to_bytes(4, "big") == checksum
        chunks[kind] = chunks.get(kind, b"") + data
        position += 12 + length
    return chunks


def test_the_demo_tells_who_speaks_when(demo: Demo) -> None:
    rows = dict(re.findall(r"^ *(speaker \d|voice \d)  ([ █▒]+)$", "\n".join(demo.lines), re.MULTILINE))
    assert rows.keys() == {f"{who} {number}" for who in ("speaker", "voice") for number in (1, 2, 3)}
    for number in (1, 2, 3):  # found by the same number, as it happens
        found, true = (rows[f"{who} {number}"].ljust(60) for who in ("speaker", "voice"))
        assert sum((a == "█") == (b == "▒") for a, b in zip(found, true, strict=True)) >= 54
    if importlib.util.find_spec("pyannote.metrics") is not None:
        (line,) = (line for line in demo.lines if line.startswith("Diarization error rate "))
        assert line.endswith("%; 3 of 3 speakers.")


def test_the_commands_that_the_demo_suggests_work(demo: Demo, run_process: Run) -> None:
    """As they stand, where the demo ran; but the conversation is a short one."""
    assert demo.lines[-5] == "Try next:"
    lines = [line.strip() for line in demo.lines[-4:]]
    names = ("verify", "embed", "conversation", "diarize")
    assert [line.split()[:2] for line in lines] == [["speech-zoo", name] for name in names]
    shorter = [line.replace("--seconds 60", "--seconds 9") for line in lines]
    results = [run_process(["sh", "-c", line], demo.folder, ON_PATH).succeeded() for line in shorter]
    assert results[0].out.endswith("different speakers\n")
    assert results[1].out == "vectors.safetensors: 9 vectors of 192 values\n"
    assert results[2].out == "talk.wav, talk.rttm: 3 speakers, 9 s\n"
    assert " speaker 1\n" in results[3].out
    assert (demo.folder / "report.html").read_bytes().startswith(b"<!doctype html>")
