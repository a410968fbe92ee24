"""The processes of `speech-zoo bench`, seen from the one that starts them; `worker.py` is what runs in them."""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from speech_zoo_core.device import on_cpu
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.oracle import NoOracle

KALDI = "kaldi-native-fbank"
PAUSE = 0.2  # seconds; idle threads of some contenders spin for up to 0.1 after a run
WORKER = "from speech_zoo.bench.worker import main; main()"


class Worker:
    """A process with one contender of one model, or with another job of `worker.JOBS`.

    Attributes:
        facts: what it said of itself, and the seconds from its start until it was ready.

    Raises:
        NoOracle: the contender cannot run here; says why.
        SpeechZooError: it failed.
    """

    def __init__(self, job: str, name: str, model: str, scratch: Path, **options: Any) -> None:
        """`name` is for errors; the others are those of `worker.py`."""
        self.name = f"{job} of {name}"
        request = json.dumps({"job": job, "model": model, "scratch": str(scratch), "gpu": not on_cpu(), **options})
        self._log = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, request],
            # Or mlx-audio would get our models.
            env=os.environ | ({"SPEECH_ZOO_AUTOLOAD": "0"} if job == "stock" else {}),
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

    def run(self, clips: Path, output: Path | None = None, network: bool = False) -> dict[str, Any]:
        """Seconds of one run and peak resident bytes so far; clips and outputs are `.npy` files.

        With `network`, the features are there when the clock starts, where the contender can be had in parts.
        """
        time.sleep(PAUSE)
        assert self._process.stdin is not None
        request = {"clips": str(clips), "output": None if output is None else str(output), "network": network}
        with suppress(BrokenPipeError):  # then there is no reply, either
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            log = self._log.read().strip().splitlines()
            raise SpeechZooError(f"bench: {self.name} failed: {log[-1] if log else 'it ended without a word'}")
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
