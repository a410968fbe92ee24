"""`python -m upstream PATH`: export our models into a source tree of mlx-audio, prove the fixes, run the tests."""

import argparse
import sys
import tempfile
from pathlib import Path

from . import git, suite
from .docs import add_docs
from .edits import add_load, add_plugins, add_speaker_category
from .fixes import add_fixes
from .models import add_models
from .tree import KNOWN_VERSION, Commit, Tree, UpstreamError

BRANCH = "speech-zoo"


def plan(path: Path, tidy: bool = True) -> Tree:
    """All commits for a source tree, in memory.

    Raises:
        AnchorError: the source is not as the edits expect it; names file and anchor.
        UpstreamError: black or isort is missing, or our own sources are not as expected.
    """
    tree = Tree(path, tidy)
    add_fixes(tree)
    add_load(tree)
    add_plugins(tree)
    add_speaker_category(tree)
    add_models(tree)
    add_docs(tree)
    return tree


def prove(copy: Path, commit: Commit, made: str) -> str:
    """Run the test of a fix on the commit before it, where all of it must fail, and on the commit.

    Raises:
        UpstreamError: the test proves nothing, or the fix does not work.
    """
    assert commit.proof is not None
    git.git(copy, "checkout", "--quiet", "--force", "--detach", f"{made}~1")
    (copy / commit.proof).parent.mkdir(parents=True, exist_ok=True)
    (copy / commit.proof).write_text(commit.files[commit.proof], encoding="utf-8")
    before = suite.run(copy, commit.proof)
    (copy / commit.proof).unlink()
    git.git(copy, "checkout", "--quiet", "--force", "--detach", made)
    after = suite.run(copy, commit.proof)
    failed = [outcome for outcome in before.values() if outcome in ("failed", "error")]
    if not before or len(failed) < len(before):
        raise UpstreamError(f"{commit.proof} proves nothing: before the fix {suite.summary(before)}")
    if set(after) != set(before) or set(after.values()) != {"passed"}:
        raise UpstreamError(f"{commit.proof} fails with the fix: {suite.summary(after)}")
    return f"before: {suite.summary(before)}; after: {suite.summary(after)}"


def compare(copy: Path, base: str, tip: str) -> bool:
    """Run the whole suite on two commits and print outcomes; whether nothing got worse and all new tests pass."""
    commits = {"before": base, "after": tip}
    found = []
    for name, commit in commits.items():
        print(f"mlx-audio's suite {name} the export …", flush=True)
        found.append(run_on(copy, commit))
        print(f"  {suite.summary(found[-1])}", flush=True)
    differing, new = suite.changed(*found), suite.added(*found)
    there = [test for test in differing if test in found[1]]
    if there:  # some tests of mlx-audio give now this, now that
        again = [run_on(copy, commit, *there) for commit in commits.values()]
        steady = differing.keys() - set(there) | suite.changed(*again).keys()
        for test in differing.keys() - steady:
            print(f"  unsteady: {test}: {differing[test]}; run again, {again[1].get(test)} both times")
        differing = {test: line for test, line in differing.items() if test in steady}
    print(f"tests of mlx-audio whose outcome changed: {len(differing)}")
    for test, line in differing.items():
        print(f"  {test}: {line}")
    print(f"exported tests: {suite.summary(new)}")
    for test, outcome in new.items():
        if outcome not in suite.OK:
            print(f"  {test}: {outcome}")
    return not differing and bool(new) and all(outcome in suite.OK for outcome in new.values())


def run_on(copy: Path, commit: str, *tests: str) -> suite.Outcomes:
    """Outcomes of tests on a commit."""
    git.git(copy, "checkout", "--quiet", "--force", "--detach", commit)
    return suite.run(copy, *tests)


def export(path: Path, branch: str, test: bool) -> bool:
    """Make the commits and bring them into `path`; print what was done.

    Returns:
        Whether all tests were as they should be.

    Raises:
        UpstreamError: `path` is left as it was.
    """
    git.refuse_unfit(path, branch)
    tree = plan(path)
    if tree.version != KNOWN_VERSION:
        print(
            f"warning: this is mlx-audio {tree.version}; the edits are made for {KNOWN_VERSION}, all anchors are there"
        )
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "mlx-audio"
        git.work_copy(path, copy)
        base = git.git(copy, "rev-parse", "HEAD")
        made = git.apply(copy, branch, tree.commits)
        print(f"mlx-audio {tree.version}: {len(made)} commits", flush=True)
        for commit, name in zip(tree.commits, made, strict=True):
            proof = f"\n           {prove(copy, commit, name)}" if commit.proof and test else ""
            print(f"  {name[:8]} {commit.message.splitlines()[0]}{proof}", flush=True)
        if not tree.has("docs/models/index.md"):
            print("docs/ is not in this tree (as in a source distribution): its entries are left out")
        git.deliver(copy, branch, path)
        print(f"{path} is on the branch {branch}")
        return compare(copy, base, made[-1]) if test else True


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="nox -s upstream --", description=__doc__)
    parser.add_argument("path", type=Path, help="a clean checkout or an unpacked source distribution of mlx-audio")
    parser.add_argument("--branch", default=BRANCH, help="to make (default: %(default)s)")
    parser.add_argument("--no-tests", action="store_true", help="only make the commits")
    arguments = parser.parse_args()
    try:
        return 0 if export(arguments.path.expanduser().resolve(), arguments.branch, not arguments.no_tests) else 1
    except UpstreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
