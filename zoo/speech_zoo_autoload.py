"""Waits for `import mlx_audio`, which then knows the models of mlx-speech-zoo.

`speech_zoo_autoload.pth` runs this at the start of every interpreter. So it imports only what is loaded then anyway,
and stands outside of speech_zoo, so that it can tell what is wrong with that. All else is in `speech_zoo.plugin`.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

# `python -m mlx_audio.convert` runs the code of that module, not the module; so it gets this.
CONVERT, RUN_CONVERT = "mlx_audio.convert", "from mlx_audio.convert import *\nif __name__ == '__main__':\n    main()\n"


class Finder:
    """Finds mlx_audio where the others find it, and has it patched as soon as it is imported."""

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "ModuleSpec | None":
        plugin = sys.modules.get("speech_zoo.plugin.patches")  # not there before mlx_audio itself is
        if name != "mlx_audio" and name not in getattr(plugin, "PATCHES", ()):
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        return spec and patched_after_import(spec)


def patched_after_import(spec: "ModuleSpec") -> "ModuleSpec":
    """Let the plugin patch the module after its next execution."""
    loader: Any = spec.loader

    def exec_module(module: "ModuleType") -> None:
        for name in hooks:  # from here on, everything is as without us
            vars(loader).pop(name, None)
        loader.exec_module(module)
        attempt(_patch, module)

    hooks: dict[str, Callable[..., Any]] = {"exec_module": exec_module}
    if spec.name == CONVERT:
        hooks["get_code"] = lambda _: compile(RUN_CONVERT, CONVERT, "exec")
    attempt(lambda: vars(loader).update(hooks))
    return spec


def _patch(module: "ModuleType") -> None:
    from speech_zoo.plugin.patches import patch

    patch(module)


def attempt(function: "Callable[..., Any]", *arguments: "Any") -> None:
    """Run a part of the plugin; whatever goes wrong is a warning, as `import mlx_audio` must not fail."""
    try:
        function(*arguments)
    except Exception as error:
        import warnings

        text = " ".join(str(error).split()) or type(error).__name__
        message = f"mlx-speech-zoo's plugin for mlx_audio does not work here: {text}; use speech_zoo.load instead"
        try:
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        except RuntimeWarning:  # where warnings are errors
            sys.stderr.write(f"warning: {message}\n")


def install(always: bool = False) -> None:
    """Watch for mlx_audio, once; `SPEECH_ZOO_AUTOLOAD=0` in the environment switches it off, unless `always`."""
    watched = any(isinstance(finder, Finder) for finder in sys.meta_path)  # virtual environments may run `.pth` twice
    if not watched and (always or os.environ.get("SPEECH_ZOO_AUTOLOAD") != "0"):
        sys.meta_path.insert(0, Finder())
