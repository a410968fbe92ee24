"""Who speaks when, with our segmentation and with the original, under the same embeddings and clustering."""

import os
import wave
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import speech_zoo  # isort: skip  # before MLX, whose TF32 it turns off
import numpy as np
import pytest
from pyannote_segmentation import Original
from speech_zoo.recordings.conversation import RATE, conversation
from speech_zoo.recordings.formats import read_rttm, to_rttm

PUBLISHED = Path(os.environ.get("SPEECH_ZOO_PYANNET_BIN", "pytorch_model.bin"))
DIFFERENCE = 0.005  # of diarization error rates
SECONDS = 30.0

pytest.importorskip("pyannote.metrics")


@pytest.fixture(scope="module")
def rate() -> Callable[..., float]:
    """The diarization error rate of a recording, with our segmentation or another one."""
    embedder = speech_zoo.load("campplus-zh-en")

    def error(path: Path, segmentation: Any) -> float:
        reference = read_rttm(path.with_suffix(".rttm"))
        found = speech_zoo.diarize(path, model=embedder, segmentation=segmentation)
        (figures,) = speech_zoo.evaluate(reference, dict.fromkeys(reference, found)).values()
        return figures.der

    return error


@pytest.fixture(scope="module")
def sample() -> Path:
    """The 30 s of a call that pyannote-audio comes with, and who speaks when in them."""
    spec = find_spec("pyannote.audio")
    path = Path(str(spec.origin if spec else "")).parent / "sample" / "sample.wav"
    if not path.is_file():
        pytest.skip("pyannote-audio's sample is not here")
    return path


def test_a_real_call(rate: Callable[..., float], sample: Path, record: Any) -> None:
    error = rate(sample, speech_zoo.load("pyannote-segmentation-3.0"))
    record("diarization", "bundled", "", "pyannote-audio's sample", f"DER {error:.4f}", "", "", "0.1", "its reference")
    assert error <= 0.1


@pytest.mark.skipif(
    not PUBLISHED.is_file(),
    reason="the published weights are not here; SPEECH_ZOO_PYANNET_BIN names pyannote/segmentation-3.0's file",
)
@pytest.mark.parametrize("speakers", [2, 4])
def test_original_segmentation(rate: Callable[..., float], tmp_path: Path, speakers: int, record: Any) -> None:
    path = tmp_path / "talk.wav"
    samples, segments = conversation(speakers, SECONDS, seed=speakers)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    path.with_suffix(".rttm").write_text(to_rttm({path: segments}))
    ours = speech_zoo.load("pyannote-segmentation-3.0")
    theirs = Original(ours, PUBLISHED)
    errors = rate(path, ours), rate(path, theirs)
    assert theirs.windows > 20
    what = f"{speakers} speakers, {SECONDS:g} s"
    record("diarization", "bundled", "", what, f"DER {errors[0]:.4f}", "", "", f"{errors[1]:.4f} + 0.005", "pyannote")
    assert errors[0] <= errors[1] + DIFFERENCE
