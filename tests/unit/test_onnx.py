"""ONNX files: the graph as it is read, and WeSpeaker's ResNet and ECAPA-TDNN found again by their structure."""

import builtins
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from source_weights import source_weights, wespeaker_ecapa
from speech_zoo_core.audio.front_end import FrontEnd
from speech_zoo_core.checkpoint import read_checkpoint
from speech_zoo_core.errors import CheckpointError
from speech_zoo_core.loader import build, load
from speech_zoo_resnet34 import SPEC, ModelConfig
from tiny_models import CONFIGS, model_of, tiny_source

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
    assert "needs one more package: pip install 'onnx>=" in refusal(path)


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
    assert "has tensors in '../secret', which is not beside it" in refusal(folder / "model.onnx")


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


def test_an_export_that_pools_the_mean_alone(tmp_path: Path) -> None:
    """Of its width, it could be one of half the mels."""
    config = replace(CONFIG, pooling_func="TAP")
    exporter = Exporter(source_weights(config), fold=True, rename=True)
    mean_alone = exporter.pooling

    def pooling(x: str) -> str:
        mean_alone(x)
        mean = next(node for node in exporter.nodes if node.op_type == "ReduceMean")
        return exporter.node("Flatten", [mean.output[0]])

    exporter.pooling = pooling  # type: ignore[method-assign]
    path = exporter.export(config, tmp_path / "model.onnx")
    assert "only TSTP is read from ONNX" in refusal(path, load)


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


# WeSpeaker's ECAPA-TDNN


class EcapaExporter(Exporter):
    """Writes a WeSpeaker ECAPA-TDNN as torch's exporter does; its BatchNorms follow a ReLU and cannot be folded."""

    def conv(self, x: str, name: str, dilation: int = 1) -> str:
        weight = self.weights[f"{name}.weight"]
        pad = weight.shape[-1] // 2 * dilation
        parts = [self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", self.weights[f"{name}.bias"])]
        shape = {"dilations": [dilation], "group": 1, "kernel_shape": [weight.shape[-1]], "pads": [pad, pad]}
        return self.node("Conv", [x, *parts], strides=[1], **shape)

    def tdnn(self, x: str, conv: str, norm: str, dilation: int = 1) -> str:
        width = len(self.weights[f"{conv}.bias"])
        return self.batch_norm(self.node("Relu", [self.conv(x, conv, dilation)]), norm, width)

    def split(self, x: str, count: int) -> list[str]:
        outputs = [f"/split_{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node("Split", [x], outputs, axis=1))
        return outputs

    def se_res2block(self, x: str, name: str, dilation: int) -> str:
        part = f"{name}.se_res2block"
        hidden = self.tdnn(x, f"{part}.0.conv", f"{part}.0.bn")
        chunks = self.split(hidden, 8)
        out: list[str] = []
        for i, chunk in enumerate(chunks[:-1]):
            inner = self.node("Add", [out[-1], chunk]) if out else chunk
            out.append(self.tdnn(inner, f"{part}.1.convs.{i}", f"{part}.1.bns.{i}", dilation))
        hidden = self.node("Concat", [*out, chunks[-1]], axis=1)
        hidden = self.tdnn(hidden, f"{part}.2.conv", f"{part}.2.bn")
        gate = self.linear(self.node("ReduceMean", [hidden], axes=[2], keepdims=0), f"{part}.3.linear1")
        gate = self.node("Sigmoid", [self.linear(self.node("Relu", [gate]), f"{part}.3.linear2")])
        gate = self.node("Unsqueeze", [gate, self.constant("axes", np.array([2]))])
        return self.node("Add", [x, self.node("Mul", [hidden, gate])])

    def astp(self, x: str) -> str:
        """WeSpeaker's pooling; the sizes that it asks for with Shape stand for all that torch exports there."""
        context = x
        if self.weights["pool.linear1.weight"].shape[1] > len(self.weights["conv.bias"]):
            shape = self.node("Shape", [x])
            mean = self.node("ReduceMean", [x], axes=[-1], keepdims=1)
            centred = self.node("Sub", [x, mean])
            square = self.node("ReduceMean", [self.node("Mul", [centred, centred])], axes=[-1], keepdims=1)
            shifted = self.node("Add", [square, self.constant("eps", np.float32(1e-7))])
            parts = [self.node("Expand", [part, shape]) for part in (mean, self.node("Sqrt", [shifted]))]
            context = self.node("Concat", [x, *parts], axis=1)
        attention = self.node("Tanh", [self.conv(context, "pool.linear1")])
        attention = self.node("Softmax", [self.conv(attention, "pool.linear2")], axis=2)
        axes = self.constant("axes", np.array([2]))
        mean = self.node("ReduceSum", [self.node("Mul", [attention, x]), axes], keepdims=0)
        two = self.constant("two", np.float32(2))
        square = self.node("ReduceSum", [self.node("Mul", [attention, self.node("Pow", [x, two])]), axes], keepdims=0)
        variance = self.node("Sub", [square, self.node("Pow", [mean, two])])
        floor = self.node("Clip", [variance, self.constant("floor", np.float32(1e-7)), ""])
        return self.node("Concat", [mean, self.node("Sqrt", [floor])], axis=1)

    def ecapa(self, path: Path, mean: np.ndarray | None = None) -> Path:
        x = self.tdnn(self.node("Transpose", ["feats"], perm=[0, 2, 1]), "layer1.conv", "layer1.bn")
        outputs = []
        for i in (2, 3, 4):
            x = self.se_res2block(x, f"layer{i}", i)
            outputs.append(x)
        x = self.astp(self.node("Relu", [self.conv(self.node("Concat", outputs, axis=1), "conv")]))
        x = self.linear(self.batch_norm(x, "bn", len(self.weights["bn.bias"])), "linear")
        if "bn2.bias" in self.weights:
            x = self.batch_norm(x, "bn2", len(self.weights["bn2.bias"]))
        if mean is not None:
            self.node("Sub", [x, self.constant("mean_vec", mean)])
        self.nodes[-1].output[0] = "embs"
        return self.save(path)

    def save(self, path: Path) -> Path:
        return save_graph(path, self.nodes, self.constants, "feats", "embs")

    def find(self, op: str, index: int = 0) -> Any:
        return [node for node in self.nodes if node.op_type == op][index]

    def attribute(self, node: Any, **values: Any) -> None:
        """Set attributes of a node; None takes one away, so that ONNX's default holds."""
        for key, value in values.items():
            for item in [item for item in node.attribute if item.name == key]:
                node.attribute.remove(item)
            if value is not None:
                node.attribute.append(helper.make_attribute(key, value))


def with_last_norm(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights with WeSpeaker's optional BatchNorm of the embedding."""
    rng = np.random.default_rng(7)
    width = len(weights["linear.bias"])
    norm = {part: rng.uniform(0.5, 1.5, width) for part in ("weight", "bias", "running_mean", "running_var")}
    return weights | {f"bn2.{part}": x.astype(np.float32) for part, x in norm.items()}


@pytest.mark.parametrize("gemm", [True, False])
@pytest.mark.parametrize("rename", [True, False])
@pytest.mark.parametrize("last_norm", [True, False])
@pytest.mark.parametrize("name", ["ecapa_wespeaker", "ecapa_wespeaker_plain"])
def test_an_exported_ecapa_equals_its_state_dict(
    tmp_path: Path, name: str, last_norm: bool, rename: bool, gemm: bool
) -> None:
    weights = wespeaker_ecapa(tiny_source(name))
    exporter = EcapaExporter(with_last_norm(weights) if last_norm else weights, fold=False, rename=rename, gemm=gemm)
    # Exports carry no settings: the features are WeSpeaker's 80 mels, so the first layer gets as many.
    exporter.weights["layer1.conv.weight"] = np.resize(exporter.weights["layer1.conv.weight"], (32, 80, 5))
    model = load(exporter.ecapa(tmp_path / "model.onnx"))
    source = tiny_source(name) | {"blocks.0.conv.conv.weight": exporter.weights["layer1.conv.weight"].astype("f4")}
    config = replace(CONFIGS[name], feat_dim=80, front_end=FrontEnd())
    assert model.config == config
    x = mx.random.normal((2, 40, 80), key=mx.random.key(0))
    expected = np.array(model_of(config, source)(x))
    if last_norm:
        gain, shift, mean, var = (
            exporter.weights[f"bn2.{k}"] for k in ("weight", "bias", "running_mean", "running_var")
        )
        expected = (expected - mean) / np.sqrt(var + 1e-5) * gain + shift
    assert np.allclose(np.array(model(x)), expected, rtol=1e-4, atol=1e-4)


def ecapa_exporter(path: Path, **options: Any) -> EcapaExporter:
    """A whole export, ready to be damaged."""
    weights = wespeaker_ecapa(tiny_source("ecapa_wespeaker"))
    weights["layer1.conv.weight"] = np.resize(weights["layer1.conv.weight"], (32, 80, 5))
    exporter = EcapaExporter(weights, fold=False, rename=True)
    exporter.ecapa(path, **options)
    return exporter


def test_the_mean_that_an_exported_ecapa_subtracts(tmp_path: Path) -> None:
    ecapa_exporter(tmp_path / "plain.onnx")
    ecapa_exporter(tmp_path / "centred.onnx", mean=np.linspace(-1, 1, 8))
    plain, centred = load(tmp_path / "plain.onnx"), load(tmp_path / "centred.onnx")
    x = mx.random.normal((1, 40, 80), key=mx.random.key(0))
    assert mx.allclose(centred(x), plain(x) - mx.array(np.linspace(-1, 1, 8)), atol=1e-4)


def reflect(exporter: EcapaExporter) -> None:
    """The first convolution pads by reflection, in a node of its own."""
    conv = exporter.find("Conv")
    exporter.attribute(conv, pads=[0, 0])
    pad = helper.make_node("Pad", [conv.input[0], exporter.constant("pads", np.array([0, 0, 2, 0, 0, 2]))], ["/padded"])
    exporter.attribute(pad, mode="reflect")
    conv.input[0] = "/padded"
    exporter.nodes.insert(exporter.nodes.index(conv), pad)


def inputs(op: str, index: int, *order: int) -> Callable[[EcapaExporter], None]:
    """A damage: the inputs of a node in another order, or fewer of them."""

    def change(exporter: EcapaExporter) -> None:
        node = exporter.find(op, index)
        chosen = [node.input[i] for i in order]
        del node.input[:]
        node.input.extend(chosen)

    return change


def attributes(op: str, index: int, **values: Any) -> Callable[[EcapaExporter], None]:
    return lambda exporter: exporter.attribute(exporter.find(op, index), **values)


def another_op(op: str, index: int, other: str) -> Callable[[EcapaExporter], None]:
    def change(exporter: EcapaExporter) -> None:
        exporter.find(op, index).op_type = other

    return change


def without_residual(exporter: EcapaExporter) -> None:
    """Each block ends in its squeeze-and-excitation: what was added to stays out."""
    for add in [node for node in exporter.nodes if node.op_type == "Add"]:
        producers = {node.output[0]: node.op_type for node in exporter.nodes}
        if "Mul" in (producers.get(name) for name in add.input):
            add.op_type = "Identity"
            del add.input[0]


def another_chunk_added(exporter: EcapaExporter) -> None:
    """The second convolution of layer2 gets the first chunk's result and the third chunk."""
    split = exporter.find("Split")
    first, second = exporter.find("Add", 0), exporter.find("Add", 1)
    assert first.input[1] == split.output[1] and second.input[1] == split.output[2]
    first.input[1], second.input[1] = split.output[2], split.output[1]


def left_out_chunk(exporter: EcapaExporter) -> None:
    """The last chunk is convolved, the first is passed on: SpeechBrain's order."""
    split = exporter.find("Split")
    names = list(split.output)
    del split.output[:]
    split.output.extend(names[::-1])


BLOCK_CONVS = 9  # of a block: two of one tap around seven dilated ones
ECAPA_DAMAGE: dict[str, Callable[[EcapaExporter], None]] = {
    "another dilation": attributes("Conv", 2, dilations=[1], pads=[1, 1]),
    "another dilation in another block": attributes("Conv", 2 + BLOCK_CONVS, dilations=[4], pads=[4, 4]),
    "a dilation left out, which means 1": attributes("Conv", 2, dilations=None),
    "pads left out, which means none": attributes("Conv", 0, pads=None),
    "no padding": attributes("Conv", 0, pads=[0, 0]),
    "padding on one side": attributes("Conv", 0, pads=[4, 0]),
    "padding by another rule": attributes("Conv", 0, pads=None, auto_pad="SAME_LOWER"),
    "a stride": attributes("Conv", 0, strides=[2]),
    "groups": attributes("Conv", 2, group=2),
    "reflected padding": reflect,
    "chunks joined in another order": inputs("Concat", 0, 1, 0, 2, 3, 4, 5, 6, 7),
    "the untouched chunk first": inputs("Concat", 0, 7, 0, 1, 2, 3, 4, 5, 6),
    "a chunk added to the wrong one": another_chunk_added,
    "blocks joined in another order": inputs("Concat", 3, 1, 0, 2),
    "a block left out": inputs("Concat", 3, 0, 1),
    "context in another order": inputs("Concat", 4, 0, 2, 1),
    "statistics in another order": inputs("Concat", 5, 1, 0),
    "no tanh": another_op("Tanh", 0, "Relu"),
    "a tanh in place of a sigmoid": another_op("Sigmoid", 0, "Tanh"),
    "another gate": another_op("Sigmoid", 1, "HardSigmoid"),
    "another activation": another_op("Relu", 0, "LeakyRelu"),
    "no activation": another_op("Relu", 1, "Identity"),
    "another squeeze": another_op("ReduceMean", 0, "ReduceMax"),
    "attention over channels": attributes("Softmax", 0, axis=1),
    "a mean without attention": inputs("Mul", 4, 1, 1),
    "a deviation without attention": inputs("Mul", 5, 1, 1),
    "the loudest frame for the mean": another_op("ReduceSum", 0, "ReduceMax"),
    "another epsilon": attributes("BatchNormalization", 0, epsilon=1e-3),
    "another epsilon after the pooling": attributes("BatchNormalization", -1, epsilon=1e-3),
    "no residual connection": without_residual,
    "a difference in its place": another_op("Add", 6, "Sub"),
    "something after the last layer": lambda e: e.nodes.append(helper.make_node("Tanh", ["embs"], ["more"])),
}


def test_the_ecapa_that_the_damaged_ones_are_made_from_is_good(tmp_path: Path) -> None:
    exporter = ecapa_exporter(tmp_path / "whole.onnx")
    assert load(exporter.save(tmp_path / "model.onnx")).config.model_type == "ecapa_tdnn"


@pytest.mark.parametrize("damage", ECAPA_DAMAGE)
def test_an_ecapa_that_differs_is_refused(tmp_path: Path, damage: str) -> None:
    exporter = ecapa_exporter(tmp_path / "whole.onnx")
    before = [node.SerializeToString() for node in exporter.nodes]
    ECAPA_DAMAGE[damage](exporter)
    assert [node.SerializeToString() for node in exporter.nodes] != before
    message = refusal(exporter.save(tmp_path / "model.onnx"), load)
    assert "graph" in message or "is not a source checkpoint that is known" in message


@pytest.mark.parametrize("part", ["layer2.se_res2block.0.conv.weight", "linear.weight", "pool.linear1.bias"])
def test_an_ecapa_that_computes_a_weight(tmp_path: Path, part: str) -> None:
    exporter = ecapa_exporter(tmp_path / "whole.onnx")
    x = exporter.weights[part]
    name = next(name for name, y in exporter.constants.items() if y.shape == x.shape and np.array_equal(y, x))
    exporter.constants["other"] = exporter.constants.pop(name)
    exporter.nodes.insert(0, helper.make_node("Neg", ["other"], [name]))
    assert "where a weight was expected" in refusal(exporter.save(tmp_path / "model.onnx"), load)


def test_an_ecapa_of_one_layer(tmp_path: Path) -> None:
    """It begins like one."""
    exporter = EcapaExporter(wespeaker_ecapa(tiny_source("ecapa_wespeaker")), fold=False, rename=True)
    exporter.tdnn(exporter.node("Transpose", ["feats"], perm=[0, 2, 1]), "layer1.conv", "layer1.bn")
    exporter.nodes[-1].output[0] = "embs"
    assert "looks like a WeSpeaker ECAPA-TDNN" in refusal(exporter.save(tmp_path / "model.onnx"), load)


def test_a_graph_of_a_family_that_is_not_read_from_onnx(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((8, 1, 10), np.float32), "model.wav2vec2.feature_extractor.conv.weight")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Conv", ["x", weight.name], ["y"])], "g", ends[:1], ends[1:], [weight])
    (tmp_path / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert "looks like a Wav2Vec2, which is read from transformers' files only" in refusal(
        tmp_path / "model.onnx", load
    )


@pytest.mark.parametrize("family", ["resnet", "ecapa"])
def test_half_precision_with_a_cast_at_the_end(tmp_path: Path, family: str) -> None:
    if family == "resnet":
        plain = Exporter(tiny_source("basic"), fold=True, rename=True).export(CONFIG, tmp_path / "plain.onnx")
    else:
        weights = wespeaker_ecapa(tiny_source("ecapa_wespeaker"))
        plain = EcapaExporter(weights, fold=False, rename=True).ecapa(tmp_path / "plain.onnx")
    model = onnx.load(str(plain))
    for tensor in model.graph.initializer:
        x = numpy_helper.to_array(tensor)
        if x.dtype.kind == "f":
            tensor.CopyFrom(numpy_helper.from_array(x.astype(np.float16), tensor.name))
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["last" if name == output else name for name in node.output]
    model.graph.node.append(helper.make_node("Cast", ["last"], [output], to=TensorProto.FLOAT))
    onnx.save(model, str(tmp_path / "half.onnx"))
    x = mx.random.normal((1, 60, 16), key=mx.random.key(0))
    a, b = (np.array(load(path)(x))[0] for path in (plain, tmp_path / "half.onnx"))
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.9999
