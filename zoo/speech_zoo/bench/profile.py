"""`speech-zoo bench --profile`: where the time of one clip goes in MLX, next to what this machine can do."""

import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from rich.console import Console
from rich.table import Table

from ..models import load
from . import report as bench_report
from .run import speech
from .subjects import subject

WHOLE, NARROW = 2000, 32  # rows, and the width of the narrowest layers' products
ELEMENTS = 4_000_000
REST = "everything else"


def run(models: tuple[str, ...], seconds: float, layers: int, repeats: int, as_json: bool) -> None:
    """Measure and print what this machine can do and the profile of each model, as tables or as one JSON document."""
    result: dict[str, Any] = bench_report.machine() | {"ceilings": ceilings(repeats)}
    result["profiles"] = [profile(model, seconds, layers, repeats) for model in models]
    if as_json:
        print(json.dumps(result))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else bench_report.PLAIN_WIDTH)
    bench_report.show_machine(console, result)
    for name, value in result["ceilings"].items():
        console.print(f"{name}: {value:.3g}")
    for found in result["profiles"]:
        console.print()
        console.print(_table(found))


def profile(model: str, seconds: float, layers: int, repeats: int) -> dict[str, Any]:
    """Seconds in the convolutions and linear layers of a model, by their shape, medians of some runs.

    Each layer's input and output is evaluated around it, so the sum is a little more than the time without a profile.

    Args:
        model: as `subject` takes it, not `FBANK`.
        seconds: of audio.
        layers: that an example's transformer has at most.

    Returns:
        `seconds` of a clip without the profile, and `layers`: name, calls, gflop (of the plain sum of products, however
        it is computed) and seconds; the last is what is left: norms, activations, attention, pooling, features.
    """
    with tempfile.TemporaryDirectory() as directory:
        loaded = load(subject(model, layers, Path(directory)).ref, dtype="float32", engine="mlx")
    clip = speech(seconds, 1, loaded.sample_rate)[0]
    run = partial(loaded._outputs, [clip], "profile", loaded.sample_rate, None, vad=False)
    plain = _median(run, repeats)
    runs = []
    for _ in range(repeats):
        with _measured() as found:
            start = time.perf_counter()
            mx.eval(run())
            total = time.perf_counter() - start
        runs.append({name: list(figures) for name, figures in found.items()})
        runs[-1][REST] = [0, 0.0, total - sum(figures[2] for figures in found.values())]
    rows = [
        {"layer": name, "calls": calls, "gflop": gflop, "seconds": statistics.median(run[name][2] for run in runs)}
        for name, (calls, gflop, _) in runs[0].items()
    ]
    return {"model": model, "audio_seconds": len(clip) / loaded.sample_rate, "seconds": plain, "layers": rows}


def ceilings(repeats: int) -> dict[str, float]:
    """What MLX's default device does with single operations: GFLOP/s of products, ns for each element of the others."""
    square, wide, narrow = (
        mx.random.normal(shape) for shape in ((WHOLE, WHOLE), (ELEMENTS // NARROW, NARROW), (NARROW, NARROW))
    )
    x, rows, ones = mx.random.normal((ELEMENTS,)), mx.random.normal((ELEMENTS // 512, 512)), mx.ones((512,))
    mx.eval(square, wide, narrow, x, rows, ones)
    found = {}
    for a, b in ((square, square), (wide, narrow)):
        seconds = _median(partial(mx.matmul, a, b), repeats)
        name = f"product of {a.shape[0]} x {a.shape[1]} and {b.shape[0]} x {b.shape[1]}, GFLOP/s"
        found[name] = 2 * a.size * b.shape[1] / seconds / 1e9
    for name, operation in (
        ("sum of two arrays", partial(mx.add, x, x)),
        ("copy that is not contiguous", partial(mx.contiguous, rows[:, ::-1])),
        ("layer norm", partial(mx.fast.layer_norm, rows, ones, ones, 1e-5)),
        ("exponential", partial(mx.exp, x)),
        ("erf", partial(mx.erf, x)),
    ):
        found[f"{name}, ns an element"] = _median(operation, repeats) / ELEMENTS * 1e9
    return found


def _table(found: dict[str, Any]) -> Table:
    title = f"{found['model']}, {found['audio_seconds']:g} s of audio: {found['seconds']:.4f} s"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("layer", no_wrap=True)
    for name in ("calls", "GFLOP", "ms", "GFLOP/s", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    total = sum(row["seconds"] for row in found["layers"])
    for row in sorted(found["layers"], key=lambda row: -row["seconds"]):
        gflop, seconds = row["gflop"], row["seconds"]
        rate = (str(row["calls"]), f"{gflop:.2f}", f"{gflop / seconds:.0f}") if gflop else ("", "", "")
        table.add_row(row["layer"], *rate[:2], f"{seconds * 1e3:.1f}", rate[2], f"{seconds / total:.0%}")
    return table


@contextmanager
def _measured() -> Iterator[dict[str, list[float]]]:
    """Within it every convolution and linear layer is timed: calls, GFLOP and seconds by name."""
    found: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(self: Any, x: mx.array) -> mx.array:
            mx.eval(x)
            start = time.perf_counter()
            y: mx.array = call(self, x)
            mx.eval(y)
            figures = found[_name(self)]
            figures[2] += time.perf_counter() - start
            figures[1] += 2 * y.size * np.prod(self.weight.shape[1:]) / 1e9
            figures[0] += 1
            return y

        return wrapper

    calls = {kind: kind.__call__ for kind in (nn.Linear, nn.Conv1d, nn.Conv2d)}
    for kind, call in calls.items():
        kind.__call__ = timed(call)  # type: ignore[method-assign]
    try:
        yield found
    finally:
        for kind, call in calls.items():
            kind.__call__ = call  # type: ignore[method-assign]


def _name(layer: Any) -> str:
    out, *taps, width = layer.weight.shape
    size = f" {'x'.join(map(str, taps))}" if taps else ""
    groups, stride, dilation = (getattr(layer, name, 1) for name in ("groups", "stride", "dilation"))
    more = f", {groups} groups" if groups != 1 else ""
    more += f", stride {stride}" if stride not in (1, (1, 1)) else ""
    more += f", dilation {dilation}" if dilation not in (1, (1, 1)) else ""
    return f"{type(layer).__name__}{size}, {width * groups} to {out}{more}"


def _median(make: Callable[[], Any], repeats: int) -> float:
    """Seconds until what `make` gives is computed, the first run aside."""
    mx.eval(make())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        mx.eval(make())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
