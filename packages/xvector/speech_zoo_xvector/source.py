"""Recognise SpeechBrain's x-vectors as published: `embedding_model.ckpt` beside `hyperparams.yaml`."""

from typing import Any

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

XVECTOR = "speechbrain.lobes.models.Xvector.Xvector"
FIRST = "blocks.0.conv.weight"
SIZES = {"tdnn_channels": "channels", "tdnn_kernel_sizes": "kernel_sizes", "tdnn_dilations": "dilations"}


def recognise(source: Source) -> Recognised | None:
    """Tell whether a source is an x-vector of SpeechBrain, by its settings or its tensor names.

    Raises:
        ConfigError: its settings contradict its tensors, or ask for something unsupported.
        CheckpointError: a file or a tensor that its form has is missing.
    """
    if source.checkpoint.graph is not None:
        return None
    weights = without_prefix(source.checkpoint.tensors, FIRST, "blocks.2.norm.running_var")
    known = {FIRST, "blocks.2.norm.running_var"} <= weights.keys()
    settings = hyperparams(source)
    described = class_of(settings, "embedding_model") if settings else None
    if described != XVECTOR:
        if known and settings is None:
            raise CheckpointError(
                f"{source.main_file} is an x-vector of SpeechBrain; put its hyperparams.yaml beside it, which tells "
                "its features"
            )
        return None
    if not known or settings is None:
        raise CheckpointError(f"{source.main_file} does not hold the x-vector of its hyperparams.yaml")
    given = _arguments(settings)
    layers = len(given["channels"])
    sizes = [shape_of(weights, f"blocks.{3 * i}.conv.weight", 3) for i in range(layers)]
    embed_dim = shape_of(weights, f"blocks.{3 * layers + 1}.w.weight", 2)[0]
    tensors = {
        "in_channels": sizes[0][1],
        "channels": [size[0] for size in sizes],
        "kernel_sizes": [size[2] for size in sizes],
        "lin_neurons": embed_dim,
    }
    for key, value in tensors.items():
        if given[key] != value:
            raise ConfigError(f"hyperparams.yaml says {key} = {shown(given[key])}, the tensors say {value}")
    config = {
        "model_type": "xvector",
        "embed_dim": embed_dim,
        "feat_dim": given["in_channels"],
        **{key: given[key] for key in SIZES.values()},
        "front_end": to_dict(speechbrain_front_end(settings)),
        "threshold": THRESHOLD,
    }
    return Recognised(config, weights, "SpeechBrain x-vector")


def _arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """The sizes that `hyperparams.yaml` gives, with SpeechBrain's defaults."""
    given = arguments(
        settings,
        "embedding_model",
        {},
        {*SIZES, "tdnn_blocks", "in_channels", "lin_neurons", "activation", "device"},
    )
    check_activation(given, "embedding_model", "torch.nn.LeakyReLU")
    usual: dict[str, Any] = {
        "tdnn_channels": [512, 512, 512, 512, 1500],
        "tdnn_kernel_sizes": [5, 3, 3, 1, 1],
        "tdnn_dilations": [1, 2, 3, 1, 1],
        "tdnn_blocks": 5,
        "in_channels": 40,
        "lin_neurons": 512,
    }
    sizes = usual | given
    for key in SIZES:
        if not isinstance(sizes[key], list) or len(sizes[key]) < 1 or len(sizes[key]) != sizes["tdnn_blocks"]:
            raise ConfigError(f"hyperparams.yaml: embedding_model: {key} must have one entry for each of tdnn_blocks")
    return {SIZES.get(key, key): value for key, value in sizes.items()}
