"""Exact cosine search over an index."""

import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from speech_zoo.bench import search as search_bench
from speech_zoo.voices import search as voice_search
from speech_zoo.voices.database import Checkpoint, StoreFile
from speech_zoo.voices.rows import Recording, drop_recording, put_recording
from speech_zoo.voices.search import Passage, Windows, best, cosines, windows_of
from speech_zoo_core.errors import SpeechZooError

DIM = 8
CHECKPOINT = Checkpoint("a" * 64, "m", DIM)


def unit(count: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def recording(path: str, vectors: np.ndarray, hop: float = 1.5) -> Recording:
    spans = np.stack([np.arange(len(vectors)) * hop, np.arange(len(vectors)) * hop + 3], axis=1)
    return Recording(path, 1, 1, spans.astype("<f8").tobytes(), vectors.tobytes())


def put(file: StoreFile, *new: Recording) -> None:
    with file.writing(CHECKPOINT) as db:
        for item in new:
            put_recording(db, item)


@pytest.fixture
def file(tmp_path: Path) -> StoreFile:
    return StoreFile(tmp_path / "a[1]*.sqlite")


# The product


@given(st.integers(1, 60), st.integers(1, 300))
def test_cosines_are_exact_whatever_the_blocks(count: int, block: int) -> None:
    rows = unit(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voice_search, "BLOCK_BYTES", block)
        scores = cosines(rows, rows[0])
    assert scores.dtype == np.float32
    assert np.allclose(scores, rows.astype(np.float64) @ rows[0].astype(np.float64), atol=1e-6)


def test_mapped_blocks_are_exact(file: StoreFile, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit(5000)
    put(file, recording("/a", rows[:3000]), recording("/b", rows[3000:]))
    monkeypatch.setattr(voice_search, "BLOCK_BYTES", 5000)  # no multiple of a page
    windows = windows_of(file, CHECKPOINT)
    assert windows.vectors is not None
    for _ in range(2):  # pages that were given back come again
        assert np.allclose(cosines(windows.vectors, rows[7]), rows @ rows[7], atol=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_little_of_the_matrix_stays_resident(file: StoreFile) -> None:
    def resident() -> int:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssFile")) * 1024

    wide = Checkpoint(CHECKPOINT.identity, "m", 192)
    rows = unit(40_000, dim=192)
    for i in range(3):
        with file.writing(wide) as db:
            put_recording(db, recording(f"/{i}", rows))
    windows = windows_of(file, wide)
    assert windows.vectors is not None and windows.vectors.nbytes > 92e6
    before = resident()
    cosines(windows.vectors, rows[0])
    assert resident() - before < 20e6


# Passages


def reference(files: dict[str, Recording], voice: np.ndarray, threshold: float) -> list[Passage]:
    """One window after the other, the best first."""
    passages: list[Passage] = []
    for path, item in files.items():
        current: Passage | None = None
        spans = np.frombuffer(item.spans, "<f8").reshape(-1, 2).tolist()
        vectors = np.frombuffer(item.vectors, "<f4").reshape(-1, DIM)
        for (start, end), vector in zip(spans, vectors, strict=True):
            score = float(vector @ voice)
            if score < threshold:
                current = None
            elif current is None or start > current.end + voice_search.PAUSE:
                current = Passage(path, start, end, score)
                passages.append(current)
            else:
                passages[-1] = current = Passage(path, current.start, end, max(score, current.score))
    return sorted(passages, key=lambda passage: -passage.score)


def windows_in_memory(files: dict[str, Recording]) -> Windows:
    spans = [np.frombuffer(item.spans, "<f8").reshape(-1, 2) for item in files.values()]
    vectors = [np.frombuffer(item.vectors, "<f4").reshape(-1, DIM) for item in files.values()]
    first = np.cumsum([0, *map(len, spans)])
    return Windows("", list(files), first, np.concatenate(spans), np.concatenate(vectors))


@given(
    st.lists(st.tuples(st.integers(1, 12), st.sampled_from([1.5, 3.0, 4.0, 4.5])), min_size=1, max_size=5),
    st.floats(-1, 1),
    st.integers(0, 100),
)
def test_passages_are_those_of_one_window_after_the_other(
    shapes: list[tuple[int, float]], threshold: float, seed: int
) -> None:
    files = {f"/{i}": recording(f"/{i}", unit(size, seed + i), hop) for i, (size, hop) in enumerate(shapes)}
    voice = unit(1, seed + 50)[0]
    passages = best(windows_in_memory(files), voice, threshold, 1000)
    expected = reference(files, voice, threshold)
    assert [(p.file, p.start, p.end) for p in passages] == [(p.file, p.start, p.end) for p in expected]
    assert np.allclose([p.score for p in passages], [p.score for p in expected], atol=1e-6)
    assert best(windows_in_memory(files), voice, threshold, 2) == passages[:2]


# The matrix beside the store


def beside(file: StoreFile) -> list[str]:
    return sorted(path.name for path in file.path.parent.iterdir() if "-vectors-" in path.name)


def test_the_matrix_follows_the_index(file: StoreFile) -> None:
    rows = unit(6)
    neighbour = file.path.with_name("a1.sqlite-vectors-1.npy")
    put(file, recording("/a", rows[:2]), recording("/b", rows[2:3]))
    neighbour.touch()  # of another store
    first = windows_of(file, CHECKPOINT)
    assert (first.paths, first.first.tolist()) == (["/a", "/b"], [0, 2, 3])
    assert np.array_equal(np.array(first.vectors), rows[:3])
    assert windows_of(file, CHECKPOINT, first) is first
    assert windows_of(StoreFile(file.path), CHECKPOINT).generation == first.generation
    put(file, recording("/a", rows[3:]))
    with file.writing(CHECKPOINT) as db:
        drop_recording(db, "/b")
    second = windows_of(file, CHECKPOINT, first)
    assert second.paths == ["/a"]
    assert np.array_equal(np.array(second.vectors), rows[3:])
    assert np.array_equal(np.array(first.vectors), rows[:3])  # still mapped
    names = beside(file)
    assert len(names) == 2 and neighbour.name in names


def test_an_index_without_windows_finds_nothing(file: StoreFile) -> None:
    with file.writing(CHECKPOINT):
        pass
    assert best(windows_of(file, CHECKPOINT), unit(1)[0], -1, 10) == []


def test_a_matrix_that_was_cut_off_is_written_anew(file: StoreFile) -> None:
    rows = unit(5)
    put(file, recording("/a", rows))
    windows_of(file, CHECKPOINT)
    [name] = beside(file)
    path = file.path.with_name(name)
    path.write_bytes(path.read_bytes()[:200])
    path.with_name(f".{name}.part").write_bytes(b"of a run that was killed")
    assert np.array_equal(np.array(windows_of(file, CHECKPOINT).vectors), rows)
    assert beside(file) == [name]


@pytest.mark.parametrize("column", ["spans", "vectors"])
def test_a_damaged_recording_is_told(file: StoreFile, column: str) -> None:
    put(file, recording("/a", unit(5)))
    with sqlite3.connect(file.path) as db:
        db.execute(f"UPDATE file SET {column} = zeroblob(length({column}))")
    db.close()
    for _ in range(2):
        with pytest.raises(SpeechZooError, match=r"is damaged \(a recording is not what was written\)"):
            windows_of(file, CHECKPOINT)
    assert beside(file) == []


def test_measuring(capsys: pytest.CaptureFixture[str]) -> None:
    figures: dict[str, Any] = dict(search_bench.measure(1500))
    assert figures.keys() == {"first_seconds", "median_seconds", "peak_bytes"}
    assert all(value > 0 for value in figures.values())
