"""Silero's voice activity detector, as mlx-audio has it, in place of the energy gate of `windows`."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
import numpy as np
from speech_zoo_core.errors import CheckpointError, InputError, SpeechZooError
from speech_zoo_core.hub import download

from .windows import Array, Gate

REPO = "mlx-community/silero-vad"
AT_ONCE = 64  # frames that are evaluated together
RATES = (8000, 16000)  # Hz


def require() -> None:
    """Raises SpeechZooError if the installed mlx-audio has no Silero."""
    if find_spec("mlx_audio.vad") is None or find_spec("mlx_audio.vad.models.silero_vad") is None:
        raise SpeechZooError("--vad needs a newer mlx-audio: pip install 'mlx-speech-zoo[vad]'")


def silero(where: str, sample_rate: int) -> Callable[[], Gate]:
    """Load it; each gate that the result makes is for one pass over one file.

    Args:
        where: "silero" for mlx-community's checkpoint on the Hub, or a folder with one.
        sample_rate: of the audio, in Hz.

    Raises:
        SpeechZooError: mlx-audio has no Silero, or there is no checkpoint or a damaged one.
        InputError: a rate that Silero does not know.
    """
    require()
    if sample_rate not in RATES:
        raise InputError(f"--vad silero works at 8000 or 16000 Hz, this model at {sample_rate} Hz; leave --vad out")
    if where != "silero" and not Path(where).is_dir():
        raise InputError(f"--vad is silero or a folder with its checkpoint, not {where!r}")
    from mlx_audio.vad import load

    folder = download(REPO)[0] if where == "silero" else Path(where)
    try:
        model = load(folder, strict=True)
        size = model._branch(sample_rate).config.chunk_size
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{folder} holds no Silero checkpoint that mlx-audio can load: {error}") from error

    def gate() -> Gate:
        state = None

        def speaks(frames: Array) -> Array:
            nonlocal state
            found = np.zeros(len(frames), bool)
            for start in range(0, len(frames), AT_ONCE):
                probabilities = []
                for frame in frames[start : start + AT_ONCE]:
                    probability, state = model.feed(frame, state, sample_rate=sample_rate)
                    probabilities.append(probability)
                both = np.array(mx.concatenate(probabilities, axis=1))[0]
                found[start : start + AT_ONCE] = both >= model.config.threshold
            return found

        return Gate(size, speaks)

    return gate
