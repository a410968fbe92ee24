"""Recognise the WeSpeaker ResNet family as published: `avg_model.pt`, ONNX, pyannote's Lightning checkpoint."""

import re
from typing import Any

import mlx.core as mx
import numpy as np
from speech_zoo_core.audio.front_end import FrontEnd
from speech_zoo_core.checkpoint.onnx_graph import Graph, Node, Walk
from speech_zoo_core.checkpoint.source import Recognised, Source, mapping, shape_of, without_prefix
from speech_zoo_core.checkpoint.wespeaker import THRESHOLD, front_end_of, lightning_front_end, wespeaker_settings
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import CheckpointError, ConfigError

from .model import EXPANSION, STRIDES

NAMES = {
    "ResNet18": ("basic", [2, 2, 2, 2]),
    "ResNet34": ("basic", [3, 4, 6, 3]),
    "ResNet50": ("bottleneck", [3, 4, 6, 3]),
    "ResNet101": ("bottleneck", [3, 4, 23, 3]),
    "ResNet152": ("bottleneck", [3, 8, 36, 3]),
    "ResNet221": ("bottleneck", [6, 16, 48, 3]),
    "ResNet293": ("bottleneck", [10, 20, 64, 3]),
}


def recognise(source: Source) -> Recognised | None:
    """Tell whether a source is a WeSpeaker ResNet, by its graph or its tensor names.

    Raises:
        ConfigError: its `config.yaml` contradicts its tensors, or asks for something unsupported.
        CheckpointError: its graph is a ResNet but not one of this family.
    """
    checkpoint = source.checkpoint
    if checkpoint.graph is not None:
        return _from_graph(checkpoint.graph)
    weights = without_prefix(checkpoint.tensors, "conv1.weight", "seg_1.weight")
    if not {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "seg_1.weight"} <= weights.keys():
        return None
    shape = _shape(weights)
    settings = wespeaker_settings(source)
    if settings is not None:
        _compare(shape, settings)
        front_end, form = front_end_of(settings), f"WeSpeaker {settings['model']}"
    elif checkpoint.extra:
        front_end, form = lightning_front_end(checkpoint.extra), "Lightning checkpoint (pyannote)"
    else:
        front_end, form = FrontEnd(n_mels=shape["feat_dim"]), "WeSpeaker ResNet state dict"
    return Recognised(_config(shape, front_end), weights, form)


def _config(shape: dict[str, Any], front_end: FrontEnd) -> dict[str, Any]:
    return {"model_type": "resnet34", **shape, "front_end": to_dict(front_end), "threshold": THRESHOLD}


def _shape(weights: dict[str, mx.array]) -> dict[str, Any]:
    """The architecture that tensors of these names and shapes belong to."""
    block = "bottleneck" if "layer1.0.conv3.weight" in weights else "basic"
    counts = [
        len({m[1] for name in weights if (m := re.match(rf"layer{i}\.(\d+)\.", name))})
        for i in range(1, len(STRIDES) + 1)
    ]
    width = shape_of(weights, "conv1.weight", 4)[0]
    embed_dim, pooled = shape_of(weights, "seg_1.weight", 2)
    rows, rest = divmod(pooled, 2 * width * 8 * EXPANSION[block])
    if rest or not rows:
        raise CheckpointError(
            f"seg_1 takes {pooled} values, which TSTP pooling (mean and deviation) of {width * 8 * EXPANSION[block]} "
            "channels cannot give; other poolings are not supported"
        )
    return {
        "block": block,
        "num_blocks": counts,
        "m_channels": width,
        "feat_dim": rows * 8,
        "embed_dim": embed_dim,
        "two_emb_layer": "seg_2.weight" in weights,
    }


def _compare(shape: dict[str, Any], settings: dict[str, Any]) -> None:
    """Hold the architecture in `config.yaml` against the tensors."""
    name, args = settings["model"], mapping(settings, "model_args", "config.yaml")
    if name not in NAMES:
        raise ConfigError(f"config.yaml: model {name!r} is not in this family ({', '.join(NAMES)})")
    claimed = dict(zip(("block", "num_blocks"), NAMES[name], strict=True)) | args
    if claimed.pop("pooling_func", "TSTP") != "TSTP":
        raise ConfigError(f"config.yaml: pooling_func {args['pooling_func']!r} is not supported (only 'TSTP')")
    for key, value in claimed.items():
        if key not in shape:
            raise ConfigError(f"config.yaml: model_args.{key} is not supported")
        if shape[key] != value:
            raise ConfigError(f"config.yaml says {key} = {value}, the tensors say {shape[key]}")


def _stride(node: Node) -> int:
    """The stride of a convolution, the same on both axes."""
    strides = set(node.attributes.get("strides", [1, 1]))
    if len(strides) != 1 or not strides <= {1, 2}:
        raise CheckpointError(
            f"a convolution of the graph has strides {node.attributes['strides']}; 1 or 2 was expected"
        )
    return int(strides.pop())


class _Walk(Walk):
    """Follows an exported ResNet."""

    def convolution(self, node: Node, name: str) -> str:
        """Record a convolution, with its BatchNorm where the exporter left one; returns the value that it gives."""
        weight = self.constant(node, 1)
        same = {
            "pads": [size // 2 for size in weight.shape[2:]] * 2,
            "dilations": [1, 1],
            "group": 1,
            "auto_pad": b"NOTSET",
        }
        if weight.ndim != 4 or any(node.attributes.get(key, value) != value for key, value in same.items()):
            raise CheckpointError(f"{name} of the graph is not a plain 2-D convolution")
        self.weights[f"{name}.weight"] = weight
        bias = np.zeros(len(weight), np.float32)
        if len(node.inputs) > 2:
            bias = self.constant(node, 2)
        value = node.outputs[0]
        if norm := self.next(value, "BatchNormalization"):
            scale, shift = self.scale_shift(norm)
            self.weights[f"{name}.weight"] = (weight * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
            bias = (bias * scale + shift).astype(np.float32)
            value = norm.outputs[0]
        self.weights[f"{name}.bias"] = bias
        return value

    def branches(self, value: str) -> list[list[Node]]:
        """The convolutions of each branch of the residual block that starts at `value`, shortest branch first."""
        starts = [node for node in self.graph.consumers(value) if node.op == "Conv"]
        return sorted((self._branch(node) for node in starts), key=len)

    def block(self, branches: list[list[Node]], name: str) -> str:
        """Record a residual block; returns the value after its last ReLU."""
        main = branches[-1]
        stride = max(_stride(node) for node in main)
        expected = [stride, 1] if len(main) == 2 else [1, stride, 1]
        if [_stride(node) for node in main] != expected or any(
            _stride(node) != stride for b in branches[:-1] for node in b
        ):
            raise CheckpointError(f"{name} of the graph strides in an unknown way")
        for i, node in enumerate(main):
            end = self.convolution(node, f"{name}.conv{i + 1}")
        if len(branches) == 2:
            self.convolution(branches[0][0], f"{name}.shortcut.0")
        add = self.next(end, "Add")
        relu = add and self.next(add.outputs[0], "Relu")
        if relu is None or [len(branch) for branch in branches[:-1]] not in ([], [1]) or len(main) not in (2, 3):
            raise CheckpointError(f"{name} of the graph is not a residual block")
        return relu.outputs[0]

    def _branch(self, node: Node) -> list[Node]:
        """The convolutions from `node` on, up to the addition."""
        chain: list[Node] = []
        following: Node | None = node
        while following is not None and following.op != "Add":
            if following.op == "Conv":
                chain.append(following)
            following = self.next(following.outputs[0], "Conv", "BatchNormalization", "Relu", "Add")
        return chain

    def head(self) -> None:
        """Record the one or two embedding layers, with what is subtracted at the end."""
        gemms = [n for n in self.graph.nodes if n.op in ("Gemm", "MatMul") and n.inputs[1] in self.graph.constants]
        if len(gemms) not in (1, 2):
            raise CheckpointError(f"the graph has {len(gemms)} linear layers, one or two were expected")
        value = self.linear(gemms[0], "seg_1")
        if len(gemms) == 2:
            relu = self.next(value, "Relu")
            norm = relu and self.next(relu.outputs[0], "BatchNormalization")
            if norm is None or self.next(norm.outputs[0], "Gemm", "MatMul") is not gemms[1]:
                raise CheckpointError("the second embedding layer of the graph is not ReLU, BatchNorm, linear")
            scale, shift = self.scale_shift(norm)
            value = self.linear(gemms[1], "seg_2")
            weight = self.weights["seg_2.weight"].astype(np.float64)
            self.weights["seg_2.bias"] = (self.weights["seg_2.bias"] + weight @ shift).astype(np.float32)
            self.weights["seg_2.weight"] = (weight * scale).astype(np.float32)
        self.subtract_mean(value, f"seg_{len(gemms)}")


def _from_graph(graph: Graph) -> Recognised | None:
    """Map an exported ResNet by its structure; BatchNorm may be folded already, names may be anything."""
    walk = _Walk(graph)
    first = walk.next(graph.inputs[0], "Conv") if len(graph.inputs) == 1 else None
    if first is None or walk.constant(first, 1).shape[1:] != (1, 3, 3):
        return None
    relu = walk.next(walk.convolution(first, "conv1"), "Relu")
    if relu is None:
        return None
    value, counts, kinds = relu.outputs[0], [0], set()
    while branches := walk.branches(value):
        if max(_stride(node) for node in branches[-1]) > 1:  # opens a stage
            counts.append(0)
        value = walk.block(branches, f"layer{len(counts)}.{counts[-1]}")
        kinds.add(len(branches[-1]))
        counts[-1] += 1
    if len(counts) != len(STRIDES) or len(kinds) != 1:
        raise CheckpointError(f"the graph has stages of {counts} blocks; a WeSpeaker ResNet has four of one kind")
    forbidden = {node.op for node in graph.nodes} & {"Softmax", "Tanh", "LSTM", "GRU", "Sigmoid"}
    if forbidden:
        raise CheckpointError(f"the graph pools with {', '.join(sorted(forbidden))}; only TSTP pooling is supported")
    walk.head()
    # In MLX's layout, as a converted checkpoint: with the BatchNorms gone, nothing tells the layout of a square kernel.
    weights = {
        name: mx.array(np.ascontiguousarray(np.moveaxis(value, 1, -1) if value.ndim == 4 else value, np.float32))
        for name, value in walk.weights.items()
    }
    shape = _shape(weights)
    return Recognised(_config(shape, FrontEnd(n_mels=shape["feat_dim"])), weights, "WeSpeaker ONNX")
