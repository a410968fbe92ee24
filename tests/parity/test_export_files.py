"""The bundled checkpoint as ONNX and as Core ML, from samples on, on nine voices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import onnxruntime
import pytest
import speech_zoo
from mlprogram import MLProgram
from signals import COSINE, RATE, VOICES, cosine, waveforms

FORMS = [("features", "float32"), ("waveform", "float32"), ("waveform", "float16")]


@pytest.fixture(scope="module")
def model() -> Any:
    return speech_zoo.load("campplus-zh-en", dtype="float32")


def compare(
    model: Any, fn: Callable[[np.ndarray], np.ndarray], from_: str, precision: str, samples: int | None = None
) -> tuple[str, ...]:
    """Cosines with MLX; figures for the record."""
    worst = 1.0
    for voice in VOICES:
        clip = mx.array(waveforms()[voice][:samples])
        features = model.config.front_end(clip)[None]
        given = np.array(features) if from_ == "features" else np.array(clip)[None]
        worst = min(worst, cosine(fn(given), np.array(model(features))))
    assert worst >= COSINE[precision]
    return f"{max(0.0, 1 - worst):.1e}", "", str(COSINE[precision]), "MLX"


@pytest.mark.parametrize(("from_", "precision"), FORMS)
def test_onnx(from_: Any, precision: str, model: Any, tmp_path: Path, record: Callable[..., None]) -> None:
    path = speech_zoo.export(model, tmp_path / "model.onnx", from_=from_, dtype=precision)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    figures = compare(model, lambda x: session.run(None, {from_: x})[0], from_, precision)
    record("CAM++", f"ONNX file, from {from_}", precision, "nine voices", "", *figures)


def test_core_ml(model: Any, tmp_path: Path, record: Callable[..., None]) -> None:
    path = speech_zoo.export(model, tmp_path / "model.mlpackage", from_="waveform", seconds=[2, 3])
    program = MLProgram(path)

    def computed(x: np.ndarray) -> np.ndarray:
        """A clip between the lengths is filled up with zeros."""
        size = 2 * RATE if x.size <= 2 * RATE else 3 * RATE
        return program(np.pad(x, ((0, 0), (0, size - x.size))), np.array([x.size], np.int32))[0]

    for seconds in (2, 2.5, 3):
        figures = compare(model, computed, "waveform", "float16", round(seconds * RATE))
        clips = f"nine voices, {seconds:g} s"
        record("CAM++", "Core ML package, from waveform", "float16", clips, "", *figures)
