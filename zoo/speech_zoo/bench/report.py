"""What `speech-zoo bench` says of the machine, and its tables."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .contender import mlx_device

PACKAGES = (
    "mlx-speech-zoo",
    "mlx",
    "mlx-audio",
    "numpy",
    "torch",
    "transformers",
    "speechbrain",
    "wespeaker-unofficial",
    "speakerlab",
    "onnxruntime",
    "openvino",
    "coremltools",
    "kaldi-native-fbank",
)
PLAIN_WIDTH = 100  # columns where there is no terminal


def machine() -> dict[str, Any]:
    """The machine and the packages; None for a package that is not installed."""
    return {
        "machine": {
            "os": platform.platform(),
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "device": mlx_device(),
        },
        "versions": {package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    """The processor's name."""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.machine()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor()


def show_machine(console: Console, result: dict[str, Any]) -> None:
    """Print what `machine` found."""
    facts = result["machine"]
    console.print(f"{facts['cpu']}, {facts['cores']} cores, {facts['os']}, Python {facts['python']}")
    console.print(f"MLX on {facts['device']}")
    console.print(", ".join(f"{name} {found or '-'}" for name, found in result["versions"].items()))


def show(result: dict[str, Any], long: bool) -> None:
    """Print what `bench.measure` found."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    show_machine(console, result)
    console.print(", ".join(_weights(model, result) for model in result["weights"]))
    if long:
        console.print(_long_table(result["rows"]))
        return
    for contender in result["contenders"]:
        console.print(_described(contender), soft_wrap=True)
    console.print()
    console.print(_table(result))
    for model, name, reason in dict.fromkeys(
        (row["model"], row["contender"], row["why"]) for row in result["rows"] if row["why"]
    ):
        console.print(f"- {model}, {name}: {reason}", soft_wrap=True)
    console.print("Ratio: theirs / ours in this run; above 1, ours is faster. Peak: resident memory of the process.")
    for row in result["memory"]:
        console.print(
            f"{row['model']}, {row['job']}: peak {row['peak_bytes'] / 1e9:.2f} GB resident, {row['seconds']:.1f} s"
        )


def _weights(model: str, result: dict[str, Any]) -> str:
    """A model, its size, and whether it is the real one."""
    kept, total = result["layers"].get(model, (0, 0))
    notes = ["seeded weights"] if model in result["seeded"] else []
    notes += [f"{kept} of its {total} layers"] if kept < total else []
    return f"{model}: {result['weights'][model] / 1e6:.0f} MB" + (f" ({', '.join(notes)})" if notes else "")


def _described(contender: dict[str, Any]) -> str:
    """A contender, what it runs on and with how many threads."""
    threads = contender["threads"]
    counted = None if threads is None else f"{threads} thread{'s' if threads > 1 else ''}"
    parts = (contender["by"], contender["device"], contender["blas"], counted)
    return f"{contender['model']}, {contender['contender']}: {', '.join(part for part in parts if part)}"


def _table(result: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for name in ("model", "audio", "contender"):
        table.add_column(name, no_wrap=True)
    for name in ("median s", "ratio", "runs", "start s", "load s", "peak MB"):
        table.add_column(name, justify="right", no_wrap=True)
    loads = {(each["model"], each["contender"]): each for each in result["contenders"]}
    before = None
    for row in result["rows"]:
        case = (row["model"], row["audio_seconds"], row["batch"])
        if before not in (None, case):
            table.add_row()
        before = case
        audio = f"{row['audio_seconds']:g} s" + (f" x {row['batch']}" if row["batch"] > 1 else "")
        if row["seconds"] is None:
            table.add_row(row["model"], audio, row["contender"], *"------")
            continue
        load = loads[row["model"], row["contender"]]
        times = (f"{load[name]:.2f}" for name in ("start_seconds", "load_seconds"))
        figures = (f"{row['seconds']:.4f}", f"{row['ratio']:.2f}", str(row["runs"]), *times, _megabytes(row))
        table.add_row(row["model"], audio, row["contender"], *figures)
    return table


def _long_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("model")
    for name in ("10 s: median s", "runs", "600 s: s", "runs", "relative cost", "peak MB of 600 s"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        figures = [x for key in ("10_s", "600_s") for x in (f"{row[key]['seconds']:.4f}", str(row[key]["runs"]))]
        table.add_row(row["model"], *figures, f"{row['relative_cost']:.2f}", _megabytes(row["600_s"]))
    return table


def _megabytes(row: dict[str, Any]) -> str:
    return "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}"
