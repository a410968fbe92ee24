"""The time of a search among many indexed windows: `python -m speech_zoo.bench.search 1000000`."""

import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..voices.database import StoreFile
from ..voices.rows import Recording, put_recording
from ..voices.search import best, windows_of


def measure(count: int) -> dict[str, float]:
    """Search `count` random windows with a bundled voice: seconds of the first query and of a later one, and memory."""
    from ..settings import VOICES
    from ..voices.store import VoiceStore
    from .memory import peak_bytes

    random, per_file = np.random.default_rng(0), 1000
    spans = np.stack([np.arange(per_file) * 1.5, np.arange(per_file) * 1.5 + 3], axis=1)
    with TemporaryDirectory() as folder:
        store = VoiceStore(Path(folder) / "index.sqlite")
        file, checkpoint = StoreFile(store.path), store.checkpoint
        voice = np.array(store.model.embed(min(VOICES.glob("*.wav"))))
        for start in range(0, count, per_file):
            rows = random.standard_normal((min(per_file, count - start), checkpoint.dim), np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            with file.writing(checkpoint) as db:
                put_recording(
                    db, Recording(f"/{start}.wav", 0, 0, spans[: len(rows)].astype("<f8").tobytes(), rows.tobytes())
                )
        windows, seconds = None, []
        for _ in range(8):
            begin = time.perf_counter()
            windows = windows_of(file, checkpoint, windows)
            best(windows, voice, 0.2, 10)
            seconds.append(time.perf_counter() - begin)
        first, *later = seconds
        return {"first_seconds": first, "median_seconds": statistics.median(later), "peak_bytes": peak_bytes() or 0}


if __name__ == "__main__":
    found = measure(int(sys.argv[1]))
    print(
        f"{sys.argv[1]} windows: first query {found['first_seconds']:.1f} s, "
        f"then {found['median_seconds'] * 1e3:.0f} ms (median of 7); "
        f"peak of resident memory {found['peak_bytes'] / 1e6:.0f} MB"
    )
