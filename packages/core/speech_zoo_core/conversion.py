"""Source checkpoint to converted folder: `config.json` and `model.safetensors`, inference weights in MLX layout."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from .atomic import CONVERTER, check_free, whole_folder
from .checkpoint.source import Source
from .checkpoint.writer import write_checkpoint
from .config import Quantization, to_dict
from .errors import CheckpointError, ConfigError
from .layers import parameters, quantize
from .loader import build, find, parse_dtype, read_model, with_source
from .progress import progress


@dataclass(frozen=True)
class Expected:
    """What a source must be.

    Attributes:
        files: it must be made of, each with its SHA-256; None where that is not known.
        parameters: how many numbers its conversion holds, before quantization; None: any.
        outputs: size of the embedding, number of labels, or of sets of speakers; None: any.
    """

    files: Mapping[str, str | None]
    parameters: int | None = None
    outputs: int | None = None


def convert(
    source: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    dtype: str = "float32",
    bits: int | None = None,
    *,
    revision: str | None = None,
    force: bool = False,
    name: str | None = None,
    expected: Expected | None = None,
) -> Path:
    """Convert a checkpoint; the same input gives the same bytes. As `speech_zoo.convert`, but for two arguments.

    Args:
        name: what the checkpoint is called, for its provenance.
        expected: what the source must be made of.

    Raises:
        SpeechZooError: the source cannot be read or is not what was expected, or the folder cannot be written;
            nothing is left half-written.
    """
    parse_dtype(dtype)

    def check(path: Path) -> None:
        check_free(path, force, str(out_dir))

    try:
        given = Path(out_dir).expanduser()
        out = given.parent.resolve() / given.name if given.is_symlink() else given.resolve()
        check(out)
    except (OSError, RuntimeError) as error:  # no current folder, no home
        raise CheckpointError(f"{out_dir} cannot be written: {_reason(error)}") from error
    origin = find(source, revision)
    spec, config, weights, form = read_model(origin)
    _check_apart(out, origin, str(out_dir))
    model = build(spec, config, weights, str(origin.path))
    del weights
    origin.release()  # what is converted below is no longer held by its source
    model.set_dtype(parse_dtype(dtype))
    size_before = sum(x.size for x in parameters(model).values())
    if bits is not None:
        if config.quantization is not None:
            raise ConfigError(f"{origin.path} is quantized already; convert from its source")
        quantize(model, bits)
        config = replace(config, quantization=Quantization(bits))
    config = with_source(config, origin, form, f"{CONVERTER} {version('mlx-speech-zoo-core')}", name)
    if expected is not None:
        _check_files(expected, config.source, os.fspath(source))
        if origin.repo is None:
            _check_counts(expected, config, size_before, os.fspath(source))
    tensors = parameters(model)
    del model  # so that each tensor is freed once it is written
    try:
        with whole_folder(out, check) as beside:
            _write(beside, config, tensors)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{out_dir} cannot be written: {_reason(error)}") from error
    return Path(out_dir)


def _write(folder: Path, config: Any, tensors: dict[str, mx.array]) -> None:
    text = json.dumps(to_dict(config), indent=2, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    size = sum(x.nbytes for x in tensors.values())
    with progress(desc="converting", total=size, unit="B", unit_scale=True, delay=1) as bar:
        for written in write_checkpoint(folder, tensors):
            bar.update(written)


def _reason(error: Exception) -> object:
    return error.strerror if isinstance(error, OSError) else error


def _check_apart(out: Path, origin: Source, called: str) -> None:
    """Raises CheckpointError where what is converted lies in `out`, or `out` in it."""
    folder = origin.folder.resolve()
    inside = origin.path.is_dir() and folder in out.parents
    if out == folder or inside or any(out in path.resolve().parents for path in origin.files):
        raise CheckpointError(f"{called} is, holds or lies in what is converted; give another folder")


def _check_files(expected: Expected, provenance: dict[str, Any], source: str) -> None:
    hashes = provenance.get("sha256")
    actual = hashes if isinstance(hashes, dict) else {}
    if missing := sorted(expected.files.keys() - actual.keys()):
        raise CheckpointError(
            f"{source} should be made of {', '.join(sorted(expected.files))}, but {', '.join(missing)} was not there; "
            f"read: {', '.join(actual)}"
        )
    for file, digest in expected.files.items():
        if digest not in (None, actual[file]):
            raise CheckpointError(f"{file} of {source} has SHA-256 {actual[file]}, {digest} was expected")


def _check_counts(expected: Expected, config: Any, parameters: int, source: str) -> None:
    """Raises CheckpointError where a local copy cannot be what its name says."""
    if labels := getattr(config, "id2label", None):
        outputs, what = len(labels), "labels"
    elif config.task == "speaker-segmentation":
        outputs, what = config.sets, "sets of speakers"
    else:
        outputs, what = config.embed_dim, "values in an embedding"
    for count, wanted, unit in ((outputs, expected.outputs, what), (parameters, expected.parameters, "parameters")):
        if wanted not in (None, count):
            raise CheckpointError(f"{source} has {count} {unit}, {wanted} were expected: it is another checkpoint")
