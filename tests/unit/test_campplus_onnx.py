"""CAM++ as ONNX, in the form that torch exports it, and forms that are none of it. The real exporter: tests/parity."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from onnx import TensorProto, helper, load_model, numpy_helper, save_model
from source_weights import source_weights
from speech_zoo_campplus.model import DILATIONS, LAYERS, SEGMENT
from speech_zoo_core.conversion import convert
from speech_zoo_core.errors import CheckpointError
from speech_zoo_core.loader import load
from tiny_models import CAMPPLUS, model_of

WEIGHTS = {name: x.astype(np.float64) for name, x in source_weights(CAMPPLUS).items() if "projection" not in name}


class Exporter:
    """Writes the nodes that matter as torch's exporter does: BatchNorms folded into the convolutions before them."""

    def __init__(self, dtype: Any = np.float32, pool_eps: float = 0.0, fold: bool = True, more: str = "") -> None:
        self.dtype, self.pool_eps, self.fold, self.more = dtype, pool_eps, fold, more
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, x: Any, dtype: Any = None) -> str:
        name = f"onnx::{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(x, dtype or self.dtype), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"/{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def norm(self, x: str, name: str) -> str:
        parts = [WEIGHTS.get(f"{name}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        size = len(parts[3])
        parts = [
            np.ones(size) if parts[0] is None else parts[0],
            np.zeros(size) if parts[1] is None else parts[1],
            *parts[2:],
        ]
        return self.node("BatchNormalization", x, *map(self.constant, parts))

    def convolution(self, x: str, name: str, norm: str = "", **attributes: Any) -> str:
        weight, bias = WEIGHTS[f"{name}.weight"], WEIGHTS.get(f"{name}.bias")
        if norm and self.fold:
            scale = WEIGHTS[f"{norm}.weight"] / np.sqrt(WEIGHTS[f"{norm}.running_var"] + 1e-5)
            shift = WEIGHTS[f"{norm}.bias"] - WEIGHTS[f"{norm}.running_mean"] * scale
            weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
            bias = shift if bias is None else bias * scale + shift
        inputs = [self.constant(weight)] + ([] if bias is None else [self.constant(bias)])
        convolved = self.node("Conv", x, *inputs, **attributes)
        return self.norm(convolved, norm) if norm and not self.fold else convolved

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def head(self, x: str) -> str:
        same = {"pads": [1, 1, 1, 1]}
        x = self.node("Unsqueeze", self.node("Transpose", x, perm=[0, 2, 1]), axes=[1])
        x = self.relu(self.convolution(x, "head.conv1", "head.bn1", **same))
        for name, stride in (("layer1.0", 2), ("layer1.1", 1), ("layer2.0", 2), ("layer2.1", 1)):
            part, start = f"head.{name}", x
            x = self.relu(self.convolution(x, f"{part}.conv1", f"{part}.bn1", strides=[stride, 1], **same))
            x = self.convolution(x, f"{part}.conv2", f"{part}.bn2", **same)
            if stride > 1:
                start = self.convolution(start, f"{part}.shortcut.0", f"{part}.shortcut.1", strides=[2, 1])
            x = self.relu(self.node("Add", x, start))
        x = self.relu(self.convolution(x, "head.conv2", "head.bn2", strides=[2, 1], **same))
        return self.node("Reshape", x, self.constant([0, -1, 0], np.int64))

    def layer(self, x: str, name: str, dilation: int) -> str:
        start, cam = x, f"{name}.cam_layer"
        x = self.relu(self.norm(x, f"{name}.nonlinear1.batchnorm"))
        x = self.relu(self.convolution(x, f"{name}.linear1", f"{name}.nonlinear2.batchnorm"))
        local = self.convolution(x, f"{cam}.linear_local", pads=[dilation] * 2, dilations=[dilation])
        size = 50 if self.more == "segments" else SEGMENT
        parts = self.node("AveragePool", x, kernel_shape=[size], strides=[size], ceil_mode=1)
        context = self.node(
            "Add", self.node("ReduceMean", x, axes=[-1], keepdims=1), self.node("Expand", parts, "size")
        )
        mask = self.convolution(self.relu(self.convolution(context, f"{cam}.linear1")), f"{cam}.linear2")
        return self.node("Concat", start, self.node("Mul", local, self.node("Sigmoid", mask)), axis=1)

    def pooled(self, x: str) -> str:
        mean = self.node("ReduceMean", x, axes=[-1], keepdims=0)
        apart = self.node("Sub", x, self.node("ReduceMean", x, axes=[-1], keepdims=1))
        variance = self.node("ReduceMean", self.node("Mul", apart, apart), axes=[-1], keepdims=0)
        if self.more != "biased":
            variance = self.node("Div", variance, self.constant(1))
        if self.pool_eps:
            variance = self.node("Add", variance, self.constant(self.pool_eps))
        return self.node("Concat", mean, self.node("Sqrt", variance), axis=-1)

    def save(self, path: Path) -> Path:
        x = self.head("feature")
        x = self.relu(
            self.convolution(x, "xvector.tdnn.linear", "xvector.tdnn.nonlinear.batchnorm", pads=[2, 2], strides=[2])
        )
        for i, (layers, dilation) in enumerate(zip(LAYERS, DILATIONS, strict=True), 1):
            for j in range(1, layers + 1 - (self.more == "shallow")):
                x = self.layer(x, f"xvector.block{i}.tdnnd{j}", dilation)
            part = f"xvector.transit{i}"
            x = self.relu(self.norm(x, f"{part}.nonlinear.batchnorm"))
            x = self.convolution(x, f"{part}.linear", "xvector.out_nonlinear.batchnorm" if i == len(LAYERS) else "")
        x = self.node("Unsqueeze", self.pooled(self.relu(x)), axes=[-1])
        x = self.node("Squeeze", self.convolution(x, "xvector.dense.linear"), axes=[-1])
        x = self.norm(x, "xvector.dense.nonlinear.batchnorm")
        if self.dtype == np.float16:
            x = self.node("Cast", x, to=TensorProto.FLOAT)
        self.nodes[-1].output[0] = "embedding"
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("feature", "embedding")]
        size = helper.make_tensor_value_info("size", TensorProto.INT64, [3])
        graph = helper.make_graph(
            self.nodes, "graph", ends[:1], ends[1:], [*self.constants, _shape()], value_info=[size]
        )
        save_model(helper.make_model(graph), str(path))
        return path


def _shape() -> Any:
    return numpy_helper.from_array(np.array([1, 1, 1], np.int64), "size")


def output(model: Any) -> np.ndarray:
    features = np.random.default_rng(0).standard_normal((1, 230, CAMPPLUS.feat_dim)).astype(np.float32)
    return np.array(model(mx.array(features)).astype(mx.float32))[0]


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("pool_eps", [0.0, 1e-7])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_an_export_gives_what_its_source_gives(tmp_path: Path, fold: bool, pool_eps: float, dtype: Any) -> None:
    path = Exporter(dtype, pool_eps, fold).save(tmp_path / "campplus.onnx")
    model = load(path)
    expected = output(model_of(CAMPPLUS, source_weights(CAMPPLUS)))
    embedding = output(model)
    assert np.dot(embedding, expected) / np.linalg.norm(embedding) / np.linalg.norm(expected) > (
        0.999999 if dtype == np.float32 else 0.999
    )
    facts = (model.config.pool_eps, model.config.front_end.window, model.config.front_end.scale)
    assert facts == ((1e-7, "hamming", 32768.0) if pool_eps else (0.0, "povey", 1.0))
    again = load(convert(path, tmp_path / "out"))
    assert np.array_equal(output(again), embedding)
    assert again.config.source["form"] == f"{'WeSpeaker' if pool_eps else '3D-Speaker'} CAM++ ONNX"


def test_the_rate_beside_an_export(tmp_path: Path) -> None:
    path = Exporter().save(tmp_path / "campplus.onnx")
    text = "feature_extractor: {obj: speakerlab.process.processor.FBank, args: {sample_rate: 8000, mean_nor: true}}"
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert load(path).config.front_end.sample_rate == 8000


@pytest.mark.parametrize("more", ["segments", "biased", "shallow"])
def test_an_export_of_another_campplus(tmp_path: Path, more: str) -> None:
    path = Exporter(more=more).save(tmp_path / "campplus.onnx")
    with pytest.raises(CheckpointError, match="looks like a CAM"):
        load(path)


def test_damaged_exports_are_told(tmp_path: Path) -> None:
    """A node, an input or an attribute dropped or exchanged: an error, or the same kind of model."""
    path = Exporter().save(tmp_path / "campplus.onnx")
    rng = np.random.default_rng(0)
    for _ in range(40):
        model = load_model(str(path))
        nodes = model.graph.node
        node = nodes[int(rng.integers(len(nodes)))]
        kind = rng.integers(5)
        if kind == 0:
            del node.input[-1]
        elif kind == 1:
            node.op_type = str(rng.choice(["Conv", "Relu", "Add", "Sqrt", "Concat", "Gemm", "Reshape"]))
        elif kind == 2 and node.attribute:
            del node.attribute[-1]
        elif kind == 3:
            del node.input[:]
        else:
            node.input[0] = nodes[0].output[0] if node is not nodes[0] else "feature"
        save_model(model, str(tmp_path / "damaged.onnx"))
        try:
            assert load(tmp_path / "damaged.onnx").config.model_type == "campplus"
        except CheckpointError as error:
            assert "cannot be read as" not in str(error), error
