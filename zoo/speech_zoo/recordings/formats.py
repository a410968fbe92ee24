"""Segments as a table, CSV or RTTM."""

import csv
import io
from pathlib import Path

from .segment import Segment


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    tenths = round(seconds * 10)
    return f"{tenths // 36000}:{tenths // 600 % 60:02}:{tenths % 600 / 10:04.1f}"


def to_table(found: dict[Path, list[Segment]]) -> str:
    """One line a segment: times, score, label, name; the file's name above where there are several."""
    lines = []
    for path, parts in found.items():
        lines += [str(path)] if len(found) > 1 else []
        for s in parts:
            lines.append(f"{clock(s.start)}  {clock(s.end)}  {s.score:7.2%}  {s.label:8} {s.reason or s.name}")
    return "\n".join(lines) + "\n"


def to_csv(found: dict[Path, list[Segment]]) -> str:
    """A header, then one row a segment; times in seconds."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["file", "start", "end", "label", "name", "score", "logit", "reason"])
    for path, parts in found.items():
        for s in parts:
            times = (f"{s.start:.3f}", f"{s.end:.3f}")
            rows.writerow([path, *times, s.label, s.name, f"{s.score:.6f}", f"{s.logit:.4f}", s.reason])
    return out.getvalue()


def to_rttm(found: dict[Path, list[Segment]]) -> str:
    """NIST's RTTM: SPEAKER lines whose speaker name is the language's code, and whose confidence is the score.

    The file is named by its stem, and blanks, which separate fields, become underscores.
    """
    lines = []
    for path, parts in found.items():
        name = "_".join(path.stem.split())
        for s in parts:
            times = f"{s.start:.3f} {s.end - s.start:.3f}"
            lines.append(f"SPEAKER {name} 1 {times} <NA> <NA> {s.label} {s.score:.4f} <NA>\n")
    return "".join(lines)
