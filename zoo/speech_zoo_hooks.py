"""What happens around the import of mlx_audio and its modules; outside of speech_zoo, so that it can tell what is wrong
with that.
"""

import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_warned = False


def spec_of_mlx_audio(path: Any, target: Any) -> ModuleSpec | None:
    """The spec of mlx_audio, whose import starts the plugin."""
    return after_import(spec_of_others("mlx_audio", path, target), _import_plugin, _register)


def spec_of_others(name: str, path: Any, target: Any) -> ModuleSpec | None:
    """What the finders that are not ours find."""
    for finder in sys.meta_path:
        if not getattr(finder, "speech_zoo", False) and hasattr(finder, "find_spec"):
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
    return None


def after_import(
    spec: ModuleSpec | None, before: Callable[[], Any], after: Callable[[ModuleType], Any]
) -> ModuleSpec | None:
    """Let `before()` and `after(module)` run around the next execution of the module; their errors only warn."""
    loader: Any = None if spec is None else spec.loader
    if loader is None or "exec_module" in getattr(loader, "__dict__", {}):
        return spec

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module  # of the instance: from here on, everything is as without us
        attempt(before)
        loader.exec_module(module)
        attempt(after, module)

    try:
        loader.exec_module = exec_module
    except AttributeError as error:
        warn(error)
    return spec


def attempt(function: Callable[..., Any], *arguments: Any) -> None:
    """Run a part of the plugin; whatever goes wrong, `import mlx_audio` must not fail."""
    try:
        function(*arguments)
    except Exception as error:
        warn(error)


def _import_plugin() -> None:
    """Before mlx_audio imports MLX, for which speech_zoo opens OpenBLAS on a Linux CPU."""
    import speech_zoo.plugin.patches  # noqa: F401


def _register(_: ModuleType) -> None:
    """Hand over to the plugin."""
    from speech_zoo_autoload import Watcher

    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Watcher)]
    plugin = sys.modules.get("speech_zoo.plugin.patches")
    if plugin is not None:  # else there was a warning already
        plugin.register()


def warn(error: object) -> None:
    """Say once what is wrong, and what to do."""
    global _warned  # noqa: PLW0603
    if _warned:
        return
    _warned = True
    text = " ".join(str(error).split()) or type(error).__name__
    message = f"mlx-speech-zoo's plugin for mlx_audio does not work here: {text}; use speech_zoo.load instead"
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:  # where warnings are errors, mlx_audio must still import
        sys.stderr.write(f"warning: {message}\n")
