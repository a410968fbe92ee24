"""The user's folder (known voices, calibrated thresholds) and the default models."""

import os
from pathlib import Path

__version__ = "0.1.0"
DEFAULT_MODEL = "campplus-zh-en"
SEGMENTATION = "pyannote-segmentation-3.0"
VOICES = Path(__file__).parent / "data" / "voices"  # nine clips of LibriSpeech, one speaker each


def folder() -> Path:
    """The folder of speech-zoo's own files for this user; SPEECH_ZOO_HOME names another. It may not exist yet."""
    from typer import get_app_dir

    return Path(os.environ.get("SPEECH_ZOO_HOME") or get_app_dir("speech-zoo"))
