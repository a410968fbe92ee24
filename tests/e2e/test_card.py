"""`speech-zoo card`: the card of a conversion, and what it tells its readers to run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from card_snippets import snippets

Run = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, converted: Path, halves: dict[str, Path]) -> Path:
    """A conversion as `org/name` below the working directory, and the clips that the snippets name beside it."""
    shutil.copytree(converted, tmp_path / "org" / "name")
    for name, half in (("a.wav", "a1"), ("b.wav", "b1")):
        shutil.copy(halves[half], tmp_path / name)
    return tmp_path / "org" / "name"


def test_the_snippets_of_a_card_run_as_they_stand(cli: Run, python: Run, folder: Path) -> None:
    """The repo in them is a folder here, which is what a Hub repo is once it is fetched."""
    written = cli("card", "org/name", "--licence", "apache-2.0", "--repo", "org/name").succeeded()
    assert written.out == "org/name/README.md\n"
    shown = snippets((folder / "README.md").read_text(encoding="utf-8"))
    out = python(shown.speech_zoo).succeeded().out
    assert "Verification(score=" in out
    assert [command[0] for command in shown.commands] == ["speech-zoo", "speech-zoo"]
    outputs = [cli(*command[1:]).succeeded().out for command in shown.commands]
    assert outputs[0].startswith("a.wav  16-d  [")
    assert outputs[1].startswith("score ")


def test_a_card_replaces_the_one_before(cli: Run, folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    cli("card", folder, "--licence", "mit").succeeded()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert 'speech_zoo.load("your-org/name")' in card
    assert "Not compared: no parity report is kept of it" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the catalogue does not know the source of "),
        (["--licence", "my-own"], "the licence 'my-own' is not known; known are "),
        (["--licence", "mit", "--repo", "nobody"], "'nobody' is not a valid repo name"),
    ],
)
def test_bad_input(cli: Run, folder: Path, unchanged: Callable[[], None], options: list[str], message: str) -> None:
    unchanged()
    assert cli("card", folder, *options).failed().startswith(message)
    unchanged()


def test_no_conversion(cli: Run, original: Path, tmp_path: Path) -> None:
    assert "convert it first" in cli("card", original, "--licence", "mit").failed()
    assert "convert it first" in cli("card", tmp_path / "missing", "--licence", "mit").failed()


def test_info_shows_what_the_catalogue_knows(cli: Run) -> None:
    lines = cli("info", "wespeaker-resnet34-lm").succeeded().out.splitlines()
    facts = cli("info", "wespeaker-resnet34-lm", "--json").succeeded().json
    assert lines[0] == "wespeaker-resnet34-lm: WeSpeaker ResNet34, large-margin fine-tuned, 256-d"
    assert any(line.split(maxsplit=1)[0] == "published" and "0.797 EER (%)" in line for line in lines[1:])
    assert facts["targets"]["8-bit"] == "wespeaker-resnet34-lm-mlx-8bit"
    assert facts["files"] == {"avg_model.pt": None, "config.yaml": None}
    assert len(facts["metrics"]) == 3
    assert facts["languages"] == ["en"]
    listed = cli("list", "--json").succeeded().json["wespeaker-resnet34-lm"]
    assert listed == {k: v for k, v in facts.items() if k != "name"} | {"bundled": False}
