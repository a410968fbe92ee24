"""The originals of CAM++: speakerlab (3D-Speaker) and wespeaker.models.campplus."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_zoo_core.audio.front_end import THREE_D_SPEAKER
from speech_zoo_core.checkpoint.source import Source
from speech_zoo_core.oracle import (
    KALDI,
    ONNXRUNTIME,
    TORCH,
    WESPEAKER,
    Oracle,
    Package,
    fbank_oracle,
    fill,
    onnx_oracle,
    read_tensors,
    require,
    save_state,
    seeded,
    three_d_speaker_fbank,
    wespeaker,
    wespeaker_fbank,
)
from speech_zoo_core.registry import Example

from .model import ModelConfig

SPEAKERLAB = Package("speakerlab", "speakerlab==0.0.6", alone=True)


def oracle(config: Any, original: Callable[[], Source]) -> Oracle:
    """See `ModelSpec.oracle`."""
    if config.source["form"].endswith("ONNX"):
        require(ONNXRUNTIME, KALDI)
        source = original()
        features = wespeaker_fbank if config.pool_eps else three_d_speaker_fbank
        return onnx_oracle(source.main_file, features(source, config.feat_dim))
    package = WESPEAKER if config.source["form"].startswith("WeSpeaker") else SPEAKERLAB
    require(TORCH, KALDI, package)
    source = original()

    def module() -> Any:
        tensors, _ = read_tensors(source.main_file)
        return fill(_campplus(config, package), tensors, source.main_file.name, dropped=("projection.",))

    if package is WESPEAKER:
        fbank = wespeaker_fbank(source, config.feat_dim)
    else:
        fbank = three_d_speaker_fbank(source, config.feat_dim)
    return fbank_oracle(package, module, fbank)


def write_example(config: Any, folder: Path) -> None:
    """See `Example.write`."""
    require(TORCH, KALDI, SPEAKERLAB)
    save_state(seeded(lambda: _campplus(config, SPEAKERLAB)), folder / "campplus_cn_en_common.safetensors")


def _campplus(config: Any, package: Package) -> Any:
    sizes = {"growth_rate": config.growth_rate, "bn_size": config.bn_size, "init_channels": config.init_channels}
    if package is WESPEAKER:
        return wespeaker("campplus").CAMPPlus(config.feat_dim, config.embed_dim, config.pooling_func, **sizes)
    from speakerlab.models.campplus.DTDNN import CAMPPlus

    return CAMPPlus(config.feat_dim, config.embed_dim, **sizes)


EXAMPLE = Example(  # 3D-Speaker's zh-en
    "campplus", ModelConfig(model_type="campplus", embed_dim=192, front_end=THREE_D_SPEAKER), write_example
)
