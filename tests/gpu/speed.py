"""How fast the families are, next to their originals in PyTorch."""

import statistics
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from families import Finding, families, made
from speech_zoo.bench import process
from speech_zoo.bench.process import Worker
from speech_zoo.bench.run import Plan, agreement, interleave, saved_speech, started
from speech_zoo.bench.subjects import Subject
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.oracle import NoOracle

AT_ONCE = 4  # families whose processes share the GPU's memory
GOALS = {1: ("torch float16 eager", 1.5), 32: ("torch float16 compiled", 1.0)}  # by clips: of our time, what it takes


@dataclass
class Family:
    """A family, and the processes that compute it, by contender, warm for every case."""

    name: str
    model: Subject
    scratch: Path
    plan: Plan
    workers: dict[str, Worker] = field(default_factory=dict)
    missing: dict[str, Finding] = field(default_factory=dict)

    def clips(self, count: int) -> Path:
        return saved_speech(self.scratch, self.model, self.plan.seconds[0], count)

    def output(self, contender: str, count: int) -> Path:
        return self.scratch / f"{contender} {count}.npy"

    def contenders(self) -> list[str]:
        """On a GPU torch in float16 only."""
        names = self.plan.names(self.model)
        return [name for name in names if name != "torch" or "torch float16 compiled" not in names]

    def warm(self, contender: str) -> None:
        try:
            worker = started(contender, self.model, self.scratch)
            for count in self.plan.batches:
                worker.run(self.clips(count), self.output(contender, count))
                worker.run(self.clips(count), network=True)
            self.workers[contender] = worker
        except Exception as error:  # whatever it is, the others go on
            passed = None if isinstance(error, NoOracle) else False
            why = str(error)[:200] or type(error).__name__
            self.missing[contender] = (f"{self.name}, {contender}", {"absent": why}, passed)

    def close(self) -> None:
        while self.workers:
            self.workers.popitem()[1].close()


def speed(models: list[str], cpu: bool) -> Iterator[Finding]:
    """A family is timed as soon as its processes are warm; meanwhile others compile, on other cores."""
    seconds, clips = (1.0, (1, 2)) if cpu else (10.0, (1, 32))
    if not cpu:
        process.PAUSE = 0.0  # no contender computes on the CPU
    plan = Plan((), ("ours", "torch"), (seconds,), clips, repeats=2 if cpu else 5)
    names, room = families(models, cpu), threading.Semaphore(1 if cpu else AT_ONCE)
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(len(names)) as pool:
        started = {pool.submit(ready, name, Path(directory) / name, plan, room): name for name in names}
        for future in as_completed(started):
            try:
                with closing(future.result()) as family:
                    yield from timed(family)
            except Exception as error:  # whatever it is, the others go on
                yield started[future], {"failed": str(error)[:300]}, False
            room.release()


def ready(name: str, scratch: Path, plan: Plan, room: threading.Semaphore) -> Family:
    """A family whose contenders are warm, once there is room for it."""
    room.acquire()
    scratch.mkdir()
    family = Family(name, made(name, scratch), scratch, plan)
    for count in plan.batches:
        family.clips(count)
    with ThreadPoolExecutor() as pool:
        list(pool.map(family.warm, family.contenders()))
    return family


def timed(family: Family) -> Iterator[Finding]:
    """The contenders in turn, from the samples on and of the network alone, next to ours in float16."""
    workers = {name: family.workers[name] for name in family.contenders() if name in family.workers}
    for name in family.contenders():
        if name not in workers:
            yield family.missing[name]
    if "ours" not in workers:
        return
    mine = "ours float16" if "ours float16" in workers else "ours"
    for count in family.plan.batches:
        for name in list(workers)[1:]:
            outputs = (np.load(family.output(each, count)) for each in ("ours", name))
            try:
                agreement(family.model, name, *outputs)
            except SpeechZooError as error:
                yield f"{family.name} x {count}, {name}", {"disagrees": str(error)[:200]}, False
        audio = count * family.plan.seconds[0]
        for what in (True, False):
            times = medians(family, workers, count, what)
            figures = {"ms": f"{times[mine] * 1e3:.1f}", "audio s / s": f"{audio / times[mine]:.0f}"}
            figures |= {f"{name} / ours": f"{took / times[mine]:.2f}" for name, took in times.items() if name != mine}
            other, goal = GOALS.get(count, ("", 0.0))
            met = times[other] / times[mine] >= goal if what and other in times else None
            yield f"{family.name} x {count}{', network' if what else ''}", figures, met


def medians(family: Family, workers: dict[str, Worker], count: int, network: bool) -> dict[str, float]:
    replies: dict[str, list[Any]] = interleave(workers, family.clips(count), family.plan.repeats, network)
    return {name: statistics.median(reply["seconds"] for reply in runs) for name, runs in replies.items()}
