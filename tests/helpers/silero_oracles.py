"""Silero's voice activity detector as its own package runs it. Needs silero-vad (its files) and onnxruntime."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

STEP, CONTEXT, RATE = 512, 64, 16000


def silero_file(name: str) -> Path:
    """One of the package's model files; the package itself, which wants torchaudio, is not imported."""
    spec = find_spec("silero_vad")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], "data", name)


@cache
def _session() -> Any:
    return onnxruntime.InferenceSession(str(silero_file("silero_vad.onnx")))


def steps_of(samples: np.ndarray) -> np.ndarray:
    """(N,) to the steps with the context before them, (K, 576)."""
    padded = np.pad(samples.astype(np.float32), (CONTEXT, -samples.size % STEP))
    return np.stack([padded[i : i + CONTEXT + STEP] for i in range(0, padded.size - CONTEXT, STEP)])


def silero_probabilities(samples: np.ndarray) -> np.ndarray:
    """Of speech, step by step, (K,)."""
    state, probabilities = np.zeros((2, 1, 128), np.float32), []
    for step in steps_of(samples):
        probability, state = _session().run(None, {"input": step[None], "state": state, "sr": np.array(RATE)})
        probabilities.append(probability[0, 0])
    return np.array(probabilities, np.float32)
