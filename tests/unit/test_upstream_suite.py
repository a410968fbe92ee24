"""How the export runs tests of mlx-audio, compares outcomes and proves its fixes."""

from pathlib import Path

import pytest

from upstream import __main__ as program
from upstream import git, suite
from upstream.tree import Tree, UpstreamError

OUTCOMES = """
import os, unittest
import pytest

def test_passes(): pass
def test_fails(): assert False
def test_crashes(): os._exit(139)
def test_after_the_crash(): pass
@pytest.mark.skip(reason="")
def test_skipped(): pass
@pytest.fixture
def broken(): raise ValueError
def test_without_set_up(broken): pass
class TestParts(unittest.TestCase):
    def test_parts(self):
        for i in range(3):
            with self.subTest(i=i):
                self.assertNotEqual(i, 1)
"""


@pytest.fixture
def little(tmp_path: Path) -> Path:
    """A tree whose mlx_audio is empty, with tests of every outcome."""
    tests = tmp_path / "tree" / "mlx_audio" / "tests"
    tests.mkdir(parents=True)
    (tests.parent / "__init__.py").touch()
    (tests / "test_outcomes.py").write_text(OUTCOMES)
    (tests / "test_broken.py").write_text("import nobody_has_this\n")
    return tmp_path / "tree"


def test_outcomes_of_a_suite(little: Path) -> None:
    found = {name.split("::")[-1].split("/")[-1]: outcome for name, outcome in suite.run(little).items()}
    assert found == {
        "test_broken.py": "not collected",
        "test_passes": "passed",
        "test_fails": "failed",
        "test_crashes": "crashed",
        "test_after_the_crash": "passed",
        "test_skipped": "skipped",
        "test_without_set_up": "error",
        "test_parts": "failed",
    }
    assert suite.summary(found).startswith("2 ")


def test_the_tests_see_the_tree(little: Path) -> None:
    (little / "mlx_audio" / "__init__.py").rename(little / "aside.py")
    with pytest.raises(UpstreamError, match="mlx_audio comes from"):
        suite.run(little)


def test_outcomes_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def verdict(*outcomes: dict[str, str]) -> tuple[bool, str]:
        runs = iter(outcomes)
        monkeypatch.setattr(suite, "run", lambda _copy, *_tests: next(runs))
        monkeypatch.setattr(git, "git", lambda *_: "")
        return program.compare(tmp_path, "base", "tip"), capsys.readouterr().out

    assert verdict({"a": "failed"}, {"a": "failed", "b": "passed"})[0]
    worse = ({"a": "passed"}, {"a": "crashed", "b": "passed"})
    good, text = verdict(*worse, {"a": "passed"}, {"a": "failed"})
    assert not good and "a: passed, then crashed" in text
    good, text = verdict(*worse, {"a": "passed"}, {"a": "passed"})
    assert good and "unsteady: a: passed, then crashed; run again, passed both times" in text
    assert not verdict({"a": "passed"}, {"b": "passed"})[0]
    assert not verdict({"a": "passed"}, {"a": "passed", "b": "failed"})[0]
    assert not verdict({"a": "passed"}, {"a": "passed"})[0]


def test_a_fix_is_proved(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    (folder / "mlx_audio").mkdir(parents=True)
    (folder / "mlx_audio" / "__init__.py").write_text("VALUE = 1\n")
    (folder / "pyproject.toml").touch()
    git.work_copy(folder, tmp_path / "copy")
    tree = Tree(folder, tidy=False)
    test = "mlx_audio/tests/test_value.py"
    for name, value in (("topic", 2), ("idle", 1)):
        tree.create(test, f"import mlx_audio\n\n\ndef test_value():\n    assert mlx_audio.VALUE == {value}\n")
        tree.replace("mlx_audio/__init__.py", "VALUE = 1", f"VALUE = {value}")
        tree.commit("fix: value", proof=test)
        git.git(tmp_path / "copy", "checkout", "--quiet", "--detach", "main")
        (made,) = git.apply(tmp_path / "copy", name, tree.commits)
        if name == "topic":
            assert program.prove(tmp_path / "copy", tree.commits[0], made) == "before: 1 failed; after: 1 passed"
        else:
            with pytest.raises(UpstreamError, match="proves nothing: before the fix 1 passed"):
                program.prove(tmp_path / "copy", tree.commits[0], made)
        tree = Tree(folder, tidy=False)
