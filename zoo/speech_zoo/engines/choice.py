"""Which engine computes a model."""

import logging
import os
import sys
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from speech_zoo_core.errors import ConfigError
from speech_zoo_core.extras import how_to_install

if TYPE_CHECKING:
    from speech_zoo_core.tasks.audio_model import Engine

Name: TypeAlias = Literal["auto", "mlx", "onnxruntime", "coreml"]
NAMES = ("auto", "mlx", "onnxruntime", "coreml")


def chosen(engine: str = "auto", threads: int | None = None) -> "Engine | None":
    """The engine of that name for one model; None for MLX itself.

    Args:
        engine: "auto" is MLX on a GPU, and onnxruntime on a CPU where it is installed.
        threads: that onnxruntime computes with; default: one for each core that this process may use.

    Raises:
        ConfigError: no such engine, not installed, or not for this machine.
    """
    if engine not in NAMES:
        raise ConfigError(f"unknown engine {engine!r}; use {', '.join(NAMES)}")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ConfigError(f"threads is a whole number from 1 on, not {threads!r}")
    if threads is not None and engine in ("mlx", "coreml"):
        raise ConfigError(f"threads go with the engine onnxruntime, not with {engine}")
    if engine == "mlx" or (engine == "auto" and not _on_cpu()):
        return None
    if engine == "coreml":
        return _coreml()
    missing = [name for name in ("onnxruntime", "onnx") if not _installed(name)]
    if missing:
        command = how_to_install("cpu")
        if engine != "auto":
            raise ConfigError(f"the engine onnxruntime needs {' and '.join(missing)}: {command}")
        why = f"as {missing[0]} is not installed: {command}"
        _warn_once(f"models are computed by MLX here, which is slow on a CPU, {why}")
        return None
    from .ort import OnnxRuntime

    return OnnxRuntime(threads or cores(), engine == "onnxruntime")


def _on_cpu() -> bool:
    from speech_zoo_core.device import on_cpu  # imports MLX

    return on_cpu()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _coreml() -> Any:
    if sys.platform != "darwin":
        raise ConfigError("the engine coreml runs on a Mac only; use onnxruntime or mlx here")
    if not _installed("coremltools"):
        raise ConfigError(f"the engine coreml needs coremltools: {how_to_install('coreml')}")
    from .core_ml import CoreML

    return CoreML()


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # it was imported, without a spec, or is kept from being imported
        return sys.modules[name] is not None


@cache
def _warn_once(text: str) -> None:
    logging.getLogger("speech_zoo").warning("warning: %s", text)
