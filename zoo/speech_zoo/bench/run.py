"""`speech-zoo bench`: our models next to the originals and to stock MLX, on the same voices and the same weights.

Each contender is a process (`worker.py`); they are asked in turn, one timed run each.
"""

import json
import statistics
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.audio import load_audio
from speech_zoo_core.device import on_cpu
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.oracle import NoOracle
from speech_zoo_core.progress import progress

from ..plots import bench as bench_chart
from ..plots.figure import check_drawable
from ..settings import VOICES
from . import report as bench_report
from .contender import FBANK, RATE, Array
from .memory import memory
from .process import KALDI, Worker
from .subjects import Subject, examples, subject
from .worker import onnx_file

CONTENDERS = ("ours", "mlx", "coreml", "stock", "torch", "onnxruntime", "openvino")
OURS, EXPORTED = ("ours", "mlx", "coreml"), ("onnxruntime", "openvino")  # our model; the original's own export
FIGURES = ("seconds", "ratio", "runs", "peak_bytes", "agreement")
LONG = (10.0, 600.0)  # seconds of audio
LARGE = 100e6  # bytes of weights, from which the memory of converting is measured, too
WARM_UP = 0.5  # seconds of audio for what is run only once


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        models: names that `subjects.known` knows.
        contenders: of CONTENDERS; ours is always among them.
        seconds: lengths of clips.
        batches: clips of one length at a time.
        repeats: runs of each contender in each case.
        layers: that the transformer of an example has at most.
    """

    models: tuple[str, ...]
    contenders: tuple[str, ...] = CONTENDERS
    seconds: tuple[float, ...] = (10.0,)
    batches: tuple[int, ...] = (1,)
    repeats: int = 7
    layers: int = 4

    def names(self, model: Subject) -> list[str]:
        """The contenders of a model, ours first; on a GPU in float16, too."""
        names = ["ours", *(name for name in self.contenders if name != "ours")]
        if model.task == FBANK:
            return [KALDI if name == "torch" else name for name in names]
        if on_cpu():
            return names
        also = {
            "ours": ["ours float16", "ours float16 eager"],
            "torch": ["torch float16 eager", "torch float16 compiled"],
        }
        return [each for name in names for each in (name, *also.get(name, ()))]

    def skips(self, contender: str, model: Subject, case: tuple[float, int]) -> str | None:
        """Why a contender does not run a case of (seconds, clips); None if it does."""
        if runs_once(contender, model) and case != (self.seconds[0], 1):
            return "so slow that it runs the first length only, one clip"
        if case[0] > model.single_pass and not contender.startswith(OURS):
            return f"ours cuts clips above {model.single_pass:g} s into windows, the others do not"
        return None


def names() -> tuple[str, ...]:
    """What is measured where nobody names a model."""
    return (FBANK, *examples())


def runs_once(contender: str, model: Subject) -> bool:
    """With a network, MLX takes up to a minute for a clip on a CPU."""
    return contender in ("stock", "mlx") and model.task != FBANK and on_cpu()


def speech(seconds: float, batch: int, rate: int = RATE) -> Array:
    """Clips (B, N) of the demo's voices, one after the other and over again; each clip starts with another."""
    voices = np.concatenate([np.array(load_audio(file, rate)) for file in sorted(VOICES.glob("*.wav"))])
    return np.stack([np.resize(np.roll(voices, -i * voices.size // batch), int(seconds * rate)) for i in range(batch)])


def saved_speech(scratch: Path, model: Subject, seconds: float, batch: int = 1) -> Path:
    path = scratch / f"clips-{seconds:g}-{batch}.npy"
    if not path.exists():
        np.save(path, speech(seconds, batch, model.rate))
    return path


def agreement(model: Subject, contender: str, ours: Array, theirs: Array) -> dict[str, Any]:
    """How far a contender's outputs (B, …) are from ours: the measure, its value and its limit.

    Raises:
        SpeechZooError: they are further than the limit.
    """
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    half = "float16" in contender or contender == "coreml"
    if ours.shape != theirs.shape:
        what = f"the output of {contender} has shape {theirs.shape}, ours {ours.shape}"
        raise SpeechZooError(f"bench: {model.name}: {what}")
    if model.task == FBANK:
        measure, value, limit = "largest difference", np.abs(ours - theirs).max(), 1e-3
    elif model.task == "speaker-embedding":
        measure, limit = "1 - cosine", 1e-4 if half else 1e-6
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        value = (1 - (ours * theirs).sum(axis=1) / norms).max()
    elif half:
        measure, value, limit = "outputs with another best class", (ours.argmax(-1) != theirs.argmax(-1)).mean(), 0.01
    else:  # logits, or their log-probabilities, which differ from them by one number for all classes
        measure, limit = "largest difference relative to the largest output", 1e-4
        aligned = [x - x.max(axis=-1, keepdims=True) for x in (ours, theirs)]
        value = np.abs(aligned[0] - aligned[1]).max() / np.abs(ours).max()
    if not value <= limit:
        raise SpeechZooError(
            f"bench: {model.name}: {contender} disagrees with ours: {measure} is {value:.3g}, at most {limit:g} is "
            "allowed"
        )
    return {"measure": measure, "value": float(value), "limit": limit}


def interleave(
    workers: Mapping[str, Worker], clips: Path, repeats: int, network: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Replies of each worker to `repeats` runs, of its network alone if so; the workers take turns."""
    replies: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for _ in range(repeats):
        for name, worker in workers.items():
            replies[name].append(worker.run(clips, network=network))
    return replies


def compare(
    model: Subject, workers: Mapping[str, Worker], clips: Path, repeats: int, scratch: Path
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
            worker.run(saved_speech(scratch, model, WARM_UP))
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


def measure_model(model: Subject, plan: Plan, scratch: Path, bar: Any) -> dict[str, list[dict[str, Any]]]:
    """The facts of each contender of a model, and a row for each case and contender."""
    contenders, rows = [], []
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        absent: dict[str, str] = {}
        for name in plan.names(model):
            try:
                workers[name] = worker = started(name, model, scratch)
            except NoOracle as missing:
                absent[name] = str(missing)
                continue
            stack.callback(worker.close)
            contenders.append({"model": model.name, "contender": name, **worker.facts})
        for case in product(plan.seconds, plan.batches):
            why = {name: absent.get(name) or plan.skips(name, model, case) for name in plan.names(model)}
            chosen = {name: worker for name, worker in workers.items() if why[name] is None}
            found = compare(model, chosen, saved_speech(scratch, model, *case), plan.repeats, scratch)
            for name, reason in why.items():
                row = {"model": model.name, "audio_seconds": case[0], "batch": case[1]}
                row |= {"contender": name, "why": reason}
                rows.append(row | found.get(name, dict.fromkeys(FIGURES)))
            bar.update()
    return {"contenders": contenders, "rows": rows}


def started(contender: str, model: Subject, scratch: Path) -> Worker:
    """The worker of a contender, loaded.

    Raises:
        NoOracle: the contender cannot run here; says why.
    """
    if contender in EXPORTED and model.task == FBANK:
        raise NoOracle("there is no network to export")
    if model.alone is not None and not contender.startswith((*OURS, "stock")):
        raise NoOracle(model.alone)
    if contender in EXPORTED and not onnx_file(scratch).exists():  # by a process apart, as theirs must not hold torch
        Worker("export", model.name, model.ref, scratch).close()
    return Worker(contender, model.name, model.ref, scratch)


def measure_long(model: Subject, plan: Plan, scratch: Path) -> dict[str, Any]:
    """Our seconds of a short and of a long clip, a worker each; memory is the long one's."""
    found: dict[str, Any] = {"model": model.name}
    short, long = LONG
    for length, repeats in ((short, plan.repeats), (long, 1)):
        worker = started("ours", model, scratch)
        try:
            worker.run(saved_speech(scratch, model, short))
            replies = interleave({"ours": worker}, saved_speech(scratch, model, length), repeats)["ours"]
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
    result: dict[str, Any] = {**bench_report.machine(), "weights": {}, "seeded": [], "layers": {}}
    result |= {"contenders": [], "rows": [], "memory": []}
    cases = 1 if long else len(plan.seconds) * len(plan.batches)
    with progress(total=cases * len(plan.models), desc="bench", unit="case") as bar:
        for name in plan.models:
            bar.set_description(name)
            with tempfile.TemporaryDirectory() as directory:
                scratch = Path(directory)
                model = subject(name, plan.layers, scratch)
                if model.task != FBANK:
                    result["weights"][name] = model.size
                    result["seeded"] += [name] if model.seeded else []
                    result["layers"] |= {name: model.layers} if model.layers else {}
                if long:
                    result["rows"].append(measure_long(model, plan, scratch))
                    bar.update()
                    continue
                for key, found in measure_model(model, plan, scratch, bar).items():
                    result[key] += found
                if model.size > LARGE:
                    result["memory"] += [{"model": name, **row} for row in memory(model.ref, scratch)]
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
