"""What runs in a worker of `speech-zoo bench`: one contender of one model, in a process of its own.

The parent writes requests and reads replies, one line of JSON each: first `Contender.facts`, then for each request
{"clips": file, "output": file or null} the seconds of one run and the peak resident memory so far, in bytes. Clips
(B, N) and outputs are `.npy` files. {"error": text} is what a user is told, {"absent": text} why there is no such
contender here.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.oracle import NoOracle

from .contender import Contender, ours
from .memory import peak_bytes


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
        from .stock import stock

        return stock
    from . import originals

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
