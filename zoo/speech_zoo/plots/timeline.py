"""The picture of `lid --timeline --plot` and `diarize --plot`: a row for each label, scores below; fit for grey."""

from pathlib import Path

from ..recordings.segment import Segment
from .figure import STYLES, new_figure, no_formula, save

MINUTES_FROM = 300.0  # seconds; a longer file has its axis in minutes


def draw(
    name: str,
    segments: list[Segment],
    path: Path,
    rows_are: str = "language",
    score_is: str = "mean probability\n(0 to 1)",
) -> None:
    """Write the segments of a file, of which there is at least one, as a PNG; the last two name the axes.

    Raises:
        SpeechZooError: it cannot be written.
    """
    end = max(segment.end for segment in segments)
    unit, scale = ("min", 60.0) if end > MINUTES_FROM else ("s", 1.0)
    rows = {segment.label: segment.name for segment in segments}
    figure = new_figure(10, 2.4 + 0.4 * len(rows))
    bars, scores = figure.subplots(2, sharex=True, height_ratios=[0.4 * len(rows) + 0.4, 1.2])
    for row, label in enumerate(rows):
        shade, hatch = STYLES[row % len(STYLES)]
        spans = [(s.start / scale, (s.end - s.start) / scale) for s in segments if s.label == label]
        bars.broken_barh(spans, (row - 0.4, 0.8), facecolor=shade, hatch=hatch, edgecolor="black", linewidth=0.6)
    for segment in segments:
        times = (segment.start / scale, segment.end / scale)
        scores.plot(times, (segment.score, segment.score), color="black", solid_capstyle="butt", linewidth=2)
    bars.set_yticks(
        range(len(rows)), [f"{title} ({label})" if title not in ("", label) else label for label, title in rows.items()]
    )
    bars.set_ylim(len(rows) - 0.4, -0.6)
    bars.set_ylabel(rows_are)
    bars.set_title(no_formula(name), fontsize=10)
    scores.set_ylim(0, 1.05)
    scores.set_xlim(0, end / scale)
    scores.set_ylabel(score_is)
    scores.set_xlabel(f"time ({unit})")
    scores.grid(axis="y", color="0.85")
    save(figure, path)
