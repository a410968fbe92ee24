"""The ECAPA-TDNN of ``mlx_audio.spk`` with its language classifier."""

from mlx_audio.spk.models.ecapa_tdnn import Model, ModelConfig

# Its checkpoints state their task; keys and paths of others say nothing.
DETECTION_HINTS = {"config_keys": set(), "path_patterns": set()}
