"""Waits for `import mlx_audio`, which then knows the models of mlx-speech-zoo.

`speech_zoo_autoload.pth` runs this in every interpreter, so it imports only what is loaded at that time anyway, and
nothing more happens in a process that never imports mlx_audio.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

SWITCH = "SPEECH_ZOO_AUTOLOAD"
_warned = False


def install() -> None:
    """Watch for mlx_audio; `SPEECH_ZOO_AUTOLOAD=0` in the environment switches it off."""
    if os.environ.get(SWITCH) != "0" and not any(map(is_ours, sys.meta_path)):  # venvs run `.pth` files twice
        sys.meta_path.insert(0, Watcher())


def is_ours(finder: object) -> bool:
    """Whether a finder is the watcher or the plugin's."""
    return getattr(finder, "speech_zoo", False)


class Watcher:
    """Finds nothing itself; lends the loader of `mlx_audio` another `exec_module` for one import."""

    speech_zoo = True

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "ModuleSpec | None":
        if name != "mlx_audio":
            return None
        spec = spec_of_others(name, path, target)
        try:
            return after_import(spec, import_plugin, register)
        except Exception as error:
            warn(error)
            return spec


def spec_of_others(name: str, path: "Any", target: "Any") -> "ModuleSpec | None":
    """What the finders that are not ours find."""
    for other in sys.meta_path:
        if not is_ours(other) and hasattr(other, "find_spec") and (spec := other.find_spec(name, path, target)):
            return spec
    return None


def after_import(spec: "ModuleSpec | None", before: "Any", after: "Any") -> "ModuleSpec | None":
    """Let `before()` and `after(module)` run around the execution of the module; their errors only warn."""
    if spec is None or spec.loader is None or "exec_module" in vars(spec.loader):
        return spec
    loader, execute = spec.loader, spec.loader.exec_module

    def exec_module(module: "ModuleType") -> None:
        del loader.exec_module  # of the instance: from here on, everything is as without us
        attempt(before)
        execute(module)
        attempt(after, module)

    loader.exec_module = exec_module  # type: ignore[method-assign]
    return spec


def attempt(function: "Any", *arguments: "Any") -> None:
    """Run a part of the plugin; whatever goes wrong, `import mlx_audio` must not fail."""
    try:
        function(*arguments)
    except Exception as error:
        warn(error)


def import_plugin() -> None:
    """Import the plugin before mlx_audio imports MLX, for which it opens OpenBLAS on a Linux CPU."""
    import speech_zoo.plugin  # noqa: F401


def register(_: "ModuleType") -> None:
    """Hand over to the plugin."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Watcher)]
    plugin = sys.modules.get("speech_zoo.plugin")
    if plugin is not None:  # else there was a warning already
        plugin.register()


def warn(error: object) -> None:
    """Say once what is wrong, and what to do."""
    global _warned  # noqa: PLW0603
    if _warned:
        return
    _warned = True
    import warnings

    text = " ".join(str(error).split()) or type(error).__name__
    message = f"mlx-speech-zoo's plugin for mlx_audio does not work here: {text}; use speech_zoo.load instead"
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:  # where warnings are errors, mlx_audio must still import
        sys.stderr.write(f"warning: {message}\n")
