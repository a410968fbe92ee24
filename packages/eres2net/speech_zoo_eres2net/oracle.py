"""The originals of ERes2Net: speakerlab (3D-Speaker), wespeaker.models.eres2net, onnxruntime for exported files."""

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
    NoOracle,
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
SIZES = {(32, 2, 2): "ERes2Net", (24, 3, 4): "ERes2Net_huge"}  # that speakerlab's modules of the first version have


def oracle(config: Any, original: Callable[[], Source]) -> Oracle:
    """See `ModelSpec.oracle`."""
    form = config.source["form"]
    fbank = wespeaker_fbank if form.startswith("WeSpeaker") else three_d_speaker_fbank
    if form.endswith("ONNX"):
        require(ONNXRUNTIME, KALDI)
        source = original()
        return onnx_oracle(source.main_file, fbank(source, config.feat_dim))
    package = WESPEAKER if form.startswith("WeSpeaker") else SPEAKERLAB
    require(TORCH, KALDI, package)
    source = original()

    def module() -> Any:
        tensors, _ = read_tensors(source.main_file)
        return fill(_eres2net(config, package), tensors, source.main_file.name, dropped=("projection.",))

    return fbank_oracle(package, module, fbank(source, config.feat_dim))


def write_example(config: Any, folder: Path) -> None:
    """See `Example.write`."""
    require(TORCH, KALDI, SPEAKERLAB)
    save_state(seeded(lambda: _eres2net(config, SPEAKERLAB)), folder / "pretrained_eres2net.safetensors")


def _eres2net(config: Any, package: Package) -> Any:
    sizes: dict[str, Any] = {
        "num_blocks": config.num_blocks,
        "m_channels": config.m_channels,
        "feat_dim": config.feat_dim,
        "two_emb_layer": config.two_emb_layer,
    }
    parts = {"baseWidth": config.base_width, "scale": config.scale, "expansion": config.expansion}
    if package is WESPEAKER:
        sizes["pooling_func"] = config.pooling_func
        return wespeaker("eres2net").ERes2Net(embed_dim=config.embed_dim, **sizes, **parts)
    sizes["embedding_size"] = config.embed_dim
    if config.variant == "ERes2NetV2":
        from speakerlab.models.eres2net.ERes2NetV2 import ERes2NetV2

        return ERes2NetV2(**sizes, **parts)
    name = SIZES.get((config.base_width, config.scale, config.expansion))
    if name == "ERes2Net":
        from speakerlab.models.eres2net.ERes2Net import ERes2Net
    elif name == "ERes2Net_huge":
        from speakerlab.models.eres2net.ERes2Net_huge import ERes2Net
    else:
        raise NoOracle(f"speakerlab has no ERes2Net of base_width {config.base_width} in {config.scale} parts")
    return ERes2Net(**sizes)


EXAMPLE = Example(  # 3D-Speaker's ERes2Net-base of 200 000 speakers
    "eres2net",
    ModelConfig(
        model_type="eres2net",
        embed_dim=512,
        front_end=THREE_D_SPEAKER,
        variant="ERes2Net",
        num_blocks=[3, 4, 6, 3],
        m_channels=32,
        base_width=32,
        scale=2,
        expansion=2,
    ),
    write_example,
)
