"""Speaker embeddings: `import mlx_audio.spk` gives this module.

>>> from mlx_audio.spk import load
>>> load("campplus-zh-en").encode(samples, sample_rate=16000)
"""

import os
from typing import Any

from .load import load_ours


def load(model_path: str | os.PathLike[str], *args: Any, **options: Any) -> Any:
    """Load a speaker-embedding model: whatever `speech_zoo.load` takes, and its options; arrays are at its own rate."""
    return load_ours("spk", model_path, *args, **options)


load_model = load
__all__ = ["load", "load_model"]
