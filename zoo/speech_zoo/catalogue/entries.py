"""The catalogue: facts about every checkpoint that is known by name, from `catalogue.yaml`, and about licences."""

import difflib
import os
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from speech_zoo_core import registry
from speech_zoo_core.config import from_dict
from speech_zoo_core.errors import CheckpointError

# What follows `target`-mlx; exports lie in the repo of float32.
VARIANTS = {"float32": "", "float16": "-fp16", "8-bit": "-8bit", "4-bit": "-4bit"}
VARIANTS |= {"onnx": "/onnx/model.onnx", "coreml": "/coreml/model.mlpackage"}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure that the authors of the original published.

    Attributes:
        split: which part of the data set, which list of trials.
        metric: what was measured, with its unit: "EER (%)".
        source: where it stands: a URL where there is one.
    """

    dataset: str
    split: str
    metric: str
    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Licence:
    """What a licence is called, where it stands, and whether it lets a converted copy be passed on."""

    name: str
    url: str
    redistribution: bool


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Facts about one checkpoint.

    Attributes:
        origin: the original, for people.
        licence: the Hub's id of it, as in `licences.yaml`.
        files: what the original must hold, each with its SHA-256; None where that was never seen.
        parameters: how many numbers a conversion holds, before quantization; an estimate, as in 100.2e+6, where no
            checkpoint was at hand to count them, which no checkpoint is refused for.
        outputs: size of the embedding, number of labels, or of sets of speakers.
        target: what the names of the published conversions begin with.
        variants: in which precisions and forms it is published, keys of `VARIANTS`.
        threshold: cosine from which two clips count as the same speaker, as conversion writes it.
        threshold_from: how the threshold was chosen; None without one.
        repo: where the original is published on the Hub; None if elsewhere.
        languages: ISO 639 codes, or "multilingual".
        datasets: the data it was trained on, as the Hub names them.
        goldens: whether the outputs of the original on the bundled voices ship with the package.
        takes_audio: False for a model that is fed codebook embeddings.
        limits: what a user must know before relying on it.
    """

    model_type: str
    task: str
    summary: str
    origin: str
    licence: str
    training_data: str
    citation: str
    files: dict[str, str | None]
    parameters: int | float
    outputs: int
    target: str
    variants: list[str]
    threshold: float | None = None
    threshold_from: str | None = None
    repo: str | None = None
    languages: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    goldens: bool = False
    takes_audio: bool = True
    limits: str | None = None


def _read(name: str, cls: type[T]) -> dict[str, T]:
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return {key: from_dict(cls, facts, f"{name}: {key}") for key, facts in yaml.safe_load(text).items()}


@cache
def entries() -> dict[str, Entry]:
    """Every entry, by name, in the order of the file."""
    return _read("catalogue.yaml", Entry)


@cache
def licences() -> dict[str, Licence]:
    """Every licence that a published checkpoint may have, by the Hub's id of it."""
    return _read("licences.yaml", Licence)


def targets(entry: Entry) -> dict[str, str]:
    """The Hub repo, without the organisation, for each variant; of an export, the path in it too."""
    return {variant: f"{entry.target}-mlx{VARIANTS[variant]}" for variant in entry.variants}


def facts(entry: Entry) -> dict[str, Any]:
    """Everything that is known about an entry, as plain data."""
    return {**asdict(entry), "targets": targets(entry)}


def entry_of(source: dict[str, Any] | None) -> tuple[str, Entry] | None:
    """The entry that a provenance (`source` of a `config.json`) belongs to: by its name, its repo, or a file's hash."""
    source = source or {}
    hashes = source.get("sha256")
    held = {digest for digest in hashes.values() if isinstance(digest, str)} if isinstance(hashes, dict) else set()
    for matches in (
        lambda name, _: name == source.get("name"),
        lambda _, entry: entry.repo is not None and entry.repo == source.get("repo"),
        lambda _, entry: not held.isdisjoint(set(entry.files.values()) - {None}),
    ):
        for name, entry in entries().items():
            if matches(name, entry):
                return name, entry
    return None


def proved(entry: Entry, source: dict[str, Any] | None) -> bool:
    """Whether a provenance shows that its checkpoint is the entry's: fetched from its repo, or by all of its hashes."""
    source = source or {}
    if entry.repo is not None and source.get("repo") == entry.repo:
        return True
    return None not in entry.files.values() and entry.files.items() <= dict(source.get("sha256") or {}).items()


def named(name: str) -> Entry:
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
    return next((name for name, entry in entries().items() if str(source) in (name, entry.repo)), None)


def resolve(ref: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """A catalogue name becomes the repo to fetch; bundled names, paths and repos stay as they are.

    Raises:
        CheckpointError: the checkpoint of that name is not on the Hub, or the name is nearly one of the catalogue's.
    """
    if not isinstance(ref, str) or ref in registry.bundled():
        return ref
    if (entry := entries().get(ref)) is None:
        near = difflib.get_close_matches(ref, entries(), n=1)
        if near and "/" not in ref and not os.path.exists(ref):  # noqa: PTH110 (Path.exists raises for a long name)
            raise CheckpointError(f"{ref} does not exist; did you mean {near[0]}?")
        return ref
    if entry.repo is None:
        raise CheckpointError(
            f"{ref} is not on the Hub: get {', '.join(entry.files)} from {entry.origin}, and give its path"
        )
    return entry.repo
