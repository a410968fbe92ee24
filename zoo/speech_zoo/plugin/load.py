"""What mlx_audio's functions do where `patches.py` wraps them: tell which checkpoints are ours, and load these.

Ours are checkpoints whose config bears the marks of our conversion, names of the catalogue that are no paths, and what
mlx-audio itself cannot place. Everything else goes to mlx-audio, untouched.
"""

import functools
import os
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from speech_zoo_core.errors import ConfigError, HubError, RegistryError, SpeechZooError

SPEAKERS = ("speaker-embedding",)
CLASSIFIERS = ("language-identification", "audio-classification")
CONVERTER = "mlx-speech-zoo"


class UnknownModelError(SpeechZooError, ValueError, FileNotFoundError):
    """Neither mlx-audio nor mlx-speech-zoo can load it; also an error of the kinds that mlx-audio itself raises."""


class _OursError(BaseException):
    """Leaves mlx-audio's loader when the config that it has read is one of ours."""


class _Attempt:
    """One call of a loader of mlx-audio, and the config that it read."""

    config: dict[str, Any] | None = None


_attempt: ContextVar[_Attempt | None] = ContextVar("speech_zoo_attempt", default=None)


def bears_our_marks(config: Any) -> bool:
    """Whether a parsed `config.json` comes from our conversion: a task of ours, and our front end or our provenance.

    The model type alone does not tell: mlx-audio has an `ecapa_tdnn` of its own.
    """
    if not isinstance(config, dict) or config.get("task") not in SPEAKERS + CLASSIFIERS:
        return False
    front_end, source = config.get("front_end"), config.get("source")
    return isinstance(config.get("model_type"), str) and (
        (isinstance(front_end, dict) and "kind" in front_end)
        or (isinstance(source, dict) and str(source.get("converter")).startswith(CONVERTER))
    )


def here(ref: Any) -> str | Path | None:
    """What `speech_zoo.load` is to load, if `ref` is a folder of ours or a catalogue name; a path wins over a name."""
    if not isinstance(ref, (str, os.PathLike)):
        return None
    path = located(ref)
    if isinstance(path, Path):
        return path if bears_our_marks(local_config(path)) else None
    if not isinstance(ref, str) or set(ref) & {"/", "\\"}:
        return None
    from speech_zoo_core import registry

    try:
        if folder := registry.bundled().get(ref):
            return folder
    except RegistryError:  # two packages with one model type; said where it is about one of ours
        return None
    from ..catalogue.entries import entries

    return ref if ref in entries() else None


def located(ref: str | os.PathLike[str]) -> str | Path:
    """The absolute path of what exists, so that nobody takes it for a name; else the name."""
    path = os.path.expanduser(ref)  # noqa: PTH111 (Path raises for ~nobody)
    return Path(path).absolute() if os.path.exists(path) else os.fspath(ref)  # noqa: PTH110 (as above)


def local_config(folder: Path) -> dict[str, Any] | None:
    """The parsed `config.json` of a folder; None if there is none that can be read."""
    from speech_zoo_core.config import read_json

    try:
        return read_json(folder / "config.json")
    except ConfigError:
        return None


def load_ours(
    ref: str | os.PathLike[str],
    tasks: Sequence[str],
    lazy: bool = False,
    strict: bool = True,
    *,
    revision: str | None = None,
    force_download: bool = False,
    dtype: str | None = None,
) -> Any:
    """`speech_zoo.load`, for the given tasks, with mlx-audio's conventions for audio: arrays are at 16 kHz.

    `lazy` and `strict` are there because mlx-audio has them: loading is always strict, and never lazy. A download that
    was forced has been done by mlx-audio already.

    Raises:
        ConfigError: the checkpoint is for another task.
        SpeechZooError: as `speech_zoo.load`.
    """
    from ..models import load

    model = load(ref, revision=revision, dtype=dtype)
    if model.config.task not in tasks:
        category = "spk" if model.config.task in SPEAKERS else "lid"
        raise ConfigError(f"{ref} is for {model.config.task}: load it with mlx_audio.{category}.load or mlx_audio.load")
    model.assumes_rate = True
    return model


def load_speaker(
    model_path: str | os.PathLike[str],
    lazy: bool = False,
    strict: bool = True,
    *,
    revision: str | None = None,
    dtype: str | None = None,
) -> Any:
    """Load a speaker-embedding model: `mlx_audio.spk.load`.

    Args:
        model_path: what `speech_zoo.load` takes: a catalogue name, a folder, a checkpoint file or a Hub repo.
        lazy, strict: as the other loaders of mlx-audio have them; loading is always strict, and never lazy.
        revision: branch, tag or commit of a Hub repo.
        dtype: "float32", "float16" or "bfloat16" to compute in.

    Returns:
        The model: `encode(audio, sample_rate)`, `embed_batch`, `verify`; arrays without a rate are at 16 kHz.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """
    return load_ours(model_path, SPEAKERS, lazy, strict, revision=revision, dtype=dtype)


def load_any(model_name: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
    """Load a model of any kind: `mlx_audio.load`.

    Args:
        model_name: a model of mlx-speech-zoo (folder, Hub repo, catalogue name), or whatever
            `mlx_audio.utils.load_model` takes, which gets all other models.
    """
    ours = here(model_name)
    if ours is not None:
        return load_ours(ours, SPEAKERS + CLASSIFIERS, *args, **kwargs)
    from mlx_audio.utils import load_model

    return load_model(model_name, *args, **kwargs)


def taking_ours(original: Callable[..., Any], tasks: Sequence[str]) -> Callable[..., Any]:
    """A loader of mlx-audio that leaves the checkpoints of `tasks` that are ours to us."""
    import inspect  # here, as below, so that `import mlx_audio` alone stays quick

    signature = inspect.signature(original)
    names = list(signature.parameters)

    @functools.wraps(original)
    def load_model(*args: Any, **kwargs: Any) -> Any:
        options = dict(signature.bind(*args, **kwargs).arguments)
        ref = options.pop(names[0])
        if signature.parameters[names[-1]].kind is inspect.Parameter.VAR_KEYWORD:
            options |= options.pop(names[-1], {})
        ours = here(ref)
        if ours is not None:
            return load_ours(ours, tasks, **options)
        attempt = _Attempt()
        token = _attempt.set(attempt)
        try:
            return original(*args, **kwargs)
        except _OursError:
            pass
        except (ValueError, FileNotFoundError) as error:
            return _what_nobody_placed(error, attempt.config or {}, ref, tasks, options)
        finally:
            _attempt.reset(token)
        return load_ours(ref, tasks, **options)

    return load_model


def _what_nobody_placed(
    error: Exception, config: dict[str, Any], ref: Any, tasks: Sequence[str], options: dict[str, Any]
) -> Any:
    """Load an original checkpoint that only we know; mlx-audio's error stands where it knows the type.

    Raises:
        UnknownModelError: we do not know it either.
    """
    from mlx_audio import utils
    from speech_zoo_core.hub import REPO_ID

    model_type = config.get("model_type") or config.get("architecture")
    if utils.get_model_category(model_type, utils.get_model_name_parts(ref)) is not None:
        raise error
    source = located(ref)
    if isinstance(source, str) and not REPO_ID.fullmatch(source):
        raise error
    try:
        return load_ours(source, tasks, **options)
    except HubError:
        raise error from None
    except RegistryError as ours:
        from mlx_audio.registry import SUPPORTED_MODEL_TYPES

        theirs = sorted(set().union(*SUPPORTED_MODEL_TYPES.values()))
        raise UnknownModelError(f"{ours}; known to mlx-audio: {', '.join(theirs)}") from error
    except SpeechZooError as ours:
        raise UnknownModelError(str(ours)) from error


def telling(original: Callable[..., Any]) -> Callable[..., Any]:
    """`load_config`, which says so when the config of the checkpoint that is being loaded is one of ours."""

    @functools.wraps(original)
    def load_config(*args: Any, **kwargs: Any) -> Any:
        config = original(*args, **kwargs)
        attempt = _attempt.get()
        if attempt is not None and attempt.config is None and isinstance(config, dict):
            attempt.config = config
            if bears_our_marks(config):
                raise _OursError
        return config

    return load_config


def kind_of(model_type: str) -> str | None:
    """ "lid" or "spk" for a model type that is registered with us, without importing its package where possible."""
    from importlib.metadata import entry_points

    if model_type not in {point.name for point in entry_points(group="speech_zoo.models")}:
        return None
    from speech_zoo_core import registry

    from ..catalogue.entries import entries

    tasks = {entry.task for entry in entries().values() if entry.model_type == model_type}
    return "spk" if (tasks or {registry.get(model_type).task}) <= set(SPEAKERS) else "lid"


def classifying_ours(original: Callable[..., Any]) -> Callable[..., Any]:
    """`classify_model`, which knows our types too; mlx-audio's own answer to a type comes first."""

    @functools.wraps(original)
    def classify_model(model_type: str, model_name: str = "") -> str | None:
        ours = None if original(model_type) else kind_of((model_type or "").strip().lower())
        answer: str | None = ours or original(model_type, model_name)
        return answer

    return classify_model
