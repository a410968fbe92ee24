"""Everything that a GPU is asked once: is it right, is it fast, does it stay whole. `python tests/gpu/measure.py`

Each section is a process with a time limit; what it found until then counts. Prints a line for each finding as it comes
and a table last, and writes them as JSON. Needs the package, and the originals for what is compared with PyTorch:
`nox -s gpu` installs both. For CUDA and Metal; `--cpu` tries every section without a GPU, on next to nothing.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

LIMITS = {  # seconds; what comes first is what matters most. On CUDA, MLX compiles kernels first, seconds for each.
    "device": 90,
    "parity": 300,
    "speed": 300,
    "exception": 30,
    "threads": 30,
    "lengths": 100,
    "corpus": 60,
    "diarize": 60,
    "check": 160,
}
MOST = 1000  # seconds, all sections together


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what the models do on this machine's GPU.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"default: all of {', '.join(LIMITS)}")
    parser.add_argument("--models", type=lambda text: text.split(","), default=[], help="families, as in mms,ecapa")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="default: gpu.json")
    parser.add_argument("--cpu", action="store_true", help="try every section on a CPU, on next to nothing")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the section that this process is
    given = parser.parse_args()
    if unknown := set(given.sections) - LIMITS.keys():
        parser.error(f"the sections are {', '.join(LIMITS)}, not {', '.join(sorted(unknown))}")
    return given


def told(row: dict[str, Any]) -> str:
    """A finding in a line."""
    verdict = {True: "ok", False: "FAILED", None: ""}[row["passed"]]
    figures = ", ".join(f"{name} {value}" for name, value in row["figures"].items())
    return f"{row['section']:<10} {row['case']:<28} {verdict:<7} {figures}"


def section(name: str, seconds: float | None, given: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """The findings of a section, each printed as it comes; where it ended too soon, one says why."""
    command = [sys.executable, __file__, "--only", name, *(["--cpu"] if given.cpu else [])]
    command += ["--models", ",".join(given.models)] if given.models else []
    env = os.environ | {"TMPDIR": str(scratch), "SPEECH_ZOO_CACHE": str(scratch / "graphs")}
    env |= {"TORCHINDUCTOR_COMPILE_THREADS": "2"}  # of each of many processes
    if name == "lengths":  # measures what compiling takes
        env |= {"MLX_PTX_CACHE_DIR": str(scratch / "kernels")}
    rows: list[dict[str, Any]] = []
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        stop = threading.Timer(seconds or 0, os.killpg, (process.pid, signal.SIGKILL))
        if seconds is not None:
            stop.start()
        assert process.stdout is not None
        for line in process.stdout:
            rows.append({"section": name, **json.loads(line)})
            print(told(rows[-1]), flush=True)
        status = process.wait()
        stop.cancel()
        with suppress(ProcessLookupError):  # what it started and did not end
            os.killpg(process.pid, signal.SIGKILL)
        log.seek(0)
        said = (log.read().strip().splitlines() or ["no word"])[-1]
    took = time.perf_counter() - begin
    if status:
        late = seconds is not None and took >= seconds
        why = f"stopped after {seconds:.0f} s" if late else said[:300]
        rows.append({"section": name, "case": "did not end", "figures": {"why": why}, "passed": False})
        print(told(rows[-1]), flush=True)
    return [*rows, {"section": name, "case": "took", "figures": {"s": f"{took:.0f}"}, "passed": None}]


def main() -> int:
    given = arguments()
    from speech_zoo.bench.report import machine  # before MLX is imported

    if given.only:
        sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
        import sections  # beside this file

        sections.run(given.only, given.models, given.cpu)
    facts = machine()
    if facts["machine"]["device"] == "CPU" and not given.cpu:
        print("MLX sees no GPU here; --cpu tries every section on the CPU", file=sys.stderr)
        return 1
    begin, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.sections or LIMITS:
            left = max(1.0, MOST - (time.perf_counter() - begin))
            rows += section(name, None if given.cpu else min(LIMITS[name], left), given, Path(scratch))
            given.output.write_text(json.dumps({**facts, "findings": rows}, indent=1), encoding="utf-8")
    versions = ", ".join(f"{name} {found}" for name, found in facts["versions"].items() if found)
    print(f"\n{facts['machine']['device']}; {facts['machine']['cpu']}; {facts['machine']['os']}\n{versions}")
    print("\n".join(told(row) for row in rows))
    failed = sum(row["passed"] is False for row in rows)
    print(f"{failed} of {len(rows)} findings failed; {time.perf_counter() - begin:.0f} s; {given.output}")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
