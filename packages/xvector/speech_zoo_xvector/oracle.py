"""The original of the x-vector: SpeechBrain."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from speech_zoo_core.audio.front_end import SPEECHBRAIN
from speech_zoo_core.checkpoint.source import Source
from speech_zoo_core.oracle import Oracle
from speech_zoo_core.oracle_speechbrain import speechbrain_oracle
from speech_zoo_core.oracle_speechbrain import write_example as write_speechbrain
from speech_zoo_core.registry import Example

from .model import ModelConfig
from .source import SIZES

CLASS = "lobes.models.Xvector.Xvector"


def oracle(config: Any, original: Callable[[], Source]) -> Oracle:
    """See `ModelSpec.oracle`."""
    return speechbrain_oracle(CLASS, original)


def write_example(config: Any, folder: Path) -> None:
    """See `Example.write`."""
    sizes = {key: getattr(config, name) for key, name in SIZES.items()}
    sizes |= {"tdnn_blocks": len(config.channels), "in_channels": config.feat_dim, "lin_neurons": config.embed_dim}
    write_speechbrain(CLASS, config.feat_dim, sizes, folder)


EXAMPLE = Example(  # speechbrain/spkrec-xvect-voxceleb
    "xvector",
    ModelConfig(model_type="xvector", embed_dim=512, front_end=replace(SPEECHBRAIN, n_mels=24), feat_dim=24),
    write_example,
)
