"""The originals of ECAPA-TDNN: SpeechBrain, wespeaker.models.ecapa_tdnn, and onnxruntime for exported files."""

import importlib
import importlib.machinery
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.audio.front_end import SPEECHBRAIN as SPEECHBRAIN_FEATURES
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
    imported_for_now,
    onnx_oracle,
    read_tensors,
    require,
    save_state,
    seeded,
    torch_oracle,
    wespeaker,
    wespeaker_fbank,
)
from speech_zoo_core.registry import Example

from .model import ModelConfig
from .speechbrain import Tagged, hyperparams

SPEECHBRAIN = Package("speechbrain", "speechbrain==1.1.2", alone=True)
# What SpeechBrain's models import, besides torchaudio, of which they use nothing.
SPEECHBRAIN_NEEDS = (
    Package("hyperpyyaml", "hyperpyyaml>=1.2"),
    Package("requests", "requests"),
    Package("scipy", "scipy"),
)


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
        require(TORCH, *SPEECHBRAIN_NEEDS, SPEECHBRAIN)
        return _speechbrain(config, original())
    require(TORCH, KALDI, WESPEAKER)
    source = original()

    def module() -> Any:
        tensors, _ = read_tensors(source.main_file)
        ecapa = wespeaker("ecapa_tdnn").ECAPA_TDNN(
            config.channels[0],
            config.feat_dim,
            config.embed_dim,
            "ASTP",
            global_context_att=config.global_context,
            emb_bn=any(name.endswith("bn2.running_var") and "res2block" not in name for name in tensors),
        )
        return fill(ecapa, tensors, source.main_file.name, dropped=("projection.",))

    return fbank_oracle(WESPEAKER, module, wespeaker_fbank(source, config.feat_dim))


@contextmanager
def torchaudio_at_hand() -> Iterator[None]:
    """A stand-in for torchaudio where it is missing: SpeechBrain imports it for files and resampling."""
    if find_spec("torchaudio") is not None:
        yield
        return
    modules = {}
    for name in ("torchaudio", "torchaudio.transforms"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=name == "torchaudio")
        module.__version__ = "2.9.0"  # type: ignore[attr-defined]  # SpeechBrain warns of versions that it cannot tell
        modules[name.replace(".", "__")] = module
    with imported_for_now("torchaudio", **modules):
        yield


def speechbrain_module(name: str) -> Any:
    """`speechbrain.<name>`.

    Raises:
        NoOracle: SpeechBrain or what it imports is not installed.
    """
    require(TORCH, *SPEECHBRAIN_NEEDS, SPEECHBRAIN)
    with torchaudio_at_hand():
        return importlib.import_module(f"speechbrain.{name}")


def speechbrain_features(
    waveform: "np.ndarray[Any, Any]", fbank: dict[str, Any], norm: dict[str, Any] | None, dtype: str
) -> "np.ndarray[Any, Any]":
    """SpeechBrain's features (T, F) in dB of one waveform (N,), less the mean over the clip if wanted.

    Args:
        waveform: float32 in [-1, 1].
        fbank, norm: arguments of SpeechBrain's `Fbank` and `InputNormalization`; None leaves the second out.
        dtype: "float64", or "float32", whose rounding alone makes 1.1e-3 on some signals.
    """
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.no_grad():
            clip = torch.tensor(waveform, dtype=torch.get_default_dtype())[None]
            features = speechbrain_module("lobes.features").Fbank(**fbank)(clip)
            if norm is not None:
                normalise = speechbrain_module("processing.features").InputNormalization(**norm)
                features = normalise(features, torch.ones(1))
        return features[0].numpy()
    finally:
        torch.set_default_dtype(before)


def _arguments(entry: Any) -> dict[str, Any]:
    """The plain arguments of an entry; classes that it names are the defaults, as conversion has checked."""
    return {name: x for name, x in entry.items() if name not in ("", "device") and not isinstance(x, Tagged)}


def _speechbrain(config: Any, source: Source) -> Oracle:
    """The steps of `EncoderClassifier.classify_batch`, in float32."""
    settings = hyperparams(source) or {}
    fbank, norm = _arguments(settings["compute_features"]), _arguments(settings["mean_var_norm"])
    lid, cosine = config.task != "speaker-embedding", config.classifier == "cosine"

    def module() -> Any:
        import torch

        class Whole(torch.nn.Module):
            """Features and relative lengths to embeddings (B, D) or log-probabilities (B, L)."""

            def __init__(self) -> None:
                super().__init__()
                self.embedding = _embedding(_arguments(settings["embedding_model"]))
                fill(self.embedding, read_tensors(source.main_file)[0], source.main_file.name)
                if lid:
                    kind = speechbrain_module(f"lobes.models.{'ECAPA_TDNN' if cosine else 'Xvector'}").Classifier
                    self.classifier = kind(**_arguments(settings["classifier"]))
                    fill(self.classifier, read_tensors(source.folder / "classifier.ckpt")[0], "classifier.ckpt")

            def forward(self, x: Any, lengths: Any) -> Any:
                vectors = self.embedding(x, lengths)
                return (self.classifier(vectors) if lid else vectors).squeeze(1)

        return Whole().eval()

    @cache
    def front_end(device: Any) -> tuple[Any, Any]:
        features = speechbrain_module("lobes.features").Fbank(**fbank).to(device)
        return features, speechbrain_module("processing.features").InputNormalization(**norm)

    def inputs(clips: "np.ndarray[Any, Any]") -> tuple[Any, ...]:
        import torch

        waveforms = torch.tensor(clips)
        features, normalise = front_end(waveforms.device)
        lengths = torch.ones(len(clips))
        return normalise(features(waveforms), lengths), lengths

    return torch_oracle(
        SPEECHBRAIN,
        module,
        inputs,
        features=lambda waveform: speechbrain_features(waveform, fbank, norm, "float64"),
        features_by=f"{SPEECHBRAIN} in float64",
        sample_rate=int(fbank.get("sample_rate", 16000)),
        log_probs=lid and not cosine,
    )


def _embedding(arguments: dict[str, Any]) -> Any:
    return speechbrain_module("lobes.models.ECAPA_TDNN").ECAPA_TDNN(**arguments)


EXAMPLE_SETTINGS = """\
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: {input_size}
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
"""


def write_example(config: Any, folder: Path) -> None:
    """See `Example.write`."""
    require(TORCH, *SPEECHBRAIN_NEEDS, SPEECHBRAIN)
    sizes = ("channels", "kernel_sizes", "dilations", "attention_channels", "res2net_scale", "se_channels")
    arguments = {"input_size": config.feat_dim, "lin_neurons": config.embed_dim}
    arguments |= {name: getattr(config, name) for name in sizes}
    text = EXAMPLE_SETTINGS.format(**arguments) + "".join(f"    {name}: {x}\n" for name, x in arguments.items())
    module = seeded(lambda: _embedding(arguments))
    save_state(module, folder / "embedding_model.safetensors", {"hyperparams.yaml": text})


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
