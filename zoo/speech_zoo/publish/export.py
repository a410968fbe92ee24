"""A model as an ONNX or a Core ML file, which runs without us: in browsers, on phones, in other languages."""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from speech_zoo_core.atomic import sync
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import CheckpointError, ConfigError
from speech_zoo_core.extras import how_to_install

from ..settings import __version__

if TYPE_CHECKING:
    from speech_zoo_export import Axis, Graph

PRECISION = {".onnx": "float32", ".mlpackage": "float16"}  # where nobody chose
NEEDS = {".onnx": ("onnx", "onnx"), ".mlpackage": ("coremltools", "coreml")}  # package and extra
PRECISIONS = ("float32", "float16")
SECONDS = (3.0, 5.0, 10.0)  # of clips that a Core ML program takes
LONGEST = 600.0  # seconds of such a clip
OUTPUTS = {  # logits of others
    "speaker-embedding": "embedding",
    "speaker-segmentation": "log_probs",
    "audio-regression": "values",
}
TRACED_FRAMES = 20, 3000  # the formulas that are found between them hold beyond
TRACED_SAMPLES = 4000, 200_000


def export(
    model: Any,
    path: str | os.PathLike[str],
    *,
    from_: Literal["features", "waveform"] = "features",
    dtype: str | None = None,
    seconds: Sequence[float] | None = None,
    force: bool = False,
) -> Path:
    """Write a model as an ONNX file, or as a Core ML package; returns its path.

    Args:
        model: what `load` gives.
        path: ends in `.onnx` or in `.mlpackage`; appears whole or not at all.
        from_: what the file takes: "features" (B, T, F) of the front end, or "waveform": samples (1, N) in [-1, 1] at
            the front end's rate. It gives what the model gives when it is called, in float32. A Core ML program takes
            besides `length` (1,), int32: how many frames or samples are the clip's, before zeros that fill it up; not
            where the model cannot leave these out.
        dtype: "float32" or "float16" to compute in; the front end stays in float32. Default: float32 for ONNX, float16
            for Core ML, but for models that compute in float32 whatever their weights are.
        seconds: lengths of the clips that a Core ML program takes, no others; an ONNX file takes every length.
            Default: 3, 5 and 10.
        force: replace a file or package that lies there.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do; nothing is left half-written.
    """
    out, usual = check_path(path, force), PRECISION[Path(path).suffix]
    if usual == "float16" and not _halves(model):
        usual = "float32"
    precision = usual if dtype is None else dtype
    if precision not in PRECISIONS:
        raise ConfigError(f"{out.suffix} is written in {' or '.join(PRECISIONS)}, not in {precision!r}")
    if precision == "float16" and not _halves(model):
        raise ConfigError(f"this {model.config.model_type} computes in float32 only: leave dtype (--dtype) out")
    if from_ not in ("features", "waveform"):
        raise ConfigError(f"a file takes features or waveform (--from), not {from_!r}")
    if seconds is not None and out.suffix == ".onnx":
        raise ConfigError("an ONNX file takes every length: leave seconds (--seconds) out, or write .mlpackage")
    with _appears(out) as beside:
        if out.suffix == ".onnx":
            _onnx(model, beside, from_, precision)
        else:
            _coreml(model, beside, from_, precision, SECONDS if seconds is None else seconds)
    return Path(path)


def _onnx(model: Any, path: Path, from_: str, precision: str) -> None:
    from speech_zoo_export import Axis, ExportError
    from speech_zoo_export.save import save_onnx

    batch, frames = Axis("batch", 1, 8, batch=True), _frames(model)
    try:
        graphs = [_network(_as(model, precision), frames.least, {0: batch, 1: frames})]
        if from_ == "waveform":
            samples = _samples(model)
            graphs.insert(0, _front_end(model, samples.least, {1: samples}))
        facts = _facts(model, from_, precision)
        save_onnx(graphs, path, [from_], [_output(model)], facts)
    except ExportError as error:
        raise ConfigError(f"this {model.config.model_type} cannot be written as ONNX: {error}") from error


def _coreml(model: Any, path: Path, from_: str, precision: str, seconds: Sequence[float]) -> None:
    sizes = _sizes(model, seconds)
    frames = [model._front_end().num_frames(size) for size in sizes]
    facts = _facts(model, from_, precision) | {"seconds": json.dumps(sorted(set(seconds)))}
    with _quiet():
        from speech_zoo_export import ExportError
        from speech_zoo_export.coreml import to_coreml

        varies, masked = len(sizes) > 1, model.masks_padding
        try:
            graphs = [_network(_as(model, "float32"), frames[0], {1: _frames(model)} if varies else {}, masked)]
            if from_ == "waveform":
                graphs.insert(0, _front_end(model, sizes[0], {1: _samples(model)} if varies else {}, masked))
            taken = (sizes if from_ == "waveform" else frames) if varies else ()
            names = [from_, "length"] if masked else [from_]
            program = to_coreml(graphs, names, [_output(model)], facts, precision, taken)  # type: ignore[arg-type]
            program.save(str(path))
        except ExportError as error:
            raise ConfigError(f"this {model.config.model_type} cannot be written for Core ML: {error}") from error


def _sizes(model: Any, seconds: Sequence[float]) -> list[int]:
    """How many samples clips of these lengths have.

    Raises:
        ConfigError: one is too short for the model, or too long.
    """
    least = model._front_end().seconds(model.min_frames)
    for length in seconds:
        if not least <= length <= LONGEST:
            raise ConfigError(f"clips of {length} s: this {model.config.model_type} takes {least:.3f} to {LONGEST:g} s")
    if not seconds:
        raise ConfigError("seconds (--seconds) names at least one length of clips, as in 3,5,10")
    return sorted({round(length * model.sample_rate) for length in seconds})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what coremltools says of its passes, and of Core ML itself where that is not at hand."""
    log = logging.getLogger("coremltools")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):  # where its progress bars go
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _network(model: Any, frames: int, axes: dict[int, Any], masked: bool = False) -> "Graph":
    """The graph of the model itself, from features (B, T, F) on, in float32 at both ends; `masked` as `_front_end`."""
    import mlx.core as mx
    from speech_zoo_core.device import while_tracing
    from speech_zoo_export import trace, whole

    mx.eval(model.parameters())
    given = [mx.zeros((1, frames, model.feature_width)), *([mx.array([frames], mx.int32)] if masked else [])]
    with while_tracing(whole):
        return trace(lambda x, *lengths: model(x, *lengths).astype(mx.float32), *given, axes=[axes])


def _front_end(model: Any, samples: int, axes: dict[int, Any], masked: bool = False) -> "Graph":
    """The graph of the front end, from samples (1, N) to features (1, T, F).

    With `masked` it also takes how many samples are the clip's, (1,), before zeros, and gives how many frames are.
    """
    import mlx.core as mx
    from speech_zoo_export import trace

    front_end = model._front_end()
    if masked and getattr(front_end, "whole_clips", False):
        raise ConfigError("features that depend on where a clip ends need its length: take features (--from features)")
    first, second = (round(front_end.seconds(n) * front_end.sample_rate) for n in (1, 2))

    def features(x: mx.array, length: mx.array) -> tuple[mx.array, mx.array]:
        frames = (length - first) // (second - first) + 1  # as `num_frames`
        return front_end(x.reshape(-1), frames)[None], frames

    if masked:
        return trace(features, mx.zeros((1, samples)), mx.array([samples], mx.int32), axes=[axes])
    return trace(lambda x: front_end(x.reshape(-1))[None], mx.zeros((1, samples)), axes=[axes])


def _frames(model: Any) -> "Axis":
    """Frames of features, between those that are traced."""
    from speech_zoo_export import Axis

    least, most = TRACED_FRAMES if model.feature_width > 1 else TRACED_SAMPLES
    return Axis("frames", max(least, model.min_frames), most)


def _samples(model: Any) -> "Axis":
    """Samples, the same."""
    from speech_zoo_export import Axis

    return Axis(
        "samples", round(model._front_end().seconds(_frames(model).least) * model.sample_rate), 2 * TRACED_SAMPLES[1]
    )


def _halves(model: Any) -> bool:
    """Whether the model computes in half precision where its weights have it."""
    import mlx.core as mx
    from speech_zoo_core.device import while_tracing

    with while_tracing():  # nothing is computed
        outputs = _as(model, "float16")(mx.zeros((1, _frames(model).least, model.feature_width)))
    return bool(outputs.dtype == mx.float16)


def _as(model: Any, precision: str) -> Any:
    """The model, or a copy of it in another precision."""
    import mlx.core as mx
    from speech_zoo_core import registry
    from speech_zoo_core.layers import parameters
    from speech_zoo_core.loader import build, parse_dtype

    weights, dtype = parameters(model), parse_dtype(precision)
    if all(x.dtype == dtype for x in weights.values() if mx.issubdtype(x.dtype, mx.floating)):
        return model
    copy = build(registry.get(model.config.model_type), model.config, weights, "the model")
    copy.set_dtype(dtype)
    return copy


def _output(model: Any) -> str:
    return OUTPUTS.get(model.config.task, "logits")


def _facts(model: Any, from_: str, precision: str) -> dict[str, str]:
    """What stands in the file: text by name, JSON where it is more than a word."""
    config = to_dict(model.config)
    facts = {
        "model_type": config["model_type"],
        "task": config["task"],
        "takes": from_,
        "gives": _output(model),
        "dtype": precision,
        "min_frames": model.min_frames,
        "threshold": config.get("threshold"),
        "quantization": config.get("quantization"),
        "front_end": config.get("front_end"),
        "source": config.get("source"),
        "exporter": f"mlx-speech-zoo {__version__}",
    }
    if config.get("front_end"):
        facts["sample_rate"] = model.sample_rate
    if config.get("id2label"):
        facts["labels"] = list(config["id2label"].values())
        facts["logit_scale"] = model.scale
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in facts.items()
        if value is not None
    }


def check_path(path: str | os.PathLike[str], force: bool = False) -> Path:
    """Where a file or package is to be.

    Raises:
        ConfigError: it is no path for one, or what writes it is not installed.
        CheckpointError: something lies there that must not be replaced.
    """
    out = Path(path).expanduser()
    if out.suffix not in PRECISION:
        raise ConfigError(f"{path} must end in {' or '.join(PRECISION)}")
    needs, extra = NEEDS[out.suffix]
    if find_spec(needs) is None:
        raise ConfigError(f"{out.suffix} needs {needs}: {how_to_install(extra)}")
    for taken in (out, out.with_name(f"{out.name}.data")):
        if not os.path.lexists(taken):
            continue
        is_package = out.suffix == ".mlpackage" and (taken / "Manifest.json").is_file()
        if taken.is_symlink() or not (is_package or (out.suffix == ".onnx" and taken.is_file())):
            raise CheckpointError(f"{taken} exists already and is not what export writes: not replaced")
        if not force:
            raise CheckpointError(f"{taken} exists already; force=True (--force) replaces it")
    return out


@contextmanager
def _appears(out: Path) -> Iterator[Path]:
    """A path to write to; all that is written beside it too takes its place at the end, and disappears on failure.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        with TemporaryDirectory(prefix=f".{out.name[:50]}.", suffix=".partial", dir=out.parent) as folder:
            yield Path(folder, out.name)
            for path in sorted(Path(folder).iterdir(), reverse=True):  # the weights before the model
                sync(path)
                if path.is_dir() and out.exists():
                    out.replace(Path(folder, "old"))
                path.replace(out.with_name(path.name))
            sync(out.parent)
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written: {error.strerror or error}") from error
