"""`speech-zoo embed`: the speaker embeddings of files, of their windows, or of a manifest of files."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from speech_zoo_core.errors import SpeechZooError

from ..settings import DEFAULT_MODEL
from .options import JsonOption, ModelOption, VadOption, check_windows, gates_of, only_for, print_json

WindowsOption = Annotated[
    str | None, typer.Option(help="Embed windows of each file: seconds of window and hop, as in 3/1.5.")
]


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
    windows: WindowsOption = None,
    vad: VadOption = None,
) -> None:
    """Print or save the speaker embedding of each file (unit length), or with --windows of stretches of each."""
    if windows is None:
        only_for("--windows", vad=vad)
    if manifest is not None:
        only_for("FILE…, not with --manifest", windows=windows)
        if files or output is None:
            raise typer.BadParameter("--manifest takes the place of FILE… and needs --output FOLDER")
        embed_corpus(manifest, output, model, as_json)
        return
    if not files:
        raise typer.BadParameter("missing argument 'FILE…', or --manifest")
    if output is not None and output.suffix != ".safetensors":
        raise typer.BadParameter("--output must end in .safetensors")
    if output is not None and len(set(map(str, files))) < len(files):
        raise typer.BadParameter("a file is named twice; --output stores one tensor for each name")
    from ..models import load_for

    if windows is not None:
        load = partial(load_for, model, "speaker-embedding")
        embed_windows(load, model, files, windows, as_json, output, vad)
        return
    import numpy as np

    vectors = np.array(load_for(model, "speaker-embedding").embed_batch(files))
    if output is not None:
        from safetensors.numpy import save
        from speech_zoo_core.atomic import written_beside

        named = {str(file): row for file, row in zip(files, vectors, strict=True)}
        with written_beside(output) as beside:
            beside.write_bytes(save(named, metadata={"model": model}))
    if as_json:
        rows = zip(files, vectors.tolist(), strict=True)
        print_json([{"file": str(file), "model": model, "embedding": row} for file, row in rows])
    elif output is not None:
        typer.echo(f"{output}: {len(files)} vectors of {vectors.shape[1]} values")
    else:
        for file, row in zip(files, vectors, strict=True):
            typer.echo(f"{file}  {len(row)}-d  [{', '.join(f'{x:.4f}' for x in row[:6])}, …]")


def embed_corpus(manifest: Path, output: Path, model: str, as_json: bool) -> None:
    """Embed a manifest; rank 0 reports for all.

    Raises:
        SpeechZooError: as `embed_manifest`; or the folder holds no embedding in the end.
    """
    from ..corpus.run import embed_manifest

    result = embed_manifest(manifest, output, model)
    if result.rank > 0:
        return
    if not result.embedded + result.already_done:
        raise SpeechZooError(f"none of the {result.skipped} files could be read; {output / 'errors.jsonl'} says why")
    if as_json:
        facts = {"output": str(output), "model": model} | vars(result)
        del facts["rank"]
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    why = f" ({output / 'errors.jsonl'} says why)" if result.skipped else ""
    line = f"{output}: {result.embedded} embedded, {result.skipped} skipped{why}, {result.already_done} already done"
    if result.embedded:
        speed = result.audio_seconds / result.seconds
        line += f"; {result.audio_seconds:.1f} s of audio in {result.seconds:.1f} s, {speed:.1f} s a second"
    typer.echo(line)


def embed_windows(
    load: Callable[[], Any],
    name: str,
    files: list[Path],
    windows: str,
    as_json: bool,
    output: Path | None,
    vad: str | None,
) -> None:
    """Print or save the speaker embeddings of the windows of each file."""
    try:
        window, hop = (float(part) for part in windows.split("/"))
    except ValueError as error:
        raise typer.BadParameter(f"--windows takes seconds of window and hop, as in 3/1.5, not {windows!r}") from error
    check_windows(window, hop)
    import numpy as np

    from ..recordings.windows import window_embeddings

    model = load()
    gates = gates_of(vad, model)
    tensors: dict[str, Any] = {}
    for file in files:
        batches = list(window_embeddings(model, file, window, hop, next(gates)))
        parts = [part for found, _ in batches for part in found]
        tensors[f"{file}/start"] = np.array([part.start for part in parts])
        tensors[f"{file}/end"] = np.array([part.end for part in parts])
        tensors[f"{file}/embedding"] = np.concatenate([vectors for _, vectors in batches])
    if output is not None:
        from safetensors.numpy import save_file
        from speech_zoo_core.atomic import written_beside

        with written_beside(output) as beside:
            save_file(tensors, beside, metadata={"model": name, "windows": windows})
    if output is not None and not as_json:
        count = sum(len(tensors[f"{file}/start"]) for file in files)
        typer.echo(f"{output}: {count} vectors of {tensors[f'{files[0]}/embedding'].shape[1]} values")
        return
    rows = {file: [tensors[f"{file}/{what}"] for what in ("start", "end", "embedding")] for file in files}
    if as_json:
        typer.echo(json.dumps([_file_row(file, name, window, hop, *rows[file]) for file in files], ensure_ascii=False))
        return
    for file, columns in rows.items():
        for start, end, vector in zip(*columns, strict=True):
            values = ", ".join(f"{x:.4f}" for x in vector[:6])
            typer.echo(f"{file}  {start:9.2f} {end:9.2f} s  {len(vector)}-d  [{values}, …]")


def _file_row(file: Path, name: str, window: float, hop: float, starts: Any, ends: Any, vectors: Any) -> dict[str, Any]:
    columns = zip(starts.tolist(), ends.tolist(), vectors.tolist(), strict=True)
    found = [{"start": start, "end": end, "embedding": vector} for start, end, vector in columns]
    return {"file": str(file), "model": name, "window": window, "hop": hop, "windows": found}
