"""`python -m mlx_audio.convert` for our model types: `speech_zoo.convert` behind mlx-audio's options."""

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_zoo_core.errors import ConfigError, SpeechZooError

from .load import CONFIG, config_of, located, ours

# Known to mlx-audio, whose conversion stops, or gives a folder that mlx-audio cannot load.
UNCONVERTED = "Wav2Vec2ForSequenceClassification"
DOMAINS = (None, "lid", "spk", "vad")
DEFAULT_BITS = 4  # of mlx-audio's --quantize
GROUP_SIZE = 32


def converting_ours(original: Callable[..., Any]) -> Callable[..., Any]:
    """`mlx_audio.convert.convert`, which leaves the sources that are ours to `speech_zoo.convert`."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def convert(*args: Any, **kwargs: Any) -> Any:
        options = signature.bind(*args, **kwargs).arguments
        ref, revision = options["hf_path"], options.get("revision")
        if options.get("model_domain") not in DOMAINS or not is_ours(ref, revision):
            return original(*args, **kwargs)
        return _convert(ours(ref, revision) or located(ref), revision, options)

    return convert


def _convert(source: str | Path, revision: str | None, options: dict[str, Any]) -> None:
    """`speech_zoo.convert` with the options of mlx-audio; it writes float32 unless `dtype` says otherwise.

    Raises:
        ConfigError: an option asks for what our conversion has not.
    """
    from ..models import convert

    out, quantize, bits = (options.get(name) for name in ("mlx_path", "quantize", "q_bits"))
    refused = {  # the values that are fine, and what to do about others
        "upload_repo": ((None,), "publish the folder with: speech-zoo upload"),
        "dequantize": ((None, False), "convert the original again, without --quantize"),
        "quant_predicate": ((None,), "each model chooses its layers itself"),
        "q_mode": ((None, "affine"), "only affine"),
        "q_group_size": ((None, GROUP_SIZE), f"only {GROUP_SIZE}"),
        "q_bits": ((None, 4, 8), "only 8 or 4"),
    }
    for name, (fine, instead) in refused.items():
        if options.get(name) not in fine and (quantize or not name.startswith("q_")):
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} is not for the models of mlx-speech-zoo: {instead}")
    print(f"[INFO] Converting {source} with mlx-speech-zoo")
    bits = (bits or DEFAULT_BITS) if quantize else None
    folder = convert(source, out or "mlx_model", options.get("dtype") or "float32", bits, revision=revision)
    print(f"[INFO] Conversion complete! Model saved to {folder}")


def is_ours(ref: str | os.PathLike[str], revision: str | None = None) -> bool:
    """Whether a source is for us.

    Those are names of the catalogue, what we converted, what mlx-audio cannot convert (`UNCONVERTED`), and what is
    unknown to mlx-audio and known to one of our packages.
    """
    if ours(ref, revision) is not None:
        return True
    path = located(ref)
    config = config_of(path, revision)
    architectures = config.get("architectures")
    if isinstance(architectures, list) and UNCONVERTED in architectures:
        return True
    from mlx_audio.registry import classify_model

    model_type = str(config.get("model_type") or config.get("architecture") or "")
    if inspect.unwrap(classify_model)(model_type, "" if isinstance(path, Path) else path) is not None:
        return False
    return _recognised(path, revision)


def _recognised(ref: str | Path, revision: str | None) -> bool:
    """Whether one of our packages knows a source that can be read, be it to say what is wrong with it."""
    from speech_zoo_core import registry
    from speech_zoo_core.loader import find

    try:
        source = find(ref, revision)
        if (source.settings(CONFIG) or {}).get("model_type") in registry.model_types():
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
            sys.exit(f"error: {error}")

    return main
