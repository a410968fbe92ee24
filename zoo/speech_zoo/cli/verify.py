"""`speech-zoo verify`: whether two files are of the same speaker. `speech-zoo cohort`: others to compare them with."""

import csv
import json
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from ..settings import DEFAULT_MODEL
from .options import (
    FILES,
    ChannelOption,
    EngineOption,
    JsonOption,
    ModelOption,
    ThreadsOption,
    VadOption,
    check_plot,
    computing,
    hearing,
    only_for,
    print_json,
    results,
    source,
    written,
)

if TYPE_CHECKING:
    from speech_zoo_core.tasks.cohort import Cohort
    from speech_zoo_core.tasks.speaker import Verification

CohortOption = Annotated[
    Path | None, typer.Option(help="Normalise scores (adaptive s-norm) with the voices that speech-zoo cohort kept.")
]
ListOption = Annotated[Path | None, typer.Option("--list", help="Score the pairs of this list, in place of A B.")]
TopOption = Annotated[
    int | None, typer.Option(min=2, help="Voices of --cohort that count, the most similar; default: 300.")
]


def verify(
    a: Annotated[Path | None, typer.Argument(help="Audio file; - for standard input.")] = None,
    b: Annotated[Path | None, typer.Argument(help="Audio file; - for standard input.")] = None,
    model: ModelOption = DEFAULT_MODEL,
    threshold: Annotated[
        float | None,
        typer.Option(help="Score that counts as the same speaker; default: as calibrated, else the checkpoint's own."),
    ] = None,
    enrol: Annotated[
        list[Path] | None, typer.Option(help="Another file of A's speaker, who is compared as the mean of all.")
    ] = None,
    cohort: CohortOption = None,
    top: TopOption = None,
    trials: ListOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the scores of --list to this .txt, .csv, .tsv or .jsonl."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the score against the threshold into this .png.")] = None,
    channel: ChannelOption = None,
    vad: VadOption = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether two files are of the same speaker, or score a list of pairs."""
    how, by = hearing(channel, vad), computing(engine, threads)
    if cohort is None:
        only_for("--cohort", top=top)
    if trials is not None:
        only_for("A B, not with --list", threshold=threshold, enrol=enrol or None, plot=plot)
        if a is not None:
            raise typer.BadParameter("--list takes the place of A B")
        score_list(trials, output, model, cohort_of(cohort), top, as_json, how, by)
        return
    only_for("--list", output=output)
    if a is None or b is None:
        raise typer.BadParameter(f"missing argument '{'A' if a is None else 'B'}', or --list")
    check_plot(plot)
    from ..calibration import thresholds as calibration
    from ..models import load

    others = cohort_of(cohort)
    loaded = load(model, task="speaker-embedding", **by)
    matters = others is None and (threshold is None or plot is not None)
    known = calibration.calibration_of(loaded) if matters else None
    chosen = "option" if threshold is not None else "checkpoint" if known is None else "calibrated"
    side: Any = [source(file) for file in (a, *enrol)] if enrol else source(a)
    more = {} if others is None else {"cohort": others} | ({} if top is None else {"top": top})
    result = loaded.verify(side, source(b), threshold=threshold, **how, **more)
    if plot is not None:
        from ..plots.scores import draw_score

        draw_score(result, (str(a), str(b)), chosen, known, plot)
    if as_json:
        facts = {"threshold_source": chosen, "model": model, "files": [str(file) for file in (a, b, *(enrol or []))]}
        normalised = {} if cohort is None else {"cosine": result.cosine, "cohort": str(cohort)}
        print_json({name: value for name, value in vars(result).items() if name != "cosine"} | facts | normalised)
        return
    typer.echo(_verdict(result, chosen))


def _verdict(result: "Verification", chosen: str) -> str:
    sign, verdict = (">=", "the same speaker") if result.same_speaker else ("<", "different speakers")
    calibrated = " (calibrated)" if chosen == "calibrated" else ""
    score = f"score {result.score:.4f}"
    if result.cosine is not None:
        score = f"normalised {score} (cosine {result.cosine:.4f})"
    return f"{score} {sign} threshold {result.threshold:.4f}{calibrated}: {verdict}"


def cohort_of(path: Path | None) -> "Cohort | None":
    """The cohort of `--cohort`, if that is given."""
    from speech_zoo_core.tasks.cohort import Cohort

    return None if path is None else Cohort.load(path)


def score_list(
    trials: Path,
    output: Path | None,
    model: str,
    cohort: "Cohort | None",
    top: int | None,
    as_json: bool,
    how: dict[str, Any],
    by: dict[str, Any],
) -> None:
    """Write or print the score of each pair of a list.

    Raises:
        SpeechZooError: the list or one of its files cannot be used, or the output cannot be written.
    """
    forms = (".txt", ".csv", ".tsv", ".jsonl")
    if output is not None and output.suffix not in forms:
        raise typer.BadParameter(f"--output ends in {', '.join(forms[:-1])} or {forms[-1]}")
    from speech_zoo_core.errors import InputError

    from ..calibration.trials import read_pairs, score
    from ..models import load

    listed = read_pairs(trials)
    form = ".jsonl" if output is None and as_json else ".txt" if output is None else output.suffix
    spaced = [name for a, b, _ in listed.rows for name in (a, b) if len(name.split()) != 1]
    if form == ".txt" and spaced:
        raise InputError(f"{spaced[0]!r} holds a space: --output takes a .csv, .tsv or .jsonl for such names")
    loaded = load(model, task="speaker-embedding", **by)
    if cohort is not None:
        cohort.check(loaded)
    scores, _ = score(loaded, trials, listed, cohort, top, **how)
    rows = ((a, b, f"{value:.6f}", label) for (a, b, label), value in zip(listed.rows, scores, strict=True))
    with written(output) as out:
        _write(rows, form, out)
    if output is not None:
        facts = {"output": str(output), "model": model, "pairs": len(listed.pairs), "files": len(listed.files)}
        if as_json:
            print_json(facts)
        else:
            typer.echo(f"{output}: scores of {facts['pairs']} pairs of {facts['files']} files, {model}")


def _write(rows: Iterator[tuple[str, str, str, str]], form: str, out: TextIO | None) -> None:
    """Rows of two names, score and label ("" for none); a .csv or .tsv has a line of titles."""
    if form in (".csv", ".tsv"):
        writer = csv.writer(out, delimiter="," if form == ".csv" else "\t", lineterminator="\n")  # type: ignore[arg-type]
        writer.writerow(["a", "b", "score", "label"])
        writer.writerows(rows)
        return
    for a, b, score, label in rows:
        if form == ".txt":
            typer.echo(" ".join([a, b, score, label]).rstrip(), out)
        else:
            row = {"a": a, "b": b, "score": float(score)} | ({"label": label} if label else {})
            typer.echo(json.dumps(row, ensure_ascii=False), out)


def cohort(
    given: Annotated[list[str], typer.Argument(metavar="FILE…", help=FILES)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The cohort, a .safetensors.")],
    model: ModelOption = DEFAULT_MODEL,
    by_folder: Annotated[
        bool, typer.Option("--by-folder", help="The files of one folder are one speaker; else each is another.")
    ] = False,
    channel: ChannelOption = None,
    vad: VadOption = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep the voices of other people, with which verify --cohort normalises its scores."""
    how, by = hearing(channel, vad), computing(engine, threads)
    if output.suffix != ".safetensors":
        raise typer.BadParameter("--output must end in .safetensors")
    import numpy as np
    from speech_zoo_core.tasks.cohort import Cohort

    from ..models import load
    from ..recordings.files import audio_files

    files = audio_files(given)
    loaded = load(model, task="speaker-embedding", **by)
    embedded: list[tuple[Path, Any]] = []
    failed: typer.Exit | None = None
    try:
        found = results(files, "embedding", partial(loaded.embed, **how), partial(loaded.embed_batch, **how))
        for file, vector in found:
            embedded.append((file, np.array(vector)))
    except typer.Exit as error:
        failed = error
    key = (lambda item: str(item[0].parent)) if by_folder else lambda item: str(item[0])
    speakers = [[vector for _, vector in group] for _, group in groupby(sorted(embedded, key=key), key)]
    made = Cohort.of(loaded, model, [np.stack(vectors) for vectors in speakers])
    made.save(output)
    facts = {"output": str(output), "model": model, "speakers": len(speakers), "files": len(embedded)}
    if as_json:
        print_json(facts)
    else:
        typer.echo(f"{output}: {len(speakers)} speakers of {len(embedded)} files, {model}")
    if failed is not None:
        raise failed
