"""Waits for `import mlx_audio`, which then knows the models of mlx-speech-zoo.

`speech_zoo_autoload.pth` runs this at the start of every interpreter. So it is small, imports only what is loaded then
anyway, and leaves everything else to `speech_zoo_hooks`, which a process without mlx_audio never imports.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from typing import Any


class Watcher:
    """Finds nothing itself; lets `speech_zoo_hooks` know when mlx_audio is looked for."""

    speech_zoo = True

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "ModuleSpec | None":
        if name != "mlx_audio":
            return None
        try:
            import speech_zoo_hooks
        except ImportError as error:  # half of the package is gone
            sys.stderr.write(f"warning: mlx-speech-zoo is damaged, install it anew: {error}\n")
            return None
        return speech_zoo_hooks.spec_of_mlx_audio(path, target)


def install() -> None:
    """Watch for mlx_audio; `SPEECH_ZOO_AUTOLOAD=0` in the environment switches it off."""
    # Virtual environments may run `.pth` files twice.
    if os.environ.get("SPEECH_ZOO_AUTOLOAD") != "0" and not any(isinstance(it, Watcher) for it in sys.meta_path):
        sys.meta_path.insert(0, Watcher())
