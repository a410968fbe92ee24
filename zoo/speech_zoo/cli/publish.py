"""`speech-zoo convert`, `export`, `check`, `card` and `upload`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from speech_zoo_core.errors import SpeechZooError

from ..engines.choice import Name
from .options import JsonOption, print_json


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
    from ..models import convert as convert_checkpoint

    folder = convert_checkpoint(source, out, dtype, bits, revision=revision, force=force, name=name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    typer.echo(f"{folder}: {config['model_type']} from {config['source']['form']}, {size / 1e6:.1f} MB")


def export(
    model: Annotated[str, typer.Argument(help="Catalogue name, folder, checkpoint file or Hub repo.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx|OUT.mlpackage", help="ONNX or Core ML.")],
    takes: Annotated[str, typer.Option("--from", help="What it takes: features, or waveform.")] = "features",
    seconds: Annotated[
        str | None, typer.Option(help="Lengths of the clips that a Core ML program takes.", show_default="3,5,10")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or float16; default: float32 for ONNX, float16 for Core ML.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repo.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.")] = False,
) -> None:
    """Write a model as an ONNX file or a Core ML package, which run without us."""
    try:
        lengths = None if seconds is None else [float(part) for part in seconds.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--seconds is as in 3,5,10, not {seconds!r}") from error
    from ..models import load
    from ..publish.export import check_path
    from ..publish.export import export as export_model

    check_path(out, force)
    loaded = load(model, revision=revision, dtype="float32", engine="mlx")
    path = export_model(loaded, out, from_=takes, dtype=dtype, seconds=lengths, force=force)  # type: ignore[arg-type]
    beside = path.with_name(f"{path.name}.data")
    files = path.rglob("*") if path.is_dir() else [path, *([beside] if beside.exists() else [])]
    size = sum(file.stat().st_size for file in files)
    typer.echo(f"{path}: {loaded.config.model_type} from {takes}, {size / 1e6:.1f} MB")


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
    engine: Annotated[
        Name, typer.Option(help="Compare this engine alone, as coreml, and write the result only to --output.")
    ] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compare a converted checkpoint with its original and write parity.json."""
    from ..publish.check import check as check_parity
    from ..publish.parity import show

    parity = check_parity(checkpoint, reference, output=output, engine=engine)
    if as_json:
        typer.echo(parity.to_json(), nl=False)
    else:
        show(parity)
    if parity.passed is False:
        raise SpeechZooError(f"{checkpoint} is not equal to its original: {parity.verdict()}")
    if not parity.clips:
        typer.echo("nothing was compared; --reference names the original: folder, file or Hub repo", err=True)
        raise typer.Exit(3)


def card(
    checkpoint: Annotated[Path, typer.Argument(help="A converted folder.")],
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence", "--license", help="The Hub's id of the licence, for a source that is not in the catalogue."
        ),
    ] = None,
    repo: Annotated[str | None, typer.Option(help="org/name that the usage snippets load.")] = None,
    title: Annotated[str | None, typer.Option(help="Of the card; default: the catalogue's, else the folder's.")] = None,
    base_model: Annotated[str | None, typer.Option(help="The original on the Hub, org/name.")] = None,
    language: Annotated[str | None, typer.Option(help="ISO 639 codes, as in en,zh.")] = None,
    trust_name: Annotated[
        bool,
        typer.Option(
            "--trust-name", help="State what is published of the entry, though nothing proves that this is it."
        ),
    ] = False,
) -> None:
    """Write the model card (README.md) of a converted checkpoint."""
    from ..publish.card import card as write_card

    languages = [code.strip() for code in (language or "").split(",") if code.strip()]
    wording = {"repo": repo, "title": title, "base_model": base_model, "trust_name": trust_name}
    typer.echo(write_card(checkpoint, licence=licence, languages=languages, **wording))  # type: ignore[arg-type]


def upload(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that convert wrote.")],
    repo: Annotated[str, typer.Argument(help="org/name, or name for your own account; created if need be.")],
    private: Annotated[bool, typer.Option("--private", help="Create the repo as a private one.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; created if need be.", show_default="main")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be uploaded.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Without a card, or with a failed or stale parity.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Publish a converted checkpoint on the Hugging Face Hub."""
    from ..publish.upload import upload as publish

    result = publish(
        checkpoint, repo, private=private, create_pr=create_pr, revision=revision, dry_run=dry_run, force=force
    )
    if as_json:
        files = [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in result.files]
        print_json(vars(result) | {"files": files, "dry_run": dry_run})
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
