"""`speech-zoo verify`: whether two files are of the same speaker."""

from pathlib import Path
from typing import Annotated

import typer

from ..settings import DEFAULT_MODEL
from .options import (
    ChannelOption,
    EngineOption,
    FileArgument,
    JsonOption,
    ModelOption,
    ThreadsOption,
    VadOption,
    check_plot,
    computing,
    hearing,
    print_json,
    source,
)


def verify(
    a: FileArgument,
    b: FileArgument,
    model: ModelOption = DEFAULT_MODEL,
    threshold: Annotated[
        float | None,
        typer.Option(help="Cosine that counts as the same speaker; default: as calibrated, else the checkpoint's own."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the score against the threshold into this .png.")] = None,
    channel: ChannelOption = None,
    vad: VadOption = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether two files are of the same speaker."""
    from ..calibration import thresholds as calibration
    from ..models import load

    how = hearing(channel, vad)
    check_plot(plot)
    loaded = load(model, task="speaker-embedding", **computing(engine, threads))
    known = calibration.calibration_of(loaded) if threshold is None or plot is not None else None
    chosen = "option" if threshold is not None else "checkpoint" if known is None else "calibrated"
    result = loaded.verify(source(a), source(b), threshold=threshold, **how)
    if plot is not None:
        from ..plots.scores import draw_score

        draw_score(result, (str(a), str(b)), chosen, known, plot)
    if as_json:
        print_json(vars(result) | {"threshold_source": chosen, "model": model, "files": [str(a), str(b)]})
        return
    sign, verdict = (">=", "the same speaker") if result.same_speaker else ("<", "different speakers")
    calibrated = " (calibrated)" if chosen == "calibrated" else ""
    typer.echo(f"score {result.score:.4f} {sign} threshold {result.threshold:.4f}{calibrated}: {verdict}")
