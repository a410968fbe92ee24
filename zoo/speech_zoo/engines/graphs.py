"""Traced graphs as ONNX, kept in the user's cache: to trace one takes seconds, to read it a tenth of one.

They are kept as ONNX Runtime has optimised them, which depends on its version and on the processor: so do their names.
"""

import hashlib
import inspect
import json
import platform
import sys
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np
from speech_zoo_core.config import to_dict
from speech_zoo_core.device import while_tracing
from speech_zoo_core.layers import parameters

from ..settings import cache as user_cache

Arrays: TypeAlias = "dict[str, np.ndarray[Any, Any]]"

LARGEST = 256 << 20  # bytes of weights: of larger models, reading them takes longer than tracing
MOST_KEPT = 1 << 30  # bytes of all files together
SHORTEST, SHORTEST_SAMPLES = 20, 4000  # frames of a graph for all lengths; shorter clips go other ways
LONGEST, LONGEST_SAMPLES = 3000, 200_000  # that are traced at most; the formulas hold beyond
KEY = "key"  # of the metadata


class NoGraph(Exception):
    """A model has no graph; says why."""


def traced(model: Any, frames: int | None = None) -> Any:
    """The graph of a model for features (B, T, F) of any batch, and of any length, or of `frames` alone.

    Raises:
        speech_zoo_export.ExportError: the model has no graph.
    """
    from speech_zoo_export import Axis, trace, whole

    least, width = frames or shortest(model), model.feature_width
    axes = {0: Axis("batch", 1, 8, batch=True)}
    if frames is None:
        axes[1] = Axis("frames", least, LONGEST if width > 1 else LONGEST_SAMPLES)
    mx.eval(model.parameters())
    with while_tracing(whole):
        return trace(model, mx.zeros((1, least, width)), axes=[axes])


def shortest(model: Any) -> int:
    """The shortest clip that the graph for all lengths serves, in frames."""
    return max(int(model.min_frames), SHORTEST_SAMPLES if model.feature_width == 1 else SHORTEST)


def to_keep(model: Any, frames: int | None, key: str) -> tuple[bytes, Arrays]:
    """A model's graph as ONNX, which bears the key, and the arrays that it refers to by name.

    Raises:
        NoGraph: the model has none.
    """
    from speech_zoo_export.onnx import to_onnx_parts

    graph, arrays = _written(model, frames, partial(to_onnx_parts, metadata={KEY: key}))
    return graph.SerializeToString(), arrays


def in_place(model: Any, frames: int | None) -> tuple[bytes, Arrays, Arrays]:
    """The same without a key, and the large weights, which it takes as inputs; errors as `to_keep`."""
    from speech_zoo_export.onnx import to_onnx_and_weights

    graph, arrays, weights = _written(model, frames, to_onnx_and_weights)
    return graph.SerializeToString(), arrays, weights


def _written(model: Any, frames: int | None, write: Callable[[Any], Any]) -> Any:
    from speech_zoo_export import ExportError

    try:
        return write(traced(model, frames))
    except ExportError as error:
        raise NoGraph(str(error)) from error


def kept(model: Any, frames: int | None) -> tuple[Path | None, str | None]:
    """Where the graph of a model is kept, and its key there; None for what is not kept."""
    if frames is not None and model.one_graph:
        return None, None
    key = key_of(model, frames)
    if key is None:
        return None, None
    versions = [version(name) for name in ("mlx", "onnxruntime")]
    name = hashlib.sha256(f"{key} {versions} {_processor()}".encode()).hexdigest()[:16]
    return _folder() / f"{model.config.model_type}-{name}.onnx", key


def tidy(newest: Path) -> None:
    """Remove the oldest graphs where there are too many."""
    files = sorted(_folder().glob("*.onnx"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path, total in zip(files, accumulate(path.stat().st_size for path in files), strict=True):
        if total > MOST_KEPT and path != newest:
            path.unlink(missing_ok=True)


def _folder() -> Path:
    return user_cache() / "graphs"


def key_of(model: Any, frames: int | None) -> str | None:
    """A hash of what a graph is made from: code, config and weights; None for a model that is too large."""
    weights = parameters(model)
    if sum(array.nbytes for array in weights.values()) > LARGEST:
        return None
    config = {name: value for name, value in to_dict(model.config).items() if name != "source"} | {"frames": frames}
    modules = {type(module).__module__ for module in model.modules()}
    digest = hashlib.sha256(_code(tuple(sorted(name for name in modules if not name.startswith("mlx.")))))
    digest.update(json.dumps(config, sort_keys=True).encode())
    for name, array in weights.items():
        view = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(np.array(view, copy=False)).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@cache
def _code(modules: tuple[str, ...]) -> bytes:
    """A hash of the code that a graph is made by."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    files = [inspect.getsourcefile(sys.modules[name]) for name in modules]
    spec = find_spec("speech_zoo_export")  # importing it takes longer than reading it
    for folder in spec.submodule_search_locations or () if spec else ():
        files += sorted(map(str, Path(folder).glob("*.py")))
    for file in files:
        digest.update(Path(file).read_bytes() if file else b"")
    return digest.digest()


def _processor() -> str:
    """What the instructions that it knows follow from."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    return platform.machine() + next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
