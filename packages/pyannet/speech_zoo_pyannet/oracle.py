"""The original of PyanNet: pyannote.audio.models.segmentation."""

import sys
import types
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.checkpoint.source import Source
from speech_zoo_core.oracle import TORCH, Oracle, Package, fill, imported_for_now, read_tensors, require

PYANNOTE = Package("pyannote.audio", "pyannote-audio==4.0.7", alone=True)
NEEDED = [
    Package("pyannote.core", "pyannote-core"),
    Package("asteroid_filterbanks", "asteroid-filterbanks"),
    Package("einops", "einops"),
]
PACKAGES = (
    "pyannote__audio",
    "pyannote__audio__core",
    "pyannote__audio__models",
    "pyannote__audio__models__segmentation",
)


def oracle(config: Any, original: Callable[[], Source]) -> Oracle:
    """See `ModelSpec.oracle`; computes in float64."""
    require(TORCH, PYANNOTE, *NEEDED)
    source = original()
    import torch

    module = original_module(source, torch.float64)

    def output(waveform: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        with torch.no_grad():
            return module(torch.from_numpy(waveform.astype(np.float64))[None, None])[0].numpy()

    return Oracle(
        PYANNOTE.name,
        PYANNOTE.version,
        output,
        log_probs=True,
        module=lambda: original_module(source),
        inputs=lambda clips: (clips[:, None],),
    )


def original_module(source: Source, dtype: Any = None) -> Any:
    """The original with the tensors of a checkpoint, in inference mode.

    In `torch.float64` its sinc filters stay as float32 has them. Its norms magnify rounding: of digital silence float32
    and float64 make log-probabilities that differ by 0.1.
    """
    tensors, extra = read_tensors(source.main_file)
    module = _pyannet()(**{part: extra["hyper_parameters"][part] for part in ("sincnet", "lstm", "linear")})
    sets = tensors["classifier.weight"].shape[0]
    module.specifications = types.SimpleNamespace(powerset=True, num_powerset_classes=sets)
    module.build()
    fill(module, tensors, source.main_file.name)
    if dtype is not None:
        bank = module.sincnet.conv1d[0].filterbank
        filters = bank.filters().detach().to(dtype)
        bank.filters = lambda: filters
        module.to(dtype)
    return module


@cache
def _pyannet() -> Any:
    """The class, without Lightning and torchaudio, which training and files need and the network does not."""
    import torch

    class Base(torch.nn.Module):
        """What the network uses of `pyannote.audio.core.model.Model`."""

        def __init__(self, sample_rate: int = 16000, num_channels: int = 1, task: Any = None) -> None:
            super().__init__()

        def save_hyperparameters(self, *names: str) -> None:
            values = sys._getframe(1).f_locals
            self.hparams = types.SimpleNamespace(**{name: values[name] for name in names})

        def default_activation(self) -> Any:
            return torch.nn.LogSoftmax(dim=-1)

    spec = find_spec("pyannote.audio")
    root = (spec.submodule_search_locations or [""])[0] if spec else ""
    stand_ins = {name: types.ModuleType(name.replace("__", ".")) for name in PACKAGES}
    for package in stand_ins.values():  # without what their __init__ imports
        package.__path__ = [str(Path(root).joinpath(*package.__name__.split(".")[2:]))]
    model, task = types.ModuleType("model"), types.ModuleType("task")
    model.Model, task.Task = Base, object  # type: ignore[attr-defined]
    stand_ins |= {"pyannote__audio__core__model": model, "pyannote__audio__core__task": task}
    with imported_for_now("pyannote", **stand_ins):
        return import_module("pyannote.audio.models.segmentation.PyanNet").PyanNet
