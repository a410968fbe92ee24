"""A manifest of audio files to a folder of embeddings: resumable, in one process or in many that know nothing of each
other but their shares.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from speech_zoo_core.device import on_cpu
from speech_zoo_core.errors import AudioError, ConfigError
from speech_zoo_core.identity import identity
from speech_zoo_core.progress import progress
from speech_zoo_core.tasks.audio_model import CHUNK_CLIPS

from ..engines.choice import Name
from ..settings import DEFAULT_MODEL, __version__
from .embedder import Embedder
from .manifest import Line, ManifestRun, read
from .parquet import CorpusFolder

WINDOW_CLIPS = 512  # sorted by length on a GPU, so that batches need little padding
WINDOW_SECONDS = 3600.0  # of audio held at once: 230 MB at 16 kHz


@dataclass(frozen=True)
class _Clip:
    line: Line
    waveform: mx.array


def embed_manifest(
    manifest: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    shard: tuple[int, int] | None = None,
    *,
    engine: Name = "auto",
    threads: int | None = None,
) -> ManifestRun:
    """Embed the files of a manifest into a folder of Parquet; needs the extra `[parquet]`.

    Killed and called again, it goes on where it was, with any number of shards: a clip is in the folder once. Shards
    of one run may work at the same time, on one machine or on many that share the folder, and do not wait for each
    other.

    Args:
        manifest: JSON Lines; each has the path of a file under "audio" ("audio_filepath", "file_name"), relative to the
            manifest. "offset" and "duration", in seconds, make it a segment of the file. "id" is by default the path;
            with an offset, `path#t=2.5,4` from 2.5 to 4 s.
        output: a folder, made if need be: `part-RRRRR-NNNNN.parquet` with id, audio, seconds and embedding (D,)
            float32 of unit length, and `errors.jsonl` with the clips that could not be read.
        model: what `load` takes, for speaker embeddings.
        shard: (i, n) embeds line i of the manifest, counted from 0, and every n-th after it. Default: the rank of
            `mlx.launch` or `mpirun` and their number, (0, 1) without these.
        engine, threads: as for `load`.

    Returns:
        How many clips of the share were embedded, skipped and done before.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """
    manifest, output = Path(manifest), Path(output)
    rank, ranks = _of_launcher() if shard is None else _checked(shard)
    listed = read(manifest)
    embedder = Embedder(model, engine=engine, threads=threads)
    facts = {
        "identity": identity(embedder.model),
        "model": os.fspath(model),
        "dimension": embedder.model.config.embed_dim,
        "version": __version__,
    }
    pending = {line.id for line in listed.share(rank, ranks)}
    count = len(pending)
    with CorpusFolder(output, facts, listed.checksum, rank, ranks) as folder:
        folder.open(pending)
        lines = (line for line in listed.share(rank, ranks) if line.id in pending)
        start = time.perf_counter()
        _embed(embedder, lines, len(pending), manifest.parent, folder)
        seconds = time.perf_counter() - start
    return ManifestRun(folder.embedded, folder.skipped, count - len(pending), folder.seconds, seconds, rank, ranks)


def _of_launcher() -> tuple[int, int]:
    """This process's rank and the number of ranks, from whatever launcher MLX knows; (0, 1) without one."""
    group = mx.distributed.init()
    return group.rank(), group.size()


def _checked(shard: tuple[int, int]) -> tuple[int, int]:
    rank, ranks = shard
    if not 0 <= rank < ranks:
        raise ConfigError(f"shard {rank}/{ranks} does not exist: of {ranks}, they are numbered from 0 to {ranks - 1}")
    return rank, ranks


def _embed(embedder: Embedder, lines: Iterator[Line], count: int, base: Path, folder: CorpusFolder) -> None:
    """Embed lines, `count` of them, whose paths start at `base`."""
    with progress(total=count, desc="embedding", unit="file") as bar:

        def skip(line: Line, reason: AudioError) -> None:
            folder.skip(line, str(reason))
            bar.update()

        for window in _windows(embedder, base, lines, skip):
            for start in range(0, len(window), CHUNK_CLIPS):
                chunk = window[start : start + CHUNK_CLIPS]
                vectors = embedder.embeddings([clip.waveform for clip in chunk])
                for clip, vector in zip(chunk, vectors, strict=True):
                    if isinstance(vector, AudioError):
                        skip(clip.line, vector)
                    else:
                        folder.add(clip.line, clip.waveform.size / embedder.sample_rate, vector)
                        bar.update()
        folder.flush()


def _windows(
    embedder: Embedder, base: Path, lines: Iterator[Line], skip: Callable[[Line, AudioError], None]
) -> Iterator[list[_Clip]]:
    """Clips that can be used, decoded, some hundreds at a time, the short ones first; one at a time on a CPU."""
    most = 1 if on_cpu() else WINDOW_CLIPS
    clips: list[_Clip] = []
    seconds = 0.0
    for line in lines:
        try:
            waveform = embedder.waveform(base / line.audio, line.offset, line.duration)
        except AudioError as error:
            skip(line, error)
            continue
        clips.append(_Clip(line, waveform))
        seconds += waveform.size / embedder.sample_rate
        if len(clips) >= most or seconds >= WINDOW_SECONDS:
            yield sorted(clips, key=lambda clip: clip.waveform.size)
            clips, seconds = [], 0.0
    yield sorted(clips, key=lambda clip: clip.waveform.size)
