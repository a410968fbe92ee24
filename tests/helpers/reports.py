"""Parity reports for tests: what `speech-zoo check` writes, without the comparison."""

import hashlib
import json
from pathlib import Path
from typing import Any

REPORT: dict[str, Any] = {
    "checkpoint": {},
    "precision": "float32",
    "task": "speaker-embedding",
    "oracle": {"name": "wespeaker-unofficial", "version": "0.0.2", "features": "kaldi-native-fbank 1", "from": "live"},
    "reference": {},
    "limits": {"features": 1e-3, "cosine": 0.999999},
    "clips": [],
    "not_compared": ["sentences of more than a minute"],
    "passed": True,
    "machine": {"system": "Linux x86_64", "device": "cpu", "python": "3.11.2", "packages": {"mlx": "0.32.4"}},
}


def prove(folder: Path, passed: bool | None = True, **changes: Any) -> dict[str, Any]:
    """Write a report on the files of a folder into it; returns it."""
    hashes = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name not in ("README.md", "parity.json")
    }
    report = REPORT | {"checkpoint": hashes, "passed": passed} | changes
    (folder / "parity.json").write_text(json.dumps(report))
    return report
