"""The ECAPA-TDNN family for mlx-speech-zoo: speaker embeddings, language identification, the speaker proxy."""

from speech_zoo_core.registry import ModelSpec

from .model import Model, ModelConfig
from .oracle import EXAMPLE, oracle
from .proxy import contrastive_loss, proxy_config, rvq_sum, separation
from .source import recognise

SPEC = ModelSpec("ecapa_tdnn", "speaker-embedding", Model, ModelConfig, recognise, oracle, EXAMPLE)

__all__ = ["SPEC", "Model", "ModelConfig", "contrastive_loss", "proxy_config", "rvq_sum", "separation"]
