"""`speech-zoo voices` killed, run twice at once, and given stores that are damaged or from the future."""

import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from speech_zoo.voices.database import Checkpoint, StoreFile
from speech_zoo.voices.rows import Clip, add_clip

Run = Callable[..., Any]

COMMAND = Path(sys.executable).with_name("speech-zoo")


# Forks processes that write a store with vectors from nowhere, and kills each at a random moment. No MLX is imported.
KILLED = """
import json, os, random, signal, sys, time, types
from pathlib import Path
import numpy as np
identities = {"identity": lambda model: "a" * 64, "identity_before": lambda model: "b" * 64}
sys.modules["speech_zoo_core.identity"] = types.SimpleNamespace(**identities)
from speech_zoo.voices.store import VoiceStore
from speech_zoo.voices.database import Checkpoint, StoreFile
from speech_zoo.voices.rows import recordings
from speech_zoo.voices.index import update

class Model:
    config = types.SimpleNamespace(embed_dim=192, model_type="stand-in")
    def voice(self, audio, sample_rate=None, **how):
        return types.SimpleNamespace(vector=np.ones(192, np.float32), seconds=1.0)

VoiceStore._own_threshold = (None, None)
CHECKPOINT = Checkpoint("a" * 64, "stand-in", 192)
folder, trials = Path(sys.argv[1]), int(sys.argv[2])
(folder / "files").mkdir()
for i in range(200):
    (folder / "files" / f"{i}.wav").write_text(str(i))

def enroll(path, trial, told):
    store = VoiceStore(path, Model())
    told("started")
    for i in range(1000):
        store.enroll(f"{trial} {i}", folder / "files" / "0.wav")
        told(f"{trial} {i}")

def index(path, trial, told):
    def embed(paths):
        told("started")
        for path in paths:
            told(f"again {path}")
            yield path, (np.array([[0, 3.0]] * 40).tobytes(), np.ones((40, 192), "<f4").tobytes())
            told(path)  # update asks for the next one when this one is committed
    update(StoreFile(path), CHECKPOINT, folder / "files", embed)

def held(path, kind):
    if kind is enroll:
        return set(VoiceStore(path, Model()).names())
    with StoreFile(path).reading() as db:
        return {item.path for item in recordings(StoreFile(path), db)}

def killed(kind, path, trial):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            kind(path, trial, lambda line: os.write(write, line.encode() + b"\\n"))
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as lines:
        told = [lines.readline() for _ in range(random.choice([0, 1, random.randrange(20)]))]  # 0, 1: a store is made
        time.sleep(random.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        told += lines
    return {line.strip() for line in told if line.endswith("\\n")} - {"started"}

acknowledged, kills, problems = 0, 0, []
for kind in (enroll, index):
    number, before = 0, set()
    for trial in range(trials):
        path = folder / f"{kind.__name__} {number}.sqlite"
        said = killed(kind, path, trial)
        done = {line for line in said if not line.startswith("again ")}
        kills += 1
        try:
            after = held(path, kind)
        except Exception as error:
            if "there is no store" not in str(error) or done or before:
                problems.append(repr(error))
            after = set()
        acknowledged += len(done)
        if lost := (before | done) - after:
            problems.append(f"lost: {lost}")
        if len(after - before - done) > 1:
            problems.append(f"never told: {after - before - done}")
        if twice := {line[6:] for line in said if line.startswith("again ")} & before:
            problems.append(f"embedded again: {twice}")
        before = after
        if trial % 5 == 4 or len(after) == 200:
            number, before = number + 1, set()
print(json.dumps({"kills": kills, "acknowledged": acknowledged, "problems": problems}))
"""


def test_nothing_acknowledged_is_lost_to_kill_9(python: Run, tmp_path: Path) -> None:
    report = python(KILLED, tmp_path, 40).succeeded().json
    assert report["problems"] == []
    assert report["kills"] == 80 and report["acknowledged"] > 100


def started(home: Path, environment: dict[str, str], *arguments: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(argument) for argument in (COMMAND, "voices", *arguments)],
        env=environment | {"SPEECH_ZOO_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def test_the_command_is_killed_while_it_enrolls(
    voices_cli: Run, environment: dict[str, str], home: Path, voices: list[Path], converted: Path
) -> None:
    told = {}
    for trial in range(3):
        process = started(home, environment, "enroll", f"{trial}", *voices, "--model", converted)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(random.randrange(1, 4))]
        time.sleep(random.uniform(0, 0.03))
        process.kill()
        lines += process.stdout.readlines()
        process.wait()
        told[f"{trial}"] = sum(line.endswith(" enrolled\n") for line in lines)
    held = {row["name"]: row["clips"] for row in voices_cli("list", "--json").succeeded().json}
    assert held.keys() == told.keys()
    assert all(0 < told[name] <= held[name] <= told[name] + 1 for name in told)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_index_goes_on_after_a_kill(
    voices_cli: Run, environment: dict[str, str], home: Path, clip: Path, converted: Path, tmp_path: Path, jobs: int
) -> None:
    folder, index = tmp_path / "folder", tmp_path / "a.sqlite"
    folder.mkdir()
    for i in range(100):
        (folder / f"{i}.wav").symlink_to(clip)
    process = started(home, environment, "index", folder, "-o", index, "--model", converted, "--jobs", jobs)

    def indexed() -> int:
        if not index.exists():
            return 0
        with StoreFile(index).writing(create=False) as db:
            return int(db.execute("SELECT count(*) FROM file").fetchone()[0])

    while indexed() < 3 and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert all_ended(process.pid), "a worker outlived the command"
    done = indexed()
    assert 3 <= done < 100
    result = voices_cli("index", folder, "-o", index, "--model", converted, "--json").succeeded().json
    assert (result["indexed"], result["unchanged"], result["files"]) == (100 - done, done, 100)


def all_ended(group: int) -> bool:
    """Whether no process of the group is left, after ten seconds at most; kills it otherwise."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    return False


def test_three_processes_enroll_at_once(
    voices_cli: Run, environment: dict[str, str], home: Path, voices: list[Path], converted: Path
) -> None:
    names = ["Ann", "Bob", "Cid"]
    processes = [started(home, environment, "enroll", name, *voices, "--model", converted) for name in names]
    assert [process.communicate(timeout=300)[0].count(" enrolled\n") for process in processes] == [9, 9, 9]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert voices_cli("list", "--json").succeeded().json == [{"name": name, "clips": 9} for name in names]


TOGETHER = """
import os, sys
from pathlib import Path
from speech_zoo.voices.database import Checkpoint, StoreFile
from speech_zoo.voices.rows import Clip, add_clip, clips

for round in range(20):
    path = Path(sys.argv[1]) / f"{round}.sqlite"
    read, write = os.pipe()
    children = []
    for child in range(6):
        if not (pid := os.fork()):
            os.close(write)
            os.read(read, 1)  # until all are there
            status = 1
            try:
                with StoreFile(path).writing(Checkpoint("a" * 64, "m", 1)) as db:
                    add_clip(db, Clip(str(child), "1", "x", bytes(4)))
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    os.close(write)
    os.close(read)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 6
    with StoreFile(path).reading() as db:
        assert {clip.name for clip in clips(StoreFile(path), db)} == set("012345")
"""


def test_many_processes_make_one_store(python: Run, tmp_path: Path) -> None:
    python(TOGETHER, tmp_path).succeeded()


WORKER_KILLED = """
import os, signal, sys, threading, time
from pathlib import Path
import speech_zoo

def kill_a_worker():
    while True:
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                time.sleep(float(sys.argv[3]))
                return os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.01)

if __name__ == "__main__":
    store = speech_zoo.VoiceStore("a.sqlite", sys.argv[2])
    store.checkpoint
    threading.Thread(target=kill_a_worker, daemon=True).start()
    try:
        store.index(sys.argv[1], jobs=2)
    except speech_zoo.SpeechZooError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
@pytest.mark.parametrize("seconds", [0, 0.05, 0.4])  # at its start, while it imports, while it loads or works
def test_a_worker_that_is_killed_is_told(
    run_process: Run, voices: list[Path], converted: Path, tmp_path: Path, seconds: float
) -> None:
    (tmp_path / "script.py").write_text(WORKER_KILLED)
    out = run_process([sys.executable, "script.py", voices[0].parent, converted, seconds], tmp_path).succeeded().out
    assert "was killed, perhaps for want of memory: run it again with fewer jobs" in out


def test_a_corrupt_store_and_a_newer_one(voices_cli: Run, clip: Path, home: Path) -> None:
    home.mkdir()
    store = home / "voices.sqlite"
    for i in range(40):
        with StoreFile(store).writing(Checkpoint("a" * 64, "m", 192)) as db:
            add_clip(db, Clip("Ann", str(i), "a.wav", bytes(4 * 192)))
    sound = store.read_bytes()
    for damaged in (sound[: len(sound) // 2], sound[:20000] + os.urandom(8192) + sound[28192:]):
        store.write_bytes(damaged)
        message = voices_cli("list").failed()
        assert re.search(r"voices.sqlite is damaged \(.*\): move it away, then import an export", message), message
        assert store.read_bytes() == damaged
    assert "is damaged" in voices_cli("enroll", "Bob", clip).failed()
    newer = bytearray(sound)
    newer[60:64] = struct.pack(">I", 99)  # user_version
    store.write_bytes(newer)
    assert "was written by a newer speech-zoo (store version 99, this one reads 2)" in voices_cli("list").failed()
    store.write_bytes(sound)
    assert voices_cli("list", "--json").succeeded().json == [{"name": "Ann", "clips": 40}]
