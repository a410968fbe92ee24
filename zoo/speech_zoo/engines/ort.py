"""The engine of CPUs: ONNX Runtime, with the graph that MLX traces."""

import logging
import threading
import time
from collections import OrderedDict
from typing import Any

import mlx.core as mx
import numpy as np
from speech_zoo_core.errors import ConfigError

from . import graphs
from .weights import Weights

MOST_LENGTHS = 4  # whose graphs are held, where each length has its own
LOG = logging.getLogger("speech_zoo")


class OnnxRuntime:
    """Computes one model; the graph is made at the first call, and anew when the model's weights have changed.

    Args:
        threads: of one computation; any number of Python's threads may compute at once.
        strict: whether a model without a graph is an error, or is left to MLX with a warning.
    """

    name = "onnxruntime"

    def __init__(self, threads: int, strict: bool) -> None:
        self.threads, self.strict = threads, strict
        self._lock = threading.Lock()
        self._weights: Weights | None = None
        self._sessions: OrderedDict[int | None, Any] = OrderedDict()

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
            session = self._sessions[frames]
        if session is None:
            return None
        (outputs,) = session.run(None, {"x0": np.array(x.astype(mx.float32))})
        return mx.array(outputs)

    def _started(self, model: Any, frames: int | None) -> Any:
        """A session of ONNX Runtime; None where there is none, and MLX will do."""
        from speech_zoo_export import ExportError

        start = time.perf_counter()
        try:
            graph, arrays = graphs.graph_of(model, frames)
            made = time.perf_counter()
            session = started(graph, arrays, self.threads)
        except ExportError as error:
            reason = str(error)
        except RuntimeError as error:  # as those of ONNX Runtime are
            reason = str(error).strip().partition("\n")[0]
        else:
            LOG.info("onnxruntime: graph %.2f s, session %.2f s", made - start, time.perf_counter() - made)
            return session
        if self.strict:
            raise ConfigError(f"onnxruntime cannot run this {model.config.model_type}, use --engine mlx: {reason}")
        LOG.warning("warning: MLX computes this %s, as onnxruntime cannot: %s", model.config.model_type, reason)
        return None


def started(graph: bytes, arrays: "dict[str, np.ndarray[Any, Any]]", threads: int) -> Any:
    """A session whose idle threads do not spin, so that it gets on with its neighbours."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    return onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
