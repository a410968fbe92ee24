"""`speech-zoo lid`: which language each file is in, or which is spoken when."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_timeline import HOP, WINDOW, VadOption, only_for
from .cli_timeline import timeline as show_timeline

if TYPE_CHECKING:
    from speech_zoo_core.tasks.language import Prediction

DEFAULT_MODEL = "voxlingua107-ecapa"


def lid(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Audio files.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Catalogue name, folder, file or Hub repo.")
    ] = DEFAULT_MODEL,
    top: Annotated[int, typer.Option(min=1, help="How many languages to print.")] = 5,
    languages: Annotated[
        str | None, typer.Option(help="Choose among these only: ISO 639-1 or 639-3 codes, as in eng,fra,de.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
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
    vad: VadOption = None,
) -> None:
    """Tell which language each file is in, or with --timeline which is spoken when."""
    from .cli import _load, _print_json

    codes = None if languages is None else [code.strip() for code in languages.split(",") if code.strip()]
    if codes == []:
        raise typer.BadParameter("--languages needs at least one code, as in eng,fra")
    floors: dict[str, Any] = {"languages": codes, "min_score": min_score, "min_logit": min_logit}
    load = partial(_load, model, "language-identification")
    if timeline:
        show_timeline(load, model, files, window, hop, style, as_json, output, plot, vad, **floors)
        return
    only_for("--timeline", window=window, hop=hop, format=style, output=output, plot=plot, vad=vad)
    found = load().predict_batch(files, top_k=top + 1, **floors)  # one more, in case that the first is "unknown"
    if as_json:
        _print_json(
            [{"file": str(file), "model": model} | _row(best, top) for file, best in zip(files, found, strict=True)]
        )
        return
    for file, best in zip(files, found, strict=True):
        for i, prediction in enumerate(best[: top + bool(best[0].reason)]):
            lead = str(file) if i == 0 else " " * len(str(file))
            typer.echo(f"{lead}  {prediction.score:6.2%}  {prediction.label:8} {prediction.reason or prediction.name}")


def _row(best: "list[Prediction]", top: int) -> dict[str, Any]:
    """What --json says of a file, from `top` predictions and the one of unknown before them."""
    known = [p for p in best if not p.reason]
    facts: dict[str, Any] = {"unknown": bool(best[0].reason)} | ({"reason": best[0].reason} if best[0].reason else {})
    rows = [{"label": p.label, "name": p.name, "score": p.score} for p in known[:top]]
    return facts | {"logit": best[0].logit, "languages": rows}
