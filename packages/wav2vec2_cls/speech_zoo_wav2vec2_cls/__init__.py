"""Wav2Vec2 with a classification head for mlx-speech-zoo: MMS-LID, keyword spotting, speakers, emotions."""

from speech_zoo_core.registry import ModelSpec

from .config import ModelConfig
from .model import Model
from .oracle import EXAMPLE, oracle
from .source import recognise

SPEC = ModelSpec("wav2vec2_cls", "language-identification", Model, ModelConfig, recognise, oracle, EXAMPLE)

__all__ = ["SPEC", "Model", "ModelConfig"]
