"""Segments as a table, CSV, RTTM or subtitles; RTTM as segments."""

import csv
import io
import math
import os
from pathlib import Path

from speech_zoo_core.errors import InputError

from .segment import Segment


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    tenths = round(seconds * 10)
    return f"{tenths // 36000}:{tenths // 600 % 60:02}:{tenths % 600 / 10:04.1f}"


def to_table(recordings: dict[Path, list[Segment]]) -> str:
    """One line a segment: times, score, label, name; the file's name above where there are several."""
    lines = []
    for path, parts in recordings.items():
        lines += [str(path)] if len(recordings) > 1 else []
        for s in parts:
            lines.append(f"{clock(s.start)}  {clock(s.end)}  {s.score:7.2%}  {s.label:8} {s.reason or s.name}")
    return "".join(f"{line.rstrip()}\n" for line in lines)


def to_csv(recordings: dict[Path, list[Segment]]) -> str:
    """A header, then one row a segment; times in seconds."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["file", "start", "end", "label", "name", "score", "logit", "reason"])
    for path, parts in recordings.items():
        for s in parts:
            times = (f"{s.start:.3f}", f"{s.end:.3f}")
            rows.writerow([path, *times, s.label, s.name, f"{s.score:.6f}", f"{s.logit:.4f}", s.reason])
    return out.getvalue()


def to_rttm(recordings: dict[Path, list[Segment]]) -> str:
    """NIST's RTTM: SPEAKER lines whose speaker name is the label, and whose confidence is the score.

    The file is named by its stem, and blanks, which separate fields, become underscores.
    """
    lines = []
    for path, parts in recordings.items():
        name = "_".join(path.stem.split())
        for s in parts:
            times = f"{s.start:.3f} {s.end - s.start:.3f}"
            label, score = "_".join(s.label.split()), "<NA>" if math.isnan(s.score) else f"{s.score:.4f}"
            lines.append(f"SPEAKER {name} 1 {times} <NA> <NA> {label} {score} <NA>\n")
    return "".join(lines)


def to_srt(recordings: dict[Path, list[Segment]]) -> str:
    """Subtitles of one file, SubRip: who speaks."""
    (parts,) = recordings.values()
    blocks = [f"{i}\n{_stamp(s.start, ',')} --> {_stamp(s.end, ',')}\n{s.label}\n" for i, s in enumerate(parts, 1)]
    return "\n".join(blocks)


def to_vtt(recordings: dict[Path, list[Segment]]) -> str:
    """Subtitles of one file, WebVTT, with the speaker as the voice of each cue."""
    (parts,) = recordings.values()
    blocks = [f"{_stamp(s.start, '.')} --> {_stamp(s.end, '.')}\n<v {s.label}>{s.label}</v>\n" for s in parts]
    return "\n".join(["WEBVTT\n", *blocks])


def _stamp(seconds: float, point: str) -> str:
    """Hours, minutes, seconds and milliseconds."""
    whole = round(seconds * 1000)
    return f"{whole // 3600000:02}:{whole // 60000 % 60:02}:{whole // 1000 % 60:02}{point}{whole % 1000:03}"


def read_rttm(path: str | os.PathLike[str]) -> dict[str, list[Segment]]:
    """The SPEAKER lines of an RTTM file, by the recording that they name; lines of other kinds are passed over.

    Raises:
        InputError: the file cannot be read, or a line is damaged; names it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{os.fspath(path)} cannot be read: {error}") from error
    segments: dict[str, list[Segment]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            if fields and not fields[0].isupper() and not fields[0].startswith(";;"):
                raise InputError(f"line {number} of {os.fspath(path)} is not RTTM: it begins with {fields[0][:40]!r}")
            continue
        try:
            start, length, label = float(fields[3]), float(fields[4]), fields[7]
        except (ValueError, IndexError) as error:
            raise InputError(f"line {number} of {os.fspath(path)} is damaged: {line[:80]!r}") from error
        if not (math.isfinite(start) and math.isfinite(length) and start >= 0 and length >= 0):
            raise InputError(f"line {number} of {os.fspath(path)} has impossible times: {start} and {length} seconds")
        parts = segments.setdefault(fields[1], [])
        if length > 0:
            parts.append(Segment(start, start + length, label))
    if not segments:
        raise InputError(f"{os.fspath(path)} holds no SPEAKER line of RTTM")
    return segments
