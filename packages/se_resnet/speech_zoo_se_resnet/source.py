"""Recognise SpeechBrain's ResNet as published: `embedding_model.ckpt` beside `hyperparams.yaml`."""

import re
from typing import Any

import mlx.core as mx
from speech_zoo_core.checkpoint.source import Recognised, Source, shape_of, without_prefix
from speech_zoo_core.checkpoint.speechbrain import (
    THRESHOLD,
    arguments,
    check_activation,
    class_of,
    hyperparams,
    speechbrain_front_end,
)
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import CheckpointError, ConfigError, shown

from .model import STAGES

RESNET = "speechbrain.lobes.models.ResNet.ResNet"
MARKERS = ("norm_stats.running_var", "layer1.0.se.fc.0.weight", "fc_embed.weight")


def recognise(source: Source) -> Recognised | None:
    """Tell whether a source is SpeechBrain's ResNet, by its settings or its tensor names.

    Raises:
        ConfigError: its settings contradict its tensors, or ask for something unsupported.
        CheckpointError: a file or a tensor that its form has is missing.
    """
    if source.checkpoint.graph is not None:
        return None
    weights = without_prefix(source.checkpoint.tensors, *MARKERS)
    known = {*MARKERS} <= weights.keys()
    settings = hyperparams(source)
    described = class_of(settings, "embedding_model") if settings else None
    if described != RESNET:
        if known and settings is None:
            raise CheckpointError(
                f"{source.main_file} is a ResNet of SpeechBrain; put its hyperparams.yaml beside it, which tells its "
                "features"
            )
        return None
    if not known or settings is None:
        raise CheckpointError(f"{source.main_file} does not hold the ResNet of its hyperparams.yaml")
    given, tensors = _arguments(settings), _sizes(weights)
    for key, value in tensors.items():
        if given[key] != value:
            raise ConfigError(f"hyperparams.yaml says {key} = {shown(given[key])}, the tensors say {value}")
    config = {
        "model_type": "se_resnet",
        "embed_dim": given["lin_neurons"],
        "feat_dim": given["input_size"],
        **{key: given[key] for key in ("channels", "block_sizes", "strides")},
        "front_end": to_dict(speechbrain_front_end(settings)),
        "threshold": THRESHOLD,
    }
    return Recognised(config, weights, "SpeechBrain ResNet")


def _sizes(weights: dict[str, mx.array]) -> dict[str, Any]:
    """What the tensors say of the arguments; the strides show in none of them."""
    counts = [
        len({m[1] for name in weights if (m := re.match(rf"layer{i}\.(\d{{1,3}})\.", name))})
        for i in range(1, STAGES + 1)
    ]
    return {
        "block_sizes": counts,
        "channels": [shape_of(weights, f"layer{i}.0.conv1.weight", 4)[0] for i in range(1, STAGES + 1)],
        "lin_neurons": shape_of(weights, "fc_embed.weight", 2)[0],
    }


def _arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """The sizes that `hyperparams.yaml` gives, with SpeechBrain's defaults."""
    sizes = {"input_size", "channels", "block_sizes", "strides", "lin_neurons"}
    given = arguments(settings, "embedding_model", {}, {*sizes, "activation", "device"})
    check_activation(given, "embedding_model", "torch.nn.ReLU")
    usual = {
        "input_size": 80,
        "channels": [128, 128, 256, 256],
        "block_sizes": [3, 4, 6, 3],
        "strides": [1, 2, 2, 2],
        "lin_neurons": 256,
    }
    return usual | given
