"""`tests/gpu/measure.py`, tried without a GPU."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gpu.measure import LIMITS, arguments, section
from speech_zoo_core.device import on_cpu

SCRIPT = Path(__file__).parents[1] / "gpu" / "measure.py"


def measure(*given: str) -> Any:
    return subprocess.run([sys.executable, str(SCRIPT), *given], capture_output=True, text=True, check=False)


def test_a_section_that_fails_stops_no_other(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    done = measure("--cpu", "parity", "exception", "--models", "nowhere", "--output", str(file))
    assert (done.returncode, done.stderr) == (2, "")
    found = json.loads(file.read_text())
    assert found["versions"]["mlx"]
    verdicts = [(row["section"], row["passed"]) for row in found["findings"]]
    assert verdicts == [("parity", False), ("parity", None), *[("exception", True)] * 2, ("exception", None)]
    assert "nowhere" in found["findings"][0]["figures"]["failed"]
    assert done.stdout.splitlines()[-1].startswith("1 of 5 findings failed")


def test_a_section_ends_when_its_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--cpu"])
    why, took = section("device", 0.1, arguments(), tmp_path)
    assert (why["passed"], why["figures"]) == (False, {"why": "stopped after 0 s"})
    assert took["case"] == "took"


def test_it_is_for_a_gpu() -> None:
    if on_cpu():
        done = measure()
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "MLX sees no GPU here; --cpu tries every section on the CPU\n"
    assert f"the sections are {', '.join(LIMITS)}, not nothing" in measure("nothing").stderr
