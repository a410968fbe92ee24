"""The command `speech-zoo`. Imports of MLX wait until a command needs them, so that `--help` answers at once."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from speech_zoo_core.errors import ConfigError, SpeechZooError

from . import cli_timeline, cli_voices
from .cli_bench import bench
from .cli_calibrate import calibrate
from .cli_lid import lid

DEFAULT_MODEL = "campplus-zh-en"

app = typer.Typer(
    help="Who is speaking and in which language, in pure MLX.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelOption = Annotated[str, typer.Option("--model", "-m", help="Catalogue name, folder, file or Hub repo.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FileArgument = Annotated[Path, typer.Argument(help="Audio file (WAV, FLAC, MP3; more with ffmpeg).")]


app.add_typer(cli_voices.app, name="voices")


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the checkpoints that are known by name."""
    from speech_zoo_core import registry

    from .catalogue.entries import entries, facts

    bundled = registry.bundled()
    if as_json:
        _print_json({name: {**facts(entry), "bundled": name in bundled} for name, entry in entries().items()})
        return
    for name, entry in entries().items():
        where = "bundled" if name in bundled else "Hub" if entry.repo else "file"
        typer.echo(f"{name:30} {where:8} {entry.licence:13} {entry.summary}")


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="Catalogue name, folder, file or Hub repo.")],
    as_json: JsonOption = False,
) -> None:
    """Show what is known about a checkpoint; one that is only on the Hub is not fetched."""
    from speech_zoo_core import registry

    from .catalogue import entries as catalogue

    facts: dict[str, Any] = {"name": model}
    entry = catalogue.entries().get(model)
    if entry is not None:
        facts |= {key: value for key, value in catalogue.facts(entry).items() if value is not None}
    if entry is None or model in registry.bundled():
        facts |= _checkpoint_facts(model)
    if as_json:
        _print_json(facts)
        return
    for key, value in facts.items():
        title = key.replace("_", " ")
        for name, part in _lines(key, value):
            typer.echo(f"{f'{title} {name}'.strip():23}  {part}")


@app.command()
def embed(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE…", help="Audio files.")] = None,
    model: ModelOption = DEFAULT_MODEL,
    as_json: JsonOption = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the vectors to this .safetensors, one tensor a file; with --manifest, to this folder.",
        ),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Embed the files of these JSON Lines into a folder of Parquet; resumable.")
    ] = None,
    windows: cli_timeline.WindowsOption = None,
    vad: cli_timeline.VadOption = None,
) -> None:
    """Print or save the speaker embedding of each file (unit length), or with --windows of stretches of each."""
    if windows is None:
        cli_timeline.only_for("--windows", vad=vad)
    if manifest is not None:
        cli_timeline.only_for("FILE…, not with --manifest", windows=windows)
        if files or output is None:
            raise typer.BadParameter("--manifest takes the place of FILE… and needs --output FOLDER")
        from .cli_corpus import run as embed_corpus

        embed_corpus(manifest, output, model, as_json)
        return
    if not files:
        raise typer.BadParameter("missing argument 'FILE…', or --manifest")
    if output is not None and output.suffix != ".safetensors":
        raise typer.BadParameter("--output must end in .safetensors")
    if output is not None and len(set(map(str, files))) < len(files):
        raise typer.BadParameter("a file is named twice; --output stores one tensor for each name")
    if windows is not None:
        load = partial(_load, model, "speaker-embedding")
        cli_timeline.embed_windows(load, model, files, windows, as_json, output, vad)
        return
    import numpy as np

    vectors = np.array(_load(model, "speaker-embedding").embed_batch(files))
    if output is not None:
        from safetensors.numpy import save
        from speech_zoo_core.atomic import written_beside

        named = {str(file): row for file, row in zip(files, vectors, strict=True)}
        with written_beside(output) as beside:
            beside.write_bytes(save(named, metadata={"model": model}))
    if as_json:
        rows = zip(files, vectors.tolist(), strict=True)
        _print_json([{"file": str(file), "model": model, "embedding": row} for file, row in rows])
    elif output is not None:
        typer.echo(f"{output}: {len(files)} vectors of {vectors.shape[1]} values")
    else:
        for file, row in zip(files, vectors, strict=True):
            typer.echo(f"{file}  {len(row)}-d  [{', '.join(f'{x:.4f}' for x in row[:6])}, …]")


@app.command()
def verify(
    a: FileArgument,
    b: FileArgument,
    model: ModelOption = DEFAULT_MODEL,
    threshold: Annotated[
        float | None,
        typer.Option(help="Cosine that counts as the same speaker; default: as calibrated, else the checkpoint's own."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the score against the threshold into this .png.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether two files are of the same speaker."""
    from . import calibration_plot
    from .calibration import thresholds as calibration

    if plot is not None:
        calibration_plot.require(plot)
    loaded = _load(model, "speaker-embedding")
    known = calibration.calibration_of(loaded) if threshold is None or plot is not None else None
    source = "option" if threshold is not None else "checkpoint" if known is None else "calibrated"
    if known is not None and threshold is None:
        threshold = known.threshold
    result = loaded.verify(a, b, threshold=threshold)
    if plot is not None:
        calibration_plot.draw_score(result, (str(a), str(b)), source, known, plot)
    if as_json:
        _print_json(vars(result) | {"threshold_source": source, "model": model, "files": [str(a), str(b)]})
        return
    sign, verdict = (">=", "the same speaker") if result.same_speaker else ("<", "different speakers")
    calibrated = " (calibrated)" if source == "calibrated" else ""
    typer.echo(f"score {result.score:.4f} {sign} threshold {result.threshold:.4f}{calibrated}: {verdict}")


app.command()(calibrate)


app.command()(lid)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Catalogue name, folder, checkpoint file or Hub repo.")],
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    bits: Annotated[int | None, typer.Option(help="8 or 4 quantizes the linear layers.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repo.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a converted checkpoint in OUT.")] = False,
    name: Annotated[str | None, typer.Option(help="Catalogue name of a local copy.")] = None,
) -> None:
    """Convert a checkpoint to config.json and model.safetensors."""
    from . import convert as convert_checkpoint

    folder = convert_checkpoint(source, out, dtype, bits, revision=revision, force=force, name=name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    typer.echo(f"{folder}: {config['model_type']} from {config['source']['form']}, {size / 1e6:.1f} MB")


@app.command()
def check(
    checkpoint: Annotated[str, typer.Argument(help="A converted folder; a bundled name or a Hub repo.")],
    reference: Annotated[
        str | None,
        typer.Option(
            help="The original: folder, file, catalogue name or Hub repo (org/name@revision); default: its own."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the result here, not to parity.json in the folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a converted checkpoint with its original and write parity.json."""
    from . import check as check_parity
    from .parity import show

    parity = check_parity(checkpoint, reference, output=output)
    if as_json:
        typer.echo(parity.to_json(), nl=False)
    else:
        show(parity)
    if parity.passed is False:
        raise SpeechZooError(f"{checkpoint} is not equal to its original: {parity.verdict()}")


@app.command()
def card(
    checkpoint: Annotated[Path, typer.Argument(help="A converted folder.")],
    licence: Annotated[
        str | None, typer.Option(help="The Hub's id of the licence, for a source that is not in the catalogue.")
    ] = None,
    repo: Annotated[str | None, typer.Option(help="org/name that the usage snippets load.")] = None,
) -> None:
    """Write the model card (README.md) of a converted checkpoint."""
    from . import card as write_card

    typer.echo(write_card(checkpoint, licence=licence, repo=repo))


@app.command()
def upload(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that convert wrote.")],
    repo: Annotated[str, typer.Argument(help="org/name, or name for your own account; created if need be.")],
    private: Annotated[bool, typer.Option("--private", help="Create the repo as a private one.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; created if need be.  [default: main]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be uploaded.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Without a card, or with a failed or stale parity.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Publish a converted checkpoint on the Hugging Face Hub."""
    from . import upload as publish

    result = publish(
        checkpoint, repo, private=private, create_pr=create_pr, revision=revision, dry_run=dry_run, force=force
    )
    if as_json:
        files = [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in result.files]
        _print_json(vars(result) | {"files": files, "dry_run": dry_run})
        return
    if dry_run:
        for file in result.files:
            typer.echo(f"{file.name:34} {file.size:12}  {file.sha256}")
        size = sum(file.size for file in result.files)
        typer.echo(f"{len(result.files)} files, {size / 1e6:.1f} MB, would go to {repo}, branch {result.revision}")
        return
    for name in result.removed:
        typer.echo(f"removed {name} of an earlier upload")
    typer.echo(result.url)
    typer.echo(f"commit {result.commit}" + ("" if result.changed else ": had the same files already"))


app.command()(bench)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The heat map.")] = Path("speech-zoo-demo.png"),
) -> None:
    """Compare nine real voices with the bundled checkpoint; needs no network."""
    from .demo import run

    run(output)


def _load(model: str, task: str | None = None) -> Any:
    """The model; with a task, only one that is for it."""
    from . import load

    loaded = load(model)
    if task is not None and loaded.config.task != task:
        raise ConfigError(
            f"{model} is for {loaded.config.task}, not for {task}; speech-zoo list shows what is for what"
        )
    return loaded


def _lines(key: str, value: Any) -> list[tuple[str, Any]]:
    """What `info` prints of a fact: a name within it, and the text."""
    if key == "languages":
        return [("", f"{len(value)}: {', '.join(value)}")] if value else []
    if key == "metrics":
        return [(f"{m['dataset']} {m['split']}", f"{m['value']:g} {m['metric']} ({m['source']})") for m in value]
    if key == "files":
        return [(name, "SHA-256 not known" if digest is None else digest) for name, digest in value.items()]
    if isinstance(value, dict):
        return [(name.replace("_", " "), part) for name, part in value.items()]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [("", ", ".join(value))] if value else []
    return [("", value)]


def _checkpoint_facts(model: str) -> dict[str, Any]:
    """Facts that stand in a checkpoint itself."""
    from speech_zoo_core.config import to_dict
    from speech_zoo_core.layers import parameters

    from .calibration.thresholds import calibration_of

    loaded = _load(model)
    facts = to_dict(loaded.config)
    if labels := facts.pop("id2label", None):
        facts["languages"] = list(labels.values())
    if loaded.config.task == "speaker-embedding" and (known := calibration_of(loaded)) is not None:
        facts["calibrated"] = {"threshold": known.threshold, "date": known.date, "eer": known.eer}
    facts["parameters"] = sum(value.size for value in parameters(loaded).values())
    if loaded.config.front_end is not None:
        facts["shortest_clip_seconds"] = loaded.config.front_end.seconds(loaded.min_frames)
    return facts


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, ensure_ascii=False))


def main() -> None:
    """Run the command: one line on stderr and status 1 for an error, 2 for wrong usage."""
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
    except SpeechZooError as error:
        status = _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        status = _fail("interrupted", 130)
    except OSError as error:  # of printing: a closed pipe, a full disk
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 (for Python's own flush at exit)
        status = 1 if isinstance(error, BrokenPipeError) else _fail(f"cannot write the output: {error.strerror}", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer raises for wrong usage
            raise
        message = error.format_message().rstrip(".")
        status = _fail(f"{message}; see speech-zoo --help", 2) if message else 2  # no command: the help was printed
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> int:
    typer.echo(f"error: {message}", err=True)
    return status


if __name__ == "__main__":
    main()
