"""The series for mlx-audio from end to end: branches, proofs and what is skipped. Run by `nox -s slow`."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from upstream import __main__ as program
from upstream.git import git
from upstream.tree import Tree

PYPROJECT = '[tool.black]\nline-length = 88\ntarget-version = ["py310"]\n\n[tool.isort]\nprofile = "black"\n'
TEST = "class TestValue:\n    def test_value(self):\n        import mlx_audio\n\n        assert mlx_audio.VALUE == 2\n"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program sets these for the tests that it runs."""
    for name in ("PYTHONPATH", "SPEECH_ZOO_AUTOLOAD"):
        monkeypatch.setenv(name, "")


@pytest.fixture
def little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with one value and one test, and a series of four for it."""
    tests = tmp_path / "tree" / "mlx_audio" / "tests"
    tests.mkdir(parents=True)
    (tests.parent / "__init__.py").write_text("VALUE = 1\n")
    (tests / "__init__.py").touch()
    (tests / "test_value.py").write_text("def test_other():\n    pass\n")
    (tmp_path / "tree" / "pyproject.toml").write_text(PYPROJECT)

    def pull(name: str, anchor: str, new: str) -> program.PullRequest:
        (tmp_path / "series" / name).mkdir(parents=True)
        (tmp_path / "series" / name / "test.py").write_text(TEST)

        def change(tree: Tree) -> None:
            tree.replace("mlx_audio/__init__.py", anchor, new)

        module: Any = SimpleNamespace(__doc__=f"fix: {name}\n", change=change, TEST="mlx_audio/tests/test_value.py")
        return program.PullRequest(name, module)

    pulls = [
        pull("a_good", "VALUE = 1", "VALUE = 2"),
        pull("b_idle", "VALUE = 1", "VALUE = 3"),
        pull("c_ugly", "VALUE = 1", "VALUE=2"),
        pull("d_other", "VALUE = 7", "VALUE = 2"),
    ]
    monkeypatch.setattr(program, "SERIES", tmp_path / "series")
    monkeypatch.setattr(program, "series", lambda: {pull.name: pull for pull in pulls})
    return tmp_path / "tree"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["upstream", *map(str, arguments)])
    return program.main()


def branches(tree: Path) -> list[str]:
    return git(tree, "branch", "--format=%(refname:short)").split()


def test_good_ones_become_branches_and_the_others_are_named(
    little: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, little) == 1
    text = capsys.readouterr().out
    assert "1 tests fail before, pass after; 1 others as before (1 passed)" in text
    assert "b_idle: fix: b_idle\n  2 files changed" in text and "FAILED: its tests do not pass" in text
    assert "FAILED: black --check fails" in text
    assert "skipped, it does not fit this tree: a line of mlx_audio/__init__.py: 'VALUE = 7' stands 0 times" in text
    assert branches(little) == ["main", "speech-zoo/a_good"]
    assert git(little, "diff", "--stat", "main", "speech-zoo/a_good").endswith(
        "2 files changed, 8 insertions(+), 1 deletion(-)"
    )
    assert git(little, "status", "--porcelain") == ""
    assert run(monkeypatch, little, "--only", "a") == 1
    assert "has a branch speech-zoo/a_good already" in capsys.readouterr().err
    assert run(monkeypatch, little, "--only", "d") == 1
    assert run(monkeypatch, little, "--only", "x") == 1
    assert "no pull request is called x; there are a_good, b_idle" in capsys.readouterr().err


def test_the_whole_suite_is_compared(
    little: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = tmp_path / "before.json"
    assert run(monkeypatch, little, "--only", "a", "--suite", known) == 0
    text = capsys.readouterr().out
    assert "0 tests differ; 0 are unstable" in text and "new tests: 1 passed" in text
    git(little, "branch", "--quiet", "-D", "speech-zoo/a_good")
    known.write_text(known.read_text().replace("passed", "failed"))
    assert run(monkeypatch, little, "--only", "a", "--suite", known) == 0  # it was unsteady: alone it passes twice
    assert "test_other: failed -> passed, alone passed -> passed" in capsys.readouterr().out


def test_the_smallest_on_the_released_mlx_audio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = find_spec("mlx_audio")
    assert spec is not None and spec.origin is not None
    shutil.copytree(Path(spec.origin).parent, tmp_path / "mlx_audio", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    assert run(monkeypatch, tmp_path, "--only", "b_lid") == 0, capsys.readouterr()
    assert "1 tests fail before, pass after; 44 others as before" in capsys.readouterr().out
    assert branches(tmp_path) == ["main", "speech-zoo/b_lid_spec_embed"]
