"""Optional packages: the command that installs those of an extra, wherever mlx-speech-zoo itself came from."""

import shlex
from collections.abc import Iterator
from importlib.metadata import requires

OURS = "mlx-speech-zoo"


def how_to_install(extra: str, distribution: str = OURS) -> str:
    """What to type for the packages that an extra of a distribution needs here: "pip install 'matplotlib>=3.8'"."""
    return f"pip install {shlex.join(dict.fromkeys(_needed(extra, distribution)))}"


def _needed(extra: str, distribution: str) -> Iterator[str]:
    from packaging.requirements import Requirement  # here, as it is for errors alone

    for requirement in map(Requirement, requires(distribution) or []):
        marker, requirement.marker = requirement.marker, None
        if marker is None or "extra" not in str(marker) or not marker.evaluate({"extra": extra}):
            continue
        if requirement.name.startswith(OURS):  # which is there already
            for part in sorted(requirement.extras):
                yield from _needed(part, requirement.name)
        else:
            yield str(requirement)
