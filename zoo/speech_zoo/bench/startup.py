"""How long it takes from interpreter start to a loaded model, next to mlx-audio's own: `speech-zoo bench --start`."""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from typing import Any

from speech_zoo_core.errors import SpeechZooError

SWITCH = "SPEECH_ZOO_AUTOLOAD"
THEIRS = "import mlx_audio.lid.models.wav2vec2"
OURS = "import mlx_audio; mlx_audio.load('campplus-zh-en')"
NOTHING = "pass"
RUNS = {  # what the interpreter runs, with the plugin or without
    f"{THEIRS}, without the plugin": (THEIRS, "0"),
    OURS: (OURS, "1"),
    "nothing, without the plugin": (NOTHING, "0"),
    "nothing, with the plugin": (NOTHING, "1"),
}
IMPORT_TIME = re.compile(r"^import time: +(\d+) \| +(\d+) \| +speech_zoo_autoload$", re.MULTILINE)


def _process(code: str, switch: str, *options: str) -> tuple[float, str]:
    """Seconds that an interpreter takes for the code, and its stderr.

    Raises:
        SpeechZooError: the code fails.
    """
    command = [sys.executable, *options, "-c", code]
    start = time.perf_counter()
    done = subprocess.run(command, env=os.environ | {SWITCH: switch}, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SpeechZooError(f"bench: {code} failed: {''.join(done.stderr.strip().splitlines()[-1:])}")
    return seconds, done.stderr


def measure(repeats: int) -> dict[str, Any]:
    """Median seconds of each of RUNS, in turn, and the microseconds that the module of every start takes to import."""
    for code, switch in RUNS.values():  # bytecode and the disk's cache are there from now on
        _process(code, switch)
    times: dict[str, list[float]] = {name: [] for name in RUNS}
    imports = []
    for _ in range(repeats):
        for name, (code, switch) in RUNS.items():
            times[name].append(_process(code, switch)[0])
        found = IMPORT_TIME.search(_process(NOTHING, "1", "-X", "importtime")[1])
        if found is None:
            raise SpeechZooError("bench: the plugin does not start by itself here; install mlx-speech-zoo by pip or uv")
        imports.append(int(found[2]))
    medians = {name: statistics.median(found) for name, found in times.items()}
    theirs, ours = list(medians.values())[:2]
    return {"seconds": medians, "ratio": ours / theirs, "autoload_microseconds": statistics.median(imports)}


def run(repeats: int, as_json: bool) -> None:
    """Measure and print."""
    result = measure(repeats)
    if as_json:
        print(json.dumps(result))
        return
    for name, seconds in result["seconds"].items():
        print(f"{seconds:8.3f} s  {name}")
    print(f"{result['ratio']:8.3f}    ours / theirs, from interpreter start")
    print(f"{result['autoload_microseconds']:8.0f} us the import of speech_zoo_autoload at every start")
