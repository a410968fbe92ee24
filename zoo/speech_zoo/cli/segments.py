"""How commands print segments: tables, RTTM, CSV, subtitles, JSON."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..recordings.formats import to_csv, to_rttm, to_srt, to_table, to_vtt
from .options import print_json_rows, written

if TYPE_CHECKING:
    from ..recordings.segment import Segment

WRITERS: dict[str, Callable[[Any], str]] = {
    "table": to_table,
    "rttm": to_rttm,
    "csv": to_csv,
    "srt": to_srt,
    "vtt": to_vtt,
}
ONE_FILE = ("srt", "vtt")  # formats that know of one recording


def check_format(files: list[Path], style: str | None, as_json: bool, formats: Sequence[str]) -> None:
    """Raises BadParameter for a format that does not go with the files or with --json."""
    if style is not None and (as_json or style not in formats):
        raise typer.BadParameter(f"--format is {', '.join(formats)}, and does not go with --json")
    if style in ONE_FILE and len(files) > 1:
        raise typer.BadParameter(f"--format {style} is for one file")
    stems = [file.stem for file in files]
    if style == "rttm" and len(set(stems)) < len(stems):
        raise typer.BadParameter("RTTM tells files apart by their names without folder and ending; two are the same")


def print_segments(
    files: list[Path],
    segments: "Iterable[tuple[Path, list[Segment]]]",
    style: str | None,
    facts: dict[str, Any] | None,
    output: Path | None,
) -> None:
    """Print or save the segments of each file as they are found; with `facts`, as JSON with these in each row."""
    count = 0
    with written(output) as out:
        if facts is not None:
            rows = ({"file": str(file)} | facts | {"segments": [*map(_row, parts)]} for file, parts in segments)
            print_json_rows(rows, out)
            return
        for file, parts in segments:
            text = WRITERS[style or "table"]({file: parts})
            if style in (None, "table") and len(files) > 1:
                text = f"{file}\n{text}"
            if style == "csv" and count:
                text = text.partition("\n")[2]  # one header
            typer.echo(text, out, nl=False)
            count += len(parts)
    if output is not None:
        typer.echo(f"{output}: {count} segments")


def _row(segment: "Segment") -> dict[str, Any]:
    """What is not known of a segment is left out."""
    facts = {key: value for key, value in vars(segment).items() if key != "logit" or not math.isnan(value)}
    if not segment.reason:
        del facts["reason"]
    if segment.reason or "logit" in facts:
        facts["unknown"] = bool(segment.reason)
    return facts
