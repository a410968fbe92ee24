"""A pytest plugin that writes down each outcome as it comes, so that a crash of the interpreter loses one test only.

Loaded with `-p recorder` from this folder; `UPSTREAM_OUTCOMES` names the file, JSON lines [test, outcome]. Tests that
stand in the file already are left out.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

FILE = Path(os.environ["UPSTREAM_OUTCOMES"])
STARTED = "crashed"  # what stays on record of a test that never ended
_bad: set[str] = set()  # tests of which a part has failed: a subtest, the set-up


def _record(name: str, outcome: str) -> None:
    with FILE.open("a", encoding="utf-8") as file:
        file.write(json.dumps([name, outcome]) + "\n")


def pytest_sessionstart() -> None:
    import mlx_audio

    if not Path(mlx_audio.__file__).resolve().is_relative_to(Path.cwd().resolve()):
        pytest.exit(f"mlx_audio comes from {mlx_audio.__file__}, not from {Path.cwd()}", returncode=4)


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    known = FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else []
    done = {json.loads(line)[0] for line in known}
    left_out = [item for item in items if item.nodeid in done]
    items[:] = [item for item in items if item.nodeid not in done]
    config.hook.pytest_deselected(items=left_out)


def pytest_collectreport(report: Any) -> None:
    if report.failed:
        _record(report.nodeid, "not collected")


def pytest_runtest_logstart(nodeid: str) -> None:
    _record(nodeid, STARTED)


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or report.outcome != "passed":
        if report.nodeid in _bad:
            return
        if report.failed:
            _bad.add(report.nodeid)
        outcome = report.outcome if report.when == "call" or report.outcome == "skipped" else "error"
        _record(report.nodeid, "xfailed" if hasattr(report, "wasxfail") and outcome == "skipped" else outcome)
