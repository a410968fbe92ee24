"""Options that several commands share, and how commands go through files and print JSON."""

import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TextIO

import typer
from speech_zoo_core.errors import AudioError, InputError

from ..engines.choice import Name, chosen

ModelOption = Annotated[str, typer.Option("--model", "-m", help="Catalogue name, folder, file or Hub repo.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FileArgument = Annotated[Path, typer.Argument(help="Audio file; - for standard input.")]
FILES = "Audio files, folders of them, patterns such as 'talks/*.mp3', or - for standard input."
FilesArgument = Annotated[list[str], typer.Argument(metavar="FILE…", help=FILES)]
ChannelOption = Annotated[
    str | None, typer.Option(help="Of several: its number from 0 on, or mean; default: as the model's original does.")
]
EngineOption = Annotated[
    Name, typer.Option(help="What computes the model; auto: mlx on a GPU, onnxruntime on a CPU where it is installed.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="That onnxruntime computes with; default: one for each core.")
]
VadOption = Annotated[bool, typer.Option("--vad/--no-vad", help="Take nothing that holds no speech.")]

FILES_AT_ONCE = 64


def results(
    files: list[Path],
    doing: str,
    one: Callable[[Any], Any],
    many: Callable[[list[Any]], Iterable[Any]] | None = None,
) -> Iterator[tuple[Path, Any]]:
    """What `one` gives for each file, as soon as it is known; `many` where several at a time are faster, on a GPU.

    A file that cannot be used is told on standard error at once, and makes the exit status 1 in the end.
    """
    from speech_zoo_core.device import on_cpu
    from speech_zoo_core.progress import progress

    size = 1 if many is None or on_cpu() else FILES_AT_ONCE
    failed = False
    with progress(total=len(files), desc=doing, unit="file") as bar:
        for start in range(0, len(files), size):
            chunk = files[start : start + size]
            for file, result in zip(chunk, _attempts(chunk, one, many), strict=True):
                bar.update()
                bar.clear()
                if isinstance(result, AudioError):
                    typer.echo(f"error: {result}", err=True)
                    failed = True
                else:
                    yield file, result
    if failed:
        raise typer.Exit(1)


def _attempts(
    files: list[Path], one: Callable[[Any], Any], many: Callable[[list[Any]], Iterable[Any]] | None
) -> Iterator[Any]:
    """The result of each file, or its AudioError."""
    if many is not None and len(files) > 1:
        try:
            yield from many([source(file) for file in files])
            return
        except AudioError:  # one by one, which tells whose it is
            pass
    for file in files:
        try:
            result = one(source(file))
        except AudioError as error:
            result = error
        yield result


def print_json_rows(rows: Iterable[dict[str, Any]], out: TextIO | None = None) -> None:
    """A JSON array, each row on a line of its own as soon as it is known; nothing if all files failed."""
    count = 0
    try:
        for row in rows:
            typer.echo((",\n" if count else "[") + json.dumps(row, ensure_ascii=False), out, nl=False)
            count += 1
    finally:
        if count:
            typer.echo("]", out)
    if not count:
        typer.echo("[]", out)


@contextmanager
def written(output: Path | None) -> Iterator[TextIO | None]:
    """Where text goes: standard output (None), or a file that appears whole, also where some files cannot be used."""
    if output is None:
        yield None
        return
    from speech_zoo_core.atomic import written_beside

    failed = None
    with written_beside(output) as beside, beside.open("w", encoding="utf-8", newline="") as out:
        try:
            yield out
        except typer.Exit as error:
            if not out.tell():
                raise
            failed = error
    if failed is not None:
        raise failed


def print_json(data: Any) -> None:
    """One line of JSON on standard output."""
    typer.echo(json.dumps(data, ensure_ascii=False))


def print_result(as_json: bool, facts: Any, *lines: str) -> None:
    """What a command found: facts as one line of JSON, or lines for people."""
    if as_json:
        print_json(facts)
        return
    for line in lines:
        typer.echo(line)


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


def computing(engine: Name, threads: int | None) -> dict[str, Any]:
    """The arguments `engine` and `threads` of `load`.

    Raises:
        ConfigError: the engine is not here.
    """
    if engine != "auto":
        chosen(engine, threads)
    return {"engine": engine, "threads": threads}


def hearing(channel: str | None, vad: bool) -> dict[str, Any]:
    """The arguments `channel` and `vad` of models.

    Raises:
        BadParameter: the channel is neither a number nor "mean".
    """
    if channel is not None and channel != "mean" and not (channel.isascii() and channel.isdigit()):
        raise typer.BadParameter(f"--channel is a number from 0 on, or mean, not {channel!r}")
    return {"channel": int(channel) if channel is not None and channel != "mean" else channel, "vad": vad}


def source(file: Path) -> "Path | BinaryIO":
    """The file; for `-`, what comes on standard input."""
    return _standard_input() if str(file) == "-" else file


@cache
def _standard_input() -> BinaryIO:
    held = io.BytesIO(sys.stdin.buffer.read())
    held.name = "<stdin>"
    return held


def only_for(what: str, **given: Any) -> None:
    """Raises BadParameter for an option that was given without the one that it belongs to."""
    for option, value in given.items():
        if value is not None:
            raise typer.BadParameter(f"--{option} goes with {what}")
