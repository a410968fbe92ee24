"""What tells checkpoints apart whose vectors and scores must not be mixed."""

import hashlib
import json
from typing import Any

import mlx.core as mx
import numpy as np

from .config import to_dict
from .layers import parameters

ASIDE = ("source", "threshold", "threshold_seconds")  # of the config: they change no embedding


def identity(model: Any) -> str:
    """SHA-256, in hexadecimal, of a loaded model's config and weights, but for provenance and threshold.

    Weights count as float16, so that a checkpoint has one identity whether float16 or float32 computes it.
    """
    return _digest(to_dict(model.config), model)


def identity_before(model: Any) -> str:
    """The identity that the same checkpoint had when its front end did not tell resampler and channel."""
    config = to_dict(model.config)
    front_end = config.get("front_end") or {}
    older = {key: value for key, value in front_end.items() if key not in ("resampler", "channel")}
    return _digest({**config, "front_end": older}, model)


def _digest(config: dict[str, Any], model: Any) -> str:
    config = {key: value for key, value in config.items() if key not in ASIDE}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, value in parameters(model).items():
        digest.update(f"{name}{value.shape}".encode())
        floating = mx.issubdtype(value.dtype, mx.floating)
        digest.update(np.array(value.astype(mx.float16) if floating else value).tobytes())
    return digest.hexdigest()
