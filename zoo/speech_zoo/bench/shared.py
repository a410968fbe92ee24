"""A machine that is shared: busy neighbours, and requests at once: `speech-zoo bench --shared`."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from speech_zoo_core.progress import progress

from ..models import load
from .run import speech

CLIP = 10.0  # seconds
NEIGHBOURS = (0, 1, 4)  # processes that never rest
REQUESTS = 4
ANSWERS = {"speaker-embedding": "embed", "audio-regression": "measure"}  # predict of others
BUSY = "while True: pass"


@contextmanager
def busy(count: int) -> Iterator[None]:
    """That many processes beside this one, of which each keeps one core busy."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        time.sleep(0.2 if others else 0)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(ref: str, repeats: int) -> dict[str, Any]:
    """Median seconds for a clip beside busy neighbours; of several requests in turn, and at once in threads."""
    model = load(ref)
    rate = model.sample_rate
    clips = [(clip, rate) for clip in speech(CLIP, REQUESTS, rate)]

    def answer(clip: Any) -> Any:
        return getattr(model, ANSWERS.get(model.config.task, "predict"))(clip)

    def seconds(work: Any) -> float:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    with progress(total=len(NEIGHBOURS) + 1, desc="bench", unit="case") as bar, ThreadPoolExecutor(REQUESTS) as pool:
        for clip in clips:
            answer(clip)  # warms up
        result: dict[str, Any] = {"model": ref, "engine": getattr(model.engine, "name", "mlx"), "beside": {}}
        for count in NEIGHBOURS:
            with busy(count):
                result["beside"][count] = seconds(lambda: answer(clips[0]))
            bar.update()
        result["in_turn"] = seconds(lambda: [answer(clip) for clip in clips])
        result["at_once"] = seconds(lambda: list(pool.map(answer, clips)))
        bar.update()
    return result


def run(refs: tuple[str, ...], repeats: int, as_json: bool) -> None:
    """Measure and print."""
    results = [measure(ref, repeats) for ref in refs]
    if as_json:
        print(json.dumps(results))
        return
    for result in results:
        alone = result["beside"][0]
        print(f"{result['model']} by {result['engine']}, {CLIP:g} s of audio")
        for count, found in result["beside"].items():
            print(f"{found:8.3f} s  {found / alone:5.2f}  beside {count} busy process{'es' if count != 1 else ''}")
        for name, ratio in (("in_turn", 1.0), ("at_once", result["at_once"] / result["in_turn"])):
            print(f"{result[name]:8.3f} s  {ratio:5.2f}  {REQUESTS} requests {name.replace('_', ' ')}")
