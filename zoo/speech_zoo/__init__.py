"""Who is speaking and in which language, in pure MLX.

>>> import speech_zoo
>>> model = speech_zoo.load("campplus-zh-en")
>>> model.verify("a.wav", "b.wav")
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import speech_zoo_core  # opens OpenBLAS before MLX is imported, where that matters
from speech_zoo_core.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    HubError,
    InputError,
    RegistryError,
    SpeechZooError,
)

if TYPE_CHECKING:
    from speech_zoo_core.language import Prediction
    from speech_zoo_core.tasks import Verification

__version__ = "0.1.0"
__all__ = [
    "AudioError",
    "CheckpointError",
    "ConfigError",
    "HubError",
    "InputError",
    "Prediction",
    "RegistryError",
    "SpeechZooError",
    "Verification",
    "convert",
    "load",
    "register",
]


def load(ref: str | os.PathLike[str], *, revision: str | None = None, dtype: str | None = None) -> Any:
    """Load a model: a catalogue name (`speech-zoo list`), a folder, a checkpoint file or a Hub repo.

    Args:
        ref: what to load; original checkpoints are converted in memory. A catalogue name wins over a folder of the
            same name; write `./name` for the folder.
        revision: branch, tag or commit of a Hub repo.
        dtype: "float32", "float16" or "bfloat16" to compute in. Default: as stored, but float32 on a CPU.

    Returns:
        The model: `embed`, `embed_batch` and `verify` for speaker embeddings, `predict` and `predict_batch` for
        language identification; calling it gives the raw output.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """
    from .catalogue import resolve

    return speech_zoo_core.load(resolve(ref), revision=revision, dtype=dtype)


def convert(
    source: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    dtype: str = "float32",
    bits: int | None = None,
    *,
    revision: str | None = None,
) -> Path:
    """Convert a checkpoint to a folder with `config.json` and `model.safetensors`; returns the folder's path.

    Args:
        source: what `load` takes.
        out_dir: a folder that does not exist yet or is empty; it appears whole or not at all.
        dtype: "float32", "float16" or "bfloat16".
        bits: 8 or 4 quantizes the linear layers; None keeps them in `dtype`.
        revision: branch, tag or commit of a Hub repo.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """
    from .catalogue import resolve

    return speech_zoo_core.convert(resolve(source), out_dir, dtype, bits, revision=revision)


def register() -> None:
    """Let mlx_audio load our models: `mlx_audio.load`, `mlx_audio.utils.load_model`, `mlx_audio.lid.load` and the like.

    Not needed where the package was installed by pip or uv, which see to it at the start of every interpreter, unless
    the environment says `SPEECH_ZOO_AUTOLOAD=0`. Idempotent, before or after mlx_audio is imported; what was imported
    from its modules by name before stays as it was.
    """
    from .plugin import register

    register()


def __getattr__(name: str) -> Any:
    if name in ("Prediction", "Verification"):
        return getattr(speech_zoo_core, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
