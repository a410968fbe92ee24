"""The originals of the ResNet family: wespeaker.models.resnet, and onnxruntime for exported files."""

from collections.abc import Callable
from typing import Any

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
    wespeaker,
    wespeaker_fbank,
)


def oracle(config: Any, original: Callable[[], Source]) -> Oracle:
    """See `ModelSpec.oracle`."""
    if "ONNX" in config.source["form"]:
        require(ONNXRUNTIME, KALDI)
        return onnx_oracle(original().main_file)
    require(TORCH, KALDI, WESPEAKER)
    source, resnet = original(), wespeaker("resnet")
    tensors, extra = read_tensors(source.main_file)
    module = resnet.ResNet(
        {"basic": resnet.BasicBlock, "bottleneck": resnet.Bottleneck}[config.block],
        config.num_blocks,
        config.m_channels,
        feat_dim=config.feat_dim,
        embed_dim=config.embed_dim,
        pooling_func="TSTP",
        two_emb_layer=config.two_emb_layer,
    )
    fill(module, tensors, source.main_file.name, dropped=("projection.",))
    return fbank_oracle(WESPEAKER, module, wespeaker_fbank(source, extra, config.feat_dim))
