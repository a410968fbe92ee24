"""The speed of diarization, by stage, and its memory: `speech-zoo bench --diarize`."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from speech_zoo_core.audio.vad import speech
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.progress import progress

from ..models import load
from ..recordings.conversation import RATE, conversation, wav
from ..recordings.diarization import diarize
from ..recordings.windows import stream_for
from ..settings import DEFAULT_MODEL, SEGMENTATION
from .memory import peak_bytes

LENGTHS, LONG = (60.0, 600.0), 3600.0  # seconds
PIECE = 180.0  # seconds: a recording is made of conversations that are no longer
SPEAKERS = 4
STAGES = ("decoding", "speech check", "segmentation", "embedding", "clustering and votes")
WORKER = "import sys; from speech_zoo.bench.diarization import main; main(sys.argv[1])"


class Timed:
    """A model; adds up the seconds that its calls take, and remembers when the last one ended."""

    def __init__(self, model: Any) -> None:
        self._model, self.seconds, self.ended = model, 0.0, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, x: mx.array) -> mx.array:
        start = time.perf_counter()
        y: mx.array = self._model(x)
        mx.eval(y)
        self.ended = time.perf_counter()
        self.seconds += self.ended - start
        return y


def write_recording(path: Path, seconds: float) -> None:
    """Conversations of the bundled voices, one after the other, as .wav."""
    seeds = range(int(-(-seconds // PIECE)))
    pieces = [conversation(SPEAKERS, min(PIECE, seconds - seed * PIECE), seed)[0] for seed in seeds]
    path.write_bytes(wav(np.concatenate(pieces)))


def measure(path: str) -> dict[str, Any]:
    """Seconds of diarizing a file with the bundled models, in all and by stage, and peak resident bytes.

    The models are loaded and warm. Decoding and the speech check, which happen block by block, are timed on their own.
    What comes before the embedding runs beside it, so that the stages add up to more than all takes.
    """
    segmenter, embedder = Timed(load(SEGMENTATION)), Timed(load(DEFAULT_MODEL))
    segmenter(mx.zeros((1, round(segmenter.config.duration * RATE))))
    embedder(mx.zeros((1, 300, embedder.feature_width)))
    spent = dict.fromkeys(STAGES, 0.0)
    for block in stream_for(segmenter, path).blocks():
        start = time.perf_counter()
        speech(block, RATE)
        spent["speech check"] += time.perf_counter() - start
    start = time.perf_counter()
    samples = sum(block.size for block in stream_for(segmenter, path).blocks())
    spent["decoding"] = time.perf_counter() - start
    segmenter.seconds = embedder.seconds = 0.0
    start = time.perf_counter()
    diarize(path, model=embedder, segmentation=segmenter)
    end = time.perf_counter()
    spent |= {"segmentation": segmenter.seconds, "embedding": embedder.seconds}
    spent[STAGES[-1]] = end - max(segmenter.ended, embedder.ended)
    return {"audio_seconds": samples / RATE, "seconds": end - start, "stages": spent, "peak_bytes": peak_bytes()}


def main(path: str) -> None:
    """In a process of its own, so that the memory is that of this recording."""
    print(json.dumps(measure(path)))


def run(lengths: tuple[float, ...], as_json: bool) -> None:
    """Measure each length in a process of its own, and print.

    Raises:
        SpeechZooError: a process failed.
    """
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, progress(total=len(lengths), desc="bench", unit="recording") as bar:
        for length in lengths:
            path = Path(folder) / "talk.wav"
            write_recording(path, length)
            done = subprocess.run(
                [sys.executable, "-c", WORKER, str(path)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SpeechZooError(f"bench: {length:g} s failed: {''.join(done.stderr.strip().splitlines()[-1:])}")
            rows.append(json.loads(done.stdout))
            bar.update()
    if as_json:
        print(json.dumps({"segmentation": SEGMENTATION, "model": DEFAULT_MODEL, "rows": rows}))
        return
    print(f"{SEGMENTATION} and {DEFAULT_MODEL}, conversations of {SPEAKERS}; ms for each second of audio by stage;")
    print("decoding, speech check and segmentation run beside the embedding")
    for row in rows:
        peak = f"{row['peak_bytes'] / 2**20:.0f} MiB" if row["peak_bytes"] else "-"
        fast = row["audio_seconds"] / row["seconds"]
        print(
            f"{row['audio_seconds']:6.0f} s of audio in {row['seconds']:.1f} s, {fast:.1f} times real time, peak {peak}"
        )
        for stage, seconds in row["stages"].items():
            print(f"{seconds / row['audio_seconds'] * 1000:8.2f} ms  {stage}")
