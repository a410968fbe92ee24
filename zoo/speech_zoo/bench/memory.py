"""Peak resident memory: of this process, and of converting and loading a large checkpoint."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from speech_zoo_core.errors import SpeechZooError

CHILD = """
import json, time
start = time.perf_counter()
import speech_zoo
{work}
seconds = time.perf_counter() - start
from speech_zoo.bench.memory import peak_bytes
print(json.dumps(dict(seconds=seconds, peak_bytes=peak_bytes())))
"""


def peak_bytes() -> int | None:
    """The most resident memory that this process has had; None on Windows."""
    if sys.platform == "linux":  # whose ru_maxrss starts at the peak of the process that started this one
        with open("/proc/self/status", encoding="utf-8") as status:  # noqa: PTH123
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory(ref: str, scratch: Path) -> list[dict[str, Any]]:
    """Peak resident memory of converting what `load` takes and of loading that, each in a process; needs a folder."""
    half, eight = scratch / "float16", scratch / "8-bit"
    jobs = {
        "convert to float16": f"speech_zoo.convert({ref!r}, {str(half)!r}, dtype='float16')",
        "convert to 8-bit": f"speech_zoo.convert({ref!r}, {str(eight)!r}, bits=8)",
        "load 8-bit": f"speech_zoo.load({str(eight)!r})",
    }
    return [{"job": job, **measured(job, work)} for job, work in jobs.items()]


def measured(job: str, work: str) -> dict[str, Any]:
    """Seconds and peak resident bytes of a process that imports speech_zoo and does the work.

    Raises:
        SpeechZooError: it failed.
    """
    done = subprocess.run([sys.executable, "-c", CHILD.format(work=work)], capture_output=True, text=True)  # noqa: PLW1510
    if done.returncode:
        raise SpeechZooError(f"bench: {job} failed: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
