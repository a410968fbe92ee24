"""A model as an ONNX file, which runs without us: in browsers, on phones, in other languages."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from speech_zoo_core.atomic import sync
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import CheckpointError, ConfigError

from ..settings import __version__

if TYPE_CHECKING:
    from speech_zoo_export import Graph

PRECISION = {".onnx": "float32"}  # where nobody chose
NEEDS = {".onnx": ("onnx", "onnx")}  # package and extra
PRECISIONS = ("float32", "float16")
OUTPUTS = {"speaker-embedding": "embedding", "speaker-segmentation": "log_probs"}  # logits of others
TRACED_FRAMES = 20, 3000  # the formulas that are found between them hold beyond
TRACED_SAMPLES = 4000, 200_000


def export(
    model: Any,
    path: str | os.PathLike[str],
    *,
    from_: Literal["features", "waveform"] = "features",
    dtype: str | None = None,
    force: bool = False,
) -> Path:
    """Write a model as an ONNX file; returns its path.

    Args:
        model: what `load` gives.
        path: ends in `.onnx`; appears whole or not at all.
        from_: what the file takes: "features" (B, T, F) of the front end, or "waveform": samples (1, N) in [-1, 1] at
            the front end's rate. It gives what the model gives when it is called, in float32.
        dtype: "float32" or "float16" to compute in; the front end stays in float32.
        force: replace a file that lies there.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do; nothing is left half-written.
    """
    out, usual = check_path(path, force), PRECISION[Path(path).suffix]
    precision = usual if dtype is None else dtype
    if precision not in PRECISIONS:
        raise ConfigError(f"{out.suffix} is written in {' or '.join(PRECISIONS)}, not in {precision!r}")
    if from_ not in ("features", "waveform"):
        raise ConfigError(f"a file takes features or waveform (--from), not {from_!r}")
    with _appears(out) as beside:
        _onnx(model, beside, from_, precision)
    return Path(path)


def _onnx(model: Any, path: Path, from_: str, precision: str) -> None:
    from speech_zoo_export import Axis, ExportError
    from speech_zoo_export.onnx import save_onnx

    least, most = TRACED_FRAMES if _width(model) > 1 else TRACED_SAMPLES
    batch, frames = Axis("batch", 1, 8, batch=True), Axis("frames", max(least, model.min_frames), most)
    try:
        graphs = [_network(_as(model, precision), frames.least, {0: batch, 1: frames})]
        if from_ == "waveform":
            samples = Axis("samples", round(model._front_end().seconds(frames.least) * model.sample_rate), 400_000)
            graphs.insert(0, _front_end(model, samples.least, {1: samples}))
        facts = _facts(model, from_, precision)
        save_onnx(graphs, path, [from_], [_output(model)], facts)
    except ExportError as error:
        raise ConfigError(f"this {model.config.model_type} cannot be written as ONNX: {error}") from error


def _network(model: Any, frames: int, axes: dict[int, Any]) -> "Graph":
    """The graph of the model itself, from features (B, T, F) on, in float32 at both ends."""
    import mlx.core as mx
    from speech_zoo_core.tiles import while_tracing
    from speech_zoo_export import trace

    mx.eval(model.parameters())
    with while_tracing():
        return trace(lambda x: model(x).astype(mx.float32), mx.zeros((1, frames, _width(model))), axes=[axes])


def _front_end(model: Any, samples: int, axes: dict[int, Any]) -> "Graph":
    """The graph of the front end, from samples (1, N) to features (1, T, F)."""
    import mlx.core as mx
    from speech_zoo_export import trace

    front_end = model._front_end()
    return trace(lambda x: front_end(x[0])[None], mx.zeros((1, samples)), axes=[axes])


def _width(model: Any) -> int:
    """The width of a frame of features, F."""
    front_end = model.config.front_end
    if front_end is None:
        return int(model.config.feat_dim)
    return int(getattr(front_end, "n_mels", 1))  # a waveform is one wide


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
        raise ConfigError(f"{out.suffix} needs {needs}: pip install 'mlx-speech-zoo[{extra}]'")
    if os.path.lexists(out):
        if out.is_symlink() or not out.is_file():
            raise CheckpointError(f"{path} exists already and is not what export writes: not replaced")
        if not force:
            raise CheckpointError(f"{path} exists already; force=True (--force) replaces it")
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
                path.replace(out.with_name(path.name))
            sync(out.parent)
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written: {error.strerror or error}") from error
