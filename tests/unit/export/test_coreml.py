"""Core ML programs: saved, read anew and computed by tests/mlprogram.py, against MLX."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from export_sessions import BATCH, normal
from mlprogram import MLProgram
from signals import COSINE, cosine
from source_weights import source_weights
from speech_zoo_export import Axis, ExportError, trace
from speech_zoo_export.coreml import to_coreml
from tiny_models import CONFIGS, model_of


def saved(path: Path, fn: Any, *shapes: tuple[int, ...], **options: Any) -> MLProgram:
    model = to_coreml(trace(fn, *(mx.zeros(shape) for shape in shapes)), **options)
    model.save(str(path / "model.mlpackage"))
    return MLProgram(path / "model.mlpackage")


def composed(x: mx.array, y: mx.array) -> mx.array:
    """Operations that the families lack."""
    x = mx.concatenate([x[:, ::-1], mx.pad(y, [(0, 0), (1, 0), (0, 2)], constant_values=2)[..., :4]], axis=1)
    x = mx.where(x > y[:, :1], mx.minimum(x, 1), mx.exp(-mx.abs(x))) / (1.5 + mx.sin(x) * mx.cos(x))
    x = mx.take(x, mx.array([2, 0]), axis=1) + mx.max(x, axis=1, keepdims=True)
    return mx.log(mx.square(x) + 1) + nn.gelu(x) + nn.leaky_relu(x) @ mx.array(normal(4, 4)) + mx.softmax(x, axis=-1)


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_operations(precision: str, tmp_path: Path) -> None:
    program = saved(tmp_path, composed, (2, 3, 4), (2, 3, 4), precision=precision)
    arrays = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    expected = np.array(composed(*map(mx.array, arrays)))
    limit = {"float16": 1e-2, "float32": 1e-5}[precision]
    assert np.abs(program(*arrays)[0] - expected).max() <= limit * np.abs(expected).max()


@pytest.mark.parametrize("name", ["basic", "campplus", "ecapa_speechbrain", "ecapa_wespeaker"])
@pytest.mark.usefixtures("shallow_campplus")
def test_families(name: str, tmp_path: Path) -> None:
    model, width = model_of(CONFIGS[name], source_weights(CONFIGS[name])), CONFIGS[name].feat_dim
    mx.eval(model.parameters())
    program = saved(tmp_path, model, (1, 231, width))
    x = normal(1, 231, width)
    assert cosine(program(x)[0], np.array(model(mx.array(x)))) >= COSINE["float16"]


def test_what_stands_in_the_file(tmp_path: Path) -> None:
    names = {"inputs": ["features"], "outputs": ["embedding"], "metadata": {"model_type": "tanh"}}
    program = saved(tmp_path, mx.tanh, (2, 3), **names)
    description = program.spec.description
    assert [value.name for value in description.input] == ["features"]
    assert [value.name for value in description.output] == ["embedding"]
    assert description.metadata.userDefined["model_type"] == "tanh"
    assert program.ops == ["cast", "tanh", "cast"]


def test_what_has_no_form_is_an_error() -> None:
    with pytest.raises(ExportError, match="fixed sizes"):
        to_coreml(trace(mx.exp, mx.zeros((1, 30)), axes=[{0: BATCH, 1: Axis("time", 20, 900)}]))
    with pytest.raises(ExportError, match="Asinh, of the primitive ArcSinh"):
        to_coreml(trace(mx.arcsinh, mx.zeros((1, 30))))
