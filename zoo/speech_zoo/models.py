"""Load and convert by catalogue name, and tell checkpoints apart."""

import hashlib
import json
from typing import Any

import mlx.core as mx
import numpy as np
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import ConfigError
from speech_zoo_core.layers import parameters


def load_for(model: str, task: str) -> Any:
    """Load a model that must be for a task.

    Raises:
        ConfigError: it is for another one.
    """
    from . import load

    loaded = load(model)
    if loaded.config.task != task:
        raise ConfigError(
            f"{model} is for {loaded.config.task}, not for {task}; speech-zoo list shows what is for what"
        )
    return loaded


ASIDE = ("source", "threshold")  # of the config: they change no embedding


def identity(model: Any) -> str:
    """SHA-256, in hexadecimal, of a loaded model's config and weights, but for provenance and threshold.

    Weights count as float16, so that a checkpoint has one identity whether float16 or float32 computes it.
    """
    config = {key: value for key, value in to_dict(model.config).items() if key not in ASIDE}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, value in parameters(model).items():
        digest.update(f"{name}{value.shape}".encode())
        floating = mx.issubdtype(value.dtype, mx.floating)
        digest.update(np.array(value.astype(mx.float16) if floating else value).tobytes())
    return digest.hexdigest()
