"""Functions of MLX arrays beside what ONNX Runtime makes of their traced graphs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import onnxruntime
from speech_zoo_export import Axis, Graph, trace
from speech_zoo_export.onnx import to_onnx

BATCH = Axis("batch", 1, 8, batch=True)


def session(graph: Graph) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(to_onnx(graph).SerializeToString(), options, ["CPUExecutionProvider"])


def run(ready: onnxruntime.InferenceSession, *arrays: np.ndarray) -> list[np.ndarray]:
    return ready.run(None, {value.name: array for value, array in zip(ready.get_inputs(), arrays, strict=True)})


def results(fn: Callable[..., Any], *arrays: np.ndarray) -> list[np.ndarray]:
    """What MLX gives on the CPU."""
    with mx.stream(mx.cpu):
        out = fn(*(mx.array(array) for array in arrays))
        return [np.array(value) for value in (out if isinstance(out, (tuple, list)) else [out])]


def assert_close(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], limit: float = 1e-5) -> None:
    """Within `limit` of the largest number; integers and booleans the same."""
    assert len(ours) == len(theirs)
    for x, y in zip(ours, theirs, strict=True):
        assert x.shape == y.shape
        if y.dtype.kind != "f":
            assert np.array_equal(x, y)
            continue
        assert x.dtype == y.dtype
        assert np.array_equal(np.isfinite(x), np.isfinite(y))
        finite = np.isfinite(y)
        assert np.array_equal(x[~finite], y[~finite], equal_nan=True)
        largest = np.abs(y[finite]).max(initial=1e-3)
        assert np.abs(x[finite].astype(np.float64) - y[finite]).max(initial=0) <= limit * largest


def check(
    fn: Callable[..., Any],
    *arrays: np.ndarray,
    axes: Sequence[Mapping[int, Axis]] = (),
    others: Sequence[Sequence[np.ndarray]] = (),
    limit: float = 1e-5,
) -> Graph:
    """Trace for these arrays, and compare on them and on others; the graph."""
    graph = trace(fn, *(mx.array(array) for array in arrays), axes=axes)
    ready = session(graph)
    for given in [arrays, *others]:
        assert_close(run(ready, *given), results(fn, *given), limit)
    return graph


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
