from .wav2vec2_cls import Model, ModelConfig

# Its checkpoints state their task; keys and paths of others say nothing.
DETECTION_HINTS = {"config_keys": set(), "path_patterns": set()}
