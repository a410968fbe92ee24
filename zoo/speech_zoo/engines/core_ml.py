"""The engine of Apple's Neural Engine: Core ML, with the graph that MLX traces, for each length of clip one."""

import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from speech_zoo_core.device import while_tracing
from speech_zoo_core.errors import ConfigError

from .weights import Weights

MOST_SHAPES = 16  # that are kept


class CoreML:
    """Computes one model, in float16 where it can; a program is made, in seconds, for each shape that it is given."""

    name = "coreml"
    batch_seconds = 0.0  # each number of clips would be a program of its own

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._weights: Weights | None = None
        self._programs: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def __reduce__(self) -> Any:
        return (CoreML, ())

    def __call__(self, model: Any, x: mx.array) -> mx.array | None:
        """Raw outputs (B, …) of features (B, T, F); None where MLX must compute them.

        Raises:
            ConfigError: the model has no graph.
        """
        with self._lock:
            if self._weights is None or not self._weights.are_those_of(model):
                if not Weights.can_be_read(model):
                    return None
                self._programs.clear()
                self._weights = Weights(model)
            program = self._programs.pop(x.shape, None) or _program(model, x)
            self._programs[x.shape] = program
            if len(self._programs) > MOST_SHAPES:
                self._programs.popitem(last=False)
            (outputs,) = program.predict({"x0": np.array(x.astype(mx.float32))}).values()
        return mx.array(np.asarray(outputs, np.float32))


def _program(model: Any, x: mx.array) -> Any:
    from speech_zoo_export import ExportError, trace, whole
    from speech_zoo_export.coreml import to_coreml

    mx.eval(model.parameters())
    try:
        with while_tracing(whole):
            graph = trace(model, mx.zeros(x.shape))
        program = to_coreml(graph, precision="float16" if model.half_precision else "float32")
    except ExportError as error:
        raise ConfigError(f"Core ML cannot run this {model.config.model_type}, use --engine mlx: {error}") from None
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "model.mlpackage")
        program.save(path)
        return loaded(path)


def loaded(path: str) -> Any:
    """A program that can be run; the file is not needed any more then."""
    from coremltools.models import MLModel

    return MLModel(path)
