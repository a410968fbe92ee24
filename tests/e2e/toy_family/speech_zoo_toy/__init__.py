"""A family of two layers: what a new one has to bring."""

from speech_zoo_core.registry import ModelSpec

from .model import Model, ModelConfig
from .oracle import EXAMPLE, oracle
from .source import recognise

SPEC = ModelSpec("toy_xvector", "speaker-embedding", Model, ModelConfig, recognise, oracle, EXAMPLE)
