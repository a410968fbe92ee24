"""Run tests of a source tree of mlx-audio, each tree by itself, and compare outcomes."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from .tree import UpstreamError

HERE = Path(__file__).resolve().parent
MOST_CRASHES = 20
OK = ("passed", "skipped", "xfailed")

Outcomes = dict[str, str]  # test to "passed", "failed", "error", "skipped", "xfailed", "crashed", "not collected"


def run(tree: Path, *tests: str, timeout: float = 7200) -> Outcomes:
    """Outcomes of tests in a tree; all of mlx-audio's suite if none are named.

    A test that crashes the interpreter is on record as such, and the others run in a new one. Our own plugin stays off.

    Raises:
        UpstreamError: pytest could not run, ran out of time, or the tests saw another mlx_audio than the tree's.
    """
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "outcomes"
        record.touch()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(tree), str(HERE)]),
            "SPEECH_ZOO_AUTOLOAD": "0",
            "HF_HUB_OFFLINE": "1",
            "UPSTREAM_OUTCOMES": str(record),
        }
        command = [sys.executable, "-m", "pytest", "-q", "-p", "recorder", "-p", "no:cacheprovider", "--tb=short"]
        command += ["--continue-on-collection-errors", *(tests or _folders(tree))]
        for _ in range(MOST_CRASHES):
            before = record.read_text(encoding="utf-8")
            try:
                done = subprocess.run(
                    command, cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=timeout
                )
            except subprocess.TimeoutExpired as error:
                raise UpstreamError(f"the tests of {tree} did not end within {timeout:.0f} s") from error
            if 0 <= done.returncode <= 2 or done.returncode == 5:
                break
            if record.read_text(encoding="utf-8") == before:
                output = " ".join((done.stdout + done.stderr).split())
                raise UpstreamError(f"pytest cannot run in {tree}: {output[-400:]}")
        lines = record.read_text(encoding="utf-8").splitlines()
        return dict(json.loads(line) for line in lines)  # the last word on each test


def _folders(tree: Path) -> list[str]:
    return [name for name in ("mlx_audio", "tests") if (tree / name).is_dir()]


def summary(outcomes: Outcomes) -> str:
    """Counts, the most frequent first."""
    counts = Counter(outcomes.values())
    return ", ".join(f"{count} {what}" for what, count in counts.most_common()) or "no tests"


def changed(before: Outcomes, after: Outcomes) -> dict[str, str]:
    """The tests of `before` whose outcome is another in `after`, with both."""
    return {
        test: f"{outcome}, then {after.get(test, 'gone')}"
        for test, outcome in sorted(before.items())
        if after.get(test) != outcome
    }


def added(before: Outcomes, after: Outcomes) -> Outcomes:
    """The tests that are in `after` alone."""
    return {test: outcome for test, outcome in after.items() if test not in before}
