"""Load and convert, by catalogue name too."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import speech_zoo_core
from speech_zoo_core.conversion import Expected
from speech_zoo_core.errors import ConfigError

from .calibration.thresholds import threshold_in_force
from .catalogue.entries import name_of, named, resolve
from .engines.choice import Name, chosen

if TYPE_CHECKING:
    from speech_zoo_core.tasks.language import LanguageIdentification
    from speech_zoo_core.tasks.speaker import SpeakerEmbedding

Ref: TypeAlias = "str | os.PathLike[str]"


@overload
def load(
    ref: Ref,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    task: Literal["speaker-embedding"],
    engine: Name = "auto",
    threads: int | None = None,
) -> "SpeakerEmbedding": ...


@overload
def load(
    ref: Ref,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    task: Literal["language-identification"],
    engine: Name = "auto",
    threads: int | None = None,
) -> "LanguageIdentification": ...


@overload
def load(
    ref: Ref,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    task: str | None = None,
    engine: Name = "auto",
    threads: int | None = None,
) -> Any: ...


def load(
    ref: Ref,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    task: str | None = None,
    engine: Name = "auto",
    threads: int | None = None,
) -> Any:
    """Load a model: a catalogue name (`speech-zoo list`), a folder, a checkpoint file or a Hub repo.

    Args:
        ref: a catalogue name wins over a folder of that name; write `./name` for the folder.
        revision: branch, tag or commit of a Hub repo.
        dtype: "float32", "float16" or "bfloat16" to compute in. Default: float32 on a CPU; on a GPU as stored, but
            float32 as float16 where that stays within the limits of parity.
        task: what the model must be for, as "speaker-embedding"; type checkers then know its methods.
        engine: what computes the network: "mlx"; "onnxruntime", with the graph that MLX traces, which is kept in the
            user's cache; "coreml", on a Mac, in float16. "auto" is MLX on a GPU, and onnxruntime on a CPU where it is
            installed (the extra `[cpu]`).
        threads: that onnxruntime computes with; default: one for each core that this process may use.

    Returns:
        The model: `embed`, `embed_batch` and `verify` for speaker embeddings, `predict` and `predict_batch` for
        language identification; calling it gives the raw output.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """
    computes = chosen(engine, threads)
    model = speech_zoo_core.load(resolve(ref), revision=revision, dtype=dtype)
    model.engine = computes
    actual = model.config.task
    if task not in (None, actual):
        raise ConfigError(f"{ref} is for {actual}, not for {task}; speech-zoo list shows what is for what")
    if actual == "speaker-embedding":
        model._find_threshold = threshold_in_force
    return model


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
    name = name or name_of(source)
    entry = named(name) if name else None
    expected = None
    if entry is not None:
        counted = entry.parameters if isinstance(entry.parameters, int) else None
        expected = Expected(entry.files, counted, entry.outputs)
    return speech_zoo_core.convert(
        resolve(source), out_dir, dtype, bits, revision=revision, force=force, name=name, expected=expected
    )
