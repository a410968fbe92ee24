"""The command that installs an extra's packages."""

import shlex

import pytest
from packaging.requirements import Requirement
from speech_zoo_core import extras


@pytest.mark.parametrize(
    ("extra", "distribution", "command"),
    [
        ("plot", "mlx-speech-zoo", "pip install 'matplotlib>=3.8'"),
        ("coreml", "mlx-speech-zoo", "pip install 'coremltools>=8'"),  # by way of another package of ours
        ("onnx", "mlx-speech-zoo", "pip install 'onnx>=1.17'"),  # named by two of them
        ("onnx", "mlx-speech-zoo-core", "pip install 'onnx>=1.17'"),
    ],
)
def test_the_packages_of_an_extra(extra: str, distribution: str, command: str) -> None:
    assert extras.how_to_install(extra, distribution) == command


def test_what_another_system_needs_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["a>=1", "b; sys_platform == 'none' and extra == 'x'", "c[d]>=2; extra == 'x'", "e; extra == 'y'"]
    monkeypatch.setattr(extras, "requires", lambda _: [*lines, "f; sys_platform != 'none'"])
    assert extras.how_to_install("x") == "pip install 'c[d]>=2'"


def test_nothing_of_ours_is_to_be_fetched() -> None:
    for extra in ("cpu", "cuda13", "onnx", "coreml", "plot", "parquet", "eval"):
        _, _, *packages = shlex.split(extras.how_to_install(extra))
        assert not [name for name in packages if Requirement(name).name.startswith("mlx-speech-zoo")]
