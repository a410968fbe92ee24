"""The pull requests for mlx-audio: each fits the installed release; edits, verdicts and git do what they say."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from upstream import git
from upstream.__main__ import SERIES, PullRequest, judged, series
from upstream.tree import AnchorError, Tree, UpstreamError

PULLS = series()
LICENCE = "offered under mlx-audio's MIT licence"
PARTS = ("## Context", "## Description", "## Changes in the codebase", "## Additional information", "## Checklist")


@pytest.fixture(scope="module")
def released() -> Path:
    """The folder that holds the installed mlx_audio."""
    spec = find_spec("mlx_audio")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parents[1]


@pytest.mark.parametrize("pull", PULLS, ids=lambda pull: pull.name)
def test_a_pull_request_fits_the_release(pull: PullRequest, released: Path) -> None:
    tree = Tree(released)
    for name in getattr(pull.module, "ON_TOP_OF", ()):
        next(other for other in PULLS if other.name == name).module.change(tree)
    before = dict(tree.edited)
    pull.module.change(tree)
    assert {path for path, text in tree.edited.items() if before.get(path) != text}
    for path, text in pull.tests.items():
        tree.add_tests(path, text)
    for path, text in tree.edited.items():
        assert "speech_zoo" not in text, path
        if path.endswith(".py"):
            ast.parse(text)
            assert not text.endswith("\n\n") and text.endswith("\n"), path


@pytest.mark.parametrize("pull", PULLS, ids=lambda pull: pull.name)
def test_a_pull_request_is_ready_to_send(pull: PullRequest) -> None:
    title = str(pull.module.__doc__).splitlines()[0]
    assert re.fullmatch(r"(fix|feat|refactor)(\(\w+\))?: .+", title) and len(title) <= 72
    text = (SERIES / pull.name / "PR.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {title}\n") and LICENCE in " ".join(text.split())
    assert all(part in text for part in PARTS)
    assert pull.test_names() and all(path.startswith("mlx_audio/") and "/tests/test_" in path for path in pull.tests)


def test_all_fit_one_after_the_other(released: Path) -> None:
    tree = Tree(released)
    for pull in PULLS:
        pull.module.change(tree)
        for path, text in pull.tests.items():
            tree.add_tests(path, text)
    for path, text in tree.edited.items():
        assert not path.endswith(".py") or ast.parse(text)


def test_edits(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    x = 1\n\n\nclass G:\n    def h(self):\n        x = 1\n")
    tree = Tree(tmp_path)
    with pytest.raises(AnchorError, match=r"a\.py: 'x = 1' stands 2 times"):
        tree.replace("a.py", "x = 1", "x = 2")
    with pytest.raises(AnchorError, match=r"f of a\.py: 'y' stands 0 times"):
        tree.replace("a.py", "y", "", "f")
    with pytest.raises(AnchorError, match=r"a\.py has no G\.f"):
        tree.replace("a.py", "x = 1", "", "G.f")
    with pytest.raises(AnchorError, match=r"b\.py is not there"):
        tree.after("b.py", "x", "y")
    with pytest.raises(AnchorError, match=r"a\.py is there already"):
        tree.create("a.py", "")
    tree.replace("a.py", "x = 1", "x = 2", "G.h")
    tree.before("a.py", "x = 2", "y = 3; ")
    assert tree.read("a.py") == "def f():\n    x = 1\n\n\nclass G:\n    def h(self):\n        y = 3; x = 2\n"
    assert "y = 3" not in (tmp_path / "a.py").read_text()
    tree.replace("a.py", "y = 3; ", "y = ")
    tree.replace("a.py", "    x = 1", "    x = ")
    with pytest.raises(AnchorError, match=r"a\.py is no Python"):
        tree.write(tmp_path)
    assert "y = " not in (tmp_path / "a.py").read_text()


def test_edits_from_anchor_to_anchor(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    a = 1\n    b = 2\n    c = 3\n")
    tree = Tree(tmp_path)
    tree.replace_from("a.py", "a = 1", "c = 3", "d = 4\n    ", "f")
    assert tree.read("a.py") == "def f():\n    d = 4\n    c = 3\n"
    with pytest.raises(AnchorError, match="stands 0 times"):
        tree.replace_from("a.py", "d = 4", "a = 1", "", "f")


def test_files_and_pages_where_the_tree_has_docs(tmp_path: Path) -> None:
    for name in ("code.py", "docs/page.md"):
        (tmp_path / "pull" / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pull" / "files" / name).write_text("")
    (tmp_path / "tree").mkdir()
    for docs in (False, True):
        if docs:
            (tmp_path / "tree" / "mkdocs.yml").write_text("    - Voice Activity Detection: models/vad/index.md\n")
        tree = Tree(tmp_path / "tree")
        tree.create_files(str(tmp_path / "pull" / "__init__.py"))
        tree.add_page("Page", "page.md")
        assert set(tree.edited) == {"code.py", "docs/page.md", "mkdocs.yml"} if docs else {"code.py"}
    assert tree.read("mkdocs.yml").endswith("models/vad/index.md\n    - Page: page.md\n")


def test_tests_come_before_main(tmp_path: Path) -> None:
    main = 'if __name__ == "__main__":\n    unittest.main()\n'
    (tmp_path / "a.py").write_text(f"import unittest\n\n\n{main}")
    (tmp_path / "b.py").write_text("import unittest\n")
    tree = Tree(tmp_path)
    for path in ("a.py", "b.py", "c.py"):
        tree.add_tests(path, "class A:\n    pass\n")
    assert tree.read("a.py") == f"import unittest\n\n\nclass A:\n    pass\n\n\n{main}"
    assert tree.read("b.py") == "import unittest\n\n\nclass A:\n    pass\n"
    assert tree.read("c.py") == "class A:\n    pass\n"


def test_verdicts() -> None:
    pull = next(pull for pull in PULLS if pull.name.startswith("b_"))
    ours, other = (f"mlx_audio/lid/tests/test_lid.py::{name}::test" for name in ("TestWav2Vec2SpecEmbed", "TestOther"))
    good = {ours: "passed", other: "failed"}
    assert judged(pull, {ours: "failed", other: "failed"}, good).startswith("1 tests fail before, pass after; 1 others")
    assert judged(pull, {"mlx_audio/lid/tests/test_lid.py::collection": "error"}, {ours: "passed"})
    with pytest.raises(UpstreamError, match="do not fail before"):
        judged(pull, {ours: "passed", other: "failed"}, good)
    with pytest.raises(UpstreamError, match="do not fail before"):
        judged(pull, {other: "failed"}, good)
    with pytest.raises(UpstreamError, match="do not pass"):
        judged(pull, {ours: "failed"}, {ours: "crashed"})
    with pytest.raises(UpstreamError, match="TestOther::test: failed, then passed"):
        judged(pull, {ours: "failed", other: "failed"}, {ours: "passed", other: "passed"})
    with pytest.raises(UpstreamError, match="passed, then None"):
        judged(pull, {ours: "failed", other: "passed"}, {ours: "passed"})


@pytest.fixture
def little(tmp_path: Path) -> Path:
    """A source distribution with next to nothing in it."""
    (tmp_path / "tree" / "mlx_audio").mkdir(parents=True)
    (tmp_path / "tree" / "mlx_audio" / "__init__.py").write_text("VALUE = 1\n")
    (tmp_path / "tree" / "pyproject.toml").touch()
    return tmp_path / "tree"


def test_a_source_distribution_becomes_a_repository(little: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    base = git.work_copy(little, copy)
    assert git.git(little, "log", "--format=%s") == git.IMPORT and git.git(little, "rev-parse", "HEAD") == base
    git.git(copy, "switch", "--quiet", "--create", "topic")
    (copy / "mlx_audio" / "__init__.py").write_text("VALUE = 2\n")
    git.commit(copy, "fix: value", ["mlx_audio/__init__.py"])
    git.deliver(copy, "topic", little)
    assert git.git(little, "log", "--format=%s", "main..topic") == "fix: value"
    assert git.git(little, "rev-parse", "--abbrev-ref", "HEAD") == "main"
    with pytest.raises(UpstreamError, match="has a branch topic already"):
        git.refuse_branch(little, "topic")


def test_what_is_refused(little: Path, tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match="is no source tree of mlx-audio"):
        git.work_copy(tmp_path, tmp_path / "copy")
    git.work_copy(little, tmp_path / "copy")
    (little / "mlx_audio" / "__init__.py").write_text("VALUE = 3\n")
    with pytest.raises(UpstreamError, match="has changes that are not committed"):
        git.work_copy(little, tmp_path / "copy")


def test_the_author_of_a_checkout_stays(little: Path, tmp_path: Path) -> None:
    git.work_copy(little, tmp_path / "copy")
    git.git(little, "config", "user.name", "A Person")
    git.git(little, "config", "user.email", "person@example.org")
    git.work_copy(little, tmp_path / "copy")
    (tmp_path / "copy" / "new").touch()
    git.commit(tmp_path / "copy", "chore: new", ["new"])
    assert git.git(tmp_path / "copy", "log", "-1", "--format=%an %ae") == "A Person person@example.org"
