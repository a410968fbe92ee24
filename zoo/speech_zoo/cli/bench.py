"""`speech-zoo bench`: its options, checked before anything is imported that takes time."""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..settings import DEFAULT_MODEL


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL…]",
            help="fbank, an example (by default all), a model type, or a checkpoint: catalogue name, folder, Hub repo.",
        ),
    ] = None,
    seconds: Annotated[str, typer.Option(help="Lengths of the clips, as in 3,10,60.")] = "10",
    batch: Annotated[str, typer.Option(help="Clips at a time, as in 1,16.")] = "1",
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each contender; the median counts.")] = 7,
    contenders: Annotated[
        str | None,
        typer.Option(
            help="Whom to compare with; ours always runs, mlx and coreml are our model by that engine. Default: "
            "ours,stock,torch,onnxruntime, and openvino where it is installed."
        ),
    ] = None,
    layers: Annotated[int, typer.Option(min=1, max=48, help="Transformer layers of an example; MMS-LID has 48.")] = 4,
    long: Annotated[bool, typer.Option("--long", help="Ours alone: 600 s of audio next to 10 s.")] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Ours alone: where the time goes, and what this machine can do.")
    ] = False,
    start: Annotated[
        bool, typer.Option("--start", help="Measure the start instead: the bundled model through mlx_audio.load.")
    ] = False,
    audio: Annotated[
        bool, typer.Option("--audio", help="Measure an hour of MP3 to samples, and the speech check instead.")
    ] = False,
    shared: Annotated[
        bool, typer.Option("--shared", help="Ours alone: beside busy processes, and several requests at once.")
    ] = False,
    diarize: Annotated[
        bool, typer.Option("--diarize", help="Measure who speaks when, 1 and 10 minutes; with --long an hour, too.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw a bar chart into this .png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure models on this machine, next to their originals and stock MLX; large ones: memory to convert, too."""
    if start or audio or diarize:
        _run_instead(start, audio, diarize, long, repeats, as_json)
        return
    if plot is not None and (long or plot.suffix != ".png"):
        raise typer.BadParameter("--plot must end in .png, and does not go with --long")
    from ..bench.run import CONTENDERS, Plan, names, run

    if profile:
        from ..bench.profile import run as run_profile

        run_profile(_models(models, names()[1:]), _numbers(seconds, 0.1, "--seconds")[0], layers, repeats, as_json)
        return
    if shared:
        from ..bench.shared import run as run_shared

        run_shared(tuple(models or (DEFAULT_MODEL,)), repeats, as_json)
        return
    measured = _models(models, names())
    chosen = _contenders(contenders, CONTENDERS)
    lengths, batches = _numbers(seconds, 0.1, "--seconds"), map(int, _numbers(batch, 1, "--batch", whole=True))
    run(Plan(measured, chosen, tuple(lengths), tuple(batches), repeats, layers), as_json, plot, long)


def _run_instead(start: bool, audio: bool, diarize: bool, long: bool, repeats: int, as_json: bool) -> None:
    """The first of the measurements that are asked for instead of models."""
    if audio:
        from ..bench import audio as audio_bench

        audio_bench.run(repeats, as_json)
    elif diarize:
        from ..bench import diarization as diarization_bench

        lengths = diarization_bench.LENGTHS + ((diarization_bench.LONG,) if long else ())
        diarization_bench.run(lengths, as_json)
    else:
        from ..bench import startup as start_bench

        start_bench.run(repeats, as_json)


def _models(given: list[str] | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    """The models to measure, each once; BadParameter for a name that nothing has."""
    from ..bench.contender import FBANK
    from ..bench.subjects import known

    for name in given or ():
        if not known(name) or (name == FBANK and FBANK not in usual):
            what = f"{', '.join(usual)}, a model type, or a checkpoint (catalogue name, folder, Hub repo)"
            raise typer.BadParameter(f"the models are {what}, not {name!r}")
    return tuple(dict.fromkeys(given or usual))


def _contenders(given: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """The contenders of `ours,torch`, each once; BadParameter for one that is not known."""
    usual = ["ours", "stock", "torch", "onnxruntime", *(["openvino"] if find_spec("openvino") else [])]
    names = usual if given is None else given.split(",")
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"--contenders are {', '.join(known)}, not {unknown[0]!r}")
    return tuple(dict.fromkeys(names))


def _numbers(text: str, least: float, option: str, whole: bool = False) -> list[float]:
    """The numbers of `3,10`, each once; BadParameter unless they are finite and `least` or more."""
    try:
        numbers = [(int if whole else float)(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(least <= number < math.inf for number in numbers):
        kind = "whole numbers" if whole else "numbers"
        raise typer.BadParameter(f"{option} takes {kind} of {least:g} or more, as in 1,16, not {text!r}")
    return list(dict.fromkeys(numbers))
