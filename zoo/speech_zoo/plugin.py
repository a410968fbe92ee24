"""mlx_audio's own entry points load the models of mlx-speech-zoo.

`register()` is called when mlx_audio is imported (`speech_zoo_autoload`), or by hand. It wraps a few functions of
mlx_audio as their modules are imported, and copies nothing of it:

==========================  ==================================================================================
`mlx_audio`                 gets `load`; its submodules `lid`, `registry`, `spk` and `utils` are there when asked for
`mlx_audio.utils`           `load_model`, and `load_config`, where mlx-audio itself reads the config of a checkpoint
`mlx_audio.lid.utils`       `load_model`
`mlx_audio.registry`        `classify_model`
`mlx_audio.convert`         `convert` and `main` (`plugin_convert.py`)
`mlx_audio.spk`             is `plugin_spk.py`, unless mlx-audio brings one
==========================  ==================================================================================

Ours are: checkpoints whose config bears the marks of our conversion, names of the catalogue that are no paths, and what
mlx-audio itself cannot place. Everything else goes to mlx-audio, untouched.
"""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import speech_zoo_autoload
from speech_zoo_core.errors import ConfigError, HubError, RegistryError, SpeechZooError

OLDEST, NEWEST = "0.4.8", "0.6.2"  # versions of mlx-audio that the tests run with
SPEAKERS = ("speaker-embedding",)
CLASSIFIERS = ("language-identification", "audio-classification")
SUBMODULES = ("lid", "registry", "spk", "utils")
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

    from .catalogue import entries

    try:
        return ref if ref in registry.bundled() or ref in entries() else None
    except RegistryError:  # two packages with one model type; said where it is about one of ours
        return None


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
    from . import load

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

    from .catalogue import entries

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


def wrap(module: ModuleType, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace a function of mlx-audio by its wrapped form, once.

    Raises:
        RegistryError: it is not there, so this is a version that nobody has looked at.
    """
    original = vars(module).get(name)
    if not callable(original):
        from importlib.metadata import version

        raise RegistryError(
            f"mlx-audio {version('mlx-audio')} has no {module.__name__}.{name} "
            f"(known to work: mlx-audio {OLDEST} to {NEWEST})"
        )
    if not hasattr(original, "_speech_zoo"):
        wrapped = wrapper(original)
        wrapped._speech_zoo = True  # type: ignore[attr-defined]
        setattr(module, name, wrapped)


def _patch_package(package: ModuleType) -> None:
    def load_first(original: Callable[..., Any]) -> Callable[..., Any]:  # of a newer mlx-audio
        return taking_ours(original, SPEAKERS + CLASSIFIERS)

    own = vars(package).get("__getattr__")
    if "load" in vars(package):
        wrap(package, "load", load_first)
    else:
        package.load = load_any  # type: ignore[attr-defined]
        load_any._speech_zoo = True  # type: ignore[attr-defined]
    if hasattr(own, "_speech_zoo"):
        return

    def __getattr__(name: str) -> Any:
        if name in SUBMODULES:
            from importlib import import_module

            return import_module(f"mlx_audio.{name}")
        if own is not None:
            return own(name)
        raise AttributeError(f"module 'mlx_audio' has no attribute {name!r}")

    __getattr__._speech_zoo = True  # type: ignore[attr-defined]
    package.__getattr__ = __getattr__  # type: ignore[method-assign]


def _patch_utils(module: ModuleType) -> None:
    wrap(module, "load_config", telling)
    wrap(module, "load_model", lambda original: taking_ours(original, SPEAKERS + CLASSIFIERS))


def _patch_lid_utils(module: ModuleType) -> None:
    wrap(module, "load_model", lambda original: taking_ours(original, CLASSIFIERS))
    package = sys.modules.get("mlx_audio.lid")
    if package is not None and "load_model" in vars(package):  # imported before we were registered
        package.load_model = module.load_model  # type: ignore[attr-defined]


def _patch_lid(package: ModuleType) -> None:
    """Its `load` is that of `lid.utils`, as long as that is where it comes from."""
    if "load" in vars(package) and getattr(package.load, "__module__", "") != "mlx_audio.lid.utils":
        wrap(package, "load", lambda original: taking_ours(original, CLASSIFIERS))


def _patch_registry(module: ModuleType) -> None:
    wrap(module, "classify_model", classifying_ours)


def _patch_convert(module: ModuleType) -> None:
    from . import plugin_convert

    wrap(module, "convert", plugin_convert.converting_ours)
    wrap(module, "main", plugin_convert.with_one_line_errors)


PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "mlx_audio": _patch_package,
    "mlx_audio.utils": _patch_utils,
    "mlx_audio.lid.utils": _patch_lid_utils,
    "mlx_audio.lid": _patch_lid,
    "mlx_audio.registry": _patch_registry,
    "mlx_audio.convert": _patch_convert,
}


class Finder:
    """Patches modules of mlx_audio after their import, and finds `mlx_audio.spk`."""

    speech_zoo = True

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith("mlx_audio") or (name not in PATCHES and name != "mlx_audio.spk"):
            return None
        spec = speech_zoo_autoload.spec_of_others(name, path, target)
        if name == "mlx_audio.spk":
            return spec or spec_from_file_location(name, Path(__file__).with_name("plugin_spk.py"))
        try:
            if name == "mlx_audio.convert" and spec is not None:
                _run_as_imported(spec)
            return speech_zoo_autoload.after_import(spec, lambda: None, PATCHES[name])
        except Exception as error:
            speech_zoo_autoload.warn(error)
            return spec


def _run_as_imported(spec: ModuleSpec) -> None:
    """`python -m mlx_audio.convert` runs the code of the module, not the module: let it run the patched one."""
    loader: Any = spec.loader
    code = loader.get_code

    def get_code(name: str) -> Any:
        if sys._getframe(1).f_globals.get("__name__") != "runpy":
            return code(name)
        return compile(
            "from mlx_audio import convert as _module\n"
            "globals().update({k: v for k, v in vars(_module).items() if not k.startswith('__')})\n"
            "if __name__ == '__main__':\n    main()\n",
            spec.origin or name,
            "exec",
        )

    loader.get_code = get_code


def register() -> None:
    """Let mlx_audio's loaders load our models; idempotent, before or after mlx_audio is imported.

    What was taken out of mlx_audio before (`from mlx_audio.utils import load_model`) stays as it was.
    """
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
    for name, patch in PATCHES.items():
        module = sys.modules.get(name)
        if module is not None:
            speech_zoo_autoload.attempt(patch, module)
