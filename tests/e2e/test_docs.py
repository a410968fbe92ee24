"""The samples in README.md and docs/: they run, and print what the page shows.

A block of `sh` is a list of commands, one of `console` shows what they print, `python` is a program; a block with a
title is a file that they read. Blocks that begin with a comment `# Needs …` are not run, their options are checked. The
Hub is a local one, whose models are tiny.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speech_zoo
import typer
from loopback_hub import LoopbackHub
from speech_zoo.cli.main import app
from speech_zoo_core.audio import load_audio
from speechbrain_files import LANGUAGES
from tiny_models import LID, speechbrain_folder
from wav2vec2_files import hf_folder

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
# What makes or changes the reader's own environment.
SETUP = re.compile(r"(python3 -m )?(venv|pip|pipx|uvx|nox|pre-commit|uv) |mkdir |hf |speech-zoo --install-completion")
NUMBER = re.compile(r"-?\d+\.\d+")


@dataclass(frozen=True)
class Block:
    """A sample of a page, which needs more than there is in a test, or not."""

    language: str
    title: str
    text: str

    @property
    def needs(self) -> bool:
        return self.text.startswith("# Needs ")

    @property
    def steps(self) -> Iterator[tuple[str, str, str | None]]:
        """Kind of sample, its text, and what it prints; None if the page does not show that."""
        if self.language == "python":
            yield "python", self.text, None
        if self.language == "sh":
            yield from (("command", line, None) for line in self.text.splitlines() if not line.startswith("#"))
        if self.language == "console":
            for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
                command, _, printed = part.partition("\n")
                yield "command", command, printed


def blocks(page: Path) -> list[Block]:
    return [Block(*groups) for groups in FENCE.findall(page.read_text(encoding="utf-8"))]


def like(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed: "…" stands for anything, numbers may differ a little."""
    pattern = re.escape(shown).replace("…\\\n", "(?:.*\n)*").replace("…", ".*")
    pattern = re.sub(r"(?:\\-)?\d+\\\.\d+", lambda _: f"({NUMBER.pattern})", pattern)
    match = re.fullmatch(pattern, printed)
    if match is None:
        return False
    pairs = zip(NUMBER.findall(shown), match.groups(), strict=True)
    return all(float(a) == pytest.approx(float(b), abs=5e-3) for a, b in pairs)


def write(path: Path, samples: np.ndarray) -> None:
    """Write float samples at 16 kHz as WAV."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((samples * 32768).round().astype("<i2").tobytes())


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory, voices: list[Path]) -> Path:
    """The recordings that the pages name."""
    folder = tmp_path_factory.mktemp("stage")
    (folder / "recordings").mkdir()
    spoken = [np.array(load_audio(Path(shutil.copy(voice, folder)), 16000)) for voice in voices]
    for name, samples in zip(("ann", "bob", "eve"), spoken, strict=False):
        for number, half in enumerate(np.array_split(samples, 2), start=1):
            write(folder / f"{name}{number}.wav", half)
    pause = np.zeros(16000)
    write(folder / "call.wav", spoken[0][20000:70000])
    write(folder / "talk.wav", np.concatenate(spoken))
    meeting = np.concatenate([spoken[0], pause, spoken[1], pause, spoken[2]])
    write(folder / "recordings" / "meeting.wav", meeting)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """The repos behind the names in the pages, with tiny models."""
    folder = tmp_path_factory.mktemp("published")
    labels = {str(i): label for i, label in enumerate(LANGUAGES)}
    with LoopbackHub() as hub:
        for repo, source in (
            (
                "speechbrain/lang-id-voxlingua107-ecapa",
                speechbrain_folder(folder / "lid", replace(LID, id2label=labels)),
            ),
            ("facebook/mms-lid-256", hf_folder(folder / "mms")),
        ):
            hub.add(repo, {path.name: path.read_bytes() for path in source.iterdir()})
        yield hub


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_samples_run_and_print_what_the_page_shows(
    page: Path, stage: Path, hub: LoopbackHub, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "try"
    shutil.copytree(stage, folder)
    steps = []
    for block in blocks(page):
        if block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
        if not block.needs:
            steps += [step for step in block.steps if not SETUP.match(step[1]) and step[1].strip()]
    if not steps:
        return
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "SPEECH_ZOO_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "helpers" / "doc_session.py")],
        input=json.dumps([step[:2] for step in steps]),
        cwd=folder,
        env=environment | env | {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for (_, text, shown), (status, printed) in zip(steps, json.loads(done.stdout), strict=True):
        assert status == 0, f"{text}\n{printed}"
        assert shown is None or like(shown, printed), f"{text}\nshown:\n{shown}\nprinted:\n{printed}"


def commands(page: Path) -> list[list[str]]:
    """Every `speech-zoo …` and `nox …` of a page, in blocks and in `code`, split into words."""
    text = page.read_text(encoding="utf-8")
    lines = [text for block in blocks(page) for kind, text, _ in block.steps if kind == "command"]
    lines += re.findall(r"`((?:speech-zoo|nox -s) [^`\n]+)`", FENCE.sub("", text))
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_and_sessions_exist(page: Path) -> None:
    for words in commands(page):
        if words[:1] == ["speech-zoo"]:
            check_options(words[1:])
        if "nox" in words and "-s" in words:
            after = words[words.index("-s") + 1 :]
            names = after[: after.index("--")] if "--" in after else after
            sessions = re.findall(r"^@nox\.session.*\ndef (\w+)", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
            assert set(names) <= set(sessions), words


def check_options(words: list[str]) -> None:
    """The commands exist, and have the options."""
    command: Any = typer.main.get_command(app)
    known = {option for parameter in command.params for option in parameter.opts}
    while hasattr(command, "commands") and words:
        name = next((word for word in words if not word.startswith("-")), "COMMAND")
        if name in ("COMMAND", "…"):
            break
        command, words = command.commands[name], words[words.index(name) + 1 :]
        known |= {option for parameter in command.params for option in parameter.opts}
    given = {word for word in words if re.match(r"--?[a-z]", word)} - {"--help"}
    assert given <= known, words


def test_every_public_name_is_documented() -> None:
    page = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^::: speech_zoo\.(\w+)$", page, re.MULTILINE))
    assert documented == {name for name in speech_zoo.__all__ if not name.startswith("__")}


def test_the_first_page_fits_a_screen_or_three() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("page", PAGES[2:], ids=lambda page: page.name)
def test_a_page_is_not_a_book_and_stands_in_the_navigation(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 200
    assert f": {page.name}\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
