"""What several unit tests share."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import source_weights
from mlprogram import MLProgram
from speech_zoo_campplus import model as campplus
from speech_zoo_core import device
from speech_zoo_core.tasks import audio_model


@pytest.fixture
def all_is_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every clip is taken for speech, where a test is about what comes after that check."""
    monkeypatch.setattr(audio_model, "speech", lambda samples, rate: np.ones(max(3, samples.size // 512), bool))


@pytest.fixture
def shallow_campplus(monkeypatch: pytest.MonkeyPatch) -> None:
    """CAM++ and its weights that are made now have 5 layers, not 52, where a test takes as long as there are steps."""
    for module, layers in ((source_weights, "CAMPPLUS_LAYERS"), (campplus, "LAYERS")):
        monkeypatch.setattr(module, layers, (2, 1, 2))


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clips go the way of a GPU, whatever computes them; not compiled, which needs a C++ compiler on a CPU."""
    monkeypatch.setattr(audio_model, "on_cpu", lambda: False)
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.fixture
def core_ml_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Core ML, with an interpreter of the saved program in the place of Apple's."""
    from speech_zoo.engines import core_ml

    made: list[Any] = []

    class Interpreted:
        def __init__(self, path: str) -> None:
            self.program = MLProgram(shutil.copytree(path, tmp_path / f"{len(made)}.mlpackage"))
            made.append(self)

        def predict(self, given: dict[str, Any]) -> dict[str, Any]:
            (x,) = given.values()
            (y,) = self.program(x)
            return {"y0": y}

    monkeypatch.setattr(core_ml, "loaded", Interpreted)
    return core_ml.CoreML()
