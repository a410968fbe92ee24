"""What mlx_audio's functions do where `patches.py` wraps them: tell which checkpoints are ours, and load these.

Ours are names of the catalogue that are no paths, checkpoints whose config bears the marks of our conversion, and what
mlx-audio has tried and cannot place. Everything else goes to mlx-audio, untouched.
"""

import functools
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from speech_zoo_core.errors import ConfigError, HubError, RegistryError, SpeechZooError

KINDS = {  # of mlx-audio, by our tasks
    "speaker-embedding": "spk",
    "language-identification": "lid",
    "audio-classification": "lid",
    "audio-tagging": "lid",
    "audio-regression": "lid",
    "speaker-segmentation": "vad",
}
CONVERTER = "mlx-speech-zoo"
CONFIG = "config.json"


class UnknownModelError(SpeechZooError, ValueError, FileNotFoundError):
    """Neither mlx-audio nor mlx-speech-zoo can load it; also an error of the kinds that mlx-audio itself raises."""


def bears_our_marks(config: dict[str, Any]) -> bool:
    """Whether a `config.json` comes from our conversion: a type, a task of ours, and our front end or our provenance.

    The type alone does not tell: mlx-audio has an `ecapa_tdnn` of its own.
    """
    front_end, source = (value if isinstance(value, dict) else {} for value in map(config.get, ("front_end", "source")))
    converted = "kind" in front_end or str(source.get("converter")).startswith(CONVERTER)
    return config.get("task") in [*KINDS] and isinstance(config.get("model_type"), str) and converted


def located(ref: str | os.PathLike[str]) -> str | Path:
    """The absolute path of what exists, so that nobody takes it for a name; else the name."""
    path = os.path.expanduser(ref)  # noqa: PTH111 (Path raises for ~nobody)
    return Path(path).absolute() if os.path.exists(path) else os.fspath(ref)  # noqa: PTH110 (as above)


def ours(ref: Any, revision: str | None = None) -> str | Path | None:
    """What `speech_zoo.load` is to load, if `ref` is converted by us or a catalogue name; a path wins over a name."""
    if not isinstance(ref, (str, os.PathLike)):
        return None
    path = located(ref)
    if isinstance(path, Path) or "/" in path:
        return path if bears_our_marks(config_of(path, revision)) else None
    from speech_zoo_core import registry

    from ..catalogue.entries import entries

    with suppress(RegistryError):  # two packages with one model type; said where it is about one of ours
        return path if path in registry.bundled() or path in entries() else None
    return None


def config_of(path: str | Path, revision: str | None = None) -> dict[str, Any]:
    """The `config.json` of a folder, or of a Hub repo, from the cache where it is; {} if there is none within reach.

    Why there is none, mlx-audio says, which then loads the checkpoint itself.
    """
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache
    from speech_zoo_core.config import read_json
    from speech_zoo_core.hub import REPO_ID, check_revision, guarded

    try:
        if isinstance(path, Path):
            return read_json(path / CONFIG)
        check_revision(revision)
        if not REPO_ID.fullmatch(path):
            return {}
        known = try_to_load_from_cache(path, CONFIG, revision=revision)  # a path, None, or that there is no such file
        with guarded():
            file = hf_hub_download(path, CONFIG, revision=revision) if known is None else known
        return read_json(Path(file)) if isinstance(file, str) else {}
    except (SpeechZooError, OSError, ValueError, errors.HTTPError):  # type: ignore[attr-defined]  # httpx's or httpx2's
        return {}


def model_type_of(config: dict[str, Any]) -> Any:
    """What mlx-audio takes for the type of a checkpoint."""
    return config.get("model_type") or config.get("architecture")


def load_ours(
    kind: str | None,
    ref: str | os.PathLike[str],
    lazy: bool = False,
    strict: bool = True,
    *,
    revision: str | None = None,
    force_download: bool = False,
    dtype: str | None = None,
) -> Any:
    """`speech_zoo.load`, for a kind of mlx-audio or any, with its convention for audio: arrays are at the model's rate.

    `lazy` and `strict` are there because mlx-audio has them: loading is always strict, and never lazy.

    Raises:
        ConfigError: the checkpoint is of another kind.
        SpeechZooError: as `speech_zoo.load`.
    """
    from ..models import load

    if force_download and "/" in str(ref) and not os.path.exists(ref):  # noqa: PTH110 (Path raises for long names)
        from mlx_audio.utils import get_model_path

        get_model_path(ref, revision=revision, force_download=True)
    model = load(ref, revision=revision, dtype=dtype)
    task = model.config.task
    if kind not in (None, KINDS[task]):
        raise ConfigError(f"{ref} is for {task}: load it with mlx_audio.{KINDS[task]}.load or mlx_audio.load")
    if model.config.front_end is not None:
        model.default_sample_rate = model.sample_rate
    return model


def load_any(model_name: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
    """Load a model of mlx-speech-zoo by folder, Hub repo or catalogue name, or else as `mlx_audio.utils.load_model`."""
    from inspect import unwrap

    from mlx_audio.utils import load_model

    return unwrap(load_model)(model_name, *args, **kwargs)  # what is ours `taking_ours` has taken


def taking_ours(original: Callable[..., Any], kind: str | None = None) -> Callable[..., Any]:
    """A loader of mlx-audio, of one kind or of all, that leaves the checkpoints that are ours to us."""

    @functools.wraps(original)
    def load_model(*args: Any, **kwargs: Any) -> Any:
        from inspect import signature  # here, so that `import mlx_audio` alone stays quick

        options = dict(kwargs)
        ref, *rest = args or [options.pop(next(iter(signature(original).parameters)), None)]
        if (source := ours(ref, options.get("revision"))) is not None:
            return load_ours(kind, source, *rest, **options)
        try:
            return original(*args, **kwargs)
        except (ValueError, FileNotFoundError) as error:
            return _what_nobody_placed(error, kind, ref, options.get("revision"), options.get("dtype"))

    return load_model


def _what_nobody_placed(error: Exception, kind: str | None, ref: Any, revision: str | None, dtype: str | None) -> Any:
    """Load an original checkpoint that only we know; mlx-audio's error stands where it knows the type.

    Raises:
        UnknownModelError: we do not know it either.
    """
    from mlx_audio import utils
    from speech_zoo_core.hub import REPO_ID

    source = located(ref)
    config = config_of(source, revision)  # which mlx-audio may have just downloaded
    known = utils.get_model_category(model_type_of(config), utils.get_model_name_parts(ref)) is not None
    if (known and not bears_our_marks(config)) or (isinstance(source, str) and not REPO_ID.fullmatch(source)):
        raise error
    try:
        return load_ours(kind, source, revision=revision, dtype=dtype)
    except HubError:
        raise error from None
    except SpeechZooError as refusal:
        from mlx_audio.registry import SUPPORTED_MODEL_TYPES

        types = f"; known to mlx-audio: {', '.join(sorted(set().union(*SUPPORTED_MODEL_TYPES.values())))}"
        raise UnknownModelError(f"{refusal}{types if isinstance(refusal, RegistryError) else ''}") from error


def classifying_ours(original: Callable[..., Any]) -> Callable[..., Any]:
    """`classify_model`, which knows our types too; mlx-audio's own answer to a type comes first."""

    @functools.wraps(original)
    def classify_model(model_type: str, model_name: str = "") -> str | None:
        kind = None if original(model_type) else _kind_of((model_type or "").strip().lower())
        answer: str | None = kind or original(model_type, model_name)
        return answer

    return classify_model


def _kind_of(model_type: str) -> str | None:
    """The kind of a model type that is registered with us, without importing its package where possible."""
    from importlib.metadata import entry_points

    if model_type not in {point.name for point in entry_points(group="speech_zoo.models")}:
        return None
    from speech_zoo_core import registry

    from ..catalogue.entries import entries

    kinds = {KINDS[entry.task] for entry in entries().values() if entry.model_type == model_type}
    kinds = kinds or {KINDS[registry.get(model_type).task]}
    return kinds.pop() if len(kinds) == 1 else "lid"
