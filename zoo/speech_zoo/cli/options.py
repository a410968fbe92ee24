"""Options and small helpers that several commands share."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from speech_zoo_core.errors import InputError

if TYPE_CHECKING:
    from ..recordings.windows import Gate

ModelOption = Annotated[str, typer.Option("--model", "-m", help="Catalogue name, folder, file or Hub repo.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FileArgument = Annotated[Path, typer.Argument(help="Audio file (WAV, FLAC, MP3; more with ffmpeg).")]
VadOption = Annotated[
    str | None, typer.Option(help="What finds speech in long files: silero, or a folder with it; default: loudness.")
]


def print_json(data: Any) -> None:
    """One line of JSON on standard output."""
    typer.echo(json.dumps(data, ensure_ascii=False))


def check_plot(path: Path | None, where: str = "--plot") -> None:
    """Raises, before any work, if a picture is wanted that cannot be drawn or written."""
    if path is None:
        return
    if path.suffix != ".png":
        raise typer.BadParameter(f"{where} must end in .png")
    from ..plots.figure import check_drawable

    check_drawable(path)


def check_windows(window: float, hop: float) -> None:
    """Raises BadParameter unless windows of these seconds can be cut."""
    from ..recordings.windows import check_windows

    try:
        check_windows(window, hop)
    except InputError as error:
        raise typer.BadParameter(str(error)) from error


def gates_of(vad: str | None, model: Any) -> "Iterator[Gate | None]":
    """A gate for each file; None for the one of its own loudness."""
    if vad is None:
        while True:
            yield None
    from ..recordings.vad import silero

    make = silero(vad, model.sample_rate)
    while True:
        yield make()


def only_for(what: str, **given: Any) -> None:
    """Raises BadParameter for an option that was given without the one that it belongs to."""
    for option, value in given.items():
        if value is not None:
            raise typer.BadParameter(f"--{option} goes with {what}")
