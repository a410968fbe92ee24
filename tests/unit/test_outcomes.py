"""`upstream/outcomes.py`: the outcomes of a test suite that crashes, stalls and fails, and how two runs differ."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SUITE = """
import os, time, pytest
def test_passes(): pass
def test_crashes(): os.abort()
class TestSome:
    def test_fails(self): assert 0
@pytest.mark.parametrize("x", [1, 2])
def test_stalls(x): time.sleep(60 if x == 2 else 0)
@pytest.fixture
def bad():
    yield
    raise ValueError
def test_errs(bad): pass
@pytest.mark.skip
def test_is_skipped(): pass
"""


@pytest.fixture(scope="module")
def outcomes() -> ModuleType:
    path = Path(__file__).parents[2] / "upstream" / "outcomes.py"
    spec = importlib.util.spec_from_file_location("outcomes", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_test_has_its_outcome(outcomes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "PATIENCE", 5.0)
    suite = tmp_path / "suite" / "tests"
    suite.mkdir(parents=True)
    (suite / "test_some.py").write_text(SUITE)
    (suite / "test_broken.py").write_text("import a_module_that_is_nowhere")
    results = outcomes.run(suite.parent, tmp_path / "found.json")
    assert results == {
        "tests/test_broken.py::collection": "error",
        "tests/test_some.py::TestSome::test_fails": "failed",
        "tests/test_some.py::test_crashes": "crashed",
        "tests/test_some.py::test_errs": "error",
        "tests/test_some.py::test_is_skipped": "skipped",
        "tests/test_some.py::test_passes": "passed",
        "tests/test_some.py::test_stalls[1]": "passed",
        "tests/test_some.py::test_stalls[2]": "crashed",
    }


def test_nothing_to_run_is_an_error(outcomes: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_gone.py").write_text("import os; os._exit(3)")
    with pytest.raises(RuntimeError, match="pytest ran nothing in "):
        outcomes.run(tmp_path, tmp_path / "found.json")


def test_differing_tests_are_named(outcomes: ModuleType) -> None:
    def alone(test: str, second: bool) -> str:
        return "failed" if test == "a" and second else "crashed"

    runs = {
        "without": {"a": "passed", "b": "crashed", "c": "failed"},
        "with": {"a": "failed", "b": "passed", "c": "failed"},
    }
    table, same = outcomes.compare(runs, alone)
    assert not same
    assert table.splitlines()[-3:] == [
        "a: passed -> failed, alone crashed -> failed",
        "b: crashed -> passed, alone crashed -> crashed",
        "1 tests differ; 1 are unstable, but the same when they run alone",
    ]
    table, same = outcomes.compare({name: {"b": run["b"]} for name, run in runs.items()}, alone)
    assert same
    assert outcomes.compare({"without": {"a": "passed"}, "with": {"a": "passed"}}, alone)[1]


def test_one_test_runs_alone(outcomes: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("def test_it(): pass\ndef test_other(): assert 0\n")
    assert outcomes.run_alone("test_some.py::test_it", tmp_path) == "passed"
    assert outcomes.run_alone("test_some.py::test_other", tmp_path) == "failed"
    assert outcomes.run_alone("test_some.py::test_gone", tmp_path) == "absent"
