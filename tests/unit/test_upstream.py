"""The pull requests for mlx-audio: each fits the installed release; edits, verdicts and git do what they say."""

import ast
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from upstream import git
from upstream.__main__ import SERIES, PullRequest, judged, series
from upstream.tree import AnchorError, Tree, UpstreamError

PULLS = series()
LICENCE = "offered under mlx-audio's MIT licence"
PARTS = ("## Context", "## Description", "## Changes in the codebase", "## Additional information", "## Checklist")


@pytest.fixture
def released(tmp_path: Path) -> Tree:
    """A copy of the installed mlx_audio."""
    spec = find_spec("mlx_audio")
    assert spec is not None and spec.origin is not None
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(Path(spec.origin).parent, tmp_path / "mlx_audio", ignore=ignore)
    return Tree(tmp_path)


def apply(pull: PullRequest, tree: Tree) -> None:
    pull.module.change(tree)
    tree.add_tests(pull.module.TEST, pull.tests)


def contents(tree: Tree) -> dict[str, str]:
    return {str(path.relative_to(tree.root)): path.read_text() for path in tree.root.rglob("*.py")}


@pytest.mark.parametrize("pull", PULLS.values(), ids=lambda pull: pull.name)
def test_a_pull_request_fits_the_release(pull: PullRequest, released: Tree) -> None:
    for name in pull.before:
        apply(PULLS[name], released)
    before = contents(released)
    apply(pull, released)
    edited = {path: text for path, text in contents(released).items() if before.get(path) != text}
    assert pull.module.TEST in edited and len(edited) > 1
    for path, text in edited.items():
        assert "speech_zoo" not in text, path
        assert ast.parse(text) and not text.endswith("\n\n") and text.endswith("\n"), path


@pytest.mark.parametrize("pull", PULLS.values(), ids=lambda pull: pull.name)
def test_a_pull_request_is_ready_to_send(pull: PullRequest) -> None:
    title = pull.message.splitlines()[0]
    assert re.fullmatch(r"(fix|feat|refactor)(\(\w+\))?: .+", title) and len(title) <= 72
    text = (SERIES / pull.name / "PR.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {title}\n") and LICENCE in " ".join(text.split())
    assert all(part in text for part in PARTS) and not re.search(r"@\w@|TODO|XXX", text)
    assert pull.test_names() and re.match(r"mlx_audio/(\w+/)?tests/test_\w+\.py$", pull.module.TEST)


def test_all_fit_one_after_the_other(released: Tree) -> None:
    for pull in PULLS.values():
        apply(pull, released)
    assert all(ast.parse(text) for text in contents(released).values() if text)


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
    with pytest.raises(AnchorError, match=r"b\.py is not there"):
        tree.rewrite("b.py", "")
    tree.replace("a.py", "x = 1", "x = 2", "G.h")
    tree.before("a.py", "x = 2", "y = 3; ")
    assert tree.read("a.py") == "def f():\n    x = 1\n\n\nclass G:\n    def h(self):\n        y = 3; x = 2\n"


def test_edits_from_anchor_to_anchor(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    a = 1\n    b = 2\n    c = 3\n")
    tree = Tree(tmp_path)
    tree.replace("a.py", "a = 1", "d = 4\n    ", "f", until="c = 3")
    assert tree.read("a.py") == "def f():\n    d = 4\n    c = 3\n"
    with pytest.raises(AnchorError, match="'a = 1' stands 0 times"):
        tree.replace("a.py", "d = 4", "", "f", until="a = 1")


def test_files_and_pages_where_the_tree_has_docs(tmp_path: Path) -> None:
    for name in ("code.py", "docs/page.md"):
        (tmp_path / "pull" / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pull" / "files" / name).write_text("")
    for docs in (False, True):
        tree = Tree(tmp_path / f"tree {docs}")
        tree.root.mkdir()
        if docs:
            (tree.root / "mkdocs.yml").write_text("    - Voice Activity Detection: models/vad/index.md\n")
        tree.create_files(str(tmp_path / "pull" / "__init__.py"))
        tree.add_page("Page", "page.md")
        assert tree.has("code.py") and tree.has("docs/page.md") == tree.has("mkdocs.yml") == docs
    assert tree.read("mkdocs.yml").endswith("models/vad/index.md\n    - Page: page.md\n")
    with pytest.raises(AnchorError, match=r"code\.py is there already"):
        tree.create_files(str(tmp_path / "pull" / "__init__.py"))


def test_tests_join_their_class_or_come_before_main(tmp_path: Path) -> None:
    main = 'if __name__ == "__main__":\n    unittest.main()\n'
    own = "class A(B):\n    # why\n    def test_new(self):\n        pass\n\n\n@mark\ndef test():\n    pass\n"
    (tmp_path / "a.py").write_text(
        f"class A(B):\n    def test_old(self):\n        pass\n\n\nclass C:\n    x = 1\n\n\n{main}"
    )
    (tmp_path / "b.py").write_text("import unittest\n")
    tree = Tree(tmp_path)
    for path in ("a.py", "b.py", "c.py"):
        tree.add_tests(path, own)
    methods = "    def test_old(self):\n        pass\n\n    # why\n    def test_new(self):\n        pass\n"
    function = "@mark\ndef test():\n    pass\n"
    assert tree.read("a.py") == f"class A(B):\n{methods}\n\nclass C:\n    x = 1\n\n\n{function}\n\n{main}"
    assert tree.read("b.py") == f"import unittest\n\n\n{own}"
    assert tree.read("c.py") == own


def test_verdicts() -> None:
    pull = PULLS["b_lid_spec_embed"]
    (ours,) = pull.test_names()
    other = "mlx_audio/lid/tests/test_lid.py::TestOther::test"
    good = {ours: "passed", other: "failed"}
    assert judged(pull, {ours: "failed", other: "failed"}, good).startswith("1 tests fail before, pass after; 1 others")
    assert judged(pull, {f"{pull.module.TEST}::collection": "error"}, {ours: "passed"})
    with pytest.raises(UpstreamError, match="do not fail before"):
        judged(pull, {ours: "passed", other: "failed"}, good)
    with pytest.raises(UpstreamError, match="do not fail before"):
        judged(pull, {other: "failed"}, good)
    with pytest.raises(UpstreamError, match="do not pass"):
        judged(pull, {ours: "failed"}, {ours: "crashed"})
    with pytest.raises(UpstreamError, match="do not pass"):
        judged(pull, {ours: "failed"}, {})
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
    git.add_work_tree(little, copy)
    assert git.git(little, "log", "--format=%s") == git.IMPORT
    (copy / "mlx_audio" / "__init__.py").write_text("VALUE = 2\n")
    git.commit(copy, "fix: value")
    git.git(copy, "branch", "topic")
    assert git.git(little, "log", "--format=%s", "main..topic") == "fix: value"
    assert git.git(little, "rev-parse", "--abbrev-ref", "HEAD") == "main" and not git.git(little, "status", "--short")
    (copy / "mlx_audio" / "__init__.py").write_text("VALUE = 3\n")
    (copy / "new").touch()
    git.clean(copy, "main")
    assert (copy / "mlx_audio" / "__init__.py").read_text() == "VALUE = 1\n" and not (copy / "new").exists()


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match="is no source tree of mlx-audio"):
        git.add_work_tree(tmp_path, tmp_path / "copy")


def test_the_author_of_a_checkout_stays(little: Path, tmp_path: Path) -> None:
    git.add_work_tree(little, tmp_path / "copy")
    git.git(little, "config", "user.name", "A Person")
    git.git(little, "config", "user.email", "person@example.org")
    (tmp_path / "copy" / "new").touch()
    git.commit(tmp_path / "copy", "chore: new")
    assert git.git(tmp_path / "copy", "log", "-1", "--format=%an %ae") == "A Person person@example.org"
