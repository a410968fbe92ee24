"""A small corpus on disk, and what a run over it must have written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from wavs import read_wav, write_wav

Rows = dict[str, "np.ndarray[Any, Any]"]
CLIPS = 40


def write_corpus(folder: Path, voices: list[Path]) -> Path:
    """A manifest of forty pieces of the nine voices, of 0.3 to 0.9 s, and of two files that cannot be read."""
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


def rows(out: Path) -> Rows:
    """The embeddings of all parts by id, which must be unique."""
    import pyarrow.parquet as pq

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
