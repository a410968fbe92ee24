"""Load and convert by catalogue name, and tell checkpoints apart."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import speech_zoo_core
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import ConfigError
from speech_zoo_core.layers import parameters

from .catalogue.entries import name_of, named, resolve

ASIDE = ("source", "threshold")  # of the config: they change no embedding


def load(ref: str | os.PathLike[str], *, revision: str | None = None, dtype: str | None = None) -> Any:
    """Load a model: a catalogue name (`speech-zoo list`), a folder, a checkpoint file or a Hub repo.

    Args:
        ref: what to load; original checkpoints are converted in memory. A catalogue name wins over a folder of the
            same name; write `./name` for the folder.
        revision: branch, tag or commit of a Hub repo.
        dtype: "float32", "float16" or "bfloat16" to compute in. Default: float32 on a CPU; on a GPU as stored, but
            float32 as float16 where that stays within the limits of parity.

    Returns:
        The model: `embed`, `embed_batch` and `verify` for speaker embeddings, `predict` and `predict_batch` for
        language identification; calling it gives the raw output.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """
    return speech_zoo_core.load(resolve(ref), revision=revision, dtype=dtype)


def load_for(ref: str, task: str) -> Any:
    """Load a model that must be for a task.

    Raises:
        ConfigError: it is for another one.
    """
    loaded = load(ref)
    if loaded.config.task != task:
        raise ConfigError(f"{ref} is for {loaded.config.task}, not for {task}; speech-zoo list shows what is for what")
    return loaded


def convert(
    source: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    dtype: str = "float32",
    bits: int | None = None,
    *,
    revision: str | None = None,
    force: bool = False,
    name: str | None = None,
) -> Path:
    """Convert a checkpoint to a folder with `config.json` and `model.safetensors`; returns the folder's path.

    Args:
        source: what `load` takes.
        out_dir: a folder that does not exist yet or is empty; it appears whole or not at all.
        dtype: "float32", "float16" or "bfloat16".
        bits: 8 or 4 quantizes the linear layers; None keeps them in `dtype`.
        revision: branch, tag or commit of a Hub repo.
        force: replace a converted checkpoint that lies in `out_dir`; nothing else is ever replaced.
        name: the catalogue name of a local copy; its files must be those that the catalogue expects.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """
    name = name or name_of(source)
    expected = named(name).files if name else None
    return speech_zoo_core.convert(
        resolve(source), out_dir, dtype, bits, revision=revision, force=force, name=name, expected=expected
    )


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
