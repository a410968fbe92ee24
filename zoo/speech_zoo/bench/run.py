"""`speech-zoo bench`: our models next to the originals and to stock MLX, on the same voices and the same weights.

Each contender is a worker process (`bench_worker`); the workers are asked in turn, one timed run each.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.audio.decode import load_audio
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.oracle import NoOracle
from speech_zoo_core.tiles import on_cpu
from tqdm import tqdm

from ..plots import bench as bench_chart
from ..plots.figure import check_drawable
from ..settings import VOICES
from . import report as bench_report
from . import weights as bench_weights
from .contender import RATE, Array
from .memory import memory
from .originals import check, onnx_file

MODELS = ("fbank", "resnet34", "ecapa", "campplus", "mms")
CONTENDERS = ("ours", "stock", "torch", "onnxruntime")
KALDI = "kaldi-native-fbank"
FIGURES = ("seconds", "ratio", "runs", "peak_bytes", "agreement")
LONG = (10.0, 600.0)  # seconds of audio
SINGLE_PASS = 60.0  # seconds of audio up to which MMS-LID takes a clip whole
WARM_UP = 0.5  # seconds of audio for what is run only once
PAUSE = 0.2  # seconds; idle threads of OpenBLAS and onnxruntime spin for up to 0.1 after a run
# What a worker imports before anything of ours: speech_zoo opens OpenBLAS for every library that is loaded later.
FIRST = {"stock": "mlx.core", "torch": "torch", "onnxruntime": "onnxruntime", KALDI: "kaldi_native_fbank"}
WORKER = "from speech_zoo.bench.worker import main; main()"
EXPORT = """
import sys, torch
from pathlib import Path
from speech_zoo.bench.originals import export, onnx_file
export(sys.argv[1], Path(sys.argv[2]), onnx_file(Path(sys.argv[2])))
"""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        models: of MODELS.
        contenders: of CONTENDERS; ours is always among them.
        seconds: lengths of clips.
        batches: clips of one length at a time.
        repeats: runs of each contender in each case.
        layers: of the transformer of MMS-LID.
    """

    models: tuple[str, ...] = MODELS
    contenders: tuple[str, ...] = CONTENDERS
    seconds: tuple[float, ...] = (10.0,)
    batches: tuple[int, ...] = (1,)
    repeats: int = 7
    layers: int = 4

    def names(self, model: str) -> list[str]:
        """The contenders of a model, ours first; on a GPU in float16, too."""
        names = ["ours", *(name for name in self.contenders if name != "ours")]
        if model == "fbank":
            return [KALDI if name == "torch" else name for name in names]
        if on_cpu():
            return names
        also = {"ours": ["ours float16"], "torch": ["torch float16 compiled"]}
        return [each for name in names for each in (name, *also.get(name, ()))]

    def skips(self, contender: str, model: str, case: tuple[float, int]) -> str | None:
        """Why a contender does not run a case of (seconds, clips); None if it does."""
        if runs_once(contender, model) and case != (self.seconds[0], 1):
            return "so slow that it runs the first length only, one clip"
        if model == "mms" and case[0] > SINGLE_PASS and not contender.startswith("ours"):
            return f"ours cuts clips above {SINGLE_PASS:g} s into windows, the others do not"
        return None


def runs_once(contender: str, model: str) -> bool:
    """With a network, stock MLX takes up to a minute for a clip on a CPU."""
    return contender == "stock" and model != "fbank" and on_cpu()


class Worker:
    """A process with one contender of one model.

    Attributes:
        facts: what it said of itself, and the seconds from its start to the loaded model.

    Raises:
        NoOracle: the contender cannot run here; says why.
        SpeechZooError: it failed.
    """

    def __init__(self, contender: str, model: str, folder: Path) -> None:
        self.name = f"{contender} of {model}"
        first = FIRST.get(contender.partition(" ")[0], "sys")
        arguments = [contender, model, str(folder), "cpu" if on_cpu() else "gpu"]
        self._log = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import {first}; {WORKER}", *arguments],
            # Or mlx-audio would get our models, and OpenBLAS.
            env=os.environ | ({"SPEECH_ZOO_AUTOLOAD": "0"} if contender == "stock" else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            encoding="utf-8",
        )
        try:
            self.facts = self._reply()
        except BaseException:
            self.close()
            raise
        self.facts["start_seconds"] = time.perf_counter() - start

    def run(self, clips: Path, output: Path | None = None) -> dict[str, Any]:
        """Seconds of one run and peak resident bytes so far; clips and outputs are `.npy` files."""
        time.sleep(PAUSE)
        assert self._process.stdin is not None
        request = {"clips": str(clips), "output": None if output is None else str(output)}
        with suppress(BrokenPipeError):  # then there is no reply, either
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            said = self._log.read().strip().splitlines()
            raise SpeechZooError(f"bench: {self.name} failed: {said[-1] if said else 'it ended without a word'}")
        reply: dict[str, Any] = json.loads(line)
        if "absent" in reply:
            raise NoOracle(reply["absent"])
        if "error" in reply:
            raise SpeechZooError(f"bench: {self.name}: {reply['error']}")
        return reply

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


def speech(seconds: float, batch: int) -> Array:
    """Clips (B, N) of the demo's voices, one after the other and over again; each clip starts with another."""
    voices = np.concatenate([np.array(load_audio(file, RATE)) for file in sorted(VOICES.glob("*.wav"))])
    return np.stack([np.resize(np.roll(voices, -i * voices.size // batch), int(seconds * RATE)) for i in range(batch)])


def saved_speech(scratch: Path, seconds: float, batch: int = 1) -> Path:
    path = scratch / f"clips-{seconds:g}-{batch}.npy"
    if not path.exists():
        np.save(path, speech(seconds, batch))
    return path


def agreement(model: str, contender: str, ours: Array, theirs: Array) -> dict[str, Any]:
    """How far a contender's outputs (B, …) are from ours: the measure, its value and its limit.

    Raises:
        SpeechZooError: they are further than the limit.
    """
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    half = "float16" in contender
    if ours.shape != theirs.shape:
        raise SpeechZooError(f"bench: {model}: the output of {contender} has shape {theirs.shape}, ours {ours.shape}")
    if model == "fbank":
        measure, value, limit = "largest difference", np.abs(ours - theirs).max(), 1e-3
    elif model == "mms" and half:
        measure, value, limit = "clips with another best label", (ours.argmax(1) != theirs.argmax(1)).sum(), 0
    elif model == "mms":
        measure, limit = "largest difference relative to the largest logit", 1e-4
        value = np.abs(ours - theirs).max() / np.abs(ours).max()
    else:
        measure, limit = "1 - cosine", 1e-4 if half else 1e-6
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        value = (1 - (ours * theirs).sum(axis=1) / norms).max()
    if not value <= limit:
        raise SpeechZooError(
            f"bench: {model}: {contender} disagrees with ours: {measure} is {value:.3g}, at most {limit:g} is allowed"
        )
    return {"measure": measure, "value": float(value), "limit": limit}


def interleave(workers: Mapping[str, Worker], clips: Path, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Replies of each worker to `repeats` runs; the workers take turns."""
    replies: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for _ in range(repeats):
        for name, worker in workers.items():
            replies[name].append(worker.run(clips))
    return replies


def compare(
    model: str, workers: Mapping[str, Worker], clips: Path, repeats: int, scratch: Path
) -> dict[str, dict[str, Any]]:
    """Median seconds, runs, peak memory and agreement of each contender, ours first in `workers`, on the same clips.

    Raises:
        SpeechZooError: outputs disagree.
    """
    agreed: dict[str, Any] = {}
    replies: dict[str, list[dict[str, Any]]] = {}
    for name, worker in workers.items():
        output = scratch / f"{name}.npy"
        if runs_once(name, model):
            worker.run(saved_speech(scratch, WARM_UP))
            replies[name] = [worker.run(clips, output)]
        else:
            worker.run(clips, output)  # warms up, too
        if name != "ours":
            agreed[name] = agreement(model, name, np.load(scratch / "ours.npy"), np.load(output))
    replies |= interleave({name: worker for name, worker in workers.items() if name not in replies}, clips, repeats)
    medians = {name: statistics.median(reply["seconds"] for reply in found) for name, found in replies.items()}
    peaks = {name: found[-1]["peak_bytes"] for name, found in replies.items()}
    figures = {
        name: (medians[name], medians[name] / medians["ours"], len(replies[name]), peaks[name], agreed.get(name))
        for name in workers
    }
    return {name: dict(zip(FIGURES, values, strict=True)) for name, values in figures.items()}


def measure_model(model: str, folder: Path, plan: Plan, scratch: Path, bar: Any) -> dict[str, list[dict[str, Any]]]:
    """The facts of each contender of a model, and a row for each case and contender; `folder` holds the weights."""
    contenders, rows = [], []
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        absent: dict[str, str] = {}
        for name in plan.names(model):
            try:
                workers[name] = worker = started(name, model, folder)
            except NoOracle as missing:
                absent[name] = str(missing)
                continue
            stack.callback(worker.close)
            contenders.append({"model": model, "contender": name, **worker.facts})
        for case in product(plan.seconds, plan.batches):
            why = {name: absent.get(name) or plan.skips(name, model, case) for name in plan.names(model)}
            chosen = {name: worker for name, worker in workers.items() if why[name] is None}
            found = compare(model, chosen, saved_speech(scratch, *case), plan.repeats, scratch)
            for name, reason in why.items():
                row = {"model": model, "audio_seconds": case[0], "batch": case[1], "contender": name, "why": reason}
                rows.append(row | found.get(name, dict.fromkeys(FIGURES)))
            bar.update()
    return {"contenders": contenders, "rows": rows}


def started(contender: str, model: str, folder: Path) -> Worker:
    """The worker of a contender, loaded.

    Raises:
        NoOracle: the contender cannot run here; says why.
    """
    check(contender, model)
    if contender == "onnxruntime":  # whose process must not hold torch
        command = [sys.executable, "-c", EXPORT, model, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not onnx_file(folder).is_file():
            raise SpeechZooError(f"bench: the export of {model} failed: {''.join(done.stderr.splitlines()[-1:])}")
    return Worker(contender, model, folder)


def measure_long(model: str, folder: Path, plan: Plan, scratch: Path) -> dict[str, Any]:
    """Our seconds of a short and of a long clip, a worker each; memory is the long one's."""
    found: dict[str, Any] = {"model": model}
    short, long = LONG
    for length, repeats in ((short, plan.repeats), (long, 1)):
        worker = Worker("ours", model, folder)
        try:
            worker.run(saved_speech(scratch, short))
            replies = interleave({"ours": worker}, saved_speech(scratch, length), repeats)["ours"]
        finally:
            worker.close()
        seconds = statistics.median(reply["seconds"] for reply in replies)
        found[f"{length:g}_s"] = {"seconds": seconds, "runs": repeats, "peak_bytes": replies[-1]["peak_bytes"]}
    found["relative_cost"] = found[f"{long:g}_s"]["seconds"] / found[f"{short:g}_s"]["seconds"] * short / long
    return found


def measure(plan: Plan, long: bool) -> dict[str, Any]:
    """Everything that `--json` prints.

    Raises:
        SpeechZooError: a contender fails or disagrees.
    """
    result: dict[str, Any] = {**bench_report.machine(), "weights": {}, "contenders": [], "rows": []}
    result |= {"layers": plan.layers} if "mms" in plan.models else {}
    cases = 1 if long else len(plan.seconds) * len(plan.batches)
    total = cases * len(plan.models)
    with tqdm(total=total, desc="bench", unit="case", disable=None, leave=False) as bar:
        for model in plan.models:
            bar.set_description(model)
            with tempfile.TemporaryDirectory() as directory:
                scratch = Path(directory)
                folder = scratch / model
                if model != "fbank":
                    bench_weights.write(model, folder, plan.layers)
                    result["weights"][model] = sum(file.stat().st_size for file in folder.iterdir())
                if long:
                    result["rows"].append(measure_long(model, folder, plan, scratch))
                    bar.update()
                    continue
                for key, found in measure_model(model, folder, plan, scratch, bar).items():
                    result[key] += found
                if model == "mms":
                    result["memory"] = memory(folder, scratch)
    return result


def run(plan: Plan, as_json: bool, plot: Path | None = None, long: bool = False) -> None:
    """Measure and print, as tables or as one JSON document; `plot` gets a bar chart."""
    if plot is not None:
        check_drawable(plot)
    result = measure(plan, long)
    if as_json:
        print(json.dumps(result))
    else:
        bench_report.show(result, long)
    if plot is not None:
        bench_chart.draw(result, plot)
