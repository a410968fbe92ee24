"""A manifest of audio files to a folder of embeddings: resumable, on one process or on every rank of `mlx.launch`."""

import os
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from speech_zoo_core.errors import AudioError, SpeechZooError
from speech_zoo_core.identity import identity
from speech_zoo_core.tasks.audio_model import CHUNK_CLIPS
from speech_zoo_core.tiles import on_cpu
from tqdm import tqdm

from ..models import load_for
from ..settings import DEFAULT_MODEL, __version__
from .manifest import Entry, Manifest, ManifestRun, read
from .parquet import CorpusFolder
from .ranks import Ranks

WINDOW_CLIPS = 512  # sorted by length on a GPU, so that batches need little padding
WINDOW_SECONDS = 3600.0  # of audio held at once: 230 MB at 16 kHz


@dataclass(frozen=True)
class _Clip:
    entry: Entry
    waveform: mx.array


def embed_manifest(
    manifest: str | os.PathLike[str], output: str | os.PathLike[str], model: str | os.PathLike[str] = DEFAULT_MODEL
) -> ManifestRun:
    """Embed the files of a manifest into a folder of Parquet; needs the extra `[parquet]`.

    Killed and called again, it goes on where it was: a file is in the folder once. Under `mlx.launch` each rank embeds
    its share and writes shards of its own.

    Args:
        manifest: JSON Lines; each has the path of a file under "audio" ("audio_filepath", "file_name"), relative to the
            manifest, and may have an "id", by default the path.
        output: a folder, made if need be: `part-RRRRR-NNNNN.parquet` with id, audio, seconds and embedding (D,)
            float32 of unit length, and `errors.jsonl` with the files that could not be read.
        model: what `load` takes, for speaker embeddings.

    Returns:
        How many files were embedded, skipped and done before, all ranks together.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """
    manifest, output, model = Path(manifest), Path(output), os.fspath(model)
    ranks = Ranks()
    ranks.share_cores()
    with ranks.together():
        listed, pending = read(manifest)
        loaded = load_for(model, "speaker-embedding")
        _ = loaded.sample_rate  # raises ConfigError where the model takes no audio
    facts = {
        "identity": identity(loaded),
        "model": model,
        "dimension": loaded.config.embed_dim,
        "version": __version__,
    }
    with CorpusFolder(output, facts, ranks.rank) as folder:
        for turn in (ranks.rank == 0, ranks.rank > 0):  # rank 0 claims the folder, then the others join
            with ranks.together():
                if turn:
                    folder.open(pending)
        _check_same(ranks, listed, pending, facts["identity"], output)
        start = time.perf_counter()
        _embed(loaded, listed, pending, folder, ranks)
        done = ranks.gather(folder.embedded, folder.skipped, round(1000 * folder.seconds)).sum(axis=0).tolist()
        seconds = time.perf_counter() - start
    already = listed.count - len(pending)
    return ManifestRun(done[0], done[1], already, done[2] / 1000, seconds, ranks.rank, ranks.size)


def _check_same(ranks: Ranks, listed: Manifest, pending: set[str], identity: str, output: Path) -> None:
    """Raises SpeechZooError, on every rank, unless all have the same manifest, checkpoint and finished files."""
    finished = sum(zlib.crc32(id.encode()) for id in pending)  # in any order
    seen = ranks.gather(listed.checksum, finished, int(identity[:15], 16))
    names = (f"{listed.path}", f"{output} (it must be one shared folder)", "the checkpoint")
    for name, column in zip(names, seen.T, strict=True):
        with ranks.together():
            if len(set(column.tolist())) > 1:
                raise SpeechZooError(f"the ranks do not see the same: {name} differs between them")


def _embed(model: Any, listed: Manifest, pending: set[str], folder: CorpusFolder, ranks: Ranks) -> None:
    """Embed this rank's share of what is pending."""
    count = len(range(ranks.rank, len(pending), ranks.size))
    with tqdm(total=count, desc="embedding", unit="file", disable=True if ranks.rank else None, leave=False) as bar:

        def skip(entry: Entry, reason: str) -> None:
            folder.skip(entry, reason)
            bar.update()

        for window in _windows(model, listed.path.parent, listed.share(pending, ranks.rank, ranks.size), skip):
            for start in range(0, len(window), CHUNK_CLIPS):
                chunk = window[start : start + CHUNK_CLIPS]
                for clip, vector in zip(chunk, _vectors(model, chunk), strict=True):
                    if isinstance(vector, AudioError):
                        skip(clip.entry, str(vector))
                    else:
                        folder.add(clip.entry, clip.waveform.size / model.sample_rate, vector)
                        bar.update()
        folder.flush()


def _windows(
    model: Any, base: Path, entries: Iterator[Entry], skip: Callable[[Entry, str], None]
) -> Iterator[list[_Clip]]:
    """Clips that can be used, decoded, some hundreds at a time, the short ones first; one at a time on a CPU."""
    most = 1 if on_cpu() else WINDOW_CLIPS
    clips: list[_Clip] = []
    seconds = 0.0
    for entry in entries:
        path = base / entry.audio
        try:
            waveform = model._waveform(path, None)
        except AudioError as error:
            skip(entry, str(error))
            continue
        except MemoryError:
            skip(entry, f"{path} does not fit in memory; cut it into shorter files")
            continue
        clips.append(_Clip(entry, waveform))
        seconds += waveform.size / model.sample_rate
        if len(clips) >= most or seconds >= WINDOW_SECONDS:
            yield sorted(clips, key=lambda clip: clip.waveform.size)
            clips, seconds = [], 0.0
    yield sorted(clips, key=lambda clip: clip.waveform.size)


def _vectors(model: Any, clips: list[_Clip]) -> "list[np.ndarray[Any, Any] | AudioError]":
    """The embedding (D,) of each clip, or why it has none."""
    pairs = [(clip.waveform, model.sample_rate) for clip in clips]
    try:
        return list(np.array(model.embed_batch(pairs) if len(pairs) > 1 else model.embed(pairs[0])[None]))
    except AudioError as error:
        if len(clips) == 1:
            return [error]
        return [vector for clip in clips for vector in _vectors(model, [clip])]
