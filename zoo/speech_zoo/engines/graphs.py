"""Traced graphs as ONNX, kept in the user's cache: to trace one takes seconds, to read it a tenth of one."""

import hashlib
import inspect
import json
import logging
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np
from speech_zoo_core.config import to_dict
from speech_zoo_core.device import while_tracing
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.layers import parameters

from ..settings import cache as user_cache

Array: TypeAlias = "np.ndarray[Any, Any]"
Parts: TypeAlias = tuple[bytes, dict[str, Array]]  # the model, and the weights that it refers to by name

LARGEST = 256 << 20  # bytes of weights: of larger models, reading them takes longer than tracing
MOST_KEPT = 1 << 30  # bytes of all files together
SHORTEST, SHORTEST_SAMPLES = 20, 4000  # frames of a graph for all lengths; shorter clips go other ways
LONGEST, LONGEST_SAMPLES = 3000, 200_000  # that are traced at most; the formulas hold beyond
GRAPH = "graph"  # the name under which the model lies among the weights
LOG = logging.getLogger("speech_zoo")


def graph_of(model: Any, frames: int | None = None) -> Parts:
    """A model's graph, from the user's cache or traced anew; arguments and errors as `traced`."""
    key = _key(model, frames) if frames is None or not model.one_graph else None
    file = None if key is None else user_cache() / "graphs" / f"{model.config.model_type}-{key[:16]}.safetensors"
    if file is not None and key is not None and (found := _read(file, key)) is not None:
        return found
    parts = _traced(model, frames)
    if file is not None and key is not None:
        try:
            _write(file, key, parts)
        except (OSError, SpeechZooError) as error:  # another process may do the same
            LOG.info("the traced graph is not kept: %s", error)
    return parts


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


def _traced(model: Any, frames: int | None) -> Parts:
    from speech_zoo_export.onnx import to_onnx_parts

    graph, arrays = to_onnx_parts(traced(model, frames))
    return graph.SerializeToString(), {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _read(file: Path, key: str) -> "Parts | None":
    """What is kept; None where there is nothing, or not for this model."""
    from safetensors import safe_open

    if not file.is_file():
        return None
    try:
        with safe_open(str(file), "np") as kept:
            if (kept.metadata() or {}).get("key") != key:
                return None
            arrays = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 (it is no dict)
        return arrays.pop(GRAPH).tobytes(), arrays
    except Exception as error:  # safetensors has errors of its own; whatever the file is, it is made anew
        LOG.debug("%s: %s", file, error)
        return None


def _write(file: Path, key: str, parts: Parts) -> None:
    """Keep a graph, and remove the oldest where there are too many."""
    from safetensors.numpy import save_file
    from speech_zoo_core.atomic import written_beside

    graph, arrays = parts
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(file) as beside:
        save_file({**arrays, GRAPH: np.frombuffer(graph, np.uint8)}, beside, {"key": key})
    kept = sorted(file.parent.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in kept:
        total += path.stat().st_size
        if total > MOST_KEPT and path != file:
            path.unlink(missing_ok=True)


def _key(model: Any, frames: int | None) -> str | None:
    """A hash of what a graph is made from: code, config and weights; None for a model that is too large."""
    weights = parameters(model)
    if sum(array.nbytes for array in weights.values()) > LARGEST:
        return None
    config = {name: value for name, value in to_dict(model.config).items() if name != "source"} | {"frames": frames}
    digest = hashlib.sha256(_code(tuple(sorted({type(module).__module__ for module in model.modules()}))))
    digest.update(json.dumps(config, sort_keys=True).encode())
    for name, array in weights.items():
        view = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(np.array(view, copy=False)).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@cache
def _code(modules: tuple[str, ...]) -> bytes:
    """A hash of the code that a graph is made by."""
    import speech_zoo_export

    digest = hashlib.sha256(f"{version('mlx')} {Path(__file__).read_text()}".encode())
    files = [inspect.getsourcefile(sys.modules[name]) for name in modules]
    for file in [*files, *sorted(Path(speech_zoo_export.__file__).parent.glob("*.py"))]:
        digest.update(Path(file).read_bytes() if file else b"")
    return digest.digest()
