"""CAM++ for mlx-speech-zoo, with the bundled checkpoint `campplus-zh-en`."""

from speech_zoo_core.registry import ModelSpec

from .model import Model, ModelConfig
from .oracle import oracle
from .source import recognise

SPEC = ModelSpec("campplus", "speaker-embedding", Model, ModelConfig, recognise, oracle)

__all__ = ["SPEC", "Model", "ModelConfig"]
