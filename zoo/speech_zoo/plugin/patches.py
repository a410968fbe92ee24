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
from typing import Any, TypeAlias

import speech_zoo_autoload
from speech_zoo_core.errors import RegistryError

from .convert import converting_ours, with_one_line_errors
from .load import classifying_ours, load_any, taking_ours

OLDEST, NEWEST = "0.4.8", "0.6.2"  # versions of mlx-audio that the tests run with
SUBMODULES = ("lid", "registry", "spk", "utils")
Function: TypeAlias = Callable[..., Any]


def _missing(name: str) -> Any:
    raise AttributeError(f"module 'mlx_audio' has no attribute {name!r}")


def _with_submodules(original: Function) -> Function:
    return lambda name: import_module(f"mlx_audio.{name}") if name in SUBMODULES else original(name)


# What is wrapped, by module and name. A package may lack a name, as it may have it from a module that is patched.
_taking_lid, _taking_vad = partial(taking_ours, kind="lid"), partial(taking_ours, kind="vad")
PATCHES: dict[str, dict[str, Callable[[Function], Function]]] = {
    "mlx_audio": {"load": taking_ours, "__getattr__": _with_submodules},
    "mlx_audio.utils": {"load_model": taking_ours},
    "mlx_audio.lid": {"load": _taking_lid, "load_model": _taking_lid},
    "mlx_audio.lid.utils": {"load_model": _taking_lid},
    "mlx_audio.vad": {"load": _taking_vad, "load_model": _taking_vad},
    "mlx_audio.vad.utils": {"load_model": _taking_vad},
    "mlx_audio.registry": {"classify_model": classifying_ours},
    "mlx_audio.convert": {"convert": converting_ours, "main": with_one_line_errors},
}


def patch(module: ModuleType) -> None:
    """Replace functions of a module of mlx-audio by their wrapped forms, once.

    Raises:
        RegistryError: one is not there, so this is a version that nobody has looked at.
    """
    names = vars(module)
    if module.__name__ == "mlx_audio":
        names.setdefault("load", load_any)  # a newer mlx-audio may have its own
        names.setdefault("__getattr__", _missing)
        if find_spec("mlx_audio.spk") is None:
            sys.modules["mlx_audio.spk"] = import_module(".spk", __package__)
    for name, wrapper in PATCHES[module.__name__].items():
        original = names.get(name)
        if callable(original) and not hasattr(original, "_speech_zoo"):
            names[name] = wrapper(original)
            names[name]._speech_zoo = True
        elif original is None and "__path__" not in names:
            from importlib.metadata import version

            raise RegistryError(
                f"mlx-audio {version('mlx-audio')} has no {module.__name__}.{name} "
                f"(known to work: mlx-audio {OLDEST} to {NEWEST})"
            )


def register() -> None:
    """Let mlx_audio load our models: `mlx_audio.load`, `mlx_audio.utils.load_model`, `mlx_audio.lid.load` and the like.

    Not needed where the package was installed by pip or uv, which see to it at the start of every interpreter, unless
    the environment says `SPEECH_ZOO_AUTOLOAD=0`. Idempotent, before or after mlx_audio is imported; what was imported
    from its modules by name before stays as it was.
    """
    speech_zoo_autoload.install(always=True)
    for name in PATCHES.keys() & sys.modules.keys():
        speech_zoo_autoload.attempt(patch, sys.modules[name])
