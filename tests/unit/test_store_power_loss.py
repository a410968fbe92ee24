"""What was acknowledged to a store is on the disk: its writes are taken down by strace, and replayed without what was
not synced.
"""

import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from speech_zoo.voices.database import Checkpoint, StoreFile

CHECKPOINT = Checkpoint("a" * 64, "m", 8)
STRACE = shutil.which("strace")
CODE = """
import os, sys
from pathlib import Path
from speech_zoo.voices.database import Checkpoint, StoreFile
file = StoreFile(Path(sys.argv[1]))
for i in range(3):
    with file.writing(Checkpoint("a" * 64, "m", 8)) as db:
        db.execute("INSERT INTO mine VALUES (?)", (i,))
    os.write(1, b"done %d" % i)
"""
WRITE = re.compile(r'(pwrite64|write)\((\d+)<([^>]*)>, "(.*)", (\d+)(?:, (\d+))?\) = (\d+)')
SYNC = re.compile(r"f(?:data)?sync\(\d+<([^>]*)>\) = 0")
CUT = re.compile(r"ftruncate\(\d+<([^>]*)>, (\d+)\) = 0")


def test_a_connection_waits_for_the_disk(tmp_path: Path) -> None:
    with StoreFile(tmp_path / "voices.sqlite").writing(CHECKPOINT) as db:
        assert db.execute("PRAGMA synchronous").fetchone()[0] >= 2  # FULL: each commit is synced
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
def test_what_was_acknowledged_outlives_the_power(tmp_path: Path) -> None:
    store, log = tmp_path / "store" / "voices.sqlite", tmp_path / "log"
    store.parent.mkdir()
    with StoreFile(store).writing(CHECKPOINT) as db:
        db.execute("CREATE TABLE mine (i INTEGER)")
    command = [str(STRACE), "-f", "-y", "-xx", "-s", "2000000", "-e", "trace=write,pwrite64,fsync,fdatasync,ftruncate"]
    command += ["-o", str(log), sys.executable, "-c", CODE, str(store)]
    synced = {str(path): path.read_bytes() for path in store.parent.iterdir()}
    current = {path: bytearray(content) for path, content in synced.items()}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if "ptrace" in done.stderr.lower():
        pytest.skip("this system lets nobody trace a process")
    assert done.returncode == 0, done.stderr
    acknowledged, crashes = 0, 0
    for line in log.read_text().splitlines():
        if match := WRITE.search(line):
            path, data = _text(match[3]), bytes.fromhex(match[4].replace("\\x", ""))
            if data.startswith(b"done "):
                acknowledged += 1
            elif path.startswith(str(store.parent)):
                content = current.setdefault(path, bytearray())
                at = len(content) if match[6] is None else int(match[6])
                content.extend(bytes(max(0, at + len(data) - len(content))))
                content[at : at + len(data)] = data
        elif match := CUT.search(line):
            path = _text(match[1])
            current[path] = current.get(path, bytearray())[: int(match[2])]
        elif match := SYNC.search(line):
            path = _text(match[1])
            if path in current:
                synced[path] = bytes(current[path])
        else:
            continue
        if acknowledged:
            crashes += 1
            assert rows(tmp_path / f"crash-{crashes}", store, synced) >= acknowledged
    assert acknowledged == 3


def _text(escaped: str) -> str:
    return bytes.fromhex(escaped.replace("\\x", "")).decode() if escaped.startswith("\\x") else escaped


def rows(folder: Path, store: Path, synced: dict[str, bytes]) -> int:
    """How many rows the store has that a loss of power leaves."""
    folder.mkdir()
    for path, content in synced.items():
        if not path.endswith("-shm"):
            (folder / Path(path).name).write_bytes(content)
    with sqlite3.connect(folder / store.name) as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        count = int(db.execute("SELECT count(*) FROM mine").fetchone()[0])
    db.close()
    return count
