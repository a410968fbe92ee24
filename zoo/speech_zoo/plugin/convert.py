"""`python -m mlx_audio.convert` for our model types: `speech_zoo.convert` behind mlx-audio's options."""

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_zoo_core.errors import ConfigError, SpeechZooError

from .load import bears_our_marks, here, local_config, located

# Known to mlx-audio, whose conversion stops, or gives a folder that mlx-audio cannot load.
UNCONVERTED = ("Wav2Vec2ForSequenceClassification",)
DOMAINS = (None, "lid", "spk")
DEFAULT_BITS = 4  # of mlx-audio's --quantize
GROUP_SIZE = 32


def converting_ours(original: Callable[..., Any]) -> Callable[..., Any]:
    """`mlx_audio.convert.convert`, which leaves the sources that are ours to `speech_zoo.convert`."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def convert(*args: Any, **kwargs: Any) -> Any:
        options = dict(signature.bind(*args, **kwargs).arguments)
        ref, revision = options.pop("hf_path"), options.pop("revision", None)
        if options.get("model_domain") not in DOMAINS or not is_ours(ref, revision):
            return original(*args, **kwargs)
        return _convert(here(ref) or located(ref), revision, **options)

    return convert


def _convert(
    source: str | os.PathLike[str],
    revision: str | None,
    mlx_path: str = "mlx_model",
    quantize: bool = False,
    q_group_size: int | None = None,
    q_bits: int | None = None,
    dtype: str | None = None,
    upload_repo: str | None = None,
    dequantize: bool = False,
    quant_predicate: str | None = None,
    q_mode: str = "affine",
    model_domain: str | None = None,
) -> None:
    """The options of mlx-audio for `speech_zoo.convert`, which writes float32 unless `dtype` says otherwise.

    Raises:
        ConfigError: an option asks for what our conversion has not.
    """
    from ..models import convert

    refused = {
        "--upload-repo": upload_repo and f"publish the folder with: speech-zoo upload {mlx_path} {upload_repo}",
        "--dequantize": dequantize and "convert the original again, without --quantize",
        "--quant-predicate": quant_predicate and "each model chooses its layers itself",
        "--q-mode": quantize and q_mode != "affine" and "only affine",
        "--q-group-size": quantize and q_group_size not in (None, GROUP_SIZE) and f"only {GROUP_SIZE}",
        "--q-bits": quantize and q_bits not in (None, 4, 8) and "only 8 or 4",
    }
    for option, reason in refused.items():
        if reason:
            raise ConfigError(f"{option} is not for the models of mlx-speech-zoo: {reason}")
    bits = (q_bits or DEFAULT_BITS) if quantize else None
    print(f"[INFO] Converting {source} with mlx-speech-zoo")
    folder = convert(source, mlx_path, dtype or "float32", bits, revision=revision)
    print(f"[INFO] Conversion complete! Model saved to {folder}")


def is_ours(ref: str | os.PathLike[str], revision: str | None = None) -> bool:
    """Whether a source is for us.

    Those are names of the catalogue, what we converted, what mlx-audio cannot convert (`UNCONVERTED`), and what is
    unknown to mlx-audio and known to one of our packages.
    """
    if here(ref) is not None:
        return True
    path = located(ref)
    local = isinstance(path, Path)
    config = (local_config(path) if isinstance(path, Path) else _hub_config(path, revision)) or {}
    if bears_our_marks(config) or set(config.get("architectures") or []) & set(UNCONVERTED):
        return True
    from mlx_audio.registry import classify_model

    model_type = str(config.get("model_type") or config.get("architecture") or "")
    if inspect.unwrap(classify_model)(model_type, "" if local else str(ref)) is not None:
        return False
    return _recognised(path, revision)


def _hub_config(repo: str, revision: str | None) -> dict[str, Any] | None:
    """The `config.json` of a Hub repo; None if there is none within reach."""
    from huggingface_hub import errors, hf_hub_download

    try:
        return local_config(Path(hf_hub_download(repo, "config.json", revision=revision)).parent)
    except (OSError, ValueError, errors.HTTPError):  # type: ignore[attr-defined]  # of mlx-audio's own download, too, which says what is wrong
        return None


def _recognised(ref: str | Path, revision: str | None) -> bool:
    """Whether one of our packages knows a source that can be read, be it to say what is wrong with it."""
    from speech_zoo_core import registry
    from speech_zoo_core.loader import find

    try:
        source = find(ref, revision)
        config = source.settings("config.json") or {}
        if config.get("model_type") in registry.model_types():
            return True
        _ = source.checkpoint
    except SpeechZooError:
        return False
    try:
        return any(spec.recognise(source) for spec in registry.specs())
    except SpeechZooError:
        return True


def with_one_line_errors(original: Callable[..., Any]) -> Callable[..., Any]:
    """`mlx_audio.convert.main`, which prints our errors as `speech-zoo` does."""

    @functools.wraps(original)
    def main() -> Any:
        try:
            return original()
        except SpeechZooError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    return main
