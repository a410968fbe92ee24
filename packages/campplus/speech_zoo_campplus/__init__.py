"""CAM++ for mlx-speech-zoo, with the bundled checkpoint `campplus-zh-en`."""

from speech_zoo_core.registry import ModelSpec

from .model import Model, ModelConfig
from .source import recognise

SPEC = ModelSpec("campplus", "speaker-embedding", Model, ModelConfig, recognise)

__all__ = ["SPEC", "Model", "ModelConfig"]
