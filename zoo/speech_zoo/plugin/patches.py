"""mlx_audio's own entry points load the models of mlx-speech-zoo.

`register()` is called when mlx_audio is imported (`speech_zoo_autoload.py`), or by hand. It wraps a few functions of
mlx_audio as their modules are imported, and copies nothing of it:

==========================  ==================================================================================
`mlx_audio`                 gets `load`; its submodules `lid`, `registry`, `spk` and `utils` are there when asked for
`mlx_audio.utils`           `load_model`, and `load_config`, with which mlx-audio reads the config of a checkpoint
`mlx_audio.lid.utils`       `load_model`
`mlx_audio.registry`        `classify_model`
`mlx_audio.convert`         `convert` and `main` (`convert.py`)
`mlx_audio.spk`             is `spk.py`, unless mlx-audio brings one
==========================  ==================================================================================
"""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import speech_zoo_hooks
from speech_zoo_core.errors import RegistryError

from .load import CLASSIFIERS, SPEAKERS, classifying_ours, load_any, taking_ours, telling

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
    from . import convert as plugin_convert

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
        spec = speech_zoo_hooks.spec_of_others(name, path, target)
        if name == "mlx_audio.spk":
            return spec or spec_from_file_location(name, Path(__file__).with_name("spk.py"))
        try:
            if name == "mlx_audio.convert" and spec is not None:
                _run_as_imported(spec)
            return speech_zoo_hooks.after_import(spec, lambda: None, PATCHES[name])
        except Exception as error:
            speech_zoo_hooks.warn(error)
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
    """Let mlx_audio load our models: `mlx_audio.load`, `mlx_audio.utils.load_model`, `mlx_audio.lid.load` and the like.

    Not needed where the package was installed by pip or uv, which see to it at the start of every interpreter, unless
    the environment says `SPEECH_ZOO_AUTOLOAD=0`. Idempotent, before or after mlx_audio is imported; what was imported
    from its modules by name before stays as it was.
    """
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
    for name, patch in PATCHES.items():
        module = sys.modules.get(name)
        if module is not None:
            speech_zoo_hooks.attempt(patch, module)
