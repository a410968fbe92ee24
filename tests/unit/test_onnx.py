"""ONNX files: the graph as it is read, and WeSpeaker's ResNet found again by its structure."""

import builtins
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from random_weights import source_weights
from speech_zoo_core.checkpoint import read_checkpoint
from speech_zoo_core.errors import CheckpointError
from speech_zoo_core.front_end import FrontEnd
from speech_zoo_core.loader import build, load
from speech_zoo_resnet34 import SPEC, ModelConfig

CONFIG = ModelConfig(
    model_type="resnet34",
    embed_dim=8,
    front_end=FrontEnd(n_mels=16),
    block="basic",
    num_blocks=[1, 2, 1, 1],
    m_channels=2,
    feat_dim=16,
)
BOTTLENECK = ModelConfig(**vars(CONFIG) | {"block": "bottleneck"})
TWO_LAYERS = ModelConfig(**vars(CONFIG) | {"two_emb_layer": True})


def refusal(path: Path, read: Any = read_checkpoint) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Exporter:
    """Writes a WeSpeaker ResNet as an exporter does: BatchNorm folded or not, initialisers renamed or not."""

    def __init__(self, weights: dict[str, np.ndarray], *, fold: bool, rename: bool, gemm: bool = True) -> None:
        self.weights = {name: x.astype(np.float64) for name, x in weights.items()}
        self.fold, self.rename, self.gemm = fold, rename, gemm
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, x: Any) -> str:
        name = f"onnx::{100 + len(self.constants)}" if self.rename else name
        self.constants[name] = np.asarray(x)
        return name

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        output = f"/{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def norm_constants(self, norm: str, channels: int) -> list[np.ndarray]:
        """Weight, bias, mean, variance."""
        default = {"weight": np.ones(channels), "bias": np.zeros(channels)}
        return [
            self.weights.get(f"{norm}.{part}", default.get(part))
            for part in ("weight", "bias", "running_mean", "running_var")
        ]

    def convolution(self, x: str, name: str, norm: str, stride: int = 1) -> str:
        weight = self.weights[f"{name}.weight"]
        gamma, beta, mean, var = self.norm_constants(norm, len(weight))
        bias = None
        if self.fold:
            scale = gamma / np.sqrt(var + 1e-5)
            weight, bias = weight * scale[:, None, None, None], beta - mean * scale
        inputs = [x, self.constant(f"{name}.weight", weight)]
        inputs += [] if bias is None else [self.constant(f"{name}.bias", bias)]
        edge = weight.shape[-1] // 2
        x = self.node("Conv", inputs, strides=[stride, stride], pads=[edge] * 4, kernel_shape=list(weight.shape[2:]))
        return x if self.fold else self.batch_norm(x, norm, len(weight))

    def batch_norm(self, x: str, norm: str, channels: int) -> str:
        parts = zip("abcd", self.norm_constants(norm, channels), strict=True)
        return self.node("BatchNormalization", [x, *(self.constant(f"{norm}.{k}", v) for k, v in parts)], epsilon=1e-5)

    def linear(self, x: str, name: str) -> str:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        if self.gemm:
            parts = [self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
            return self.node("Gemm", [x, *parts], alpha=1.0, beta=1.0, transB=1)
        x = self.node("MatMul", [x, self.constant(f"{name}.weight", weight.T)])
        return self.node("Add", [self.constant(f"{name}.bias", bias), x])

    def block(self, x: str, name: str, stride: int) -> str:
        out = x
        count = 3 if f"{name}.conv3.weight" in self.weights else 2
        for k in range(1, count + 1):
            strides = stride if k == count - 1 else 1
            out = self.convolution(out, f"{name}.conv{k}", f"{name}.bn{k}", strides)
            out = self.node("Relu", [out]) if k < count else out
        if f"{name}.shortcut.0.weight" in self.weights:
            x = self.convolution(x, f"{name}.shortcut.0", f"{name}.shortcut.1", stride)
        return self.node("Relu", [self.node("Add", [out, x])])

    def pooling(self, x: str) -> str:
        """Mean and unbiased standard deviation over time, flattened and joined."""
        mean = self.node("ReduceMean", [x], axes=[-1], keepdims=1)
        square = self.node("Mul", [self.node("Sub", [x, mean])] * 2)
        deviation = self.node("Sqrt", [self.node("ReduceMean", [square], axes=[-1], keepdims=1)])
        return self.node("Concat", [self.node("Flatten", [part]) for part in (mean, deviation)], axis=1)

    def export(self, config: ModelConfig, path: Path, mean: np.ndarray | None = None, pooling: str = "") -> Path:
        x = self.node("Unsqueeze", [self.node("Transpose", ["feats"], perm=[0, 2, 1]), self.constant("axes", [1])])
        x = self.node("Relu", [self.convolution(x, "conv1", "bn1")])
        for stage, count in enumerate(config.num_blocks, 1):
            for i in range(count):
                x = self.block(x, f"layer{stage}.{i}", 2 if stage > 1 and not i else 1)
        x = self.linear(self.pooling(self.node(pooling, [x]) if pooling else x), "seg_1")
        if config.two_emb_layer:
            x = self.batch_norm(self.node("Relu", [x]), "seg_bn_1", config.embed_dim)
            x = self.linear(x, "seg_2")
        if mean is not None:
            self.node("Sub", [x, self.constant("mean_vec", mean)])
        self.nodes[-1].output[0] = "embs"
        return save_graph(path, self.nodes, self.constants, "feats", "embs")


def save_graph(path: Path, nodes: list[Any], constants: dict[str, np.ndarray], *ends: str) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", "T", "F"]) for name in ends]
    initializers = [
        numpy_helper.from_array(x.astype(np.float32) if x.dtype.kind == "f" else x, name)
        for name, x in constants.items()
    ]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], initializers)
    onnx.save(helper.make_model(graph), str(path))
    return path


# The graph


def test_a_small_graph(tmp_path: Path) -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    nodes = [
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.array([2.0], np.float32))),
        helper.make_node("Gemm", ["x", "w"], ["a"], transB=1, alpha=0.5),
        helper.make_node("Mul", ["a", "two"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    graph = read_checkpoint(save_graph(tmp_path / "small.onnx", nodes, {"w": weight}, "x", "y")).graph
    assert graph is not None
    assert [node.op for node in graph.nodes] == ["Gemm", "Mul", "Add"]
    assert graph.nodes[0].attributes == {"transB": 1, "alpha": 0.5}
    assert graph.nodes[0].inputs == ["x", "w"]
    assert graph.inputs == ["x"]
    assert graph.outputs == ["y"]
    assert set(graph.constants) == {"w", "two"}
    assert np.array_equal(graph.constants["w"], weight)
    assert [node.op for node in graph.consumers("a")] == ["Mul", "Add"]
    assert graph.consumers("y") == []


def test_without_the_onnx_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"anything")
    real = builtins.__import__

    def without_onnx(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "onnx":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    assert "pip install 'mlx-speech-zoo[onnx]'" in refusal(path)


@pytest.mark.parametrize(
    "content", [b"", b"garbage, not a graph", bytes(200), b"\xff" * 200, b"PK\x03\x04" + bytes(50)]
)
def test_a_file_that_is_no_graph(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path} is not a readable ONNX file")


def test_a_truncated_graph(tmp_path: Path) -> None:
    weights = source_weights(CONFIG)
    path = Exporter(weights, fold=True, rename=True).export(CONFIG, tmp_path / "model.onnx")
    whole = path.read_bytes()
    for kept in (1, 10, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        assert str(path) in refusal(path)


def test_weights_in_a_file_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(24))
    folder = tmp_path / "model"
    folder.mkdir()
    tensor = numpy_helper.from_array(np.zeros(6, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [6]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "graph", ends[:1], ends[1:], [tensor])
    (folder / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert "is not a readable ONNX file" in refusal(folder / "model.onnx")


# WeSpeaker's ResNet


@pytest.mark.parametrize("gemm", [True, False])
@pytest.mark.parametrize(("fold", "rename"), [(True, True), (False, False), (False, True)])
@pytest.mark.parametrize("config", [CONFIG, BOTTLENECK, TWO_LAYERS], ids=["basic", "bottleneck", "two layers"])
def test_an_exported_resnet_equals_its_state_dict(
    tmp_path: Path, config: ModelConfig, fold: bool, rename: bool, gemm: bool
) -> None:
    weights = source_weights(config)
    path = Exporter(weights, fold=fold, rename=rename, gemm=gemm).export(config, tmp_path / "model.onnx")
    model = load(path)
    assert (model.config.block, model.config.num_blocks, model.config.two_emb_layer) == (
        config.block,
        config.num_blocks,
        config.two_emb_layer,
    )
    assert (model.config.feat_dim, model.config.embed_dim, model.config.front_end) == (16, 8, config.front_end)
    expected = build(SPEC, config, {name: mx.array(x) for name, x in weights.items()}, "weights")
    x = mx.random.normal((2, 40, 16), key=mx.random.key(0))
    assert mx.allclose(model(x), expected(x), rtol=1e-4, atol=1e-4)


def test_the_mean_that_an_export_subtracts(tmp_path: Path) -> None:
    weights = source_weights(CONFIG)
    mean = np.linspace(-1, 1, 8)
    plain = load(Exporter(weights, fold=True, rename=True).export(CONFIG, tmp_path / "plain.onnx"))
    centred = load(Exporter(weights, fold=True, rename=True).export(CONFIG, tmp_path / "centred.onnx", mean))
    x = mx.random.normal((1, 40, 16), key=mx.random.key(0))
    assert mx.allclose(centred(x), plain(x) - mx.array(mean), atol=1e-5)


@pytest.mark.parametrize("op", ["Softmax", "Tanh", "Sigmoid"])
def test_an_export_with_another_pooling(tmp_path: Path, op: str) -> None:
    exporter = Exporter(source_weights(CONFIG), fold=True, rename=True)
    assert op in refusal(exporter.export(CONFIG, tmp_path / "model.onnx", pooling=op), load)


def test_an_export_with_three_stages(tmp_path: Path) -> None:
    short = ModelConfig(**vars(CONFIG))
    object.__setattr__(short, "num_blocks", [1, 1, 1])
    path = Exporter(source_weights(CONFIG), fold=True, rename=True).export(short, tmp_path / "model.onnx")
    assert "four of one kind" in refusal(path, load)


def test_a_graph_of_another_family(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"])]
    path = save_graph(tmp_path / "model.onnx", nodes, {"w": np.ones((3, 3))}, "x", "y")
    assert "is not a source checkpoint that is known" in refusal(path, load)


def test_a_graph_that_computes_a_weight(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "x"], ["y"])]
    path = save_graph(tmp_path / "model.onnx", nodes, {}, "x", "y")
    assert "weight" in refusal(path, load)


def test_a_convolution_whose_weight_is_left_out(tmp_path: Path) -> None:
    path = save_graph(tmp_path / "model.onnx", [helper.make_node("Conv", ["x"], ["y"])], {}, "x", "y")
    refusal(path, load)


@pytest.mark.parametrize(
    ("conv", "change"),
    [(0, {"pads": [0, 0, 0, 0]}), (1, {"strides": [2, 1]}), (1, {"dilations": [2, 2]}), (2, {"strides": [2, 2]})],
)
def test_a_convolution_that_no_resnet_here_has(tmp_path: Path, conv: int, change: dict[str, Any]) -> None:
    exporter = Exporter(source_weights(CONFIG), fold=True, rename=True)
    exporter.export(CONFIG, tmp_path / "plain.onnx")
    node = [node for node in exporter.nodes if node.op_type == "Conv"][conv]
    for key, value in change.items():
        for attribute in [item for item in node.attribute if item.name == key]:
            node.attribute.remove(attribute)
        node.attribute.append(helper.make_attribute(key, value))
    path = save_graph(tmp_path / "model.onnx", exporter.nodes, exporter.constants, "feats", "embs")
    assert "of the graph" in refusal(path, load)
