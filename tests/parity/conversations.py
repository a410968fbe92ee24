"""Diarization error rates of made-up conversations: python tests/parity/conversations.py FIRST LAST, seeds inclusive.

With SPEECH_ZOO_PYANNET_BIN, pyannote/segmentation-3.0's own file, next to those with the original segmentation.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import speech_zoo
from speech_zoo.recordings.conversation import conversation, wav

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

SECONDS = 180.0


def main(first: int, last: int) -> None:
    embedder, ours = speech_zoo.load("campplus-zh-en"), speech_zoo.load("pyannote-segmentation-3.0")
    segmentations: dict[str, Any] = {"ours": ours}
    if published := os.environ.get("SPEECH_ZOO_PYANNET_BIN"):
        from pyannote_segmentation import Original

        segmentations["original"] = Original(ours, Path(published))
    reference: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = {name: {} for name in segmentations}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "talk.wav"
        for seed in range(first, last + 1):
            samples, reference[str(seed)] = conversation(2 + seed % 5, SECONDS, seed)
            path.write_bytes(wav(samples))
            for name, segmentation in segmentations.items():
                found[name][str(seed)] = speech_zoo.diarize(path, model=embedder, segmentation=segmentation)
    figures = {name: speech_zoo.evaluate(reference, rows) for name, rows in found.items()}
    for seed in [*reference, "all"] if len(reference) > 1 else reference:
        rows = [(name, figures[name][seed]) for name in segmentations]
        print(seed, *(f"{name} {row.der:.2%}, {row.found} of {row.speakers} speakers" for name, row in rows), sep="  ")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
