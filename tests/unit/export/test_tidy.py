"""What is put together, left out and moved in a traced graph."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import onnx
import onnxruntime
import pytest
import speech_zoo_export
from export_sessions import BATCH, assert_close, check, normal, results, run
from speech_zoo_export import Axis, ExportError, trace
from speech_zoo_export import onnx as writer
from speech_zoo_export.save import save_onnx

TIME = Axis("time", 20, 3000)


def ops(graph: speech_zoo_export.Graph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes)


def evaluated(module: nn.Module) -> nn.Module:
    mx.eval(module.parameters())
    return module


@pytest.mark.parametrize("shape", [(2, 5, 8), (3, 8)])
def test_layer_norm_and_gelu(shape: tuple[int, ...]) -> None:
    norm = nn.LayerNorm(8)
    norm.weight, norm.bias = mx.array(normal(8)), mx.array(normal(8, seed=1))
    graph = check(lambda x: nn.gelu(evaluated(norm)(x)), normal(*shape))
    assert ops(graph) == {"LayerNormalization": 1, "Gelu": 1}


def test_softmax_over_any_axis() -> None:
    for axis in range(3):
        assert ops(check(lambda x, axis=axis: mx.softmax(x, axis=axis), normal(2, 5, 3))) == {"Softmax": 1}


def test_means_and_activations() -> None:
    graph = check(
        lambda x: nn.relu(mx.mean(x, axis=1)) + nn.leaky_relu(mx.mean(x, axis=(1,), keepdims=True)[:, 0], 0.01),
        normal(2, 50, 3),
        axes=[{0: BATCH, 1: TIME}],
        others=[[normal(1, 33, 3)]],
    )
    assert ops(graph)["ReduceMean"] == 1 and {"Relu", "LeakyRelu"} <= set(ops(graph))
    assert not {"ReduceSum", "Max", "Sizes"} & set(ops(graph))


def test_limits_are_clips() -> None:
    graph = check(lambda x: mx.minimum(nn.relu(x), 0.5) + mx.maximum(x, -0.25), normal(2, 5, 3))
    written = [node.op_type for node in writer.to_onnx(graph).graph.node]
    assert written.count("Clip") == 2 and not {"Min", "Max"} & set(written)
    both = check(lambda x, y: mx.minimum(mx.maximum(x[:1], 0.5), y), normal(2, 5, 3), normal(2, 5, 3, seed=1))
    assert "Min" in [node.op_type for node in writer.to_onnx(both).graph.node]  # of two arrays


def test_rows_are_not_flattened() -> None:
    layers = evaluated(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    graph = check(layers, normal(2, 50, 4), axes=[{0: BATCH, 1: TIME}], others=[[normal(1, 21, 4)]])
    assert ops(graph) == {"MatMul": 2, "Add": 2, "Relu": 1}


def test_convolutions_follow_one_another() -> None:
    one, two = evaluated(nn.Conv2d(1, 4, 3, 2, 1)), evaluated(nn.Conv2d(4, 4, 3, 1, 0))

    def fn(x: mx.array) -> mx.array:
        x = nn.relu(one(x[..., None]))
        x = nn.relu(two(mx.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])) * mx.array(normal(4)) + x)
        return mx.mean(x, axis=2)

    assert ops(check(fn, normal(2, 50, 8), axes=[{0: BATCH, 1: TIME}], others=[[normal(1, 21, 8)]]))["Transpose"] <= 1
    counts = ops(trace(fn, mx.zeros((2, 50, 8))))
    assert (counts["Conv"], counts["Pad"], counts["Mul"], counts["Add"]) == (2, 0, 0, 1)


def test_strides_of_a_convolution() -> None:
    before, after = evaluated(nn.Conv2d(3, 4, 3, padding=1)), evaluated(nn.Linear(4, 2))
    inputs: Any = {"axes": [{0: BATCH, 1: TIME}], "others": [[normal(1, 33, 6, 3)], [normal(3, 34, 6, 3)]]}
    graph = check(lambda x: after(before(x)[:, ::2, ::3]), normal(2, 50, 6, 3), **inputs)
    assert ops(graph)["Conv"] == 2 and "Slice" not in ops(graph)
    graph = check(lambda x: after(before(x)[:, 1::2]), normal(2, 50, 6, 3), **inputs)
    assert ops(graph)["Slice"] == 1  # a convolution begins at the first place


def test_a_single_number_beside_a_view_of_an_array() -> None:
    """As the pre-emphasis has it, of samples (1, N) taken as (N,)."""

    def fn(x: mx.array) -> mx.array:
        flat = x.reshape(-1)
        return flat - mx.concatenate([flat[1:2], flat[:-1]])

    check(fn, normal(1, 50), axes=[{1: TIME}], others=[[normal(1, 21)]])


def test_writes_into_a_padded_array_are_parts_side_by_side() -> None:
    def fn(x: mx.array) -> mx.array:
        grown = mx.pad(x, [(0, 0), (0, 0), (0, 4)])
        for i in range(3, 7, 2):
            grown[..., i : i + 2] = mx.exp(grown[..., :i] @ mx.array(normal(i, 2)))
        return grown

    assert not {"Slice", "Pad"} & set(ops(check(fn, normal(1, 5, 3))))


def test_what_is_computed_twice_is_computed_once() -> None:
    assert ops(check(lambda x: (mx.exp(x) + 1, mx.exp(x) * 2), normal(3)))["Exp"] == 1
    assert ops(check(lambda x: x + mx.arange(3) * 2.0 - mx.array([1.0, 0, 2]), normal(3)))["Mul"] == 0


def test_attention() -> None:
    def fn(x: mx.array) -> mx.array:
        q, k, v = (x.reshape(*x.shape[:2], 2, 4).transpose(0, 2, 1, 3) * scale for scale in (1.0, 0.5, 2.0))
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(0, 2, 1, 3).reshape(x.shape)

    check(fn, normal(1, 30, 8), axes=[{0: BATCH, 1: TIME}], others=[[normal(3, 77, 8)]])


def test_float16() -> None:
    layer = evaluated(nn.Linear(4, 6))
    layer.set_dtype(mx.float16)
    mx.eval(layer.parameters())
    graph = check(lambda x: layer(x.astype(mx.float16)).astype(mx.float32), normal(3, 4), limit=2e-3)
    assert {value.dtype for node in graph.nodes for value in node.inputs[1:]} == {np.dtype(np.float16)}


# Files


def big(x: mx.array, weight: mx.array = mx.array(normal(64, 64))) -> mx.array:  # noqa: B008
    return mx.tanh(x @ weight) + x


def test_constants_outside_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = trace(big, mx.zeros((3, 64))), normal(3, 64)
    model, arrays = writer.to_onnx_parts(graph)
    assert [array.shape for array in arrays.values()] == [(64, 64)]
    options = onnxruntime.SessionOptions()
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for array in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    ready = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    assert_close(run(ready, x), results(big, x))
    monkeypatch.setattr(writer, "MAX_INLINE_BYTES", 1000)
    with pytest.raises(ExportError, match="more than 2 GiB"):
        writer.to_onnx(graph)
    save_onnx(graph, tmp_path / "big.onnx", inputs=["a"], outputs=["b"], metadata={"model_type": "tanh"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data"]
    ready = onnxruntime.InferenceSession(str(tmp_path / "big.onnx"), providers=["CPUExecutionProvider"])
    assert (ready.get_inputs()[0].name, ready.get_outputs()[0].name) == ("a", "b")
    assert ready.get_modelmeta().custom_metadata_map == {"model_type": "tanh"}
    assert_close(run(ready, x), results(big, x))


def test_one_file(tmp_path: Path) -> None:
    save_onnx(trace(big, mx.zeros((3, 64))), tmp_path / "small.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "small.onnx"), full_check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]


def test_the_package_needs_neither_the_zoo_nor_torch() -> None:
    code = "import sys, speech_zoo_export, speech_zoo_export.onnx; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "speech_zoo_export" in modules
    assert not [name for name in modules if name == "torch" or name.startswith(("speech_zoo.", "speech_zoo_core"))]
