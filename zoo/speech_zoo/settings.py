"""The user's folder (known voices, calibrated thresholds) and the default models."""

import os
import sys
from pathlib import Path

__version__ = "0.1.0"
DEFAULT_MODEL = "campplus-zh-en"
SEGMENTATION = "pyannote-segmentation-3.0"
VOICES = Path(__file__).parent / "data" / "voices"  # nine clips of LibriSpeech, one speaker each


def folder() -> Path:
    """The folder of speech-zoo's own files for this user; SPEECH_ZOO_HOME names another. It may not exist yet."""
    from typer import get_app_dir

    return Path(os.environ.get("SPEECH_ZOO_HOME") or get_app_dir("speech-zoo"))


def cache() -> Path:
    """The folder of what can be made anew; SPEECH_ZOO_CACHE names another. It may not exist yet."""
    if chosen := os.environ.get("SPEECH_ZOO_CACHE"):
        return Path(chosen)
    usual = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / usual) / "speech-zoo"
