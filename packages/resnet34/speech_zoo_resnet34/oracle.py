"""The originals of the ResNet family: wespeaker.models.resnet and its relatives, onnxruntime for exported files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_zoo_core.audio.front_end import WESPEAKER as WESPEAKER_FEATURES
from speech_zoo_core.checkpoint.source import Source
from speech_zoo_core.oracle import (
    KALDI,
    ONNXRUNTIME,
    TORCH,
    WESPEAKER,
    Oracle,
    fbank_oracle,
    fill,
    onnx_oracle,
    read_tensors,
    require,
    save_state,
    seeded,
    wespeaker,
    wespeaker_fbank,
)
from speech_zoo_core.registry import Example

from .model import ModelConfig

EXAMPLE_SETTINGS = """\
model: ResNet34
model_args: {feat_dim: 80, embed_dim: 256, pooling_func: TSTP, two_emb_layer: false}
dataset_args: {fbank_args: {num_mel_bins: 80, frame_length: 25, frame_shift: 10, dither: 1.0}, resample_rate: 16000}
"""


def oracle(config: Any, original: Callable[[], Source]) -> Oracle:
    """See `ModelSpec.oracle`."""
    if "ONNX" in config.source["form"]:
        require(ONNXRUNTIME, KALDI)
        source = original()
        return onnx_oracle(source.main_file, wespeaker_fbank(source, config.feat_dim))
    require(TORCH, KALDI, WESPEAKER)
    source = original()

    def module() -> Any:
        tensors, _ = read_tensors(source.main_file)
        return fill(_resnet(config), tensors, source.main_file.name, dropped=("projection.",))

    return fbank_oracle(WESPEAKER, module, wespeaker_fbank(source, config.feat_dim))


def write_example(config: Any, folder: Path) -> None:
    """See `Example.write`."""
    require(TORCH, KALDI, WESPEAKER)
    save_state(seeded(lambda: _resnet(config)), folder / "avg_model.safetensors", {"config.yaml": EXAMPLE_SETTINGS})


def _resnet(config: Any) -> Any:
    head = {
        "feat_dim": config.feat_dim,
        "embed_dim": config.embed_dim,
        "pooling_func": config.pooling_func,
        "two_emb_layer": config.two_emb_layer,
    }
    if config.block == "simam":
        return _simam(config)
    if config.block == "res2net":
        return wespeaker("res2net").Res2Net(config.m_channels, config.num_blocks, **head)
    if config.block == "inverted":
        widths = [config.m_channels, *(config.m_channels * 2**i for i in range(4))]
        return wespeaker("gemini_dfresnet").Gemini_DF_ResNet(config.num_blocks, widths, **head)
    resnet = wespeaker("resnet")
    block = {"basic": resnet.BasicBlock, "bottleneck": resnet.Bottleneck}[config.block]
    return resnet.ResNet(block, config.num_blocks, config.m_channels, **head)


def _simam(config: Any) -> Any:
    source = wespeaker("samresnet")
    whole = source.SimAM_ResNet34_ASP(config.m_channels, config.embed_dim, config.feat_dim)
    whole.front = source.ResNet(config.m_channels, source.SimAMBasicBlock, config.num_blocks)
    return whole


EXAMPLE = Example(  # WeSpeaker's ResNet34-LM
    "resnet34",
    ModelConfig(
        model_type="resnet34", embed_dim=256, front_end=WESPEAKER_FEATURES, block="basic", num_blocks=[3, 4, 6, 3]
    ),
    write_example,
)
