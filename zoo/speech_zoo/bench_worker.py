"""What runs in a worker of `speech-zoo bench`: one contender of one model, in a process of its own.

The parent writes requests and reads replies, one line of JSON each: first `Contender.facts`, then for each request
{"clips": file, "output": file or null} the seconds of one run and the peak resident memory so far, in bytes. Clips
(B, N) and outputs are `.npy` files. {"error": text} is what a user is told, {"absent": text} why there is no such
contender here.
"""

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.oracle import NoOracle

from .bench_memory import peak_bytes

Array: TypeAlias = "np.ndarray[Any, Any]"
RATE = 16000


@dataclass(frozen=True)
class Contender:
    """A loaded model.

    Attributes:
        run: clips (B, N), float32 in [-1, 1] at 16 kHz, to raw outputs (B, …), in memory again.
        by: what computes, with its version.
        device: "CPU" or the accelerator's name.
        threads: that it computes with; None where nobody tells.
        blas: of MLX on a CPU.
    """

    run: Callable[[Array], Array]
    by: str
    device: str
    threads: int | None
    blas: str | None = None

    @property
    def facts(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "run"}


def ours(model: str, folder: Path, half: bool = False) -> Contender:
    """The zoo's model on MLX's default device, computing in float32 or float16."""
    import mlx.core as mx

    from . import __version__, load

    if model == "fbank":
        from dataclasses import replace

        from speech_zoo_core.audio.front_end import WESPEAKER

        front_end = replace(WESPEAKER, cmn=False)

        def run(clips: Array) -> Array:
            return np.stack([np.array(front_end(mx.array(clip))) for clip in clips])
    else:
        loaded = load(folder, dtype="float16" if half else "float32")

        def run(clips: Array) -> Array:
            # What embed_batch and predict_batch do, up to the raw output.
            rows = loaded._outputs(list(clips), RATE, "bench")
            return np.array(mx.stack(rows).astype(mx.float32))

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


def maker(contender: str, gpu: bool) -> Callable[[str, Path], Contender]:
    """What makes the contender of that name; the harness's own imports, which are not part of a load, come with it.

    Args:
        contender: "ours", "stock", "torch", "onnxruntime" or "kaldi-native-fbank", and " float16…" after it.
        gpu: whether MLX computes on one, so that torch may, too.
    """
    half = "float16" in contender
    if contender.startswith("ours"):
        return partial(ours, half=half)
    if contender == "stock":
        from .bench_stock import stock

        return stock
    from . import bench_originals as originals

    if contender.startswith("torch"):
        return partial(originals.original, gpu=gpu, half=half)
    return originals.onnx if contender == "onnxruntime" else originals.kaldi


def main() -> None:
    """Serve the parent until it closes stdin."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print, too
    contender, model, folder, gpu = sys.argv[1:]

    def reply(**values: Any) -> None:
        print(json.dumps(values), file=replies, flush=True)

    try:
        make = maker(contender, gpu == "gpu")
        start = time.perf_counter()
        made = make(model, Path(folder))
        reply(**made.facts, load_seconds=time.perf_counter() - start)
        for line in sys.stdin:
            request = json.loads(line)
            clips = np.load(request["clips"])
            start = time.perf_counter()
            output = made.run(clips)
            seconds = time.perf_counter() - start
            if request["output"]:
                np.save(request["output"], output)
            reply(seconds=seconds, peak_bytes=peak_bytes())
    except NoOracle as error:
        reply(absent=str(error))
    except SpeechZooError as error:
        reply(error=str(error))
