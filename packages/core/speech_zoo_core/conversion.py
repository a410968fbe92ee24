"""Source checkpoint to converted folder: `config.json` and `model.safetensors`, inference weights in MLX layout."""

import json
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
from tqdm import tqdm

from .config import to_dict
from .errors import CheckpointError, ConfigError
from .layers import parameters, quantize
from .loader import build, find, parse_dtype, read_model, with_source
from .tasks import Quantization


def convert(
    source: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    dtype: str = "float32",
    bits: int | None = None,
    *,
    revision: str | None = None,
) -> Path:
    """Convert a checkpoint.

    Args:
        source: what `load` takes.
        out_dir: a folder that does not exist yet or is empty; it appears whole or not at all.
        dtype: "float32", "float16" or "bfloat16".
        bits: 8 or 4 quantizes the linear layers; None keeps them in `dtype`.
        revision: branch, tag or commit of a Hub repo.

    Returns:
        The folder's path.

    Raises:
        SpeechZooError: the source cannot be read, or the folder cannot be written; nothing is left half-written.
    """
    out = Path(out_dir).expanduser().resolve()
    parse_dtype(dtype)
    if os.path.exists(out) and (not out.is_dir() or any(out.iterdir())):  # noqa: PTH110
        raise CheckpointError(f"{out_dir} exists already; give a new or empty folder")
    origin = find(source, revision)
    spec, config, weights, form = read_model(origin)
    model = build(spec, config, weights, str(origin.path))
    del weights
    origin.release()  # what is converted below is no longer held by its source
    model.set_dtype(parse_dtype(dtype))
    if bits is not None:
        if config.quantization is not None:
            raise ConfigError(f"{origin.path} is quantized already; convert from its source")
        quantize(model, bits)
        config = replace(config, quantization=Quantization(bits))
    config = with_source(config, origin, form, f"mlx-speech-zoo {version('mlx-speech-zoo-core')}")
    tensors = parameters(model)
    for tensor in tqdm(tensors.values(), desc="converting", unit="tensor", disable=None, leave=False):
        mx.eval(tensor)
    try:
        _write(out, {"config.json": json.dumps(to_dict(config), indent=2, ensure_ascii=False) + "\n"}, tensors)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{out_dir} cannot be written: {reason}") from error
    return Path(out_dir)


def _write(out: Path, texts: dict[str, str], tensors: dict[str, mx.array]) -> None:
    """Write beside, then rename."""
    beside: Path | None = None
    missing = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        mx.save_safetensors(str(beside / "model.safetensors"), tensors, metadata={"format": "mlx"})
        for name, text in texts.items():
            (beside / name).write_text(text, encoding="utf-8")
        beside.chmod(0o755)
        beside.replace(out)
    finally:
        if beside is not None and beside.exists():
            shutil.rmtree(beside)
        for folder in missing:  # those that were made for a folder that could not be written
            with suppress(OSError):
                folder.rmdir()
