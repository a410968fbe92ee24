"""Where a user's own data lies: known voices, calibrated thresholds."""

import os
from pathlib import Path

import typer


def folder() -> Path:
    """The folder of speech-zoo's own files for this user; SPEECH_ZOO_HOME names another. It may not exist yet."""
    return Path(os.environ.get("SPEECH_ZOO_HOME") or typer.get_app_dir("speech-zoo"))
