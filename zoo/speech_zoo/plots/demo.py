"""The demo's heat map."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..settings import DEFAULT_MODEL
from .figure import NO_MATPLOTLIB, new_figure, save


def heat_map(scores: "np.ndarray[Any, Any]", names: list[str], threshold: float, output: Path) -> str:
    """Write the PNG beside and rename it; returns the line that says so."""
    if find_spec("matplotlib") is None:
        return f"Heat map: not written, {NO_MATPLOTLIB}"
    figure = new_figure(7, 6)
    axes = figure.subplots()
    image = axes.imshow(scores, cmap="cividis", vmin=min(0.0, scores.min()), vmax=1.0)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("second half, LibriSpeech speaker")
    axes.set_ylabel("first half, LibriSpeech speaker")
    axes.set_title(
        f"Cosine similarity, {DEFAULT_MODEL}\ndiagonal: same speaker; bold: at or above the threshold {threshold}"
    )
    for i, row in enumerate(scores):
        for j, score in enumerate(row):
            colour, weight = ("black", "bold") if score >= threshold else ("white", "normal")
            text = f"{round(score, 2) + 0.0:.2f}"  # without -0.00
            axes.text(j, i, text, ha="center", va="center", color=colour, weight=weight, fontsize=9)
    figure.colorbar(image, label="cosine")
    save(figure, output)
    return f"Heat map: {output}"
