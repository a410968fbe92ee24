"""`speech-zoo lid`: which language each file is in, or which is spoken when."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    ChannelOption,
    EngineOption,
    FilesArgument,
    JsonOption,
    ModelOption,
    ThreadsOption,
    VadOption,
    check_plot,
    check_windows,
    computing,
    hearing,
    only_for,
    print_json_rows,
    results,
)
from .segments import check_format, print_segments

if TYPE_CHECKING:
    from speech_zoo_core.tasks.language import Prediction

    from ..recordings.segment import Segment

WINDOW, HOP = 10.0, 5.0  # seconds, of a timeline
FORMATS = ("table", "rttm", "csv")
DEFAULT_MODEL = "voxlingua107-ecapa"


def lid(
    given: FilesArgument,
    model: ModelOption = DEFAULT_MODEL,
    top: Annotated[int, typer.Option(min=1, help="How many languages to print.")] = 5,
    languages: Annotated[
        str | None, typer.Option(help="Choose among these only: ISO 639-1 or 639-3 codes, as in eng,fra,de.")
    ] = None,
    as_json: JsonOption = False,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Say unknown if the best language's probability is below this.")
    ] = None,
    min_logit: Annotated[
        float | None, typer.Option(help="Say unknown if the best language's logit is below this (--json shows it).")
    ] = None,
    timeline: Annotated[bool, typer.Option("--timeline", help="Which language when: for long files.")] = False,
    window: Annotated[float | None, typer.Option(help=f"Seconds of a timeline's windows; default: {WINDOW:g}.")] = None,
    hop: Annotated[float | None, typer.Option(help=f"Seconds from window to window; default: {HOP:g}.")] = None,
    style: Annotated[
        str | None, typer.Option("--format", help="Of a timeline: table, rttm or csv; default: table.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the timeline to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the timeline into this .png.")] = None,
    channel: ChannelOption = None,
    vad: VadOption = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Tell which language each file is in, or with --timeline which is spoken when."""
    codes = None if languages is None else [code.strip() for code in languages.split(",") if code.strip()]
    if codes == []:
        raise typer.BadParameter("--languages needs at least one code, as in eng,fra")
    floors = {"languages": codes, "min_score": min_score, "min_logit": min_logit, **hearing(channel, vad)}
    from ..recordings.files import audio_files

    files, by = audio_files(given), computing(engine, threads)
    if timeline:
        show_timeline(model, files, window, hop, style, as_json, output, plot, by, **floors)
        return
    only_for("--timeline", window=window, hop=hop, format=style, output=output, plot=plot)
    from ..models import load

    loaded = load(model, task="language-identification", **by)
    floors["top_k"] = top + 1  # one more, in case that the first is "unknown"
    answers = results(
        files, "listening", partial(loaded.predict, **floors), lambda chunk: loaded.predict_batch(chunk, **floors)
    )
    if as_json:
        print_json_rows({"file": str(file), "model": model} | _row(best, top) for file, best in answers)
        return
    for file, best in answers:
        for i, prediction in enumerate(best[: top + bool(best[0].reason)]):
            lead = str(file) if i == 0 else " " * len(str(file))
            typer.echo(f"{lead}  {prediction.score:6.2%}  {prediction.label:8} {prediction.reason or prediction.name}")


def _row(best: "list[Prediction]", top: int) -> dict[str, Any]:
    """What --json says of a file, from `top` predictions and the one of unknown before them."""
    known = [p for p in best if not p.reason]
    facts: dict[str, Any] = {"unknown": bool(best[0].reason)} | ({"reason": best[0].reason} if best[0].reason else {})
    rows = [{"label": p.label, "name": p.name, "score": p.score} for p in known[:top]]
    return facts | {"logit": best[0].logit, "languages": rows}


def check_timeline(
    files: list[Path], window: float, hop: float, style: str | None, as_json: bool, plot: Path | None
) -> None:
    """Raises BadParameter for options that do not go together, before anything is loaded."""
    check_format(files, style, as_json, FORMATS)
    if plot is not None and len(files) > 1:
        raise typer.BadParameter("--plot draws the timeline of one file")
    check_windows(window, hop)
    check_plot(plot)


def show_timeline(
    name: str,
    files: list[Path],
    window: float | None,
    hop: float | None,
    style: str | None,
    as_json: bool,
    output: Path | None,
    plot: Path | None,
    by: dict[str, Any],
    **options: Any,
) -> None:
    """Print or save which language is spoken when in each file; `by` is for `load`, `options` for `timeline`."""
    window, hop = WINDOW if window is None else window, HOP if hop is None else hop
    check_timeline(files, window, hop, style, as_json, plot)
    from speech_zoo_core.audio.samples import describe

    from ..models import load
    from ..recordings.timeline import timeline

    model = load(name, task="language-identification", **by)

    def heard(file: Any) -> "list[Segment]":
        parts = timeline(model, file, window, hop, **options)
        if plot is not None:
            from ..plots.timeline import draw

            draw(Path(describe(file)).name, parts, plot)
        return parts

    facts = {"model": name, "window": window, "hop": hop}
    print_segments(files, results(files, "listening", heard), style, facts if as_json else None, output)
