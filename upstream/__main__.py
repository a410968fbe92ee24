"""`python -m upstream PATH`: each pull request of the series on a branch of its own in a tree of mlx-audio, proved."""

import argparse
import ast
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from . import outcomes
from .git import commit, deliver, git, refuse_branch, work_copy
from .tree import AnchorError, Tree, UpstreamError

SERIES = Path(__file__).resolve().parent / "series"
OK = ("passed", "skipped")
PATIENCE = 600.0  # seconds without a word from a test; a busy machine is no hang

Outcomes = dict[str, str]  # "file::test" to "passed", "failed", …


@dataclass(frozen=True)
class PullRequest:
    """A folder of the series.

    Attributes:
        name: of the folder.
        module: its `__init__.py`. The docstring is the commit's message, `TESTS` are test files of the tree and what of
            the folder goes into them, `RELATED` are more test files that the change may affect, `ON_TOP_OF` names pull
            requests that come first, and `change(tree)` edits.
    """

    name: str
    module: ModuleType

    @property
    def branch(self) -> str:
        return f"speech-zoo/{self.name}"

    @property
    def tests(self) -> dict[str, str]:
        """Test files of the tree and the text that goes into each."""
        return {path: (SERIES / self.name / own).read_text(encoding="utf-8") for path, own in self.module.TESTS.items()}

    def test_names(self) -> set[str]:
        """The test classes and functions that it brings."""
        bodies = [ast.parse(text).body for text in self.tests.values()]
        return {node.name for body in bodies for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}


def series() -> list[PullRequest]:
    """All pull requests, in the order in which they are sent."""
    names = sorted(path.parent.name for path in SERIES.glob("*/__init__.py"))
    return [PullRequest(name, importlib.import_module(f"upstream.series.{name}")) for name in names]


def apply(copy: Path, pull: PullRequest, tests_only: bool = False) -> list[str]:
    """Write a pull request, or its tests alone, into a work copy; the paths that it touches.

    Raises:
        AnchorError: it does not fit.
    """
    tree = Tree(copy)
    if not tests_only:
        pull.module.change(tree)
    for path, text in pull.tests.items():
        tree.add_tests(path, text)
    tree.write(copy)
    return sorted(tree.edited)


def run_tests(copy: Path, files: list[str]) -> Outcomes:
    """Outcomes of test files of a work copy, those that are there."""
    results: Outcomes = {}
    with tempfile.TemporaryDirectory() as scratch:
        for file in files:
            if (copy / file).is_file():
                results |= outcomes.run_file(copy / file, copy, Path(scratch))
    return results


def summary(results: Outcomes) -> str:
    """Counts, the most frequent first."""
    return ", ".join(f"{count} {what}" for what, count in Counter(results.values()).most_common()) or "no tests"


def judged(pull: PullRequest, before: Outcomes, after: Outcomes) -> str:
    """What the tests say, where all is as it should be.

    Raises:
        UpstreamError: a test of the pull request passes before it or fails after it, or another changes its outcome.
    """
    names = pull.test_names()
    ours = {test: outcome for test, outcome in after.items() if test.split("::")[1].partition("[")[0] in names}
    # A new test file that imports what is not there yet cannot be collected.
    earlier = {test: before.get(test, before.get(f"{test.partition('::')[0]}::collection", "absent")) for test in ours}
    others = {test: outcome for test, outcome in before.items() if test not in ours and "::collection" not in test}
    changed = [f"{test}: {was}, then {after.get(test)}" for test, was in others.items() if after.get(test) != was]
    if wrong := sorted(test for test, outcome in earlier.items() if outcome in (*OK, "absent")):
        raise UpstreamError(f"{len(wrong)} tests do not fail before the change: {', '.join(wrong)}")
    if not ours or set(ours.values()) != {"passed"}:
        raise UpstreamError(f"its tests do not pass: {[test for test, outcome in ours.items() if outcome != 'passed']}")
    if changed:
        raise UpstreamError(f"other tests change their outcome: {'; '.join(changed)}")
    return f"{len(ours)} tests fail before, pass after; {len(others)} others as before ({summary(others)})"


def checked(copy: Path, *command: str) -> None:
    """Run a Python module in a work copy; UpstreamError with its last lines where it fails."""
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


def make(copy: Path, base: str, pull: PullRequest, everything: dict[str, PullRequest]) -> None:
    """Make the branch of a pull request in a work copy and prove it; print what was found.

    Raises:
        AnchorError: it does not fit this tree.
        UpstreamError: it fits, and is not as it should be.
    """
    git(copy, "switch", "--quiet", "--force-create", pull.branch, base)
    for name in getattr(pull.module, "ON_TOP_OF", ()):
        commit(copy, str(everything[name].module.__doc__), apply(copy, everything[name]))
    git(copy, "tag", "--force", "start")
    paths = apply(copy, pull)
    git(copy, "reset", "--quiet", "--hard", "start")
    git(copy, "clean", "--quiet", "-fd")
    files = sorted({*pull.module.TESTS, *pull.module.RELATED})
    apply(copy, pull, tests_only=True)
    before = run_tests(copy, files)
    git(copy, "reset", "--quiet", "--hard", "start")
    git(copy, "clean", "--quiet", "-fd")
    apply(copy, pull)
    commit(copy, str(pull.module.__doc__), paths)
    after = run_tests(copy, files)
    print(f"  {git(copy, 'diff', '--shortstat', 'start', 'HEAD')}", flush=True)
    print(f"  {judged(pull, before, after)}", flush=True)
    print(f"  {check_style(copy, paths)}", flush=True)


def compare_suite(copy: Path, base: str, pulls: list[PullRequest], known: Path) -> bool:
    """mlx-audio's whole suite without the series and with all that fit of it, one after the other on one branch.

    Args:
        known: a JSON file with the outcomes without; made where it is not there.

    Returns:
        Whether no test changed its outcome and all new ones pass. Tests that differ run once more, alone.
    """
    git(copy, "switch", "--quiet", "--force-create", "speech-zoo/all", base)
    before: Outcomes = json.loads(known.read_text()) if known.is_file() else outcomes.run(copy, known)
    for pull in pulls:
        try:
            commit(copy, str(pull.module.__doc__), apply(copy, pull))
        except AnchorError as error:
            print(f"{pull.name} is left out of the suite: {error}")
    after = outcomes.run(copy, known.with_suffix(".after.json"))
    differing = [test for test, was in before.items() if after.get(test) != was]
    again = {test: outcomes.run_alone(test, copy, plugin=False) for test in differing}
    git(copy, "switch", "--quiet", "--detach", base)
    for test in list(differing):
        was = outcomes.run_alone(test, copy, plugin=False)
        print(f"  {test}: {before[test]}, then {after.get(test, 'gone')}; alone {was}, then {again[test]}")
        if was == again[test]:
            differing.remove(test)
    new = {test: outcome for test, outcome in after.items() if test not in before}
    print(f"whole suite: {summary(before)}; {len(differing)} change their outcome; new: {summary(new)}")
    return not differing and set(new.values()) <= {"passed"}


def run(path: Path, only: str | None, suite: Path | None) -> bool:
    """Make and prove the branches in `path`; whether all that fit are as they should be.

    Raises:
        UpstreamError: nothing was begun.
    """
    pulls = {pull.name: pull for pull in series()}
    chosen = [pull for name, pull in pulls.items() if only is None or name.startswith(only)]
    if not chosen:
        raise UpstreamError(f"no pull request is called {only}; there are {', '.join(pulls)}")
    for pull in chosen:
        refuse_branch(path, pull.branch)
    good, outcomes.STALL = True, PATIENCE
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "mlx-audio"
        base = work_copy(path, copy)
        os.environ |= {"PYTHONPATH": str(copy), "SPEECH_ZOO_AUTOLOAD": "0"}  # tests see this tree and no plugin
        for pull in chosen:
            print(f"{pull.name}: {str(pull.module.__doc__).splitlines()[0]}", flush=True)
            try:
                make(copy, base, pull, pulls)
                deliver(copy, pull.branch, path)
            except AnchorError as error:
                print(f"  skipped, it does not fit this tree: {error}", flush=True)
                good = good and only is None
            except UpstreamError as error:
                print(f"  FAILED: {error}", flush=True)
                good = False
            git(copy, "reset", "--quiet", "--hard")
            git(copy, "clean", "--quiet", "-fd")
        return (compare_suite(copy, base, chosen, suite) if suite else True) and good


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="nox -s upstream --", description=__doc__)
    parser.add_argument("path", type=Path, help="a clean checkout or an unpacked source distribution of mlx-audio")
    parser.add_argument("--only", metavar="NAME", help="one pull request; the beginning of its name is enough")
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
