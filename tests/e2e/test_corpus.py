"""Corpora as people embed them: the command, kill -9 at any moment, shards at once, and mlx.launch on loopback."""

import fcntl
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import speech_zoo
from wavs import read_wav, write_wav

Run = Callable[..., Any]
Rows = dict[str, "np.ndarray[Any, Any]"]

COMMAND = Path(sys.executable).with_name("speech-zoo")
LAUNCH = (sys.executable, "-c", "from mlx._distributed_utils.launch import main; main()")  # mlx.launch
CLIPS = 40
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
def corpus(tmp_path_factory: pytest.TempPathFactory, voices: list[Path]) -> Path:
    """A manifest of forty pieces of the nine voices, of 0.3 to 0.9 s, and of two files that cannot be read."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = []
    for i in range(CLIPS):
        start = 8000 + 4000 * (i // 9)
        write_wav(folder / f"{i:02}.wav", read_wav(voices[i % 9])[start : start + 4800 + 240 * i])
        lines.append({"audio": f"{i:02}.wav", "id": f"clip {i:02}"})
    lines.insert(20, {"audio": "none.wav"})
    lines.insert(10, {"audio": "files.jsonl"})
    manifest = folder / "files.jsonl"
    manifest.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return manifest


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("child") / "child.py"
    path.write_text(CHILD)
    return path


@pytest.fixture(scope="module")
def expected(corpus: Path, converted: Path) -> Rows:
    """What `embed` of the tiny model gives for each clip."""
    model = speech_zoo.load(converted)
    return {f"clip {i:02}": np.array(model.embed(corpus.parent / f"{i:02}.wav")) for i in range(CLIPS)}


def rows(out: Path) -> Rows:
    """The embeddings of all parts by id, which must be unique."""
    tables = [pq.ParquetFile(part).read() for part in sorted(out.glob("*.parquet"))]
    ids = [id for table in tables for id in table["id"].to_pylist()]
    assert len(set(ids)) == len(ids)
    return dict(
        zip(ids, [np.array(row, np.float32) for t in tables for row in t["embedding"].to_pylist()], strict=True)
    )


def check(out: Path, expected: Rows) -> None:
    """Every clip is there once, with its own embedding, and the two other files are listed once."""
    vectors = rows(out)
    assert vectors.keys() == expected.keys()
    for id, vector in expected.items():
        np.testing.assert_allclose(vectors[id], vector, atol=1e-6)
    lines = (out / "errors.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == ["files.jsonl", "none.wav"]
    assert not list(out.glob(".*.part"))


# The command


def test_the_command(cli: Run, tmp_path: Path, corpus: Path, converted: Path, expected: Rows) -> None:
    arguments = ("embed", "--manifest", corpus, "--output", "out", "--model", converted)
    done = cli(*arguments).succeeded().out
    assert re.fullmatch(
        r"out: 40 embedded, 2 skipped \(out/errors\.jsonl says why\), 0 already done; "
        r"23\.7 s of audio in \d+\.\d s, \d+\.\d s a second\n",
        done,
    ), done
    check(tmp_path / "out", expected)
    again = cli(*arguments, "--json").succeeded().json
    assert again.pop("seconds") >= 0
    assert again == {
        "output": "out",
        "model": str(converted),
        "embedded": 0,
        "skipped": 2,
        "already_done": 40,
        "audio_seconds": 0.0,
        "ranks": 1,
    }
    check(tmp_path / "out", expected)


@pytest.mark.parametrize(
    "arguments", ["--manifest a.jsonl", "a.wav --manifest a.jsonl --output out", "--manifest a.jsonl b.wav"]
)
def test_wrong_usage(cli: Run, arguments: str) -> None:
    assert "--manifest takes the place of FILE… and needs --output FOLDER" in cli("embed", *arguments.split()).failed(2)


def test_shards_that_do_not_exist(cli: Run) -> None:
    """They are numbered from 0, as Slurm's arrays and indexed jobs of Kubernetes are."""
    for shard in ("16/16", ""):
        said = cli("embed", "--manifest", "a.jsonl", "--output", "out", "--shard", shard).failed(2)
        assert f"--shard takes I/N with I from 0 to N-1, as in 0/16 to 15/16, not {shard!r}" in said
    assert "--shard goes with --manifest" in cli("embed", "a.wav", "--shard", "0/2").failed(2)


def test_the_shards_of_an_array_job(cli: Run, tmp_path: Path, corpus: Path, converted: Path, expected: Rows) -> None:
    arguments = ("embed", "--manifest", corpus, "--output", "out", "--model", converted)
    said = [cli(*arguments, "--shard", f"{rank}/3").succeeded().out for rank in (2, 0, 1)]
    assert [line.partition(" already done")[0] for line in said] == [
        "out, shard 2/3: 14 embedded, 0 skipped, 0",
        "out, shard 0/3: 13 embedded, 1 skipped (out/errors.jsonl says why), 0",
        "out, shard 1/3: 13 embedded, 1 skipped (out/errors.jsonl says why), 0",
    ]
    check(tmp_path / "out", expected)
    (corpus.parent / "bad.jsonl").write_text('{"audio": "00.wav"}\n{"audio": "none.wav"}')
    bad = ("embed", "--manifest", corpus.parent / "bad.jsonl", "--output", "bad", "--model", converted)
    says = "bad, shard 1/2: none of the 1 files could be read; bad/errors.jsonl says why"
    assert cli(*bad, "--shard", "1/2").failed() == says
    result = cli(*bad, "--shard", "0/2", "--json").succeeded().json
    assert (result["rank"], result["ranks"], result["embedded"]) == (0, 2, 1)
    assert "0 embedded, 0 skipped, 0 already done" in cli(*bad, "--shard", "2/3").succeeded().out


def test_errors_are_one_line(cli: Run, tmp_path: Path, unchanged: Callable[[], None]) -> None:
    (tmp_path / "bad.jsonl").write_text('{"audio": "a.wav"}\n{"audio": "a.wav"}\n')
    (tmp_path / "empty.jsonl").write_text("")
    unchanged()
    for manifest, says in (
        ("bad.jsonl", "bad.jsonl, line 2: the id 'a.wav' was used before; give each line an \"id\" of its own"),
        ("empty.jsonl", 'empty.jsonl is empty: it needs a line {"audio": "path"} for each file'),
        ("none.jsonl", "none.jsonl cannot be read: No such file or directory"),
    ):
        assert cli("embed", "--manifest", manifest, "--output", "out").failed() == says
        unchanged()


def test_nothing_that_can_be_read(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "files.jsonl").write_text('{"audio": "a.wav"}\n{"audio": "b.wav"}\n')
    says = "none of the 2 files could be read; out/errors.jsonl says why"
    assert cli("embed", "--manifest", "files.jsonl", "--output", "out").failed() == says
    assert len((tmp_path / "out" / "errors.jsonl").read_text().splitlines()) == 2


def test_without_pyarrow(python: Run, tmp_path: Path) -> None:
    code = """
import sys
sys.modules["pyarrow"] = None
sys.argv = ["speech-zoo", "embed", "--manifest", "files.jsonl", "--output", "out"]
from speech_zoo.cli.main import main
main()
"""
    assert python(code).failed() == "embed: --manifest needs pyarrow: pip install 'pyarrow>=17'"
    assert not list(tmp_path.iterdir())


# kill -9


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
