"""mlx_audio's own entry points load the models of mlx-speech-zoo.

`speech_zoo_autoload.py` applies these patches as the modules of mlx_audio are imported. `mlx_audio` gets `load`, and
has its submodules when asked for them; its loaders leave our models to us; `mlx_audio.registry` knows our types;
`mlx_audio.convert` converts with us what it cannot. `mlx_audio.spk` is `spk.py`, unless mlx-audio brings one.
"""

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import speech_zoo_autoload
from speech_zoo_core.errors import RegistryError

from .load import CLASSIFIERS, SEGMENTERS, classifying_ours, load_any, taking_ours

OLDEST, NEWEST = "0.4.8", "0.6.2"  # versions of mlx-audio that the tests run with
SUBMODULES = ("lid", "registry", "spk", "utils")


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
    if not hasattr(package, "load"):
        package.load = load_any  # type: ignore[attr-defined]
    elif package.load is not load_any:  # of a newer mlx-audio
        wrap(package, "load", taking_ours)
    if find_spec("mlx_audio.spk") is None:
        sys.modules["mlx_audio.spk"] = import_module(".spk", __package__)
    own = vars(package).get("__getattr__", partial(_missing, package))
    if not hasattr(own, "_speech_zoo"):

        def __getattr__(name: str) -> Any:
            return import_module(f"mlx_audio.{name}") if name in SUBMODULES else own(name)

        __getattr__._speech_zoo = True  # type: ignore[attr-defined]
        package.__getattr__ = __getattr__  # type: ignore[method-assign]


def _missing(package: ModuleType, name: str) -> Any:
    raise AttributeError(f"module {package.__name__!r} has no attribute {name!r}")


def _patch_kind(package: ModuleType, taking: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """What it has from its `utils` is patched, unless it was imported before we were registered."""
    for name in {"load", "load_model"} & vars(package).keys():
        wrap(package, name, taking)


def _patch_convert(module: ModuleType) -> None:
    from . import convert

    wrap(module, "convert", convert.converting_ours)
    wrap(module, "main", convert.with_one_line_errors)


taking_classifiers = partial(taking_ours, tasks=CLASSIFIERS)
taking_segmenters = partial(taking_ours, tasks=SEGMENTERS)
PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "mlx_audio": _patch_package,
    "mlx_audio.utils": partial(wrap, name="load_model", wrapper=taking_ours),
    "mlx_audio.lid.utils": partial(wrap, name="load_model", wrapper=taking_classifiers),
    "mlx_audio.lid": partial(_patch_kind, taking=taking_classifiers),
    "mlx_audio.vad.utils": partial(wrap, name="load_model", wrapper=taking_segmenters),
    "mlx_audio.vad": partial(_patch_kind, taking=taking_segmenters),
    "mlx_audio.registry": partial(wrap, name="classify_model", wrapper=classifying_ours),
    "mlx_audio.convert": _patch_convert,
}


def register() -> None:
    """Let mlx_audio load our models: `mlx_audio.load`, `mlx_audio.utils.load_model`, `mlx_audio.lid.load` and the like.

    Not needed where the package was installed by pip or uv, which see to it at the start of every interpreter, unless
    the environment says `SPEECH_ZOO_AUTOLOAD=0`. Idempotent, before or after mlx_audio is imported; what was imported
    from its modules by name before stays as it was.
    """
    speech_zoo_autoload.install(always=True)
    for name, patch in PATCHES.items():
        if name in sys.modules:
            speech_zoo_autoload.attempt(patch, sys.modules[name])
