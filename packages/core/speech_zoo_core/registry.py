"""Model types: who implements which, found through the entry-point group `speech_zoo.models`."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RegistryError

if TYPE_CHECKING:
    from .checkpoint.source import Recognised, Source
    from .oracle import Oracle

GROUP = "speech_zoo.models"


@dataclass(frozen=True)
class Example:
    """A model of the size of a published checkpoint, with seeded weights: what `speech-zoo bench` measures by default.

    Attributes:
        name: what people call it: "mms".
        config: of the model class.
        write: writes the original that `config` describes, with seeded weights, into an empty folder as it is
            published. Raises `NoOracle` where the original is not installed. None if there is no original.
    """

    name: str
    config: Any
    write: "Callable[[Any, Path], None] | None" = None


@dataclass(frozen=True)
class ModelSpec:
    """What a package registers for one `model_type`.

    Attributes:
        model_type: the key, as in `config.json`.
        task: what its checkpoints are for, a key of `tasks.methods.TASKS`; where a type has checkpoints of several
            tasks, each checkpoint's config says which.
        model: the `mlx.nn.Module`, built from an instance of `config`; has `sanitize(weights)`.
        config: the config dataclass.
        recognise: tells whether a source checkpoint is of this type, and with which config; None if it is not.
        oracle: makes the original implementation for `speech-zoo check`, from the config of a converted checkpoint and
            a function that gives its source; calls that once everything it needs is found installed, as it may
            download. Raises `NoOracle` where the original cannot be run. None if there is none.
        example: for `speech-zoo bench`; None if there is none.
    """

    model_type: str
    task: str
    model: type[Any]
    config: type[Any]
    recognise: "Callable[[Source], Recognised | None]"
    oracle: "Callable[[Any, Callable[[], Source]], Oracle] | None" = None
    example: Example | None = None


@cache
def registered(path: tuple[str, ...]) -> EntryPoints:
    """What the packages on a path register; looked for once, which takes a hundredth of a second or more."""
    return entry_points(group=GROUP)


def _entry_points() -> dict[str, EntryPoint]:
    points: dict[str, EntryPoint] = {}
    for point in registered(tuple(sys.path)):
        other = points.setdefault(point.name, point)
        if other.value != point.value:
            raise RegistryError(
                f"two packages register the model type {point.name!r}: {_package(other)} and {_package(point)}; "
                "uninstall one of them"
            )
    return points


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def model_types() -> list[str]:
    """The registered model types, sorted; imports none of them."""
    return sorted(_entry_points())


def get(model_type: str) -> ModelSpec:
    """Import and return one model type.

    Raises:
        RegistryError: nobody registered it (lists the known ones), or two packages did.
    """
    points = _entry_points()
    if model_type not in points:
        raise RegistryError(f"unknown model_type {model_type!r}; known: {', '.join(sorted(points)) or 'none'}")
    try:
        spec = points[model_type].load()
    except (Exception, SystemExit) as error:  # of another package's code
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        package = _package(points[model_type])
        raise RegistryError(f"{package} registers {model_type!r} but fails: {reason}; update or remove it") from error
    if not isinstance(spec, ModelSpec) or spec.model_type != model_type:
        raise RegistryError(f"{_package(points[model_type])} registers {model_type!r} with something else")
    return spec


def specs() -> Iterator[ModelSpec]:
    """Every registered model type, imported."""
    return (get(model_type) for model_type in model_types())


def bundled() -> dict[str, Path]:
    """Checkpoints that ship inside a registered package, in its folder `bundled/`: name to folder."""
    folders: dict[str, Path] = {}
    for point in _entry_points().values():
        for root in _folders(point.value.split(":")[0].split(".")[0]):
            folders.update({config.parent.name: config.parent for config in Path(root).glob("bundled/*/config.json")})
    return folders


def _folders(package: str) -> list[str]:
    """Where a top-level package lies, without importing it; nowhere if another package's entry point is broken."""
    try:
        spec = find_spec(package)
    except (ValueError, ImportError, AttributeError):
        return []
    return list(spec.submodule_search_locations or []) if spec else []
