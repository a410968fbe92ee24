"""Oracles: the original implementations that converted checkpoints are held against, and what packages share for them.

PyTorch and the originals are imported when an oracle is made, never before. Checkpoints are read with the originals'
own means (`torch.load`, onnxruntime), not with those of the zoo.
"""

import importlib
import json
import re
import shlex
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .checkpoint.reader import STATE_KEYS
from .checkpoint.source import without_prefix
from .checkpoint.wespeaker import three_d_speaker_settings, wespeaker_settings
from .errors import CheckpointError, SpeechZooError

if TYPE_CHECKING:
    from .checkpoint.source import Source

UNKNOWN_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
REFUSAL = re.compile(r"(Trying to|Unsupported|Can only) .*")  # the telling line of torch's message
MAX_STAND_INS = 50


class NoOracle(SpeechZooError):
    """The original cannot be run here; says why and, if it is not installed, how to install it."""


@dataclass(frozen=True)
class Oracle:
    """An original implementation with the weights of an original checkpoint.

    Attributes:
        name, version: of the package that computes.
        output: waveform (N,), float32 in [-1, 1] at `sample_rate`, to the embedding (D,) or the classes' scores (L,).
        features: waveform to features (T, F); None where the original shows none.
        features_by: who computes the features, with its version.
        sample_rate: in Hz, that the original was trained on.
        log_probs: whether scores are log-probabilities, not logits.
        module: makes the original's `torch.nn.Module` with its weights, in inference mode and float32, on the CPU; None
            where it is none. What it returns is the output, or has it as `logits` or as its last part.
        inputs: clips (B, N) to the arguments of the module, arrays of NumPy or tensors on torch's default device.
    """

    name: str
    version: str
    output: "Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]"
    features: "Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] | None" = None
    features_by: str | None = None
    sample_rate: int = 16000
    log_probs: bool = False
    module: "Callable[[], Any] | None" = None
    inputs: "Callable[[np.ndarray[Any, Any]], tuple[Any, ...]] | None" = None


@dataclass(frozen=True)
class Package:
    """What an oracle imports.

    Attributes:
        module: to look for.
        requirement: what pip installs.
        alone: whether without its dependencies, of which the models need none.
    """

    module: str
    requirement: str
    alone: bool = False

    @property
    def name(self) -> str:
        return re.split(r"[=<>]", self.requirement)[0]

    @property
    def version(self) -> str:
        """Of the installed package."""
        try:
            return version(self.name)
        except PackageNotFoundError:  # under another name: WeSpeaker from its repository, say
            names = importlib.metadata.packages_distributions().get(self.module, [])
            return version(names[0]) if names else "of unknown version"

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


TORCH = Package("torch", "torch")
KALDI = Package("kaldi_native_fbank", "kaldi-native-fbank")
ONNXRUNTIME = Package("onnxruntime", "onnxruntime")
WESPEAKER = Package("wespeaker", "wespeaker-unofficial==0.0.2", alone=True)


def require(*packages: Package) -> None:
    """Check that packages are installed, without importing them.

    Raises:
        NoOracle: names those that are missing and the commands that install them.
    """
    missing = [package for package in packages if find_spec(package.module) is None]
    if not missing:
        return
    commands = []
    for alone in (False, True):
        if wanted := [package.requirement for package in missing if package.alone == alone]:
            commands.append(f"pip install {'--no-deps ' if alone else ''}{shlex.join(wanted)}")
    names = [package.name for package in missing]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
    raise NoOracle(f"{listed} {'are' if names[1:] else 'is'} not installed: {' && '.join(commands)}")


@contextmanager
def imported_for_now(root: str, **stand_ins: types.ModuleType) -> Iterator[None]:
    """Stand-ins for modules while others import them; afterwards nothing below `root` is left in `sys.modules`."""
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == root}
    sys.modules.update({name.replace("__", "."): module for name, module in stand_ins.items()})
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == root]:
            del sys.modules[name]
        sys.modules.update(before)


@cache
def wespeaker(module: str) -> Any:
    """`wespeaker.models.<module>` without the packages' `__init__`, which import much that the models do not need.

    Raises:
        NoOracle: it is not installed.
    """
    require(TORCH, WESPEAKER)
    if "wespeaker" in sys.modules:
        return importlib.import_module(f"wespeaker.models.{module}")
    package, frontend = types.ModuleType("wespeaker"), types.ModuleType("wespeaker.frontend")
    spec = find_spec("wespeaker")
    package.__path__ = list(spec.submodule_search_locations or []) if spec else []
    frontend.__path__ = [f"{path}/frontend" for path in package.__path__]
    with imported_for_now("wespeaker", wespeaker=package, wespeaker__frontend=frontend):
        return importlib.import_module(f"wespeaker.models.{module}")


def kaldi_features(
    waveform: "np.ndarray[Any, Any]",
    window: str,
    scale: float,
    cmn: bool = True,
    n_mels: int = 80,
    rate: int = 16000,
    frame_length: float = 25.0,
    frame_shift: float = 10.0,
) -> "np.ndarray[Any, Any]":
    """Log-mel features (T, F) of kaldi-native-fbank, without dither.

    Args:
        waveform: (N,) float32 in [-1, 1].
        window: "hamming", "povey", …
        scale: of the waveform.
        cmn: whether to subtract the mean over time.
        n_mels: F.
        rate: in Hz.
        frame_length, frame_shift: in ms.
    """
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    frames = options.frame_opts
    frames.dither, frames.window_type, frames.samp_freq = 0, window, rate
    frames.frame_length_ms, frames.frame_shift_ms = frame_length, frame_shift
    options.mel_opts.num_bins = n_mels
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(rate, (waveform * np.float32(scale)).tolist())
    fbank.input_finished()
    features = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])
    return features - features.mean(axis=0) if cmn else features


def wespeaker_fbank(source: "Source", n_mels: int) -> dict[str, Any]:
    """Arguments of `kaldi_features` as WeSpeaker and pyannote compute them.

    Args:
        source: a checkpoint with WeSpeaker's `config.yaml` beside it, a Lightning checkpoint, or neither.
        n_mels: where nothing says it.
    """
    data = (wespeaker_settings(source) or {}).get("dataset_args") or {}
    given = data.get("fbank_args")
    if not given and source.main_file.suffix != ".onnx":
        given = read_tensors(source.main_file)[1].get("hyper_parameters")
    given = given or {}
    return {
        "window": "hamming",
        "scale": 32768.0,
        "cmn": bool(data.get("cmvn", True)) and bool((data.get("cmvn_args") or {}).get("norm_mean", True)),
        "n_mels": int(given.get("num_mel_bins", n_mels)),
        "rate": int(data.get("resample_rate", given.get("sample_rate", 16000))),
        "frame_length": float(given.get("frame_length", 25)),
        "frame_shift": float(given.get("frame_shift", 10)),
    }


def torch_oracle(
    package: Package,
    module: "Callable[[], Any]",
    inputs: "Callable[[np.ndarray[Any, Any]], tuple[Any, ...]]",
    **more: Any,
) -> Oracle:
    """The oracle of a torch module and its inputs; `more` are other fields of `Oracle`."""
    made = cache(module)

    def output(waveform: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        import torch

        with torch.no_grad():
            return output_of(made()(*map(torch.as_tensor, inputs(waveform[None]))))[0].numpy()  # type: ignore[no-any-return]

    return Oracle(package.name, package.version, output, module=made, inputs=inputs, **more)


def output_of(returned: Any) -> Any:
    """The output among what a module returns, see `Oracle.module`."""
    return getattr(returned, "logits", returned[-1] if isinstance(returned, tuple) else returned)


def three_d_speaker_fbank(source: "Source", n_mels: int) -> dict[str, Any]:
    """Arguments of `kaldi_features` as 3D-Speaker computes them; `n_mels` where the source does not say it."""
    given = three_d_speaker_settings(source)
    return {
        "window": "povey",
        "scale": 1.0,
        "cmn": bool(given.get("mean_nor", True)),
        "n_mels": int(given.get("n_mels", n_mels)),
        "rate": int(given.get("sample_rate", 16000)),
    }


def fbank_oracle(package: Package, module: "Callable[[], Any]", fbank: dict[str, Any]) -> Oracle:
    """The oracle of a torch module that maps Kaldi features (B, T, F), computed with `fbank`, to embeddings (B, D)."""

    def features(waveform: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        return kaldi_features(waveform, **fbank)

    def inputs(clips: "np.ndarray[Any, Any]") -> tuple[Any, ...]:
        return (np.stack([features(clip) for clip in clips]),)

    return torch_oracle(
        package, module, inputs, features=features, features_by=str(KALDI), sample_rate=int(fbank["rate"])
    )


def onnx_oracle(path: Path, fbank: dict[str, Any]) -> Oracle:
    """onnxruntime on an exported file: features (1, T, F), computed as `fbank` says, to embeddings (1, D).

    Raises:
        CheckpointError: onnxruntime cannot load it.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes share no base but this
        raise CheckpointError(f"onnxruntime cannot load {path}: {str(error)[:300]}") from error
    entry = session.get_inputs()[0]
    dtype = np.float16 if entry.type == "tensor(float16)" else np.float32

    def features(waveform: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        return kaldi_features(waveform, **fbank)

    def output(waveform: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        embeddings = session.run(None, {entry.name: features(waveform)[None].astype(dtype)})[0]
        return np.asarray(embeddings, np.float32)[0]

    return Oracle(ONNXRUNTIME.name, ONNXRUNTIME.version, output, features, str(KALDI), fbank["rate"])


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state dict of a checkpoint as torch tensors, and what lay beside it, read without the zoo's readers.

    Raises:
        NoOracle: `torch.load` would have to run code that the file names.
    """
    import torch

    if path.suffix == ".json":
        tensors: dict[str, Any] = {}
        for name in sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())):
            tensors |= read_tensors(path.parent / name)[0]
        return tensors, {}
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path), {}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}, {}
    content = _torch_load(path)
    for key in STATE_KEYS:
        if isinstance(content.get(key), dict):
            return content[key], {name: value for name, value in content.items() if name != key}
    return content, {}


def _torch_load(path: Path) -> Any:
    """`torch.load(weights_only=True)`, with inert records for the classes that the file names."""
    import torch

    class Record:
        """Takes whatever the file gives it; runs nothing."""

        def __init__(self, *_: Any) -> None:
            pass

        def __setstate__(self, state: Any) -> None:
            pass

    names: set[str] = set()
    with ExitStack() as known:
        while True:
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # torch raises nearly anything
                match = UNKNOWN_GLOBAL.search(str(error))
                if match is None or match[1] in names or len(names) == MAX_STAND_INS:
                    reason = REFUSAL.search(str(error))
                    told = reason[0] if reason else str(error)[:200]
                    raise NoOracle(f"torch.load refuses {path.name}: {told}") from error
            names.add(match[1])
            full = match[1] if "." in match[1] else f"builtins.{match[1]}"
            record = type(full.rpartition(".")[2], (Record,), {})
            known.enter_context(torch.serialization.safe_globals([(record, full)]))  # type: ignore[list-item]


def fill(module: Any, tensors: dict[str, Any], where: str, dropped: tuple[str, ...] = ()) -> Any:
    """The original's module in inference mode with the original's tensors, loaded strictly, in float32.

    Args:
        module: of torch.
        tensors: a state dict, with or without the prefix of a wrapper.
        where: the file, for the error.
        dropped: beginnings of names that only training uses.

    Raises:
        CheckpointError: the tensors do not fit.
    """
    wanted = [name for name in module.state_dict() if not name.endswith("num_batches_tracked")]
    unprefixed = without_prefix(tensors, *wanted)
    try:
        module.load_state_dict({name: value for name, value in unprefixed.items() if not name.startswith(dropped)})
    except RuntimeError as error:
        raise CheckpointError(f"the original implementation does not take {where}: {str(error)[:300]}") from error
    return module.eval()


def seeded(make: "Callable[[], Any]") -> Any:
    """The torch module that `make` gives, in inference mode, with seeded weights that keep the scale of its input.

    BatchNorm statistics are random, too: fresh ones hide most errors.
    """
    import torch

    torch.manual_seed(0)
    module = make()
    with torch.no_grad():
        for part in module.modules():
            for name, value in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
                if name == "weight" and value.ndim > 1:
                    value.normal_(0, (2 / value[0].numel()) ** 0.5)
                elif name in ("weight", "running_var"):
                    value.uniform_(0.5, 1.0)
                elif name in ("bias", "running_mean"):
                    value.normal_(0, 0.1)
    return module.eval()


def save_state(module: Any, path: Path, settings: "Mapping[str, str] | None" = None) -> None:
    """Write a torch module's state dict as safetensors; beside it the settings files, name to text."""
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, path, {"format": "pt"})
    for name, text in (settings or {}).items():
        path.with_name(name).write_text(text, encoding="utf-8")
