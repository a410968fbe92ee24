"""Corpora: kill -9 at any moment, and mlx.launch on loopback."""

import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speech_zoo
from corpora import Rows, check, rows

Run = Callable[..., Any]

COMMAND = Path(sys.executable).with_name("speech-zoo")
LAUNCH = (sys.executable, "-c", "from mlx._distributed_utils.launch import main; main()")  # mlx.launch
# Small parts, so that a kill finds some written and some not.
CHILD = """
import os, signal, sys
from pathlib import Path

import speech_zoo
from speech_zoo.corpus import parquet

parquet.PART_ROWS = 3
moment = int(os.environ.get("DIE_AT", -1))  # counted in events


def die() -> None:
    global moment
    moment -= 1
    if moment == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def deadly(function, torn):
    def call(*arguments, **options):
        die()
        result = function(*arguments, **options)
        if torn and moment == 1:  # half a file
            os.truncate(arguments[1], os.path.getsize(arguments[1]) // 2)
        die()
        return result
    return call


if moment > 0:
    os.fsync = deadly(os.fsync, False)
    Path.replace = deadly(Path.replace, False)
    parquet.pq.write_table = deadly(parquet.pq.write_table, True)
shard = tuple(map(int, sys.argv[4].split("/"))) if sys.argv[4:] else None
print(speech_zoo.embed_manifest(*sys.argv[1:4], shard))
"""


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("child") / "child.py"
    path.write_text(CHILD)
    return path


def start(arguments: list[Any], environment: dict[str, str], **more: str) -> "subprocess.Popen[bytes]":
    arguments = [str(argument) for argument in arguments]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(arguments, env=environment | {"OMP_NUM_THREADS": "1"} | more, **quiet)  # type: ignore[call-overload]


def test_killed_at_every_write(
    tmp_path: Path, environment: dict[str, str], child: Path, corpus: Path, converted: Path, expected: Rows
) -> None:
    """A run that is killed before or after its n-th write, table, synchronisation or renaming, for each n."""
    arguments = [sys.executable, child, corpus, tmp_path / "out", converted]
    statuses = [start(arguments, environment, DIE_AT=str(moment)).wait(60) for moment in range(1, 15)]
    assert set(statuses) == {-signal.SIGKILL}
    assert start(arguments, environment).wait(60) == 0
    check(tmp_path / "out", expected)


def test_killed_at_random(
    tmp_path: Path, environment: dict[str, str], child: Path, corpus: Path, converted: Path, expected: Rows
) -> None:
    out = tmp_path / "out"
    arguments = [sys.executable, child, corpus, out, converted]
    chance = random.Random(8)
    killed, sizes = 0, []
    for _ in range(12):
        process = start(arguments, environment)
        waited = time.monotonic() + 60
        while not locked(out) and process.poll() is None and time.monotonic() < waited:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.04))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        sizes.append(len(rows(out)))
    assert sizes == sorted(sizes)  # nothing is lost
    assert killed >= 4
    assert start(arguments, environment).wait(60) == 0
    check(out, expected)


def test_shards_killed_at_random(
    tmp_path: Path, environment: dict[str, str], child: Path, corpus: Path, converted: Path, expected: Rows
) -> None:
    """All shards of a run at once, and each time another number of them."""
    out = tmp_path / "out"
    chance = random.Random(10)
    killed, sizes = 0, []
    for count in (3, 2, 4, 3):
        shards = [
            start([sys.executable, child, corpus, out, converted, f"{rank}/{count}"], environment)
            for rank in range(count)
        ]
        waited = time.monotonic() + 60
        while not locked(out) and shards[0].poll() is None and time.monotonic() < waited:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.3))
        for shard in shards:
            shard.kill()
            killed += shard.wait() == -signal.SIGKILL
        sizes.append(len(rows(out)))
    assert sizes == sorted(sizes)  # nothing is lost
    assert killed >= 4
    last = [start([sys.executable, child, corpus, out, converted, f"{rank}/3"], environment) for rank in range(3)]
    assert [shard.wait(60) for shard in last] == [0, 0, 0]
    check(out, expected)


def locked(out: Path) -> bool:
    """Whether a run has begun."""
    try:
        with (out / ".lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError) as error:
        return isinstance(error, BlockingIOError)
    return False


def test_the_command_killed_at_random(
    tmp_path: Path, environment: dict[str, str], voices: list[Path], run_process: Run
) -> None:
    """With the bundled checkpoint."""
    manifest, out = tmp_path / "files.jsonl", tmp_path / "out"
    manifest.write_text("".join(f"{json.dumps({'audio': str(voice)})}\n" for voice in voices[:2]))
    arguments = [COMMAND, "embed", "--manifest", manifest, "--output", out]
    chance = random.Random(9)
    for _ in range(2):
        process = start(arguments, environment)
        time.sleep(chance.uniform(0.2, 1.5))
        process.kill()
        process.wait()
    run_process(arguments, tmp_path).succeeded()
    model = speech_zoo.load("campplus-zh-en")
    vectors = rows(out)
    assert vectors.keys() == set(map(str, voices[:2]))
    for id, vector in vectors.items():
        np.testing.assert_allclose(vector, np.array(model.embed(id)), atol=1e-6)


# mlx.launch


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    while True:
        first = random.randint(20_000, 60_000)
        sockets = [socket.socket() for _ in range(count)]
        try:
            for i, each in enumerate(sockets):
                each.bind(("127.0.0.1", first + i))
            return first
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()


def test_ranks_of_mlx_launch(
    tmp_path: Path, environment: dict[str, str], corpus: Path, converted: Path, expected: Rows
) -> None:
    """Each takes its share, without a word to the others."""
    ports = ["-n", 2, "--backend", "ring", "--starting-port", free_ports(2)]
    command = [COMMAND, "embed", "--manifest", corpus, "--output", tmp_path / "out", "--model", converted, "--json"]
    read, write = os.pipe()  # an open stdin: at its end, the launcher does not sleep
    try:
        done = subprocess.run(
            [str(argument) for argument in [*LAUNCH, *ports, "--", *command]],
            env=environment,
            stdin=read,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
    finally:
        os.close(read)
        os.close(write)
    assert done.stderr == ""
    results = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda result: result["rank"])
    assert [(result["rank"], result["ranks"]) for result in results] == [(0, 2), (1, 2)]
    assert [(result["embedded"], result["skipped"], result["already_done"]) for result in results] == [
        (20, 1, 0),
        (20, 1, 0),
    ]
    check(tmp_path / "out", expected)
