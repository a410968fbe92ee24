"""torchaudio's resampling without torchaudio, which does not import beside every torch: from its source."""

import ast
import math
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

RATE = 16000


@cache
def torchaudio_functions() -> dict[str, Any]:
    """torchaudio's resampling, from the source in the folder SPEECH_ZOO_TORCHAUDIO or where torchaudio is installed."""
    spec = find_spec("torchaudio")
    folders = [*(spec.submodule_search_locations or [] if spec else []), os.environ.get("SPEECH_ZOO_TORCHAUDIO", "")]
    path = next((p for f in folders if (p := Path(f, "functional", "functional.py")).is_file()), None)
    if path is None:
        pytest.skip("torchaudio's source is not here; SPEECH_ZOO_TORCHAUDIO names the folder of its package")
    wanted = ("_get_sinc_resample_kernel", "_apply_sinc_resample_kernel")
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    assert len(tree.body) == 2
    names: dict[str, Any] = {"torch": torch, "math": math, "Tensor": torch.Tensor, "_CPU": torch.device("cpu")}
    exec("from typing import *\nimport warnings", names)
    exec(compile(tree, str(path), "exec"), names)
    return names


def torchaudio_resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """`torchaudio.transforms.Resample(rate, 16000)(samples)`, (N,) float32."""
    names, divisor = torchaudio_functions(), math.gcd(rate, RATE)
    kernel, width = names["_get_sinc_resample_kernel"](rate, RATE, divisor)
    waveform = torch.from_numpy(np.ascontiguousarray(samples))[None]
    return names["_apply_sinc_resample_kernel"](waveform, rate, RATE, divisor, kernel, width)[0].numpy()
