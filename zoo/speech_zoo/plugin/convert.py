"""`python -m mlx_audio.convert` for our model types: `speech_zoo.convert` behind mlx-audio's options."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_zoo_core.errors import ConfigError, SpeechZooError

from .load import CONFIG, KINDS, config_of, located, model_type_of, ours

# Known to mlx-audio, whose conversion stops, or gives a folder that mlx-audio cannot load.
UNCONVERTED = "Wav2Vec2ForSequenceClassification"
# mlx-audio's options that our conversion lacks: the values that are fine, and what to do about others.
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "upload_repo": ((None,), "publish the folder with: speech-zoo upload"),
    "dequantize": ((None, False), "convert the original again, without --quantize"),
    "quant_predicate": ((None,), "each model chooses its layers itself"),
    "q_mode": ((None, "affine"), "only affine"),
    "q_group_size": ((None, 32), "only 32"),
    "q_bits": ((None, 4, 8), "only 8 or 4"),
}


def converting_ours(original: Callable[..., Any]) -> Callable[..., Any]:
    """`mlx_audio.convert.convert`, which leaves the sources that are ours to `speech_zoo.convert`."""

    @functools.wraps(original)
    def convert(*args: Any, **kwargs: Any) -> Any:
        from inspect import signature

        options = signature(original).bind(*args, **kwargs).arguments
        if options.get("model_domain") in (None, *KINDS.values()):
            source = ours_to_convert(options["hf_path"], options.get("revision"))
            if source is not None:
                return _convert(source, options)
        return original(*args, **kwargs)

    return convert


def with_one_line_errors(original: Callable[..., Any]) -> Callable[..., Any]:
    """`mlx_audio.convert.main`, which prints our errors as `speech-zoo` does."""

    @functools.wraps(original)
    def main() -> Any:
        try:
            return original()
        except SpeechZooError as error:
            sys.exit(f"error: {error}")

    return main


def _convert(source: str | Path, options: dict[str, Any]) -> None:
    """`speech_zoo.convert` with the options of mlx-audio; it writes float32 unless `dtype` says otherwise.

    Raises:
        ConfigError: an option asks for what our conversion has not.
    """
    from ..models import convert

    out, dtype, quantize = (options.get(name) for name in ("mlx_path", "dtype", "quantize"))
    for name, (fine, instead) in REFUSED.items():
        if options.get(name) not in fine and (quantize or not name.startswith("q_")):
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} is not for the models of mlx-speech-zoo: {instead}")
    print(f"[INFO] Converting {source} with mlx-speech-zoo")
    bits = (options.get("q_bits") or 4) if quantize else None  # 4 as mlx-audio's --quantize
    folder = convert(source, out or "mlx_model", dtype or "float32", bits, revision=options.get("revision"))
    print(f"[INFO] Conversion complete! Model saved to {folder}")


def ours_to_convert(ref: str | os.PathLike[str], revision: str | None = None) -> str | Path | None:
    """What `speech_zoo.convert` is to convert, if a source is for us.

    Those are names of the catalogue, what we converted, what mlx-audio cannot convert (`UNCONVERTED`), and what is
    unknown to mlx-audio and known to one of our packages.
    """
    path = located(ref)
    config = config_of(path, revision)
    if (source := ours(ref, revision)) is not None or UNCONVERTED in str(config.get("architectures")):
        return source or path
    from inspect import unwrap

    from mlx_audio.registry import classify_model

    kind = unwrap(classify_model)(str(model_type_of(config) or ""), "" if isinstance(path, Path) else path)
    return path if kind is None and _recognised(path, revision) else None


def _recognised(ref: str | Path, revision: str | None) -> bool:
    """Whether one of our packages knows a source that can be read, be it to say what is wrong with it."""
    from speech_zoo_core.loader import find, recognised
    from speech_zoo_core.registry import model_types

    try:
        source = find(ref, revision)
        if (source.settings(CONFIG) or {}).get("model_type") in model_types():
            return True
        _ = source.checkpoint
    except SpeechZooError:
        return False
    try:
        return recognised(source) is not None
    except SpeechZooError:
        return True
