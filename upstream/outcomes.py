"""Run mlx-audio's own test suite and compare the outcomes of two runs.

python upstream/outcomes.py run TESTS OUT.json           TESTS: a folder with `test_*.py` somewhere below
python upstream/outcomes.py compare TESTS A.json B.json  a table; status 1 where a test's outcome differs

pytest-xdist goes on in a new process after a test that crashes or takes longer than PATIENCE. Tests that differ run
once more, alone, with the plugin switched off and on: whether an invalid access to memory crashes a process that ran
others before is chance.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

KINDS = ("passed", "failed", "error", "skipped", "crashed")
PATIENCE = 600.0  # seconds for one test; a busy machine is no hang

Outcomes = dict[str, str]  # "file::class::test" to one of KINDS


def run_tests(targets: list[str], root: Path, workers: int = 1) -> Outcomes:
    """Outcomes of test files below `root`, of folders, or of single tests as in "file::class::test".

    Raises:
        RuntimeError: there are none.
    """
    # Without the network, so that it is the same on every machine.
    environment = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    flags = f"-q -p no:cacheprovider --continue-on-collection-errors -n {workers} --dist worksteal"
    flags += " --max-worker-restart 40"  # or pytest-xdist leaves out what follows a few crashes
    options = ("junit_family=xunit1", f"faulthandler_timeout={PATIENCE}", "faulthandler_exit_on_timeout=true")
    settings = " ".join(f"-o {option}" for option in options)
    paths = [f"{root}/{target}" for target in targets]
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.xml")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                *f"{flags} {settings}".split(),
                f"--junitxml={report}",
                f"--rootdir={root}",
                *paths,
            ],
            cwd=scratch,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        cases = [*ElementTree.parse(report).iter("testcase")] if report.is_file() else []
    if not cases:
        raise RuntimeError(f"pytest ran nothing in {root}: {(done.stdout + done.stderr)[-2000:]}")
    return dict(map(_outcome, cases))


def run_alone(test: str, root: Path) -> str:
    """The outcome of one "file::class::test" in a process of its own."""
    try:
        return run_tests([test], root)[test]
    except (KeyError, RuntimeError):
        return "absent"


def _outcome(case: ElementTree.Element) -> tuple[str, str]:
    """A test and how it ended."""
    kinds = {"failure": "failed", "error": "error", "skipped": "skipped"}
    found = next((part for part in case if part.tag in kinds), None)
    kind = "passed" if found is None else kinds[found.tag]
    if found is not None and "crashed while running" in found.get("message", "") and kind == "error":
        kind = "crashed"
    module, name = case.get("classname", ""), case.get("name", "")
    if not module:  # of a file that cannot be imported
        return f"{name.replace('.', '/')}.py::collection", kind
    file = case.get("file", "")
    inside = module.removeprefix(file.removesuffix(".py").replace("/", ".")).strip(".")
    return "::".join(filter(None, [file, inside.replace(".", "::"), name])), kind


def run(tests: Path, out: Path, workers: int | None = None) -> Outcomes:
    """Outcomes of every test file below `tests`, also written to `out`."""
    outcomes = run_tests([""], tests.resolve(), workers or os.cpu_count() or 1)
    out.write_text(json.dumps(outcomes, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return outcomes


def summary(outcomes: Outcomes) -> str:
    """Counts, the most frequent first."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(outcomes.values()).most_common()) or "no tests"


def compare(runs: dict[str, Outcomes], alone: Callable[[str, bool], str]) -> tuple[str, bool]:
    """A table of the counts of two runs with the differing tests, and whether the outcomes are the same.

    `alone(test, second)` gives the outcome of a test that runs by itself as in the first run or the second; it decides
    about the tests that differ.
    """
    lines = [" " * 24 + "".join(f"{kind:>9}" for kind in (*KINDS, "total"))]
    for name, outcomes in runs.items():
        counts = Counter(outcomes.values())
        lines.append(f"{name:24}" + "".join(f"{n:>9}" for n in [*(counts[kind] for kind in KINDS), len(outcomes)]))
    first, second = runs.values()
    failures = unstable = 0
    for test in sorted(test for test in first.keys() | second.keys() if first.get(test) != second.get(test)):
        was, now = alone(test, False), alone(test, True)
        lines.append(f"{test}: {first.get(test, 'absent')} -> {second.get(test, 'absent')}, alone {was} -> {now}")
        unstable += was == now
        failures += was != now
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
        print(summary(run(options.tests, options.out)))
        return
    tests = options.tests.resolve()

    def alone(test: str, plugin: bool) -> str:
        os.environ["SPEECH_ZOO_AUTOLOAD"] = str(int(plugin))
        return run_alone(test, tests)

    table, same = compare({file.stem: json.loads(file.read_text(encoding="utf-8")) for file in options.runs}, alone)
    print(table)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
