"""The original of the SE-ResNet: SpeechBrain."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_zoo_core.audio.front_end import SPEECHBRAIN
from speech_zoo_core.checkpoint.source import Source
from speech_zoo_core.oracle import Oracle
from speech_zoo_core.oracle_speechbrain import speechbrain_oracle
from speech_zoo_core.oracle_speechbrain import write_example as write_speechbrain
from speech_zoo_core.registry import Example

from .model import ModelConfig

CLASS = "lobes.models.ResNet.ResNet"


def oracle(config: Any, original: Callable[[], Source]) -> Oracle:
    """See `ModelSpec.oracle`."""
    return speechbrain_oracle(CLASS, original)


def write_example(config: Any, folder: Path) -> None:
    """See `Example.write`."""
    sizes = {key: getattr(config, key) for key in ("channels", "block_sizes", "strides")}
    sizes |= {"input_size": config.feat_dim, "lin_neurons": config.embed_dim}
    write_speechbrain(CLASS, config.feat_dim, sizes, folder)


EXAMPLE = Example(  # speechbrain/spkrec-resnet-voxceleb
    "se_resnet", ModelConfig(model_type="se_resnet", embed_dim=256, front_end=SPEECHBRAIN), write_example
)
