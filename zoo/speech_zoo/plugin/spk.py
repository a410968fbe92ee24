"""Speaker embeddings: `import mlx_audio.spk` gives this module.

>>> from mlx_audio.spk import load
>>> load("campplus-zh-en").encode(samples, sample_rate=16000)
"""

import os
from typing import Any

from .load import SPEAKERS, load_ours


def load(model_path: str | os.PathLike[str], lazy: bool = False, strict: bool = True, **options: Any) -> Any:
    """Load a speaker-embedding model, whatever `speech_zoo.load` takes; it is always loaded strictly, and never lazily.

    Args:
        options: `revision` of a Hub repo, `force_download`, `dtype` to compute in.

    Returns:
        The model: `encode(audio, sample_rate)`, `embed_batch`, `verify`; arrays without a rate are at the model's own.
    """
    return load_ours(SPEAKERS, model_path, lazy, strict, **options)


load_model = load
__all__ = ["load", "load_model"]
