"""`config.json` to dataclass, strictly: an unknown key or a wrong value is an error, never ignored."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import dacite

from .errors import ConfigError, shown

T = TypeVar("T")
MAX_NUMBER = 2**31 - 1  # of a setting; sizes in MLX go no further
MAX_JSON = 100_000_000  # bytes, as safetensors' headers


def from_dict(cls: type[T], data: Any, where: str = "config") -> T:
    """Build the config dataclass `cls` from parsed JSON.

    Raises:
        ConfigError: for an unknown key, a missing one, or a value of the wrong type.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where} must be a JSON object, not {type(data).__name__}")
    _check(cls, data, where)
    _check_numbers({key: value for key, value in data.items() if key != "source"}, where)
    try:
        return dacite.from_dict(cls, data, dacite.Config(strict=True))  # type: ignore[type-var]
    except (dacite.DaciteError, ConfigError) as error:
        raise ConfigError(f"{where}: {str(error)[:500]}") from error


def _check(cls: type[Any], data: dict[str, Any], where: str) -> None:
    """Refuse what dacite lets pass: true for the number 1, a mapping for a list."""
    hints = get_type_hints(cls)
    for key, value in data.items():
        hint = hints.get(key)
        nested = next((kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind)), None)
        if isinstance(nested, type) and isinstance(value, dict):
            _check(nested, value, f"{where}: {key}")
        elif get_origin(hint) is list and not isinstance(value, list):
            raise ConfigError(f"{where}: {key} must be a list, not {shown(value)}")
        elif hint is not bool and any(
            isinstance(item, bool) for item in (value if isinstance(value, list) else [value])
        ):
            raise ConfigError(f"{where}: wrong value for {key}: {shown(value)}")


def _check_numbers(value: Any, where: str) -> None:
    """Raises ConfigError for numbers, at any depth, that no setting has and arithmetic stumbles over."""
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_numbers(item, f"{where}: {shown(key)}" if isinstance(value, dict) else where)
    elif isinstance(value, (int, float)) and not abs(value) <= MAX_NUMBER:
        raise ConfigError(f"{where} is out of range: {shown(value)}")


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain data, without the entries that are None."""
    plain: dict[str, Any] = dataclasses.asdict(config, dict_factory=_drop_none)
    return plain


def _drop_none(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in items if value is not None}


def read_json(path: Path) -> dict[str, Any]:
    """Parse a JSON file that must hold an object."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise ConfigError(f"{path} is too large for a file of settings")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a JSON object, not {type(data).__name__}")
    return data


@dataclass(frozen=True)
class Quantization:
    """How the linear layers of a checkpoint are stored."""

    bits: int
    group_size: int = 32
