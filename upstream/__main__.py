"""`python -m upstream PATH`: each pull request of the series on a branch of its own in a tree of mlx-audio, proved."""

import argparse
import ast
import importlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from . import outcomes
from .git import add_work_tree, clean, commit, git
from .outcomes import Outcomes, summary
from .tree import AnchorError, Tree, UpstreamError

SERIES = Path(__file__).resolve().parent / "series"


@dataclass(frozen=True)
class PullRequest:
    """A folder of the series.

    Attributes:
        name: of the folder.
        module: its `__init__.py`. The docstring is the commit's message, `change(tree)` edits, `TEST` is the test file
            that `test.py` goes into, `RELATED` are more that the change may affect, and `ON_TOP_OF` names pull requests
            that come first; the last two may be left out.
    """

    name: str
    module: ModuleType

    @property
    def branch(self) -> str:
        return f"speech-zoo/{self.name}"

    @property
    def message(self) -> str:
        return str(self.module.__doc__)

    @property
    def before(self) -> tuple[str, ...]:
        """Names of the pull requests that come first."""
        return getattr(self.module, "ON_TOP_OF", ())

    @property
    def tests(self) -> str:
        return (SERIES / self.name / "test.py").read_text(encoding="utf-8")

    def test_names(self) -> set[str]:
        """Its tests, as in "file::class::test" and "file::test"; parameters are left out."""
        nodes = ast.parse(self.tests).body
        tests = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        for node in (node for node in nodes if isinstance(node, ast.ClassDef)):
            tests |= {f"{node.name}::{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
        return {f"{self.module.TEST}::{test}" for test in tests if test.rpartition("::")[2].startswith("test")}

    def apply(self, copy: Path) -> None:
        """Edit a tree and commit; AnchorError where it does not fit."""
        self.module.change(Tree(copy))
        Tree(copy).add_tests(self.module.TEST, self.tests)
        commit(copy, self.message)


def series() -> dict[str, PullRequest]:
    """All pull requests by name, in the order in which they are sent."""
    names = sorted(path.parent.name for path in SERIES.glob("*/__init__.py"))
    return {name: PullRequest(name, importlib.import_module(f"upstream.series.{name}")) for name in names}


def judged(pull: PullRequest, before: Outcomes, after: Outcomes) -> str:
    """What the tests say, where all is as it should be.

    Raises:
        UpstreamError: a test of the pull request passes before it or fails after it, or another changes its outcome.
    """
    names = pull.test_names()
    ours = {test: outcome for test, outcome in after.items() if test.partition("[")[0] in names}
    # A new test file that imports what is not there yet cannot be collected.
    earlier = {test: before.get(test, before.get(f"{pull.module.TEST}::collection")) for test in ours}
    others = {test: outcome for test, outcome in before.items() if test not in ours and "::collection" not in test}
    changed = [f"{test}: {was}, then {after.get(test)}" for test, was in others.items() if after.get(test) != was]
    if wrong := sorted(test for test, outcome in earlier.items() if outcome in ("passed", "skipped", None)):
        raise UpstreamError(f"{len(wrong)} tests do not fail before the change: {', '.join(wrong)}")
    if {test.partition("[")[0] for test in ours} != names or set(ours.values()) != {"passed"}:
        raise UpstreamError(f"its tests do not pass: {[test for test in names if ours.get(test) != 'passed']}")
    if changed:
        raise UpstreamError(f"other tests change their outcome: {'; '.join(changed)}")
    return f"{len(ours)} tests fail before, pass after; {len(others)} others as before ({summary(others)})"


def checked(copy: Path, *command: str) -> None:
    """Run a Python module in a work tree; UpstreamError with its last lines where it fails."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=copy, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UpstreamError(f"{' '.join(command[:2])} fails: {' '.join((done.stdout + done.stderr)[-600:].split())}")


def check_style(copy: Path, paths: list[str]) -> str:
    """black, isort and mkdocs with the tree's own settings; what was checked."""
    files = [path for path in paths if path.endswith(".py")]
    checked(copy, "black", "--check", "--quiet", "--diff", *files)
    checked(copy, "isort", "--check-only", *files)
    if not (copy / "mkdocs.yml").is_file():
        return "black and isort agree; no docs in this tree"
    with tempfile.TemporaryDirectory() as site:
        checked(copy, "mkdocs", "build", "--strict", "--quiet", "--site-dir", site)
    return "black, isort and mkdocs agree"


def make(copy: Path, pull: PullRequest, pulls: dict[str, PullRequest]) -> None:
    """Make the branch of a pull request in a work tree and prove it; print what was found.

    Raises:
        AnchorError: it does not fit this tree.
        UpstreamError: it fits, and is not as it should be.
    """
    for name in pull.before:
        pulls[name].apply(copy)
    start = git(copy, "rev-parse", "HEAD")
    pull.apply(copy)
    files = sorted({pull.module.TEST, *getattr(pull.module, "RELATED", ())})
    files = [file for file in files if (copy / file).is_file()]
    after = outcomes.run_tests(files, copy)
    git(copy, "restore", f"--source={start}", "--", ".", f":!{pull.module.TEST}")
    before = outcomes.run_tests(files, copy)
    clean(copy)
    print(f"  {git(copy, 'diff', '--shortstat', start)}", flush=True)
    print(f"  {judged(pull, before, after)}", flush=True)
    print(f"  {check_style(copy, git(copy, 'diff', '--name-only', start).split())}", flush=True)
    git(copy, "branch", pull.branch)


def compare_suite(copy: Path, base: str, pulls: list[PullRequest], known: Path) -> bool:
    """mlx-audio's whole suite without the series and with all that fits of it, one after the other.

    Args:
        known: a JSON file with the outcomes without; made where it is not there.

    Returns:
        Whether no test changed its outcome and all new ones pass.
    """
    clean(copy, base)
    before: Outcomes = json.loads(known.read_text()) if known.is_file() else outcomes.run(copy, known)
    for pull in pulls:
        try:
            pull.apply(copy)
        except AnchorError as error:
            clean(copy)
            print(f"{pull.name} is left out of the suite: {error}")
    top = git(copy, "rev-parse", "HEAD")
    after = outcomes.run(copy, known.with_suffix(".after.json"))

    def alone(test: str, second: bool) -> str:
        clean(copy, top if second else base)
        return outcomes.run_alone(test, copy)

    new = {test: outcome for test, outcome in after.items() if test not in before}
    table, same = outcomes.compare({"without": before, "with": {t: o for t, o in after.items() if t in before}}, alone)
    print(f"{table}\nnew tests: {summary(new)}")
    return same and set(new.values()) <= {"passed"}


def run(path: Path, only: str, suite: Path | None) -> bool:
    """Make and prove the branches in `path`; whether all that fit are as they should be.

    Raises:
        UpstreamError: nothing was begun.
    """
    pulls = series()
    chosen = [pull for name, pull in pulls.items() if name.startswith(only)]
    if not chosen:
        raise UpstreamError(f"no pull request is called {only}; there are {', '.join(pulls)}")
    good = True
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "mlx-audio"
        add_work_tree(path, copy)
        try:
            base = git(copy, "rev-parse", "HEAD")
            if there := git(copy, "branch", "--list", *(pull.branch for pull in chosen)).split():
                raise UpstreamError(f"{path} has a branch {there[0]} already; delete it: git branch -D {there[0]}")
            os.environ |= {"PYTHONPATH": str(copy), "SPEECH_ZOO_AUTOLOAD": "0"}  # tests see this tree and no plugin
            for pull in chosen:
                print(f"{pull.name}: {pull.message.splitlines()[0]}", flush=True)
                try:
                    make(copy, pull, pulls)
                except AnchorError as error:
                    print(f"  skipped, it does not fit this tree: {error}", flush=True)
                    good = good and not only
                except UpstreamError as error:
                    print(f"  FAILED: {error}", flush=True)
                    good = False
                clean(copy, base)
            return (compare_suite(copy, base, chosen, suite) if suite else True) and good
        finally:
            git(path, "worktree", "remove", "--force", str(copy))


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="nox -s upstream --", description=__doc__)
    parser.add_argument("path", type=Path, help="a checkout or an unpacked source distribution of mlx-audio")
    parser.add_argument("--only", metavar="NAME", default="", help="one; the beginning of its name is enough")
    parser.add_argument(
        "--suite", type=Path, metavar="JSON", help="run the whole suite too; the outcomes before are kept in this file"
    )
    arguments = parser.parse_args()
    suite = arguments.suite and arguments.suite.resolve()
    try:
        return 0 if run(arguments.path.expanduser().resolve(), arguments.only, suite) else 1
    except UpstreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
