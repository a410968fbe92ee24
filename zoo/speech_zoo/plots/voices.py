"""The picture of `speech-zoo voices map`: every clip of a store on its two principal components."""

from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.errors import SpeechZooError

from .figure import new_figure, no_formula, save

MARKERS = "osD^vP*X<>ph"
LABELLED = 60  # names: beyond that they would cover the points


def project(vectors: "np.ndarray[Any, Any]") -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """Vectors (N, D) on their first two principal components: (N, 2), and the shares of the variance (2,)."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.where(right[np.arange(len(right)), np.abs(right).argmax(axis=1)] < 0, -1, 1)  # the same on every machine
    points = np.zeros((len(vectors), 2))
    points[:, : sizes.size] = (left * sizes * signs)[:, :2]
    shares = np.zeros(2)
    shares[: sizes.size] = (sizes**2 / max(float((sizes**2).sum()), 1e-12))[:2]
    return points, shares


def draw(names: list[str], vectors: "np.ndarray[Any, Any]", path: Path) -> None:
    """Write a PNG with a point for each clip, and a colour and a marker for each name, which stands at its mean.

    Args:
        names: of the clips' voices.
        vectors: (N, D) float32, unit length.

    Raises:
        SpeechZooError: fewer than two clips, or it cannot be written.
    """
    if len(names) < 2:
        raise SpeechZooError(f"a map needs two clips or more; the store has {len(names)}: speech-zoo voices enroll")
    from matplotlib import colormaps

    points, shares = project(vectors)
    known = sorted(set(names))
    figure = new_figure(8, 6.5)
    axes = figure.subplots()
    labels: list[tuple[str, Any]] = []
    for i, name in enumerate(known):
        own = points[[other == name for other in names]]
        colour = colormaps["viridis"](0.9 * i / max(1, len(known) - 1))  # from dark to light: differs in grey, too
        axes.scatter(
            own[:, 0], own[:, 1], marker=MARKERS[i % len(MARKERS)], s=55, color=colour, edgecolor="black", linewidth=0.6
        )
        if len(known) <= LABELLED:
            labels.append((no_formula(name), own.mean(axis=0)))
    for axis, share, which in ((axes.xaxis, shares[0], "first"), (axes.yaxis, shares[1], "second")):
        axis.set_label_text(f"{which} principal component (no unit), {share:.0%} of the variance")
    axes.margins(0.12)
    axes.set_aspect("equal", "datalim")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.set_title(f"{len(names)} clips of {len(known)} voices; a colour and a marker for each name", fontsize=10)
    _write_apart(figure, axes, labels)
    save(figure, path)


def _write_apart(figure: Any, axes: Any, labels: list[tuple[str, Any]]) -> None:
    """Write each text above its point, or a little farther above or below where another one stands already."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # fixes the scale
    placed: list[Any] = []
    for text, point in sorted(labels, key=lambda label: float(label[1][1])):
        note = axes.annotate(text, point, (0, 0), textcoords="offset points", ha="center", fontsize=8)
        for height in (7, -15, 17, -25, 27, -35):
            note.set_position((0, height))
            note.update_positions(canvas.get_renderer())
            box = Text.get_window_extent(note)
            if not any(box.overlaps(other) for other in placed):
                break
        placed.append(box)
