"""The catalogue: facts about every checkpoint that is known by name, from `catalogue.yaml`."""

import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

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
        threshold_from: how the checkpoint's verification threshold was chosen; None without one.
        files: of the original, and their sha256 where it is known.
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


def entry_of(source: dict[str, Any]) -> tuple[str, Entry] | None:
    """The entry that a converted checkpoint's provenance (`source` in its config) belongs to, by name, repo or hash."""
    known = entries()
    if (name := source.get("name")) in known:
        return str(name), known[str(name)]
    hashes = set((source.get("sha256") or {}).values())
    for name, entry in known.items():
        if entry.repo is not None and entry.repo == source.get("repo"):
            return name, entry
    for name, entry in known.items():
        if hashes & set(entry.files.values()):
            return name, entry
    return None
