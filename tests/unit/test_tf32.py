"""TF32 is turned off before MLX is imported; where that is too late, or the user wants it, one line says so."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from speech_zoo_core import tf32
from speech_zoo_core.loader import load
from tiny_models import RESNET, wespeaker_folder

CODE = """
import json, os, sys
if "mlx" in sys.argv: import mlx.core
import speech_zoo_core
print(json.dumps([os.environ["MLX_ENABLE_TF32"], speech_zoo_core.tf32._reason, "mlx.core" in sys.modules]))
"""


def run(*arguments: str, **variables: str) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if name != tf32.VARIABLE}
    command = [sys.executable, "-c", CODE, *arguments]
    done = subprocess.run(command, env=kept | variables, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_it_is_off_before_mlx_is_imported() -> None:
    assert run() == ["0", "", False]
    assert run(MLX_ENABLE_TF32="0") == ["0", "", False]


def test_what_the_user_chose_stays_and_is_told() -> None:
    assert run(MLX_ENABLE_TF32="1") == ["1", "MLX_ENABLE_TF32=1 is set", False]


def test_it_may_be_too_late() -> None:
    assert run("mlx") == ["0", "mlx was imported before speech_zoo", True]
    assert run("mlx", MLX_ENABLE_TF32="0") == ["0", "", True]


@pytest.mark.parametrize(
    ("reason", "cpu", "expected"),
    [
        ("", False, "off"),
        ("", True, "off"),
        (tf32.LATE, True, "off"),
        (tf32.LATE, False, f"unknown: {tf32.LATE}"),
        ("MLX_ENABLE_TF32=1 is set", False, "on: MLX_ENABLE_TF32=1 is set"),
    ],
)
def test_the_state(monkeypatch: pytest.MonkeyPatch, reason: str, cpu: bool, expected: str) -> None:
    monkeypatch.setattr(tf32, "_reason", reason)
    monkeypatch.setattr("speech_zoo_core.device.on_cpu", lambda: cpu)
    assert tf32.state() == expected


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_one_line_where_it_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, dtype: str
) -> None:
    monkeypatch.setattr(tf32, "_reason", tf32.LATE)
    monkeypatch.setattr(tf32, "_told", False)
    monkeypatch.setattr("speech_zoo_core.device.on_cpu", lambda: False)
    folder = wespeaker_folder(tmp_path / "source", RESNET)
    with caplog.at_level(logging.WARNING, "speech_zoo"):
        load(folder, dtype=dtype)
        load(folder, dtype=dtype)
    lines = [record.getMessage() for record in caplog.records if "TF32" in record.getMessage()]
    assert len(lines) == (1 if dtype == "float32" else 0)
    assert all("\n" not in line for line in lines)
