"""What MLX reads from the environment is set before it is imported; what the user chose stands."""

import os
import subprocess
import sys

from speech_zoo_core.environment import DEFAULTS

CODE = """
import os, sys
import speech_zoo_core
print(os.environ["MLX_CUDA_CONV_CACHE_SIZE"], "mlx.core" in sys.modules)
"""


def run(**variables: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in DEFAULTS}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=kept | variables, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_defaults_and_choices() -> None:
    assert run() == "4096 False"
    assert run(MLX_CUDA_CONV_CACHE_SIZE="7") == "7 False"
