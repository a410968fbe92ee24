"""`speech-zoo diarize`, `evaluate` and `conversation`: who speaks when, how well that was found, what to try it on."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from speech_zoo_core.errors import InputError

from ..settings import DEFAULT_MODEL, SEGMENTATION
from .options import (
    EngineOption,
    FilesArgument,
    JsonOption,
    ModelOption,
    ThreadsOption,
    check_plot,
    computing,
    hearing,
    print_json_rows,
    results,
)
from .segments import WRITERS, check_format, print_segments
from .voices import open_store

if TYPE_CHECKING:
    from ..recordings.segment import Segment


def diarize(
    given: FilesArgument,
    model: ModelOption = DEFAULT_MODEL,
    segmentation: Annotated[str, typer.Option(help="Of speaker segmentation, named as a model is.")] = SEGMENTATION,
    speakers: Annotated[int | None, typer.Option(min=1, help="How many there are, if that is known.")] = None,
    min_speakers: Annotated[int | None, typer.Option(min=1, help="How many there are at least.")] = None,
    max_speakers: Annotated[int | None, typer.Option(min=1, help="How many there are at most.")] = None,
    channel: Annotated[
        str | None,
        typer.Option(help="Of several: its number from 0 on, mean, or each where every channel holds one speaker."),
    ] = None,
    voices: Annotated[
        Path | None, typer.Option(metavar="STORE", help="Name known voices of this store; mine for your own.")
    ] = None,
    as_json: JsonOption = False,
    style: Annotated[str | None, typer.Option("--format", help=f"{', '.join(WRITERS)}; default: table.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw who speaks when into this .png.")] = None,
    html: Annotated[Path | None, typer.Option(help="A page to look at and listen to: this .html.")] = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Tell who speaks when in each file, with overlap."""
    from ..recordings.files import audio_files

    files = audio_files(given)
    check_format(files, style, as_json, [*WRITERS])
    _check_pictures(files, plot, html)
    from speech_zoo_core.audio.samples import describe

    from ..models import load
    from ..recordings import diarization

    numbers = {"speakers": speakers, "min_speakers": min_speakers, "max_speakers": max_speakers}
    diarization.check_numbers(**numbers)
    where: Any = "each" if channel == "each" else hearing(channel, True)["channel"]
    by = computing(engine, threads)
    models = {
        "model": load(model, task="speaker-embedding", **by),
        "segmentation": load(segmentation, task="speaker-segmentation", **by),
    }

    known = None if voices is None else open_store(None if str(voices) == "mine" else voices, models["model"])

    def heard(file: Path) -> "list[Segment]":
        parts = diarization.diarize(file, **numbers, **models, channel=where, voices=known)
        if not parts:
            typer.echo(f"{describe(file)}: nobody speaks", err=True)
        elif plot is not None:
            from ..plots.timeline import draw

            draw(file.name, parts, plot, "", "share of\nwindows (0 to 1)")
        if html is not None:
            from ..recordings.report import report

            report(file, parts, html, channel="mean" if where in (None, "each") else where)
        return parts

    facts = {"model": model, "segmentation": segmentation} if as_json else None
    print_segments(files, results(files, "listening", heard), style, facts, output)


def _check_pictures(files: list[Path], plot: Path | None, html: Path | None) -> None:
    """Raises, before any work, if a picture or a page is wanted that cannot be made."""
    for option, picture in (("--plot draws", plot), ("--html shows", html)):
        if picture is not None and len(files) > 1:
            raise typer.BadParameter(f"{option} one file")
    check_plot(plot)
    if html is None:
        return
    from ..recordings.report import check_report

    try:
        check_report(html)
    except InputError as error:
        raise typer.BadParameter(str(error)) from error


def evaluate(
    reference: Annotated[Path, typer.Argument(help="RTTM file with who speaks when.")],
    hypothesis: Annotated[Path, typer.Argument(help="RTTM file with what was found.")],
    collar: Annotated[
        float, typer.Option(min=0, help="Seconds around each edge of the reference that do not count.")
    ] = 0.0,
    skip_overlap: Annotated[bool, typer.Option(help="Leave out where several speak.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare a diarization with a reference: diarization error rate and its parts, Jaccard error rate."""
    from ..recordings.evaluation import evaluate as compare

    rows = compare(reference, hypothesis, collar=collar, skip_overlap=skip_overlap)
    if as_json:
        print_json_rows({"name": name, **asdict(row)} for name, row in rows.items())
        return
    width = max(map(len, rows))
    typer.echo(f"{'':{width}}     DER  missed   false  confused     JER  speakers")
    for name, row in rows.items():
        shares = f"{row.der:7.2%} {row.missed:7.2%} {row.false_alarm:7.2%}   {row.confusion:7.2%} {row.jer:7.2%}"
        typer.echo(f"{name:{width}} {shares}  {row.found} of {row.speakers}")


def conversation(
    output: Annotated[Path, typer.Argument(help="The .wav; an .rttm with who speaks when is written beside it.")],
    speakers: Annotated[int, typer.Option(min=1, max=9, help="How many take part.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="Its length.")] = 180.0,
    seed: Annotated[int, typer.Option(min=0, help="Another one gives another conversation.")] = 0,
) -> None:
    """Make up a conversation of the bundled voices, to try diarize and evaluate on."""
    from speech_zoo_core.atomic import written_beside

    from ..recordings.conversation import conversation as make
    from ..recordings.conversation import wav
    from ..recordings.formats import to_rttm

    if output.suffix.lower() != ".wav":
        raise typer.BadParameter("the file's name must end in .wav")
    samples, segments = make(speakers, seconds, seed)
    with written_beside(output) as beside:
        beside.write_bytes(wav(samples))
    rttm = output.with_suffix(".rttm")
    with written_beside(rttm) as beside:
        beside.write_text(to_rttm({output: segments}), encoding="utf-8")
    typer.echo(f"{output}, {rttm}: {speakers} speakers, {seconds:g} s")
