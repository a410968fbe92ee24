"""The figures of docs/diarization.md: ten conversations of three minutes, two to six speakers, against what is true."""

from pathlib import Path

import pytest
import speech_zoo
from speech_zoo.recordings.conversation import conversation, wav

pytest.importorskip("pyannote.metrics")


def test_ten_conversations(tmp_path: Path) -> None:
    models = {"model": speech_zoo.load("campplus-zh-en"), "segmentation": speech_zoo.load("pyannote-segmentation-3.0")}
    reference, found = {}, {}
    for seed in range(10):
        samples, reference[str(seed)] = conversation(2 + seed % 5, 180, seed)
        path = tmp_path / "talk.wav"
        path.write_bytes(wav(samples))
        found[str(seed)] = speech_zoo.diarize(path, **models)
    figures = speech_zoo.evaluate(reference, found)
    assert figures["all"].der <= 0.08, figures
    assert sum(figures[name].speakers == figures[name].found for name in reference) >= 9, figures
