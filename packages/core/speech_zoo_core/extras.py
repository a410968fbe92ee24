"""Optional packages: the command that installs those of an extra, wherever mlx-speech-zoo itself came from."""

import shlex
from importlib.metadata import requires


def how_to_install(extra: str, distribution: str = "mlx-speech-zoo") -> str:
    """What to type for the packages that an extra of a distribution names: "pip install 'matplotlib>=3.8'"."""
    lines = [line.partition(";") for line in requires(distribution) or []]
    needed = [requirement.strip() for requirement, _, marker in lines if f"extra == '{extra}'" in marker]
    return f"pip install {shlex.join(needed)}"
