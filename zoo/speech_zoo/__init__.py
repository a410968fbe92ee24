"""Who is speaking and in which language, in pure MLX.

>>> import speech_zoo
>>> model = speech_zoo.load("campplus-zh-en")
>>> model.verify("a.wav", "b.wav")
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import speech_zoo_core  # opens OpenBLAS before MLX is imported, where that matters
from speech_zoo_core.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    HubError,
    InputError,
    RegistryError,
    SpeechZooError,
)

if TYPE_CHECKING:
    from speech_zoo_core.tasks.language import Prediction
    from speech_zoo_core.tasks.speaker import Verification

    from .corpus.manifest import ManifestRun
    from .publish.parity import Parity
    from .publish.upload import Upload
    from .recordings.segment import Segment
    from .voices.store import VoiceStore

__version__ = "0.1.0"
__all__ = [
    "AudioError",
    "CheckpointError",
    "ConfigError",
    "HubError",
    "InputError",
    "ManifestRun",
    "Parity",
    "Prediction",
    "RegistryError",
    "Segment",
    "SpeechZooError",
    "Upload",
    "Verification",
    "VoiceStore",
    "card",
    "check",
    "convert",
    "embed_manifest",
    "load",
    "register",
    "threshold_of",
    "timeline",
    "upload",
]


def load(ref: str | os.PathLike[str], *, revision: str | None = None, dtype: str | None = None) -> Any:
    """Load a model: a catalogue name (`speech-zoo list`), a folder, a checkpoint file or a Hub repo.

    Args:
        ref: what to load; original checkpoints are converted in memory. A catalogue name wins over a folder of the
            same name; write `./name` for the folder.
        revision: branch, tag or commit of a Hub repo.
        dtype: "float32", "float16" or "bfloat16" to compute in. Default: float32 on a CPU; on a GPU as stored, but
            float32 as float16 where that stays within the limits of parity.

    Returns:
        The model: `embed`, `embed_batch` and `verify` for speaker embeddings, `predict` and `predict_batch` for
        language identification; calling it gives the raw output.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """
    from .catalogue.entries import resolve

    return speech_zoo_core.load(resolve(ref), revision=revision, dtype=dtype)


def convert(
    source: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    dtype: str = "float32",
    bits: int | None = None,
    *,
    revision: str | None = None,
    force: bool = False,
    name: str | None = None,
) -> Path:
    """Convert a checkpoint to a folder with `config.json` and `model.safetensors`; returns the folder's path.

    Args:
        source: what `load` takes.
        out_dir: a folder that does not exist yet or is empty; it appears whole or not at all.
        dtype: "float32", "float16" or "bfloat16".
        bits: 8 or 4 quantizes the linear layers; None keeps them in `dtype`.
        revision: branch, tag or commit of a Hub repo.
        force: replace a converted checkpoint that lies in `out_dir`; nothing else is ever replaced.
        name: the catalogue name of a local copy; its files must be those that the catalogue expects.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """
    from .catalogue.entries import name_of, named, resolve

    name = name or name_of(source)
    expected = named(name).files if name else None
    return speech_zoo_core.convert(
        resolve(source), out_dir, dtype, bits, revision=revision, force=force, name=name, expected=expected
    )


def embed_manifest(
    manifest: str | os.PathLike[str], output: str | os.PathLike[str], model: str | os.PathLike[str] = "campplus-zh-en"
) -> "ManifestRun":
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
    from .corpus.run import run

    return run(Path(manifest), Path(output), os.fspath(model))


def check(
    checkpoint: str | os.PathLike[str],
    reference: str | os.PathLike[str] | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
) -> "Parity":
    """Compare a converted checkpoint with its original, from the waveform to the output, and write `parity.json`.

    Runs the original implementation where it is installed; else compares with its recorded outputs where those ship.

    Args:
        checkpoint: a converted folder; `parity.json` is written into it. A bundled name or a Hub repo too, where
            nothing is written.
        reference: the original: a folder, a file, a Hub repo (org/name, or org/name@revision) or a catalogue name.
            Default: where the checkpoint's config says that it came from.
        output: where to write the result instead.

    Returns:
        What was found; `passed` is False where a limit is missed, None where nothing was compared.

    Raises:
        SpeechZooError: the checkpoint or the reference cannot be read, the reference is not what the checkpoint was
            converted from, or the result cannot be written.
    """
    from speech_zoo_core.atomic import written_beside

    from .publish.check import compare
    from .publish.parity import FILE

    parity, folder = compare(checkpoint, reference)
    target = Path(output) if output is not None else None if folder is None else folder / FILE
    if target is not None:
        with written_beside(target) as beside:
            beside.write_text(parity.to_json(), encoding="utf-8")
    return parity


def card(checkpoint: str | os.PathLike[str], *, licence: str | None = None, repo: str | None = None) -> Path:
    """Write the model card (`README.md`) of a converted folder, from what is known and was measured; returns its path.

    Args:
        checkpoint: a folder that `convert` wrote.
        licence: the Hub's id of the licence ("apache-2.0"), for a source that the catalogue does not know.
        repo: `org/name` that the usage snippets load.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """
    from .publish.card import write

    return write(checkpoint, licence, repo)


def upload(
    checkpoint: str | os.PathLike[str],
    repo: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> "Upload":
    """Publish a converted checkpoint on the Hugging Face Hub, in one commit that is read back and compared.

    Uploaded again, the same files make no second commit. Weights of an earlier upload that are no longer part of the
    checkpoint are deleted in the same commit.

    Args:
        checkpoint: a folder that `convert` wrote, with the card that `speech-zoo card` wrote.
        repo: `org/name`, or `name` for the account that the token is of; created if it is not there.
        private: create the repo as a private one.
        create_pr: open a pull request instead of writing to the branch.
        revision: the branch, created if it is not there; default: main.
        dry_run: only look whether the folder may be published; needs no token and no network.
        force: upload without a card, or with a `parity.json` that failed or belongs to other files.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """
    from .publish.upload import upload as publish

    return publish(
        checkpoint, repo, private=private, create_pr=create_pr, revision=revision, dry_run=dry_run, force=force
    )


def threshold_of(model: Any) -> float | None:
    """The threshold that the user calibrated for this checkpoint (`speech-zoo calibrate`), else the checkpoint's own.

    >>> model.verify("a.wav", "b.wav", threshold=speech_zoo.threshold_of(model))

    Args:
        model: a speaker-embedding model that `load` gave.

    Returns:
        A cosine, -1 to 1; None where there is neither.

    Raises:
        ConfigError: the file of calibrated thresholds is damaged, or a newer version wrote it.
    """
    from .calibration.thresholds import threshold_of as find

    return find(model)


def timeline(
    model: Any,
    path: str | os.PathLike[str],
    window: float = 10.0,
    hop: float = 5.0,
    *,
    languages: Sequence[str] | None = None,
    min_score: float | None = None,
    min_logit: float | None = None,
) -> "list[Segment]":
    """Which language is spoken when in a file, silence left out, in memory that does not grow with its length.

    Args:
        model: a language-identification model that `load` gave.
        path: of the audio file.
        window: seconds of audio that the model judges at a time.
        hop: seconds from window to window; segments begin and end at its multiples.
        languages, min_score, min_logit: as for `model.predict`; what misses a floor is "unknown".

    Returns:
        Segments (start, end, label, name, score, logit, reason), in order.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """
    from .recordings.timeline import segments

    return segments(model, path, window, hop, languages, min_score, min_logit)


def register() -> None:
    """Let mlx_audio load our models: `mlx_audio.load`, `mlx_audio.utils.load_model`, `mlx_audio.lid.load` and the like.

    Not needed where the package was installed by pip or uv, which see to it at the start of every interpreter, unless
    the environment says `SPEECH_ZOO_AUTOLOAD=0`. Idempotent, before or after mlx_audio is imported; what was imported
    from its modules by name before stays as it was.
    """
    from .plugin.patches import register

    register()


def __getattr__(name: str) -> Any:
    if name == "ManifestRun":
        from .corpus.manifest import ManifestRun

        return ManifestRun
    if name == "Parity":
        from .publish.parity import Parity

        return Parity
    if name == "Segment":
        from .recordings.segment import Segment

        return Segment
    if name == "Upload":
        from .publish.upload import Upload

        return Upload
    if name == "VoiceStore":
        from .voices.store import VoiceStore

        return VoiceStore
    if name in ("Prediction", "Verification"):
        return getattr(speech_zoo_core, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
