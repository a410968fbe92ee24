"""`speech-zoo embed`: the speaker embeddings of files, of their windows, or of a manifest of files."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from speech_zoo_core.errors import SpeechZooError

from ..settings import DEFAULT_MODEL
from .options import (
    FILES,
    ChannelOption,
    EngineOption,
    JsonOption,
    ModelOption,
    ThreadsOption,
    VadOption,
    check_windows,
    computing,
    hearing,
    only_for,
    print_json,
    print_json_rows,
    results,
)

WindowsOption = Annotated[
    str | None, typer.Option(help="Embed windows of each file: seconds of window and hop, as in 3/1.5.")
]


def embed(
    given: Annotated[list[str] | None, typer.Argument(metavar="FILE…", help=FILES)] = None,
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
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="With --manifest: embed line I, counted from 0, and every N-th after it; I from 0 to N-1, as in "
            "$SLURM_ARRAY_TASK_ID/16 or $JOB_COMPLETION_INDEX/16. All shards share one --output.",
        ),
    ] = None,
    windows: WindowsOption = None,
    channel: ChannelOption = None,
    vad: VadOption = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    trim: Annotated[bool, typer.Option("--trim", help="Leave out what holds no speech.")] = False,
) -> None:
    """Print or save the speaker embedding of each file (unit length), or with --windows of stretches of each."""
    how = hearing(channel, vad)
    if windows is not None or manifest is not None:
        only_for("FILE…, without --windows or --manifest", trim=trim or None)
    if manifest is not None:
        only_for("FILE…, not with --manifest", windows=windows, channel=channel, **({} if vad else {"no-vad": True}))
        if given or output is None:
            raise typer.BadParameter("--manifest takes the place of FILE… and needs --output FOLDER")
        embed_corpus(manifest, output, model, as_json, shard, computing(engine, threads))
        return
    only_for("--manifest", shard=shard)
    if not given:
        raise typer.BadParameter("missing argument 'FILE…', or --manifest")
    if output is not None and output.suffix != ".safetensors":
        raise typer.BadParameter("--output must end in .safetensors")
    from ..recordings.files import audio_files

    files, by = audio_files(given), computing(engine, threads)
    if output is not None and len(set(map(str, files))) < len(files):
        raise typer.BadParameter("a file is named twice; --output stores one tensor for each name")
    if windows is not None:
        embed_windows(model, files, windows, as_json, output, how, by)
        return
    embed_files(model, files, as_json, output, {**how, "trim": trim}, by)


def embed_files(
    name: str, files: list[Path], as_json: bool, output: Path | None, how: dict[str, Any], by: dict[str, Any]
) -> None:
    """Print or save the speaker embedding of each file."""
    import numpy as np

    from ..models import load

    model = load(name, task="speaker-embedding", **by)
    kept: dict[str, Any] = {}

    def vectors() -> Iterator[tuple[Path, Any]]:
        for file, vector in results(files, "embedding", partial(model.embed, **how), partial(model.embed_batch, **how)):
            row = np.array(vector)
            if output is not None:
                kept[str(file)] = row
            yield file, row

    with _saved(kept, output, {"model": name}):
        if as_json:
            print_json_rows({"file": str(file), "model": name, "embedding": row.tolist()} for file, row in vectors())
        else:
            for file, row in vectors():
                if output is None:
                    typer.echo(f"{file}  {len(row)}-d  [{', '.join(f'{x:.4f}' for x in row[:6])}, …]")
    if output is not None and not as_json:
        typer.echo(f"{output}: {len(kept)} vectors of {len(next(iter(kept.values())))} values")


def embed_corpus(
    manifest: Path, output: Path, model: str, as_json: bool, shard: str | None, by: dict[str, Any]
) -> None:
    """Embed a manifest or a shard of it, and report.

    Raises:
        SpeechZooError: as `embed_manifest`; or no clip of the shard is in the folder in the end.
    """
    chosen = None if shard is None else _shard(shard)
    from ..corpus.run import embed_manifest

    result = embed_manifest(manifest, output, model, chosen, **by)
    name = f"{output}, shard {result.rank}/{result.ranks}: " if result.ranks > 1 else ""
    if result.skipped and not result.embedded + result.already_done:
        why = f"{output / 'errors.jsonl'} says why"
        raise SpeechZooError(f"{name}none of the {result.skipped} files could be read; {why}")
    if as_json:
        facts = {"output": str(output), "model": model} | vars(result)
        if result.ranks == 1:
            del facts["rank"]
        print_json(facts)
        return
    why = f" ({output / 'errors.jsonl'} says why)" if result.skipped else ""
    line = f"{result.embedded} embedded, {result.skipped} skipped{why}, {result.already_done} already done"
    if result.embedded:
        speed = result.audio_seconds / result.seconds
        line += f"; {result.audio_seconds:.1f} s of audio in {result.seconds:.1f} s, {speed:.1f} s a second"
    typer.echo((name or f"{output}: ") + line)


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if match is None or not int(match[1]) < int(match[2]):
        raise typer.BadParameter(f"--shard takes I/N with I from 0 to N-1, as in 0/16 to 15/16, not {text!r}")
    return int(match[1]), int(match[2])


def embed_windows(
    name: str,
    files: list[Path],
    windows: str,
    as_json: bool,
    output: Path | None,
    how: dict[str, Any],
    by: dict[str, Any],
) -> None:
    """Print or save the speaker embeddings of the windows of each file."""
    try:
        window, hop = (float(part) for part in windows.split("/"))
    except ValueError as error:
        raise typer.BadParameter(f"--windows takes seconds of window and hop, as in 3/1.5, not {windows!r}") from error
    check_windows(window, hop)
    import numpy as np
    from speech_zoo_core.audio.samples import describe

    from ..models import load
    from ..recordings.windows import window_embeddings

    model = load(name, task="speaker-embedding", **by)
    tensors: dict[str, Any] = {}

    def embedded(file: Any) -> tuple[Any, Any, Any]:
        """Starts (N,), ends (N,) and embeddings (N, D) of a file's windows."""
        batches = list(window_embeddings(model, file, window, hop, **how))
        parts = [part for windows, _ in batches for part in windows]
        times = np.array([part.start for part in parts]), np.array([part.end for part in parts])
        columns = (*times, np.concatenate([vectors for _, vectors in batches]))
        if output is not None:
            name = describe(file)
            tensors.update(zip((f"{name}/start", f"{name}/end", f"{name}/embedding"), columns, strict=True))
        return columns

    embeddings = results(files, "embedding", embedded)
    with _saved(tensors, output, {"model": name, "windows": windows}):
        if as_json:
            print_json_rows(_file_row(file, name, window, hop, *columns) for file, columns in embeddings)
        else:
            for file, columns in embeddings:
                for start, end, vector in zip(*columns, strict=True) if output is None else ():
                    values = ", ".join(f"{x:.4f}" for x in vector[:6])
                    typer.echo(f"{file}  {start:9.2f} {end:9.2f} s  {len(vector)}-d  [{values}, …]")
    if output is not None and not as_json:
        vectors = [value for key, value in tensors.items() if key.endswith("/embedding")]
        typer.echo(f"{output}: {sum(map(len, vectors))} vectors of {vectors[0].shape[1]} values")


@contextmanager
def _saved(tensors: dict[str, Any], output: Path | None, metadata: dict[str, str]) -> Iterator[None]:
    """Write the tensors that the block has filled in, also where it leaves because of files that cannot be used."""
    failed = None
    try:
        yield
    except typer.Exit as error:
        failed = error
    if output is not None and tensors:
        from safetensors.numpy import save_file
        from speech_zoo_core.atomic import written_beside

        with written_beside(output) as beside:
            save_file(tensors, beside, metadata=metadata)
    if failed is not None:
        raise failed


def _file_row(file: Path, name: str, window: float, hop: float, starts: Any, ends: Any, vectors: Any) -> dict[str, Any]:
    columns = zip(starts.tolist(), ends.tolist(), vectors.tolist(), strict=True)
    windows = [{"start": start, "end": end, "embedding": vector} for start, end, vector in columns]
    return {"file": str(file), "model": name, "window": window, "hop": hop, "windows": windows}
