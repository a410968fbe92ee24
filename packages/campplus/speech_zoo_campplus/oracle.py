"""The originals of CAM++: speakerlab (3D-Speaker) and wespeaker.models.campplus."""

from collections.abc import Callable
from typing import Any

from speech_zoo_core.checkpoint.source import Source
from speech_zoo_core.oracle import (
    KALDI,
    TORCH,
    WESPEAKER,
    Oracle,
    Package,
    fbank_oracle,
    fill,
    read_tensors,
    require,
    wespeaker,
    wespeaker_fbank,
)

SPEAKERLAB = Package("speakerlab", "speakerlab==0.0.6", alone=True)


def oracle(config: Any, original: Callable[[], Source]) -> Oracle:
    """See `ModelSpec.oracle`."""
    package = WESPEAKER if config.source["form"].startswith("WeSpeaker") else SPEAKERLAB
    require(TORCH, KALDI, package)
    source = original()
    tensors, _ = read_tensors(source.main_file)
    sizes = {"growth_rate": config.growth_rate, "bn_size": config.bn_size, "init_channels": config.init_channels}
    if package is WESPEAKER:
        module = wespeaker("campplus").CAMPPlus(config.feat_dim, config.embed_dim, "TSTP", **sizes)
        fbank = wespeaker_fbank(source, {}, config.feat_dim)
    else:
        from speakerlab.models.campplus.DTDNN import CAMPPlus

        module = CAMPPlus(config.feat_dim, config.embed_dim, **sizes)
        fbank = {"window": "povey", "scale": 1.0, "n_mels": config.feat_dim, "rate": 16000}
    fill(module, tensors, source.main_file.name, dropped=("projection.",))
    return fbank_oracle(package, module, fbank)
