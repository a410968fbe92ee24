"""Run mlx-audio's own test suite and compare the outcomes of two runs.

python upstream/outcomes.py run TESTS OUT.json           TESTS: a folder with `test_*.py` somewhere below
python upstream/outcomes.py compare TESTS A.json B.json  a table; status 1 where a test's outcome differs

Each file runs in a process of its own. A test that crashes it, or that says nothing for STALL seconds, has that as its
outcome, and those that come after it in the file run in another process. Tests that differ run once more, alone, with
the plugin switched off and on: whether an invalid access to memory crashes a process that ran others before is chance.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

KINDS = ("passed", "failed", "error", "skipped", "crashed", "stalled")
STALL = 60.0  # seconds
START = 600.0  # the same before the first test: imports of a whole file
ENDED = (0, 1, 2, 5)  # of pytest: passed, failed, a file that cannot be collected, no tests
JOURNAL = "OUTCOMES_JOURNAL"


# The module is a plugin of pytest, too, which writes down what happens: a line when a test starts and for each report.


def _note(**facts: Any) -> None:
    with Path(os.environ[JOURNAL]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


def pytest_runtest_logstart(nodeid: str, location: Any) -> None:
    _note(test=nodeid, outcome="crashed")  # until it has another


def pytest_runtest_logreport(report: Any) -> None:
    outcome = "error" if report.failed and report.when != "call" else report.outcome
    _note(test=report.nodeid, when=report.when, outcome=outcome)


def pytest_collectreport(report: Any) -> None:
    if not report.passed:
        _note(test=report.nodeid, when="collect", outcome="error" if report.failed else "skipped")


def outcomes_of(journal: str) -> tuple[dict[str, str], str | None]:
    """Test to outcome, the worst of its phases, and the test that never ended."""
    results: dict[str, str] = {}
    running = None
    for line in journal.splitlines():
        note = json.loads(line)
        test, outcome = note["test"], note["outcome"]
        if "when" not in note:
            running, results[test] = test, outcome
            continue
        if note["when"] == "teardown":
            running = None
        order = ("crashed", "passed", "skipped", "failed", "error")  # the last one wins
        results[test] = max(results.get(test, "crashed"), outcome, key=order.index)
    return results, running


def run_file(file: Path, tests: Path, scratch: Path) -> dict[str, str]:
    """Outcomes of one test file, by `file::test`."""
    name = file.relative_to(tests).as_posix()
    journal, log = (scratch / f"{name.replace('/', '.')}{suffix}" for suffix in (".jsonl", ".log"))
    results: dict[str, str] = {}
    while True:
        journal.write_text("", encoding="utf-8")
        status = _pytest(file, journal, log, list(results))
        outcomes, running = outcomes_of(journal.read_text(encoding="utf-8"))
        new = outcomes.keys() - results.keys()
        results |= outcomes
        if running in new:
            results[running] = "stalled" if status is None else "crashed"
            continue
        if status not in ENDED:  # before the first test, or after the last
            results["::whole file"] = "stalled" if status is None else "crashed"
            print(f"{name}: {log.read_text(errors='replace')[-2000:]}", file=sys.stderr)
        return {f"{name}::{test.partition('::')[2] or 'collection'}": outcome for test, outcome in results.items()}


def run_alone(test: str, tests: Path, plugin: bool) -> str:
    """The outcome of one `file::test` in a process of its own, with the plugin or without."""
    with tempfile.TemporaryDirectory() as scratch:
        journal, log = Path(scratch) / "journal", Path(scratch) / "log"
        journal.write_text("", encoding="utf-8")
        status = _pytest(f"{tests}/{test}", journal, log, [], SPEECH_ZOO_AUTOLOAD="1" if plugin else "0")
        outcomes, running = outcomes_of(journal.read_text(encoding="utf-8"))
    if running is not None:
        return "stalled" if status is None else "crashed"
    return next(iter(outcomes.values()), "absent")


def _pytest(target: Path | str, journal: Path, log: Path, without: list[str], **more: str) -> int | None:
    """Run pytest on one file or test; returns its exit status, None where it had to be stopped."""
    command = [sys.executable, "-m", "pytest", str(target), "-v", "-p", "no:cacheprovider", "-p", Path(__file__).stem]
    command += [part for test in without for part in ("--deselect", test)]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    environment = os.environ | more | {"PYTHONPATH": path, JOURNAL: str(journal), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["HF_HUB_OFFLINE"] = "1"  # the same on every machine
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=log.parent, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        size, since = -1, time.monotonic()
        while process.poll() is None:
            time.sleep(0.2)
            if (now := journal.stat().st_size) != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > (STALL if size else START):
                process.kill()
                process.wait()
                return None
    return process.returncode


def run(tests: Path, out: Path, workers: int | None = None) -> dict[str, str]:
    """Outcomes of every test file below `tests`, also written to `out`; shows each file as it ends."""
    tests = tests.resolve()
    files = sorted(file for file in tests.rglob("test_*.py") if file.is_file())
    if not files:
        raise SystemExit(f"error: no test_*.py below {tests}")
    total: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        results = pool.map(lambda file: run_file(file, tests, Path(scratch)), files)
        for i, (file, outcomes) in enumerate(zip(files, results, strict=True), 1):
            counts = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(outcomes.values()).items()))
            print(f"{i}/{len(files)} {file.relative_to(tests)}: {counts or 'no tests'}", flush=True)
            total |= outcomes
    out.write_text(json.dumps(total, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return total


def compare(runs: dict[str, dict[str, str]], alone: Callable[[str, bool], str]) -> tuple[str, bool]:
    """A table of the counts of two runs with the differing tests, and whether the outcomes are the same.

    `alone(test, plugin)` gives the outcome of a test that runs by itself; it decides about the tests that differ.
    """
    lines = [" " * 24 + "".join(f"{kind:>9}" for kind in (*KINDS, "total"))]
    for name, outcomes in runs.items():
        counts = Counter(outcomes.values())
        lines.append(f"{name:24}" + "".join(f"{n:>9}" for n in [*(counts[kind] for kind in KINDS), len(outcomes)]))
    first, second = runs.values()
    failures = unstable = 0
    for test in sorted(test for test in first.keys() | second.keys() if first.get(test) != second.get(test)):
        off, on = alone(test, False), alone(test, True)
        lines.append(f"{test}: {first.get(test, 'absent')} -> {second.get(test, 'absent')}, alone {off} -> {on}")
        unstable += off == on
        failures += off != on
    lines.append(f"{failures} tests differ; {unstable} are unstable, but the same when they run alone")
    return "\n".join(lines), not failures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("tests", type=Path)
    runner.add_argument("out", type=Path)
    comparer = commands.add_parser("compare")
    comparer.add_argument("tests", type=Path)
    comparer.add_argument("runs", type=Path, nargs=2)
    options = parser.parse_args()
    if options.command == "run":
        run(options.tests, options.out)
        return
    runs = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in options.runs}
    table, same = compare(runs, lambda test, plugin: run_alone(test, options.tests.resolve(), plugin))
    print(table)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
