"""Models of the zoo: traced graphs in ONNX Runtime against MLX, of any length and batch.

The small models of all families are in unit/test_engines.py.
"""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import speech_zoo
from export_sessions import BATCH, assert_close, normal, run, session
from speech_zoo_core.audio.front_end import SPEECHBRAIN
from speech_zoo_export import Axis, Graph, trace
from tiny_models import CONFIGS, tiny_model
from wav2vec2_files import VARIANTS, hf_folder, source_tensors

FRAMES, SAMPLES = Axis("frames", 20, 3000), Axis("samples", 4000, 200000)


def traced(model: Any, width: int, axis: Axis) -> Graph:
    mx.eval(model.parameters())
    return trace(model, mx.zeros((1, axis.least, width)), axes=[{0: BATCH, 1: axis}])


def compare(model: Any, graph: Graph, width: int, sizes: list[tuple[int, int]], limit: float = 1e-5) -> None:
    ready = session(graph)
    for batch, length in sizes:
        x = normal(batch, length, width, seed=length)
        assert_close(run(ready, x), [np.array(model(mx.array(x)))], limit)


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize("variant", VARIANTS)
def test_wav2vec2(variant: str, tmp_path: Path) -> None:
    model = speech_zoo.load(hf_folder(tmp_path / "model", source_tensors(**VARIANTS[variant]), **VARIANTS[variant]))
    graph = traced(model, 1, SAMPLES)
    compare(model, graph, 1, [(1, 4000), (3, 7999), (1, 16000), (2, 16001)])
    names = ops(graph)
    assert names.count("LayerNormalization") >= 5
    assert "Erf" not in names and "ReduceMax" not in names


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return speech_zoo.load(speech_zoo.convert("campplus-zh-en", tmp_path_factory.mktemp("8-bit") / "zoo", bits=8))


def test_a_quantized_model(quantized: Any) -> None:
    graph = traced(quantized, 80, FRAMES)
    assert ops(graph).count("MatMulNBits") > 10
    compare(quantized, graph, 80, [(1, 150), (2, 233)], limit=1e-4)


def test_the_bundled_model_on_a_voice() -> None:
    model = speech_zoo.load("campplus-zh-en")
    graph = traced(model, 80, FRAMES)
    names = ops(graph)
    assert names.count("Transpose") == 1 and names.count("MatMul") == 1
    compare(model, graph, 80, [(1, 20), (1, 331), (2, 600)])


def test_a_front_end_inside() -> None:
    """SpeechBrain's features and a network, from samples on."""
    model = tiny_model("ecapa_speechbrain")
    mx.eval(model.parameters())
    front_end = CONFIGS["ecapa_speechbrain"].front_end
    assert front_end.kind == SPEECHBRAIN.kind

    def fn(waveform: mx.array) -> mx.array:
        return model(front_end(waveform)[None])

    ready = session(trace(fn, mx.zeros((16000,)), axes=[{0: Axis("samples", 8000, 800000)}]))
    for size in (8000, 8079, 16000, 33333):
        x = normal(size, seed=size) * np.float32(0.1)
        assert_close(run(ready, x), [np.array(fn(mx.array(x)))], 1e-4)
