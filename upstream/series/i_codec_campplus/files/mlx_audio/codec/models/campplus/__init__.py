from .campplus import CAMLayer, CAMPPlus, ModelConfig, StatsPool

__all__ = ["CAMLayer", "CAMPPlus", "ModelConfig", "StatsPool"]
