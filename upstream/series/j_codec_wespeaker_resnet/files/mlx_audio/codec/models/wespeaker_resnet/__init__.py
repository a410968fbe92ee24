from .wespeaker_resnet import ModelConfig, WeSpeakerResNet

__all__ = ["ModelConfig", "WeSpeakerResNet"]
