"""The options of `speech-zoo lid --timeline` and `speech-zoo embed --windows`, and what these print."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from speech_zoo_core.errors import InputError

if TYPE_CHECKING:
    from .segments import Segment
    from .windows import Gate

WINDOW, HOP = 10.0, 5.0  # seconds, of a timeline
FORMATS = ("table", "rttm", "csv")

VadOption = Annotated[
    str | None, typer.Option(help="What finds speech in long files: silero, or a folder with it; default: loudness.")
]
WindowsOption = Annotated[
    str | None, typer.Option(help="Embed windows of each file: seconds of window and hop, as in 3/1.5.")
]


def check_timeline(
    files: list[Path], window: float, hop: float, style: str | None, as_json: bool, plot: Path | None
) -> None:
    """Raises BadParameter for options that do not go together, before anything is loaded."""
    if style is not None and (as_json or style not in FORMATS):
        raise typer.BadParameter(f"--format is {', '.join(FORMATS)}, and does not go with --json")
    if plot is not None and len(files) > 1:
        raise typer.BadParameter("--plot draws the timeline of one file")
    stems = [file.stem for file in files]
    if style == "rttm" and len(set(stems)) < len(stems):
        raise typer.BadParameter("RTTM tells files apart by their names without folder and ending; two are the same")
    check_windows(window, hop)
    if plot is not None:
        from .calibration_plot import require

        require(plot)


def check_windows(window: float, hop: float) -> None:
    """Raises BadParameter unless windows of these seconds can be cut."""
    from .windows import check_windows

    try:
        check_windows(window, hop)
    except InputError as error:
        raise typer.BadParameter(str(error)) from error


def timeline(
    load: Callable[[], Any],
    name: str,
    files: list[Path],
    window: float | None,
    hop: float | None,
    style: str | None,
    as_json: bool,
    output: Path | None,
    plot: Path | None,
    vad: str | None,
    **options: Any,
) -> None:
    """Print or save which language is spoken when in each file; `options` are those of `segments`."""
    window, hop = WINDOW if window is None else window, HOP if hop is None else hop
    check_timeline(files, window, hop, style, as_json, plot)
    from .segments import segments, to_csv, to_rttm, to_table

    model = load()
    gates = _gates(vad, model)
    found = {file: segments(model, file, window, hop, gate=next(gates), **options) for file in files}
    if plot is not None:
        from .timeline_plot import draw

        draw(files[0].name, found[files[0]], plot)
    if as_json:
        rows = [
            {"file": str(file), "model": name, "window": window, "hop": hop, "segments": [_row(s) for s in parts]}
            for file, parts in found.items()
        ]
        text = json.dumps(rows, ensure_ascii=False) + "\n"
    else:
        text = {"table": to_table, "rttm": to_rttm, "csv": to_csv}[style or "table"](found)
    if output is None:
        typer.echo(text, nl=False)
        return
    from speech_zoo_core.atomic import written_beside

    with written_beside(output) as beside:
        beside.write_text(text, encoding="utf-8", newline="")
    typer.echo(f"{output}: {sum(map(len, found.values()))} segments")


def _row(segment: "Segment") -> dict[str, Any]:
    facts = vars(segment) | {"unknown": bool(segment.reason)}
    if not segment.reason:
        del facts["reason"]
    return facts


def _gates(vad: str | None, model: Any) -> "Iterator[Gate | None]":
    """A gate for each file; None for the one of its own loudness."""
    if vad is None:
        while True:
            yield None
    from .vad import silero

    make = silero(vad, model.sample_rate)
    while True:
        yield make()


def embed_windows(
    load: Callable[[], Any],
    name: str,
    files: list[Path],
    windows: str,
    as_json: bool,
    output: Path | None,
    vad: str | None,
) -> None:
    """Print or save the speaker embeddings of the windows of each file."""
    try:
        window, hop = (float(part) for part in windows.split("/"))
    except ValueError as error:
        raise typer.BadParameter(f"--windows takes seconds of window and hop, as in 3/1.5, not {windows!r}") from error
    check_windows(window, hop)
    import numpy as np

    from .windows import window_embeddings

    model = load()
    gates = _gates(vad, model)
    tensors: dict[str, Any] = {}
    for file in files:
        batches = list(window_embeddings(model, file, window, hop, next(gates)))
        parts = [part for found, _ in batches for part in found]
        tensors[f"{file}/start"] = np.array([part.start for part in parts])
        tensors[f"{file}/end"] = np.array([part.end for part in parts])
        tensors[f"{file}/embedding"] = np.concatenate([vectors for _, vectors in batches])
    if output is not None:
        from safetensors.numpy import save_file
        from speech_zoo_core.atomic import written_beside

        with written_beside(output) as beside:
            save_file(tensors, beside, metadata={"model": name, "windows": windows})
    if output is not None and not as_json:
        count = sum(len(tensors[f"{file}/start"]) for file in files)
        typer.echo(f"{output}: {count} vectors of {tensors[f'{files[0]}/embedding'].shape[1]} values")
        return
    rows = {file: [tensors[f"{file}/{what}"] for what in ("start", "end", "embedding")] for file in files}
    if as_json:
        typer.echo(json.dumps([_file_row(file, name, window, hop, *rows[file]) for file in files], ensure_ascii=False))
        return
    for file, columns in rows.items():
        for start, end, vector in zip(*columns, strict=True):
            values = ", ".join(f"{x:.4f}" for x in vector[:6])
            typer.echo(f"{file}  {start:9.2f} {end:9.2f} s  {len(vector)}-d  [{values}, …]")


def _file_row(file: Path, name: str, window: float, hop: float, starts: Any, ends: Any, vectors: Any) -> dict[str, Any]:
    columns = zip(starts.tolist(), ends.tolist(), vectors.tolist(), strict=True)
    found = [{"start": start, "end": end, "embedding": vector} for start, end, vector in columns]
    return {"file": str(file), "model": name, "window": window, "hop": hop, "windows": found}


def only_for(what: str, **given: Any) -> None:
    """Raises BadParameter for an option that was given without the one that it belongs to."""
    for option, value in given.items():
        if value is not None:
            raise typer.BadParameter(f"--{option} goes with {what}")
