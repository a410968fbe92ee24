"""The originals of ECAPA-TDNN: SpeechBrain, wespeaker.models.ecapa_tdnn, and onnxruntime for exported files."""

import importlib
import importlib.machinery
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
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
    wespeaker,
    wespeaker_fbank,
)

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
        return onnx_oracle(original().main_file)
    if form.startswith("SpeechBrain"):
        require(TORCH, *SPEECHBRAIN_NEEDS, SPEECHBRAIN)
        return _speechbrain(config, original())
    require(TORCH, KALDI, WESPEAKER)
    source = original()
    tensors, extra = read_tensors(source.main_file)
    module = wespeaker("ecapa_tdnn").ECAPA_TDNN(
        config.channels[0],
        config.feat_dim,
        config.embed_dim,
        "ASTP",
        global_context_att=config.global_context,
        emb_bn=any(name.endswith("bn2.running_var") and "res2block" not in name for name in tensors),
    )
    fill(module, tensors, source.main_file.name, dropped=("projection.",))
    return fbank_oracle(WESPEAKER, module, wespeaker_fbank(source, extra, config.feat_dim))


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
    import torch

    settings = hyperparams(source) or {}
    fbank, norm = _arguments(settings["compute_features"]), _arguments(settings["mean_var_norm"])
    embedding = speechbrain_module("lobes.models.ECAPA_TDNN").ECAPA_TDNN(**_arguments(settings["embedding_model"]))
    fill(embedding, read_tensors(source.main_file)[0], source.main_file.name)
    lid = config.task == "language-identification"
    if lid:
        classifier = speechbrain_module("lobes.models.Xvector").Classifier(**_arguments(settings["classifier"]))
        fill(classifier, read_tensors(source.folder / "classifier.ckpt")[0], "classifier.ckpt")

    def features(waveform: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        return speechbrain_features(waveform, fbank, norm, "float64")

    def output(waveform: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """The steps of `EncoderClassifier.classify_batch`, in float32."""
        with torch.no_grad():
            lengths = torch.ones(1)
            x = torch.from_numpy(speechbrain_features(waveform, fbank, norm, "float32"))[None]
            vector = embedding(x, lengths)
            return (classifier(vector).squeeze(1) if lid else vector[:, 0])[0].numpy()

    rate = int(fbank.get("sample_rate", 16000))
    by = f"{SPEECHBRAIN} in float64"
    return Oracle(SPEECHBRAIN.name, SPEECHBRAIN.version, output, features, by, rate, log_probs=lid)
