"""The originals of ECAPA-TDNN: SpeechBrain, wespeaker.models.ecapa_tdnn, and onnxruntime for exported files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_zoo_core.audio.front_end import SPEECHBRAIN as SPEECHBRAIN_FEATURES
from speech_zoo_core.checkpoint.source import Source
from speech_zoo_core.oracle import (
    KALDI,
    ONNXRUNTIME,
    TORCH,
    WESPEAKER,
    NoOracle,
    Oracle,
    fbank_oracle,
    fill,
    onnx_oracle,
    read_tensors,
    require,
    wespeaker,
    wespeaker_fbank,
)
from speech_zoo_core.oracle_speechbrain import speechbrain_oracle
from speech_zoo_core.oracle_speechbrain import write_example as write_speechbrain
from speech_zoo_core.registry import Example

from .model import ModelConfig

MODULE = "lobes.models.ECAPA_TDNN"


def oracle(config: Any, original: Callable[[], Source]) -> Oracle:
    """See `ModelSpec.oracle`."""
    form = config.source["form"]
    if form == "speaker proxy":
        raise NoOracle("the speaker proxy's own code is not public, so there is nothing to compare with")
    if "ONNX" in form:
        require(ONNXRUNTIME, KALDI)
        source = original()
        return onnx_oracle(source.main_file, wespeaker_fbank(source, config.feat_dim))
    if form.startswith("SpeechBrain"):
        cosine, lid = config.classifier == "cosine", config.task != "speaker-embedding"
        head = (f"{MODULE}.Classifier" if cosine else "lobes.models.Xvector.Classifier") if lid else None
        return speechbrain_oracle(f"{MODULE}.ECAPA_TDNN", original, head, log_probs=lid and not cosine)
    require(TORCH, KALDI, WESPEAKER)
    source = original()

    def module() -> Any:
        tensors, _ = read_tensors(source.main_file)
        ecapa = wespeaker("ecapa_tdnn").ECAPA_TDNN(
            config.channels[0],
            config.feat_dim,
            config.embed_dim,
            config.pooling_func,
            global_context_att=config.global_context,
            emb_bn=any(name.endswith("bn2.running_var") and "res2block" not in name for name in tensors),
        )
        return fill(ecapa, tensors, source.main_file.name, dropped=("projection.",))

    return fbank_oracle(WESPEAKER, module, wespeaker_fbank(source, config.feat_dim))


def write_example(config: Any, folder: Path) -> None:
    """See `Example.write`."""
    sizes = ("channels", "kernel_sizes", "dilations", "attention_channels", "res2net_scale", "se_channels")
    arguments = {"input_size": config.feat_dim, "lin_neurons": config.embed_dim}
    arguments |= {name: getattr(config, name) for name in sizes}
    write_speechbrain(f"{MODULE}.ECAPA_TDNN", config.feat_dim, arguments, folder)


EXAMPLE = Example(  # speechbrain/spkrec-ecapa-voxceleb
    "ecapa",
    ModelConfig(
        model_type="ecapa_tdnn",
        embed_dim=192,
        front_end=SPEECHBRAIN_FEATURES,
        feat_dim=80,
        channels=[1024, 1024, 1024, 1024, 3072],
    ),
    write_example,
)
