"""Audio in, features, checkpoint readers, the registry and the one loader of mlx-speech-zoo."""

from typing import TYPE_CHECKING, Any

from . import environment, tf32
from .errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    HubError,
    InputError,
    RegistryError,
    SpeechZooError,
    TaskError,
)

environment.set_defaults()
tf32.disable()

if TYPE_CHECKING:
    from .audio.front_end import FrontEnd
    from .checkpoint.source import Recognised, Source
    from .config import Quantization
    from .conversion import convert
    from .loader import load
    from .registry import ModelSpec
    from .tasks.audio_model import AudioModel
    from .tasks.language import LanguageIdentification, Prediction
    from .tasks.speaker import SpeakerConfig, SpeakerEmbedding, Verification

_LAZY = {
    "convert": "conversion",
    "load": "loader",
    "ModelSpec": "registry",
    "AudioModel": "tasks.audio_model",
    "FrontEnd": "audio.front_end",
    "LanguageIdentification": "tasks.language",
    "Prediction": "tasks.language",
    "Recognised": "checkpoint.source",
    "Source": "checkpoint.source",
    "Quantization": "config",
    "SpeakerConfig": "tasks.speaker",
    "SpeakerEmbedding": "tasks.speaker",
    "Verification": "tasks.speaker",
}

__all__ = [
    "AudioError",
    "AudioModel",
    "CheckpointError",
    "ConfigError",
    "FrontEnd",
    "HubError",
    "InputError",
    "LanguageIdentification",
    "ModelSpec",
    "Prediction",
    "Quantization",
    "Recognised",
    "RegistryError",
    "Source",
    "SpeakerConfig",
    "SpeakerEmbedding",
    "SpeechZooError",
    "TaskError",
    "Verification",
    "convert",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
