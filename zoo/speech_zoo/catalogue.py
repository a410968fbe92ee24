"""The catalogue: facts about every checkpoint that is known by name, from `catalogue.yaml`."""

import difflib
import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml
from speech_zoo_core import registry
from speech_zoo_core.config import from_dict
from speech_zoo_core.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Facts about one checkpoint.

    Attributes:
        repo: where the original is published on the Hub; None if elsewhere.
        origin: the original, for people.
        files: what the original is made of, and the SHA-256 of each file where it is known.
        threshold_from: how the checkpoint's verification threshold was chosen; None without one.
    """

    model_type: str
    task: str
    summary: str
    origin: str
    licence: str
    training_data: str
    citation: str
    threshold_from: str | None = None
    repo: str | None = None
    files: dict[str, str | None] = field(default_factory=dict)


@cache
def entries() -> dict[str, Entry]:
    """Every entry, by name, in the order of the file."""
    text = Path(__file__).with_name("catalogue.yaml").read_text(encoding="utf-8")
    return {name: from_dict(Entry, facts, f"catalogue.yaml: {name}") for name, facts in yaml.safe_load(text).items()}


def entry(name: str) -> Entry:
    """One entry.

    Raises:
        CheckpointError: there is none of that name; suggests the nearest.
    """
    if name in entries():
        return entries()[name]
    near = difflib.get_close_matches(name, entries(), n=1)
    hint = f"did you mean {near[0]}?" if near else "speech-zoo list shows all"
    raise CheckpointError(f"the catalogue has no {name!r}; {hint}")


def name_of(source: str | os.PathLike[str]) -> str | None:
    """The catalogue name of what `load` takes, told by the name itself or by its repo."""
    return next((name for name, facts in entries().items() if str(source) in (name, facts.repo)), None)


def resolve(ref: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """A catalogue name becomes the repo to fetch; bundled names and everything else stay as they are.

    Raises:
        CheckpointError: the checkpoint of that name is not on the Hub.
    """
    if not isinstance(ref, str) or ref in registry.bundled() or (entry := entries().get(ref)) is None:
        return ref
    if entry.repo is None:
        raise CheckpointError(f"{ref} is not on the Hub; its origin is {entry.origin}")
    return entry.repo
