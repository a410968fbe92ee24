"""What is measured: a loaded model behind one function, ours among them."""

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from ..engines.choice import Name

Array: TypeAlias = "np.ndarray[Any, Any]"
RATE = 16000
FBANK = "fbank"  # what is measured where it is the features alone


@dataclass(frozen=True)
class Contender:
    """A loaded model.

    Attributes:
        run: clips (B, N), float32 in [-1, 1] at the model's rate, to raw outputs (B, …), in memory again.
        by: what computes, with its version.
        device: "CPU" or the accelerator's name.
        threads: that it computes with; None where nobody tells.
        blas: of MLX on a CPU.
        inputs: clips to what the network takes, where that can be had apart.
        network: that to what `run` gives, as one batch.
    """

    run: Callable[[Array], Array]
    by: str
    device: str
    threads: int | None
    blas: str | None = None
    inputs: Callable[[Array], Any] | None = None
    network: Callable[[Any], Array] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("run", "inputs", "network")}


def ours(model: str, half: bool = False, engine: "Name" = "auto", eager: bool = False) -> Contender:
    """The zoo's model, computing in float32 or float16; `model`, for `load`, may be `FBANK`.

    `eager` leaves out what a GPU's clips get: no buckets, and nothing is compiled.
    """
    import mlx.core as mx
    from speech_zoo_core.processes import evaluated

    from ..models import load
    from ..settings import __version__

    if model == FBANK:
        from dataclasses import replace

        from speech_zoo_core.audio.front_end import WESPEAKER

        front_end = replace(WESPEAKER, cmn=False)

        def run(clips: Array) -> Array:
            return np.stack([np.array(front_end(mx.array(clip))) for clip in clips])
    else:
        loaded = load(model, dtype="float16" if half else "float32", engine=engine)
        if eager:
            loaded._batch = loaded._padded

        def run(clips: Array) -> Array:
            # What embed_batch and predict_batch do, up to the raw output.
            rows = loaded._outputs(list(clips), "bench", loaded.sample_rate, None, vad=False)
            return np.array(mx.stack(rows).astype(mx.float32))

        def inputs(clips: Array) -> list[mx.array]:
            return evaluated([loaded.config.front_end(mx.array(clip)) for clip in clips])

        def network(features: list[mx.array]) -> Array:
            return np.array(loaded._batch(features).astype(mx.float32))

        parts: dict[str, Any] = {"inputs": inputs, "network": network}
        if loaded.engine is not None:
            by = f"mlx-speech-zoo {__version__}, {loaded.engine.name} {version(loaded.engine.name)}"
            return Contender(run, by, mlx_device(), getattr(loaded.engine, "threads", None), **parts)
        return Contender(run, f"mlx-speech-zoo {__version__}", mlx_device(), *blas(), **parts)

    return Contender(run, f"mlx-speech-zoo {__version__}", mlx_device(), *blas())


def mlx_device() -> str:
    """The name of the GPU that MLX computes on, or CPU."""
    import mlx.core as mx

    if mx.default_device().type == mx.DeviceType.cpu:
        return "CPU"
    return str(mx.device_info().get("device_name", "GPU"))


def blas() -> tuple[int | None, str | None]:
    """Threads and name of the BLAS that MLX's symbols are bound to."""
    if mlx_device() != "CPU":
        return None, None
    if sys.platform != "linux":
        return None, "Accelerate" if sys.platform == "darwin" else None
    symbols = ctypes.CDLL(None)
    if not hasattr(symbols, "openblas_get_config"):
        return 1, "MLX's reference BLAS"
    symbols.openblas_get_config.restype = ctypes.c_char_p
    return symbols.openblas_get_num_threads(), " ".join(symbols.openblas_get_config().decode().split()[:2])
