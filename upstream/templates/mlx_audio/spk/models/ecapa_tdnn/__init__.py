from .ecapa_tdnn import Model, ModelConfig

# Its checkpoints state their task; keys and paths of others say nothing.
DETECTION_HINTS = {"config_keys": set(), "path_patterns": set()}
