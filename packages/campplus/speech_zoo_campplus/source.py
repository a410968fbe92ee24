"""Recognise CAM++ in its published forms: 3D-Speaker's state dict, WeSpeaker's `avg_model.pt` + `config.yaml`."""

from dataclasses import replace
from typing import Any

import mlx.core as mx
from speech_zoo_core.audio.front_end import WESPEAKER
from speech_zoo_core.checkpoint.onnx_graph import Graph
from speech_zoo_core.checkpoint.source import Recognised, Source, expect, mapping, shape_of, without_prefix
from speech_zoo_core.checkpoint.wespeaker import (
    THRESHOLD,
    front_end_of,
    pooling_of,
    three_d_speaker_front_end,
    wespeaker_settings,
)
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import CheckpointError, ConfigError

from .graph import POOL_EPS, from_graph
from .model import HEAD_CHANNELS

# The midpoint between the highest different-speaker cosine (0.39) and the lowest same-speaker cosine (0.56) of the
# zh-en checkpoint on halves of the bundled clips, `speech-zoo demo` prints them; and the seconds of the shortest half.
THREE_D_SPEAKER = {"threshold": 0.47, "threshold_seconds": 2.1}


def recognise(source: Source) -> Recognised | None:
    """Tell whether a source is CAM++, by its tensor names.

    Raises:
        ConfigError: its `config.yaml` contradicts its tensors, or asks for something unsupported.
        CheckpointError: it is WeSpeaker's but its `config.yaml` is missing.
    """
    if source.checkpoint.graph is not None:
        return _from_graph(source, source.checkpoint.graph)
    weights = without_prefix(source.checkpoint.tensors, "head.conv1.weight", "xvector.tdnn.linear.weight")
    if (
        not {"head.conv1.weight", "xvector.tdnn.linear.weight", "xvector.block1.tdnnd1.linear1.weight"}
        <= weights.keys()
    ):
        return None
    if "head.bn1.running_var" not in weights:
        return None
    shape = _shape(weights, shape_of(weights, "xvector.tdnn.linear.weight", 3)[1], 3)
    settings = wespeaker_settings(source)
    if settings is not None:
        shape["pooling_func"] = pooling_of(weights, settings)
        _compare(shape, settings)
        facts = {"front_end": front_end_of(settings), "pool_eps": POOL_EPS, "threshold": THRESHOLD}
        form = "WeSpeaker CAM++"
    elif source.main_file.name == "avg_model.pt" or any(name.startswith("projection.") for name in weights):
        raise CheckpointError(
            f"{source.main_file} is a WeSpeaker CAM++; put its config.yaml beside it, which tells its features"
        )
    else:
        front_end = three_d_speaker_front_end(source, shape["feat_dim"])
        facts = {"front_end": front_end, "pool_eps": 0.0, **THREE_D_SPEAKER}
        form = "3D-Speaker CAM++"
    config = {"model_type": "campplus", **shape, **facts, "front_end": to_dict(facts["front_end"])}
    return Recognised(config, weights, form)


def _shape(weights: dict[str, mx.array], columns: int, rank: int) -> dict[str, Any]:
    """The widths of the tensors; `columns` enter the TDNN, layers of one tap have `rank` dimensions."""
    bn_channels, init_channels = shape_of(weights, "xvector.block1.tdnnd1.linear1.weight", rank)[:2]
    growth_rate = shape_of(weights, "xvector.block1.tdnnd1.cam_layer.linear_local.weight", 3)[0]
    return {
        "feat_dim": columns // HEAD_CHANNELS * 8,
        "embed_dim": shape_of(weights, "xvector.dense.linear.weight", rank)[0],
        "growth_rate": growth_rate,
        "bn_size": bn_channels // growth_rate,
        "init_channels": init_channels,
    }


def _compare(shape: dict[str, Any], settings: dict[str, Any]) -> None:
    """Hold the architecture in WeSpeaker's `config.yaml` against the tensors."""
    args = mapping(settings, "model_args", "config.yaml")
    expect(settings, "config.yaml", {"model": "CAMPPlus"})
    expect({"pooling_func": "TSTP"} | args, "config.yaml model_args", {"config_str": "batchnorm-relu", **shape})
    if unknown := sorted(args.keys() - shape.keys() - {"config_str"}):
        raise ConfigError(f"config.yaml: model_args.{unknown[0]} is not supported")


def _from_graph(source: Source, graph: Graph) -> Recognised | None:
    """Map an exported CAM++ by its structure; what it adds to the variance tells whose it is."""
    matched = from_graph(graph)
    if matched is None:
        return None
    weights, pool_eps = matched
    shape = _shape(weights, weights["xvector.tdnn.linear.weight"].shape[-1], 2)
    facts: dict[str, Any] = {"pool_eps": pool_eps}
    if pool_eps:
        settings = wespeaker_settings(source)
        if settings is not None:
            _compare(shape | {"pooling_func": "TSTP"}, settings)
        usual = replace(WESPEAKER, n_mels=shape["feat_dim"])
        facts |= {"front_end": usual if settings is None else front_end_of(settings), "threshold": THRESHOLD}
    else:
        front_end = three_d_speaker_front_end(source, shape["feat_dim"])
        facts |= {"front_end": front_end, **THREE_D_SPEAKER}
    config = {"model_type": "campplus", **shape, **facts, "front_end": to_dict(facts["front_end"])}
    return Recognised(config, weights, f"{'WeSpeaker' if pool_eps else '3D-Speaker'} CAM++ ONNX")
