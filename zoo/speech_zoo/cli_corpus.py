"""What `speech-zoo embed --manifest` prints."""

import json
from pathlib import Path

import typer
from speech_zoo_core.errors import SpeechZooError

from . import embed_manifest


def run(manifest: Path, output: Path, model: str, as_json: bool) -> None:
    """Embed a manifest; rank 0 reports for all.

    Raises:
        SpeechZooError: as `embed_manifest`; or the folder holds no embedding in the end.
    """
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
