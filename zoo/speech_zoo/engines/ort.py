"""The engine of CPUs: ONNX Runtime, with the graph that MLX traces."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np
from speech_zoo_core.atomic import written_beside
from speech_zoo_core.errors import ConfigError, SpeechZooError

from . import graphs, shipped
from .weights import Weights

Array: TypeAlias = "np.ndarray[Any, Any]"

LONG = 1 << 21  # bytes of features, a minute of log-mels, after which the memory of the pass is given back
MOST_LENGTHS = 4  # whose graphs are held, where each length has its own
LOG = logging.getLogger("speech_zoo")


class OnnxRuntime:
    """Computes one model; the graph is made at the first call, and anew when the model's weights have changed.

    Args:
        threads: of one computation; any number of Python's threads may compute at once.
        strict: whether a model without a graph is an error, or is left to MLX with a warning.
    """

    name = "onnxruntime"
    batch_seconds = 20.0  # measured: up to a quarter faster than one at a time; padding would cost more than that

    def __init__(self, threads: int, strict: bool) -> None:
        self.threads, self.strict = threads, strict
        self._lock = threading.Lock()
        self._weights: Weights | None = None
        self._sessions: OrderedDict[int | None, Graph | None] = OrderedDict()

    def __reduce__(self) -> Any:
        return (OnnxRuntime, (self.threads, self.strict))

    def __call__(self, model: Any, x: mx.array) -> mx.array | None:
        """Raw outputs of features (B, T, F); None where MLX must compute them.

        Raises:
            ConfigError: the model has no graph, and MLX is not wanted.
        """
        with self._lock:
            if self._weights is None or not self._weights.are_those_of(model):
                if not Weights.can_be_read(model):
                    return None
                self._sessions.clear()
                self._weights = Weights(model)
            frames = None if model.one_graph and x.shape[1] >= graphs.shortest(model) else x.shape[1]
            if frames not in self._sessions:
                self._sessions[frames] = self._started(model, frames)
            self._sessions.move_to_end(frames)
            if len(self._sessions) > MOST_LENGTHS:
                self._sessions.popitem(last=False)
            graph = self._sessions[frames]
        return None if graph is None else mx.array(graph(np.array(x.astype(mx.float32))))

    def _started(self, model: Any, frames: int | None) -> "Graph | None":
        """The graph in a session; None where there is none, and MLX will do."""
        start = time.perf_counter()
        try:
            graph = self._graph(model, frames)
        except graphs.NoGraph as error:
            reason = str(error)
        except refusals() as error:
            reason = str(error).strip().partition("\n")[0]
        else:
            LOG.info("onnxruntime: graph and session %.2f s", time.perf_counter() - start)
            return graph
        if self.strict:
            raise ConfigError(f"onnxruntime cannot run this {model.config.model_type}, use --engine mlx: {reason}")
        LOG.warning("warning: MLX computes this %s, as onnxruntime cannot: %s", model.config.model_type, reason)
        return None

    def _graph(self, model: Any, frames: int | None) -> "Graph":
        """From the user's cache, from the package, or traced anew."""
        file, key = graphs.kept(model, frames)
        if file is None or key is None:
            graph, arrays, weights = graphs.in_place(model, frames)
            return Graph(started(graph, self.threads, arrays), weights)
        if file.is_file():
            try:
                session = started(str(file), self.threads, optimised=True)
                if session.get_modelmeta().custom_metadata_map.get(graphs.KEY) == key:
                    return Graph(session)
            except Exception as error:  # whatever the file is, it is made anew
                LOG.debug("%s: %s", file, error)
        graph, arrays = shipped.read(model, key) or graphs.to_keep(model, frames, key)
        failures: tuple[type[Exception], ...] = (OSError, SpeechZooError, *refusals())
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with written_beside(file) as beside:
                session = started(graph, self.threads, arrays, keep=beside)
            graphs.tidy(file)
        except failures as error:  # another process may do the same; or the disk is full
            LOG.info("the traced graph is not kept: %s", error)
            session = started(graph, self.threads, arrays)
        return Graph(session)


@dataclass(frozen=True)
class Graph:
    """A session, and the weights that it takes as inputs besides the features."""

    session: Any
    weights: "dict[str, Array]" = field(default_factory=dict)

    def __call__(self, x: Array) -> Array:
        options = None
        if x.nbytes >= LONG:
            import onnxruntime

            options = onnxruntime.RunOptions()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        outputs: list[Array] = self.session.run(None, {"x0": x, **self.weights}, options)
        return outputs[0]


def refusals() -> tuple[type[Exception], ...]:
    """The errors of ONNX Runtime, which have no class in common."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = (kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (*kinds, RuntimeError)


def started(
    graph: bytes | str,
    threads: int,
    arrays: "Mapping[str, Array]" = MappingProxyType({}),
    *,
    keep: Path | None = None,
    optimised: bool = False,
) -> Any:
    """A session whose idle threads soon sleep, so that it gets on with its neighbours.

    Args:
        graph: the model, or the path of its file.
        arrays: what the model refers to by name; they must stay.
        keep: where to write the model as ONNX Runtime has optimised it, with the arrays inside.
        optimised: whether the model is one that was kept.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what it refuses is raised, too
    options.add_session_config_entry(*_idle(onnxruntime.__version__))
    _grow_as_needed()
    options.add_session_config_entry("session.use_env_allocators", "1")
    if keep is not None:
        options.optimized_model_filepath = str(keep)
    if optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if arrays:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for array in arrays.values()]
        options.add_external_initializers(list(arrays), values)
    session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
    if arrays:
        session.values = values  # whose memory it may use
    return session


@lru_cache(maxsize=1)
def _grow_as_needed() -> None:
    """Let memory grow by what is asked for, not by powers of two: a sixth less for a clip of ten minutes."""
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    try:
        onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(0, 1, -1, -1))
    except refusals() as error:  # the process has one already, which will do
        LOG.debug("%s", error)


def _idle(version: str) -> tuple[str, str]:
    """What threads do that have nothing to compute: they wait a moment for the next layer, then sleep.

    Waking them for each layer costs a short clip up to a third of its time; before 1.26 the moment lasts 3 ms and more.
    """
    if tuple(int(part) for part in version.split(".")[:2]) < (1, 26):
        return "session.intra_op.allow_spinning", "0"
    return "session.intra_op.spin_duration_us", "100"
