"""What several unit tests share."""

from collections.abc import Iterator

import mlx.core as mx
import numpy as np
import pytest
from speech_zoo_core import device
from speech_zoo_core.tasks import audio_model


@pytest.fixture
def all_is_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every clip is taken for speech, where a test is about what comes after that check."""
    monkeypatch.setattr(audio_model, "speech", lambda samples, rate: np.ones(max(3, samples.size // 512), bool))


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clips go the way of a GPU, whatever computes them; not compiled, which needs a C++ compiler on a CPU."""
    monkeypatch.setattr(audio_model, "on_cpu", lambda: False)
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    mx.disable_compile()
    yield
    mx.enable_compile()
