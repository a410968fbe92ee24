"""PyanNet for mlx-speech-zoo, with the bundled checkpoint `pyannote-segmentation-3.0`."""

from speech_zoo_core.registry import ModelSpec

from .model import Model, ModelConfig
from .oracle import oracle
from .source import recognise

SPEC = ModelSpec("pyannet", "speaker-segmentation", Model, ModelConfig, recognise, oracle)

__all__ = ["SPEC", "Model", "ModelConfig"]
