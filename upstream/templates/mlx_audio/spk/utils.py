"""Speaker embeddings: who is speaking."""

from pathlib import Path
from typing import Union

import mlx.nn as nn

from mlx_audio.utils import base_load_model

SAMPLE_RATE = 16000

MODEL_REMAPPING = {}


def load_model(
    model_path: Union[str, Path], lazy: bool = False, strict: bool = True, **kwargs
) -> nn.Module:
    """
    Load a speaker-embedding model.

    Args:
        model_path: A folder or a Hugging Face repository.
        lazy: If False, evaluate the parameters at once.
        strict: Weights must match the model; these models insist on it.
        **kwargs: revision, force_download.

    Returns:
        nn.Module: The model, ready for ``encode``.
    """
    return base_load_model(
        model_path=model_path,
        category="spk",
        model_remapping=MODEL_REMAPPING,
        lazy=lazy,
        strict=strict,
        **kwargs,
    )


def load(
    model_path: Union[str, Path], lazy: bool = False, strict: bool = True, **kwargs
) -> nn.Module:
    """
    Load a speaker-embedding model from a folder or a Hugging Face repository.

    Example:
        >>> from mlx_audio.spk import load
        >>> model = load("path/to/campplus")
        >>> embedding = model.encode("audio.wav")  # unit length
        >>> model.verify("a.wav", "b.wav").same_speaker
    """
    return load_model(model_path, lazy=lazy, strict=strict, **kwargs)
