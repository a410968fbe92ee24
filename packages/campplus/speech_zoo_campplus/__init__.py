"""CAM++ for mlx-speech-zoo, with the bundled checkpoint `campplus-zh-en`."""

from speech_zoo_core.registry import ModelSpec

from .model import Model, ModelConfig
from .oracle import EXAMPLE, oracle
from .source import recognise

SPEC = ModelSpec("campplus", "speaker-embedding", Model, ModelConfig, recognise, oracle, EXAMPLE)

__all__ = ["SPEC", "Model", "ModelConfig"]
