"""What runs in a process of `speech-zoo bench`: one contender of one model, or what prepares it.

The parent writes requests and reads replies, one line of JSON each: first the facts, of a contender those of
`Contender.facts`, then for each request {"clips": file, "output": file or null, "network": bool} the seconds of one run
(of its network alone, where that can be had apart) and the peak resident memory so far, in bytes. Clips (B, N) and
outputs are `.npy` files. {"error": text} is what a user is told, {"absent": text} why there is no such contender here.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from speech_zoo_core.errors import ConfigError, SpeechZooError
from speech_zoo_core.oracle import NoOracle

from .contender import FBANK, Contender, ours
from .memory import peak_bytes

if TYPE_CHECKING:
    from ..engines.choice import Name


def contender(job: str, model: str, gpu: bool, scratch: str) -> Callable[[], Contender]:
    """What makes a contender; the harness's own imports, which are not part of a load, come with it.

    Args:
        job: one of `run.CONTENDERS` or "kaldi-native-fbank", and after it " float16", " float16 eager" or " float16
            compiled".
        model: what `load` takes, or `FBANK`.
        gpu: whether MLX computes on one, so that torch may, too.
        scratch: a folder of this model, with the exported file.
    """
    half, eager = "float16" in job, job.endswith("eager")
    if job.startswith("ours"):
        return partial(ours, model, half, eager=eager)
    if job in ("mlx", "coreml"):
        return partial(engine, model, cast("Name", job))
    if job == "stock":
        from .stock import stock

        return partial(stock, model, Path(scratch))
    from . import originals

    if job.startswith("torch"):
        return partial(originals.original, model, gpu, half, eager)
    exported = {"onnxruntime": originals.onnx, "openvino": originals.openvino}
    return partial(exported[job], model, onnx_file(Path(scratch))) if job in exported else originals.kaldi


def engine(model: str, name: "Name") -> Contender:
    """Our model by an engine that is not the default here.

    Raises:
        NoOracle: the engine is not for this machine.
    """
    if model == FBANK:
        raise NoOracle("there is no network to compute")
    try:
        return ours(model, engine=name)
    except ConfigError as error:
        raise NoOracle(str(error)) from error


def onnx_file(scratch: Path) -> Path:
    """The original as ONNX."""
    return scratch / "original.onnx"


def example(model: str, scratch: str, layers: int, **_: Any) -> dict[str, Any]:
    """Write the example of that name."""
    from .subjects import write_example

    return write_example(model, Path(scratch), layers)


def export(model: str, scratch: str, **_: Any) -> dict[str, Any]:
    """Write the original as ONNX."""
    from . import originals

    originals.export(model, onnx_file(Path(scratch)))
    return {}


JOBS: dict[str, Callable[..., dict[str, Any]]] = {"example": example, "export": export}


def main() -> None:
    """Serve the parent until it closes stdin."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print, too
    request = json.loads(sys.argv[1])

    def reply(**values: Any) -> None:
        print(json.dumps(values), file=replies, flush=True)

    try:
        if (job := JOBS.get(request["job"])) is not None:
            del request["job"]
            reply(**job(**request))
            return
        make = contender(**request)
        start = time.perf_counter()
        made = make()
        reply(**made.facts, load_seconds=time.perf_counter() - start)
        for line in sys.stdin:
            asked = json.loads(line)
            given, run = np.load(asked["clips"]), made.run
            if asked["network"] and made.inputs is not None and made.network is not None:
                given, run = made.inputs(given), made.network
            start = time.perf_counter()
            output = run(given)
            seconds = time.perf_counter() - start
            if asked["output"]:
                np.save(asked["output"], output)
            reply(seconds=seconds, peak_bytes=peak_bytes())
    except NoOracle as error:
        reply(absent=str(error))
    except SpeechZooError as error:
        reply(error=str(error))
