"""What `import speech_zoo` does, in a fresh process."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from speech_zoo_core.extras import how_to_install

Run = Callable[..., Any]

HEAVY = ("mlx", "mlx_audio", "typer", "torch", "transformers", "huggingface_hub", "matplotlib")


def test_the_import_prints_nothing(python: Run) -> None:
    assert python("import speech_zoo").succeeded().out == ""


def test_the_import_leaves_heavy_packages_alone(python: Run) -> None:
    code = f"import sys, speech_zoo; print([name for name in {HEAVY} if name in sys.modules])"
    assert python(code).succeeded().out == "[]\n"


def test_the_command_line_leaves_mlx_alone_until_a_model_is_needed(python: Run) -> None:
    """So that `--help` and `list` answer at once."""
    code = f"""
import sys
from speech_zoo.cli.main import main
sys.argv = ["speech-zoo", "list"]
try:
    main()
except SystemExit as stop:
    names = [name for name in {HEAVY} if name in sys.modules and name != "typer"]
    print(stop.code, names)
"""
    assert python(code).succeeded().out.splitlines()[-1] == "0 []"


def test_every_public_name_is_there(python: Run) -> None:
    code = "import speech_zoo; print([name for name in speech_zoo.__all__ if not hasattr(speech_zoo, name)])"
    assert python(code).succeeded().out == "[]\n"


def test_without_onnxruntime_there_is_one_warning_on_a_cpu(
    run_process: Callable[..., Any], tmp_path: Path, converted: Path, clip: Path
) -> None:
    code = """
import sys
sys.modules["onnxruntime"] = None
import speech_zoo
speech_zoo.load(sys.argv[1]).embed(sys.argv[2])
speech_zoo.load(sys.argv[1])
import mlx.core as mx
print(mx.default_device().type == mx.DeviceType.cpu)
"""
    result = run_process([sys.executable, "-c", code, converted, clip], tmp_path)
    assert result.status == 0
    if result.out != "True\n":
        pytest.skip("the default device is a GPU")
    assert result.err == (
        "warning: models are computed by MLX here, which is slow on a CPU, as onnxruntime is not installed: "
        f"{how_to_install('cpu')}\n"
    )
