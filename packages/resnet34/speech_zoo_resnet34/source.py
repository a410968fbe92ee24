"""Recognise the WeSpeaker ResNet family as published: `avg_model.pt`, ONNX, pyannote's Lightning checkpoint.

WeSpeaker has other names for the tensors of SimAM-ResNet and of DF-ResNet; here they have those of its ResNet.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from speech_zoo_core.audio.front_end import FrontEnd
from speech_zoo_core.checkpoint.onnx_graph import Graph
from speech_zoo_core.checkpoint.source import Recognised, Source, mapping, shape_of, without_prefix
from speech_zoo_core.checkpoint.wespeaker import (
    POOLING_TENSORS,
    THRESHOLD,
    front_end_of,
    lightning_front_end,
    pooling_of,
    wespeaker_settings,
)
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import CheckpointError, ConfigError, shown
from speech_zoo_core.pooling import VALUES, PoolingName

from .blocks import EXPANSION, STRIDES
from .graph import ResNetWalk, stride_of
from .model import STAGES

NAMES: dict[str, tuple[str, list[int], dict[str, Any]]] = {
    "ResNet18": ("basic", [2, 2, 2, 2], {}),
    "ResNet34": ("basic", [3, 4, 6, 3], {}),
    "ResNet50": ("bottleneck", [3, 4, 6, 3], {}),
    "ResNet101": ("bottleneck", [3, 4, 23, 3], {}),
    "ResNet152": ("bottleneck", [3, 8, 36, 3], {}),
    "ResNet221": ("bottleneck", [6, 16, 48, 3], {}),
    "ResNet293": ("bottleneck", [10, 20, 64, 3], {}),
    "SimAM_ResNet34_ASP": ("simam", [3, 4, 6, 3], {"m_channels": 64, "pooling_func": "ASP"}),
    "SimAM_ResNet100_ASP": ("simam", [6, 16, 24, 3], {"m_channels": 64, "pooling_func": "ASP"}),
    "Res2Net34_Base": ("res2net", [3, 4, 6, 3], {"m_channels": 32}),
    "Res2Net34_Large": ("res2net", [3, 4, 6, 3], {"m_channels": 64}),
    "Gemini_DF_ResNet60": ("inverted", [3, 3, 9, 3], {"m_channels": 32}),
    "Gemini_DF_ResNet114": ("inverted", [3, 3, 27, 3], {"m_channels": 32}),
    "Gemini_DF_ResNet183": ("inverted", [3, 8, 45, 3], {"m_channels": 32}),
    "Gemini_DF_ResNet237": ("inverted", [3, 8, 63, 3], {"m_channels": 32}),
}
SIMAM_ARGS = {"in_planes": "m_channels", "acoustic_dim": "feat_dim"}  # dropout is for training
NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
# Tensors that tell a relative, and how its names become those of WeSpeaker's ResNet.
SIMAM = ("front.conv1.weight", "bottleneck.weight")
INVERTED = ("downsample_layers.0.0.weight", "stages.0.0.conv1.weight")
RENAMED: dict[tuple[str, ...], tuple[tuple[str, Any], ...]] = {
    SIMAM: (
        (r"^front\.", ""),
        (r"\.downsample\.", ".shortcut."),
        (r"^pooling\.attention\.0\.", "pool.linear1."),
        (r"^pooling\.attention\.2\.", "pool.norm."),
        (r"^pooling\.attention\.3\.", "pool.linear2."),
        (r"^bottleneck\.", "seg_1."),
    ),
    INVERTED: (
        (r"^downsample_layers\.0\.0\.", "conv1."),
        (r"^downsample_layers\.0\.1\.", "bn1."),
        (r"^downsample_layers\.([1-4])\.0\.", r"layer\1.0.conv."),
        (r"^downsample_layers\.([1-4])\.1\.", r"layer\1.0.bn."),
        (r"^stages\.(\d)\.(\d{1,3})\.", lambda found: f"layer{int(found[1]) + 1}.{int(found[2]) + 1}."),
    ),
}
TENSORS = re.compile(
    rf"(layer[1-4]\.\d{{1,3}}\.)?(conv[1-3]?\.weight|bn[1-3]?\.{NORM}|shortcut\.(0\.weight|1\.{NORM}))"
    rf"|layer[1-4]\.\d{{1,3}}\.(convs\.0\.weight|bns\.0\.{NORM})|pool\.norm\.{NORM}"
    rf"|seg_[12]\.(weight|bias)|seg_bn_1\.{NORM}|projection\..*|{POOLING_TENSORS}"
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
    weights, simam = _plain(checkpoint.tensors)
    if not {"conv1.weight", "bn1.running_var", "seg_1.weight"} <= weights.keys() or not any(
        f"layer1.0.{conv}.weight" in weights for conv in ("conv1", "conv")
    ):
        return None
    if others := [name for name in weights if not TENSORS.fullmatch(name)]:
        listed = ", ".join(name[:80] for name in others[:5])
        raise CheckpointError(
            f"{source.main_file} looks like a WeSpeaker ResNet, but has {len(others)} tensors that none has: {listed}"
        )
    settings = wespeaker_settings(source)
    shape = _shape(weights, settings, simam)
    if settings is not None:
        _compare(shape, settings)
        front_end, form = front_end_of(settings), f"WeSpeaker {settings['model']}"
    elif shape["block"] == "res2net":  # 3D-Speaker has the same tensors, for other features
        raise CheckpointError(
            f"{source.main_file} is a Res2Net; put its config.yaml beside it, which tells its features"
        )
    elif checkpoint.extra:
        front_end, form = lightning_front_end(checkpoint.extra), "Lightning checkpoint (pyannote)"
    else:
        front_end, form = FrontEnd(n_mels=shape["feat_dim"]), "WeSpeaker ResNet state dict"
    return Recognised(_config(shape, front_end), weights, form)


def _config(shape: dict[str, Any], front_end: FrontEnd) -> dict[str, Any]:
    return {"model_type": "resnet34", **shape, "front_end": to_dict(front_end), "threshold": THRESHOLD}


def _plain(tensors: Mapping[str, mx.array]) -> tuple[dict[str, mx.array], bool]:
    """The tensors under the names of WeSpeaker's ResNet, and whether they are a SimAM-ResNet's.

    Raises:
        CheckpointError: a name would stand twice.
    """
    for markers, patterns in RENAMED.items():
        weights = without_prefix(tensors, *markers)
        if not {*markers} <= weights.keys():
            continue
        renamed: dict[str, mx.array] = {}
        for name, x in weights.items():
            new = name
            for old, to in patterns:
                new = re.sub(old, to, new)
            if new in renamed:
                raise CheckpointError(f"{name} stands twice in the checkpoint, under the names of two makers")
            renamed[new] = x
        return renamed, markers is SIMAM
    return without_prefix(tensors, "conv1.weight", "seg_1.weight"), False


def _kind(weights: dict[str, mx.array], simam: bool) -> str:
    if simam:
        return "simam"
    if "layer1.0.convs.0.weight" in weights:
        return "res2net"
    if "layer1.0.conv.weight" in weights:
        return "inverted"
    return "bottleneck" if "layer1.0.conv3.weight" in weights else "basic"


def _shape(weights: dict[str, mx.array], settings: dict[str, Any] | None, simam: bool = False) -> dict[str, Any]:
    """The architecture that tensors of these names and shapes belong to."""
    block = _kind(weights, simam)
    counts = [
        len({m[1] for name in weights if (m := re.match(rf"layer{i}\.(\d+)\.", name))}) - (block == "inverted")
        for i in range(1, STAGES + 1)
    ]
    width = shape_of(weights, "conv1.weight", 4)[0]
    embed_dim, pooled = shape_of(weights, "seg_1.weight", 2)
    pooling: PoolingName = "ASP" if "pool.norm.weight" in weights else pooling_of(weights, settings)
    channels = width * 8 * EXPANSION[block]
    rows, rest = divmod(pooled, VALUES[pooling] * channels)
    if rest or not rows:
        raise CheckpointError(
            f"seg_1 takes {pooled} values, which {pooling} pooling of {channels} channels cannot give"
        )
    return {
        "block": block,
        "num_blocks": counts,
        "m_channels": width,
        "feat_dim": rows * math.prod(stride for stride, _ in STRIDES[block]),
        "embed_dim": embed_dim,
        "two_emb_layer": "seg_2.weight" in weights,
        "pooling_func": pooling,
    }


def _compare(shape: dict[str, Any], settings: dict[str, Any]) -> None:
    """Hold the architecture in `config.yaml` against the tensors."""
    name, args = settings["model"], mapping(settings, "model_args", "config.yaml")
    if name not in NAMES:
        raise ConfigError(f"config.yaml: model {shown(name)} is not in this family ({', '.join(NAMES)})")
    block, num_blocks, more = NAMES[name]
    if block == "simam":
        args = {SIMAM_ARGS.get(key, key): value for key, value in args.items() if key != "dropout"}
    claimed = {"block": block, "num_blocks": num_blocks, "pooling_func": "TSTP"} | more | args
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
    shape = _shape(weights, settings)
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
    if len(counts) != STAGES or len(kinds) != 1:
        raise CheckpointError(f"the graph has stages of {counts} blocks; a WeSpeaker ResNet has four of one kind")
    forbidden = {node.op for node in walk.graph.nodes} & {"Softmax", "Tanh", "LSTM", "GRU", "Sigmoid"}
    if forbidden:
        raise CheckpointError(f"the graph pools with {', '.join(sorted(forbidden))}; only TSTP pooling is supported")
    walk.head()
