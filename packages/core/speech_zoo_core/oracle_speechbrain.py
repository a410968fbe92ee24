"""The originals that SpeechBrain has: its features, and its models behind them."""

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

from .checkpoint.source import Source
from .checkpoint.speechbrain import Tagged, hyperparams
from .oracle import (
    TORCH,
    Oracle,
    Package,
    fill,
    imported_for_now,
    read_tensors,
    require,
    save_state,
    seeded,
    torch_oracle,
)

SPEECHBRAIN = Package("speechbrain", "speechbrain==1.1.2", alone=True)
# What SpeechBrain's models import, besides torchaudio, of which they use nothing.
SPEECHBRAIN_NEEDS = (
    Package("hyperpyyaml", "hyperpyyaml>=1.2"),
    Package("requests", "requests"),
    Package("scipy", "scipy"),
)
NEEDED = (TORCH, *SPEECHBRAIN_NEEDS, SPEECHBRAIN)
EXAMPLE_SETTINGS = """\
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: {n_mels}
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.{module}
"""


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
    require(*NEEDED)
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


def new(name: str, arguments: dict[str, Any]) -> Any:
    """What SpeechBrain's class `name` (`lobes.models.Xvector.Xvector`) makes of some arguments."""
    module, _, kind = name.rpartition(".")
    return getattr(speechbrain_module(module), kind)(**arguments)


def _whole(name: str, head: str | None, source: Source, settings: dict[str, Any]) -> Any:
    """SpeechBrain's modules with their weights, one behind the other."""
    import torch

    class Whole(torch.nn.Module):
        """Features and relative lengths to embeddings (B, D) or log-probabilities (B, L)."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding = new(name, _arguments(settings["embedding_model"]))
            fill(self.embedding, read_tensors(source.main_file)[0], source.main_file.name)
            if head is not None:
                self.classifier = new(head, _arguments(settings["classifier"]))
                fill(self.classifier, read_tensors(source.folder / "classifier.ckpt")[0], "classifier.ckpt")

        def forward(self, x: Any, lengths: Any) -> Any:
            vectors = self.embedding(x, lengths)
            out = vectors if head is None else self.classifier(vectors)
            return out.reshape(len(x), -1)

    return Whole()


def speechbrain_oracle(
    name: str, original: Callable[[], Source], head: str | None = None, log_probs: bool = False
) -> Oracle:
    """The steps of `EncoderClassifier.encode_batch`, in float32; with a head, those of `classify_batch`.

    Args:
        name: SpeechBrain's class of the embedding model: "lobes.models.Xvector.Xvector".
        original: gives the source.
        head: that of `classifier.ckpt`.
        log_probs: whether the head gives log-probabilities.

    Raises:
        NoOracle: SpeechBrain is not installed.
    """
    require(*NEEDED)
    source = original()
    settings = hyperparams(source) or {}
    fbank, norm = _arguments(settings["compute_features"]), _arguments(settings["mean_var_norm"])

    def module() -> Any:
        return _whole(name, head, source, settings).eval()

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
        log_probs=log_probs,
    )


def write_example(name: str, n_mels: int, arguments: dict[str, Any], folder: Path) -> None:
    """See `Example.write`: an embedding model of SpeechBrain's class `name` with these arguments."""
    require(*NEEDED)
    text = EXAMPLE_SETTINGS.format(n_mels=n_mels, module=name)
    text += "".join(f"    {key}: {value}\n" for key, value in arguments.items())
    module = seeded(lambda: new(name, arguments))
    save_state(module, folder / "embedding_model.safetensors", {"hyperparams.yaml": text})
