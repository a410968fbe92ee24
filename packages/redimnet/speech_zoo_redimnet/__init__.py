"""ReDimNet for mlx-speech-zoo."""

from speech_zoo_core.registry import ModelSpec

from .model import Model, ModelConfig
from .oracle import EXAMPLE, oracle
from .source import recognise

SPEC = ModelSpec("redimnet", "speaker-embedding", Model, ModelConfig, recognise, oracle, EXAMPLE)

__all__ = ["SPEC", "Model", "ModelConfig"]
