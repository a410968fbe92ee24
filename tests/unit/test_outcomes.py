"""`upstream/outcomes.py`: the outcomes of a test suite that crashes, stalls and fails, and how two runs differ."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SUITE = """
import os, time, pytest
def test_passes(): pass
def test_crashes(): os.abort()
def test_fails(): assert 0
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
    monkeypatch.setattr(outcomes, "STALL", 4.0)
    suite = tmp_path / "suite" / "tests"
    suite.mkdir(parents=True)
    (suite / "test_some.py").write_text(SUITE)
    (suite / "test_broken.py").write_text("import a_module_that_is_nowhere")
    (suite / "test_empty.py").write_text("")
    (suite / "test_gone.py").write_text("import os; os._exit(3)")
    found = outcomes.run(suite.parent, tmp_path / "found.json")
    assert found == {
        "tests/test_broken.py::collection": "error",
        "tests/test_gone.py::whole file": "crashed",
        "tests/test_some.py::test_crashes": "crashed",
        "tests/test_some.py::test_errs": "error",
        "tests/test_some.py::test_fails": "failed",
        "tests/test_some.py::test_is_skipped": "skipped",
        "tests/test_some.py::test_passes": "passed",
        "tests/test_some.py::test_stalls[1]": "passed",
        "tests/test_some.py::test_stalls[2]": "stalled",
    }


def test_differing_tests_are_named(outcomes: ModuleType) -> None:
    table, same = outcomes.compare({"without": {"a": "passed", "b": "failed"}, "with": {"a": "failed", "c": "passed"}})
    assert not same
    assert table.splitlines()[-4:] == [
        "a: passed -> failed",
        "b: failed -> absent",
        "c: absent -> passed",
        "3 tests differ",
    ]
    table, same = outcomes.compare({"without": {"a": "passed"}, "with": {"a": "passed"}})
    assert same
    assert table.splitlines()[-1] == "every test has the same outcome"
