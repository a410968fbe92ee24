"""Recognise ERes2Net as published: 3D-Speaker's state dicts, WeSpeaker's `avg_model.pt`, ONNX of both."""

import re
from typing import Any

import mlx.core as mx
from speech_zoo_core.audio.front_end import FrontEnd
from speech_zoo_core.checkpoint.onnx_graph import Graph
from speech_zoo_core.checkpoint.source import Recognised, Source, mapping, shape_of, without_prefix
from speech_zoo_core.checkpoint.wespeaker import (
    POOLING_TENSORS,
    THRESHOLD,
    front_end_of,
    pooling_of,
    three_d_speaker_front_end,
    wespeaker_settings,
)
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import CheckpointError, ConfigError, shown
from speech_zoo_core.pooling import VALUES

from .graph import from_graph
from .model import STRIDES

POOL_EPS = {"3D-Speaker": 1e-8, "WeSpeaker": 1e-7}
# On ModelScope's card of ERes2NetV2 (200 000 speakers); a configuration.json beside the weights may say another one.
THREE_D_SPEAKER_THRESHOLD = 0.365
FUSION = {"ERes2Net": "fuse_mode1234", "ERes2NetV2": "fuse34"}
BASE = {"m_channels": 32, "base_width": 32, "scale": 2, "expansion": 2}
NAMES = {
    "ERes2Net34_Base": BASE,
    "ERes2Net34_Large": BASE | {"m_channels": 64},
    "ERes2Net34_aug": {"m_channels": 64, "base_width": 24, "scale": 3, "expansion": 4},
}
NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
AFF = rf"local_att\.([03]\.(weight|bias)|[14]\.{NORM})"
TENSORS = re.compile(
    rf"(layer[1-4]\.\d{{1,3}}\.)?(conv[13]\.weight|bn[13]\.{NORM})"
    rf"|layer[1-4]\.\d{{1,3}}\.(convs\.\d\.weight|bns\.\d\.{NORM}|shortcut\.(0\.weight|1\.{NORM})|fuse_models\.\d\.{AFF})"
    rf"|layer[1-3]_downsample\.weight|layer3_ds\.weight|fuse(34|_mode12|_mode123|_mode1234)\.{AFF}"
    rf"|seg_[12]\.(weight|bias)|seg_bn_1\.{NORM}|projection\..*|{POOLING_TENSORS}"
)


def recognise(source: Source) -> Recognised | None:
    """Tell whether a source is an ERes2Net, by its graph or its tensor names.

    Raises:
        ConfigError: the settings beside it contradict its tensors, or ask for something unsupported.
        CheckpointError: it is an ERes2Net but not one of this family, or WeSpeaker's without its `config.yaml`.
    """
    if source.checkpoint.graph is not None:
        return _from_graph(source, source.checkpoint.graph)
    weights = without_prefix(source.checkpoint.tensors, "conv1.weight", "seg_1.weight")
    fused = any(f"{fusion}.local_att.0.weight" in weights for fusion in FUSION.values())
    if not fused or not {"bn1.running_var", "layer1.0.convs.0.weight", "seg_1.weight"} <= weights.keys():
        return None
    maker = "WeSpeaker" if "layer4.0.conv2_1.weight" in weights else "3D-Speaker"
    weights = _first_among_others(weights)
    if others := [name for name in weights if not TENSORS.fullmatch(name)]:
        listed = ", ".join(name[:80] for name in others[:5])
        raise CheckpointError(
            f"{source.main_file} looks like an ERes2Net, but has {len(others)} tensors that none has: {listed}"
        )
    settings = wespeaker_settings(source) if maker == "WeSpeaker" else None
    shape = _shape(weights, settings, pointwise=4)
    if maker == "WeSpeaker" and settings is None:
        raise CheckpointError(
            f"{source.main_file} is a WeSpeaker ERes2Net; put its config.yaml beside it, which tells its features"
        )
    form = f"WeSpeaker {settings['model']}" if settings else f"3D-Speaker {shape['variant']}"
    return Recognised(_config(source, shape, maker, settings), weights, form)


def _first_among_others(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """WeSpeaker's names as 3D-Speaker's: where a block fuses, its first 3x3 convolution is one of the list.

    Raises:
        CheckpointError: a name would stand twice.
    """
    blocks = {name.removesuffix("conv2_1.weight") for name in weights if name.endswith(".conv2_1.weight")}
    renamed: dict[str, mx.array] = {}
    for name, x in weights.items():
        new, block = name, re.match(r"layer\d\.\d+\.", name)
        if block and block[0] in blocks:
            part = name.removeprefix(block[0])
            part = re.sub(r"^(convs|bns)\.(\d)(?=\.)", lambda match: f"{match[1]}.{int(match[2]) + 1}", part)
            new = block[0] + re.sub(r"^(conv|bn)2_1(?=\.)", r"\1s.0", part)
        if new in renamed:
            raise CheckpointError(f"{new} stands twice in the checkpoint, under WeSpeaker's name and 3D-Speaker's")
        renamed[new] = x
    return renamed


def _config(source: Source, shape: dict[str, Any], maker: str, settings: dict[str, Any] | None) -> dict[str, Any]:
    threshold: Any = THRESHOLD
    if maker == "3D-Speaker":
        front_end = three_d_speaker_front_end(source, shape["feat_dim"])
        facts = mapping(source.settings("configuration.json") or {}, "model", "configuration.json")
        threshold = facts.get("yesOrno_thr", THREE_D_SPEAKER_THRESHOLD)
    elif settings is not None:
        _compare(shape, settings)
        front_end = front_end_of(settings)
    else:
        front_end = FrontEnd(n_mels=shape["feat_dim"])
    facts = {"pool_eps": POOL_EPS[maker], "front_end": to_dict(front_end), "threshold": threshold}
    return {"model_type": "eres2net", **shape, **facts}


def _shape(weights: dict[str, mx.array], settings: dict[str, Any] | None, pointwise: int) -> dict[str, Any]:
    """The architecture of tensors with these names and shapes; pointwise layers have `pointwise` dimensions."""
    counts = [
        len({m[1] for name in weights if (m := re.match(rf"layer{i}\.(\d+)\.", name))})
        for i in range(1, len(STRIDES) + 1)
    ]
    m_channels = shape_of(weights, "conv1.weight", 4)[0]
    width = shape_of(weights, "layer4.0.convs.0.weight", 4)[0]
    expansion = shape_of(weights, "layer1.0.conv3.weight", pointwise)[0] // m_channels
    embed_dim, pooled = shape_of(weights, "seg_1.weight", 2)
    pooling = pooling_of(weights, settings)
    rows, rest = divmod(pooled, VALUES[pooling] * m_channels * 8 * max(expansion, 1))
    if rest or not rows:
        raise CheckpointError(
            f"seg_1 takes {pooled} values, which {pooling} pooling of {m_channels * 8 * expansion} channels cannot give"
        )
    return {
        "variant": next(name for name, fusion in FUSION.items() if f"{fusion}.local_att.0.weight" in weights),
        "num_blocks": counts,
        "m_channels": m_channels,
        "base_width": -(-width * 8 // m_channels),  # of the last stage, where the least is lost by rounding
        "scale": len([name for name in weights if re.fullmatch(r"layer4\.0\.convs\.\d\.weight", name)]),
        "expansion": expansion,
        "feat_dim": rows * 8,
        "embed_dim": embed_dim,
        "two_emb_layer": "seg_2.weight" in weights,
        "pooling_func": pooling,
    }


def _compare(shape: dict[str, Any], settings: dict[str, Any]) -> None:
    """Hold the architecture in WeSpeaker's `config.yaml` against the tensors."""
    name, args = settings["model"], mapping(settings, "model_args", "config.yaml")
    if name not in NAMES:
        raise ConfigError(f"config.yaml: model {shown(name)} is not in this family ({', '.join(NAMES)})")
    args = {"base_width" if key == "baseWidth" else key: value for key, value in args.items()}
    claimed = {"variant": "ERes2Net", "num_blocks": [3, 4, 6, 3], "pooling_func": "TSTP"} | NAMES[name] | args
    for key, value in claimed.items():
        if key not in shape:
            raise ConfigError(f"config.yaml: model_args.{key} is not supported")
        if shape[key] != value:
            raise ConfigError(f"config.yaml says {key} = {shown(value)}, the tensors say {shape[key]}")


def _from_graph(source: Source, graph: Graph) -> Recognised | None:
    """Map an exported ERes2Net by its structure; what it adds to the variance tells whose it is."""
    matched = from_graph(graph)
    if matched is None:
        return None
    weights, pool_eps = matched
    maker = next((maker for maker, eps in POOL_EPS.items() if eps / 2 < pool_eps < eps * 2), None)
    if maker is None:
        raise CheckpointError(f"the graph looks like an ERes2Net, but adds {pool_eps} to its variances")
    settings = wespeaker_settings(source) if maker == "WeSpeaker" else None
    shape = _shape(weights, settings, pointwise=2)
    return Recognised(_config(source, shape, maker, settings), weights, f"{maker} {shape['variant']} ONNX")
