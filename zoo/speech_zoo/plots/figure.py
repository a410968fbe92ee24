"""What all pictures share: whether one can be drawn, styles that differ in grey, and a file that appears whole."""

import io
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from speech_zoo_core.atomic import written_beside
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.extras import how_to_install

DPI = 150
# Shade and hatch of areas side by side.
STYLES = (("0.15", ""), ("0.85", "////"), ("0.65", "...."), ("1.0", "xxxx"), ("0.4", "----"), ("0.95", "ooo"))
NO_MATPLOTLIB = f"pictures need matplotlib: {how_to_install('plot')}"


def check_drawable(path: Path) -> None:
    """Raises SpeechZooError, before any work, if no picture can be drawn or written to `path`."""
    if find_spec("matplotlib") is None:
        raise SpeechZooError(NO_MATPLOTLIB)
    if not path.parent.is_dir():
        raise SpeechZooError(f"{path} cannot be written: there is no folder {path.parent}")


def new_figure(width: float, height: float) -> Any:
    """An empty `matplotlib.figure.Figure` of that size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def no_formula(text: str) -> str:
    """Text in which a dollar sign is one."""
    return text.replace("$", r"\$")


def save(figure: Any, path: Path) -> None:
    """Write a figure as a PNG of 256 colours, a third as large as one of all.

    Raises:
        SpeechZooError: it cannot be written.
    """
    from PIL import Image  # which matplotlib brings

    pixels = io.BytesIO()
    with written_beside(path) as beside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # what the font lacks is drawn as a box
        figure.savefig(pixels, dpi=DPI, format="png")
        Image.open(pixels).convert("RGB").quantize(256).save(beside, format="png", optimize=True)
