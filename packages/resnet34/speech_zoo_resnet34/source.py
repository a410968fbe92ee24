"""Recognise the WeSpeaker ResNet family as published: `avg_model.pt`, ONNX, pyannote's Lightning checkpoint."""

import re
from typing import Any

import mlx.core as mx
import numpy as np
from speech_zoo_core.audio.front_end import FrontEnd
from speech_zoo_core.checkpoint.onnx_graph import Graph
from speech_zoo_core.checkpoint.source import Recognised, Source, mapping, shape_of, without_prefix
from speech_zoo_core.checkpoint.wespeaker import THRESHOLD, front_end_of, lightning_front_end, wespeaker_settings
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import CheckpointError, ConfigError, shown

from .graph import ResNetWalk, stride_of
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
NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
TENSORS = re.compile(
    rf"(layer[1-4]\.\d{{1,3}}\.)?(conv[1-3]\.weight|bn[1-3]\.{NORM}|shortcut\.(0\.weight|1\.{NORM}))"
    rf"|seg_[12]\.(weight|bias)|seg_bn_1\.{NORM}|projection\..*"
)


def recognise(source: Source) -> Recognised | None:
    """Tell whether a source is a WeSpeaker ResNet, by its graph or its tensor names.

    Raises:
        ConfigError: its `config.yaml` contradicts its tensors, or asks for something unsupported.
        CheckpointError: its graph is a ResNet but not one of this family.
    """
    checkpoint = source.checkpoint
    if checkpoint.graph is not None:
        return _from_graph(checkpoint.graph, wespeaker_settings(source))
    weights = without_prefix(checkpoint.tensors, "conv1.weight", "seg_1.weight")
    if not {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "seg_1.weight"} <= weights.keys():
        return None
    if others := [name for name in weights if not TENSORS.fullmatch(name)]:
        listed = ", ".join(name[:80] for name in others[:5])
        raise CheckpointError(
            f"{source.main_file} looks like a WeSpeaker ResNet, but has {len(others)} tensors that none has: {listed}"
        )
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
        raise ConfigError(f"config.yaml: model {shown(name)} is not in this family ({', '.join(NAMES)})")
    claimed = dict(zip(("block", "num_blocks"), NAMES[name], strict=True)) | args
    if claimed.pop("pooling_func", "TSTP") != "TSTP":
        raise ConfigError(f"config.yaml: pooling_func {shown(args['pooling_func'])} is not supported (only 'TSTP')")
    for key, value in claimed.items():
        if key not in shape:
            raise ConfigError(f"config.yaml: model_args.{key} is not supported")
        if shape[key] != value:
            raise ConfigError(f"config.yaml says {key} = {shown(value)}, the tensors say {shape[key]}")


def _from_graph(graph: Graph, settings: dict[str, Any] | None) -> Recognised | None:
    """Map an exported ResNet by its structure; BatchNorm may be folded already, names may be anything."""
    walk = ResNetWalk(graph)
    first = walk.next(graph.inputs[0], "Conv") if len(graph.inputs) == 1 else None
    if first is None or not {*graph.kernel_ranks()} <= {4} or walk.constant(first, 1).shape[1:] != (1, 3, 3):
        return None
    relu = walk.next(walk.convolution(first, "conv1"), "Relu")
    if relu is None:
        return None
    try:
        _follow(walk, relu.outputs[0])
    except CheckpointError as error:
        raise CheckpointError(f"the graph looks like a WeSpeaker ResNet, but {error}") from error
    # In MLX's layout, as a converted checkpoint: with the BatchNorms gone, nothing tells the layout of a square kernel.
    weights = {
        name: mx.array(np.ascontiguousarray(np.moveaxis(value, 1, -1) if value.ndim == 4 else value, np.float32))
        for name, value in walk.weights.items()
    }
    shape = _shape(weights)
    if settings is not None:
        _compare(shape, settings)
    front_end = FrontEnd(n_mels=shape["feat_dim"]) if settings is None else front_end_of(settings)
    return Recognised(_config(shape, front_end), weights, "WeSpeaker ONNX")


def _follow(walk: ResNetWalk, value: str) -> None:
    """Record the stages and the embedding layers that follow the first convolution."""
    counts, kinds = [0], set()
    while branches := walk.branches(value):
        if max(stride_of(node) for node in branches[-1]) > 1:  # opens a stage
            counts.append(0)
        value = walk.block(branches, f"layer{len(counts)}.{counts[-1]}")
        kinds.add(len(branches[-1]))
        counts[-1] += 1
    if len(counts) != len(STRIDES) or len(kinds) != 1:
        raise CheckpointError(f"the graph has stages of {counts} blocks; a WeSpeaker ResNet has four of one kind")
    forbidden = {node.op for node in walk.graph.nodes} & {"Softmax", "Tanh", "LSTM", "GRU", "Sigmoid"}
    if forbidden:
        raise CheckpointError(f"the graph pools with {', '.join(sorted(forbidden))}; only TSTP pooling is supported")
    walk.head()
