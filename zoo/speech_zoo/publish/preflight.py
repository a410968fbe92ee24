"""What may be published: a converted checkpoint that is whole, with a card, a licence that allows it, and a proof."""

import hashlib
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from speech_zoo_core.atomic import EXPORTS
from speech_zoo_core.config import read_json
from speech_zoo_core.errors import CheckpointError, ConfigError
from speech_zoo_core.progress import progress

from .parity import read

CARD = "README.md"
PROOF = "parity.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
EXPORTED = r"onnx/model\.onnx(\.data)?|coreml/model\.mlpackage/.+"  # what `export` writes into a converted folder
# In a repo: what a loader may take for weights, or a reader for their proof; other forms of the weights.
OURS = re.compile(rf"[^/]+\.safetensors(\.index\.json)?|parity\.json|{EXPORTED}")


@dataclass(frozen=True)
class File:
    """A file to publish.

    Attributes:
        size: in bytes.
        sha256: of the content, in hex.
        git: the hash that git names the content by, in hex.
        content: what is published in place of the file's content; None for the file itself.
    """

    name: str
    path: Path
    size: int
    sha256: str
    git: str
    content: bytes | None = None


@dataclass(frozen=True)
class Publishable:
    """A folder that may be published.

    Attributes:
        title: model type, precision and converter, in a few words.
        files: in the order of their names.
    """

    folder: Path
    title: str
    files: list[File]


def warn(message: str) -> None:
    """One line on stderr, unless the caller has set up logging."""
    logging.getLogger("speech_zoo").warning("warning: %s", message)


def publishable(folder: Path, force: bool = False) -> Publishable:
    """Look at a folder; no network is needed.

    Args:
        folder: what `convert` wrote.
        force: accept a folder without a card, or with a proof that failed or is stale; a warning remains of each.

    Raises:
        CheckpointError, ConfigError, RegistryError: it is not a whole converted checkpoint, or may not be published.
    """
    try:
        paths = _paths(folder)
        title, source = _read(folder)
        _check_licence(folder, source, force)
        files = sorted((_file(path, _name(path, folder)) for path in paths), key=lambda file: file.name)
        _check_proof(folder, files, force)
    except OSError as error:
        raise CheckpointError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error
    return Publishable(folder, title, files)


def with_repo_in_card(publishable: Publishable, repo: str) -> Publishable:
    """The card with `org/name` in its snippets, where they name a placeholder; the file stays as it is."""
    from .card import for_repo

    files = list(publishable.files)
    for i, file in enumerate(files):
        if file.name != CARD:
            continue
        before = file.path.read_bytes()
        content = for_repo(before.decode(errors="surrogateescape"), repo).encode(errors="surrogateescape")
        if content != before:
            git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
            sha256 = hashlib.sha256(content)
            files[i] = File(file.name, file.path, len(content), sha256.hexdigest(), git.hexdigest(), content)
    return replace(publishable, files=files)


def _paths(folder: Path) -> list[Path]:
    """The files to publish, sorted; anything else in the folder is refused, but hidden files stay behind."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give one that speech-zoo convert wrote")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json: it is not a converted checkpoint; run speech-zoo convert")
    names = {"config.json", CARD, PROOF}
    if (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map")
        shards = set(weight_map.values()) if isinstance(weight_map, dict) else set()
        names |= {INDEX, *(name for name in shards if isinstance(name, str) and WEIGHTS.fullmatch(name))}
    else:
        names.add("model.safetensors")
    paths = sorted(folder.iterdir())
    exports = [path for name in EXPORTS if (folder / name).is_dir() for path in sorted((folder / name).rglob("*"))]
    exports = [path for path in exports if not path.is_dir()]
    others = [_name(path, folder) for path in exports if not re.fullmatch(EXPORTED, _name(path, folder))]
    names |= {_name(path, folder).partition("/")[0] for path in exports}
    others += [path.name for path in paths if path.name not in names and not path.name.startswith(".")]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        listed = ", ".join(others[:5]) + more
        raise CheckpointError(f"{folder} holds files that belong to no converted checkpoint: {listed}; move them away")
    if hidden := [path.name for path in paths if path.name.startswith(".")]:
        warn(f"hidden files are not uploaded: {', '.join(hidden)}")
    return [*(path for path in paths if path.name in names and path.is_file()), *exports]


def _name(path: Path, folder: Path) -> str:
    """Of a file in the repo."""
    return path.relative_to(folder).as_posix()


def _read(folder: Path) -> tuple[str, dict[str, Any]]:
    """The title and the provenance; builds the model from names and shapes, so that nothing can be missing."""
    import mlx.core as mx
    from speech_zoo_core.checkpoint.source import Source
    from speech_zoo_core.loader import build, read_model

    spec, config, weights, form = read_model(Source(folder))
    if form != "converted":
        raise CheckpointError(f"{folder} holds an original checkpoint ({form}); run speech-zoo convert first")
    build(spec, config, dict(weights), str(folder))
    if config.quantization is not None:
        precision = f"{config.quantization.bits}-bit"
    else:
        kinds = {str(x.dtype).split(".")[-1] for x in weights.values() if mx.issubdtype(x.dtype, mx.floating)}
        precision = " and ".join(sorted(kinds))
    source = config.source or {}
    return f"{config.model_type}, {precision}, converted by {source.get('converter', 'mlx-speech-zoo')}", source


def _check_licence(folder: Path, source: dict[str, Any], force: bool) -> None:
    """Refuse what may not be passed on, by the card's licence and by that of the catalogue; never overridden."""
    from ..catalogue.entries import entry_of

    has_card = (folder / CARD).is_file()
    if not has_card:
        _object(f"{folder} has no {CARD}; write one with: speech-zoo card {folder}", force)
    entry = entry_of(source)
    ids = _licences_of(folder / CARD) if has_card else []
    if has_card and not ids:
        raise CheckpointError(f"{folder / CARD} names no licence; write the card with: speech-zoo card {folder}")
    for licence in ids or [entry[1].licence if entry else "unknown"]:
        _check_redistribution(f"{folder / CARD if has_card else folder}", licence)
    if entry is None:
        return
    name, facts = entry
    _check_redistribution(f"the catalogue's {name}", facts.licence)
    if has_card and facts.licence not in ids:
        _object(f"{folder / CARD} gives the licence {', '.join(ids)}, but {name} is under {facts.licence}", force)


def _check_redistribution(what: str, licence: str) -> None:
    from ..catalogue.entries import licences

    known = licences().get(licence)
    if known is None:
        raise CheckpointError(
            f"{what} has the licence {licence!r}, and nothing says that it allows redistribution; "
            f"known licences: {', '.join(sorted(licences()))}"
        )
    if not known.redistribution:
        raise CheckpointError(f"{what} is under {known.name}, which forbids redistribution of a converted copy")


def _licences_of(card: Path) -> list[str]:
    """The licences that the metadata of a card names."""
    from huggingface_hub import metadata_load

    try:
        metadata = metadata_load(card) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"the metadata of {card} cannot be read: {error}") from error
    licence = metadata.get("license")
    licences = licence if isinstance(licence, list) else [licence]
    return [str(item).lower() for item in licences if item]


def _check_proof(folder: Path, files: list[File], force: bool) -> None:
    """Look whether `parity.json` proves these very files."""
    path = folder / PROOF
    proof = read(folder)
    hashes = {file.name: file.sha256 for file in files if file.name not in (CARD, PROOF) and "/" not in file.name}
    if proof is not None and proof.checkpoint != hashes:
        names = sorted(name for name in proof.checkpoint | hashes if proof.checkpoint.get(name) != hashes.get(name))
        again = f"run again: speech-zoo check {folder}"
        _object(f"{path} was written for other files than these ({', '.join(names[:5])}); {again}", force)
    if proof is None or proof.passed is None:
        warn(f"nothing proves that {folder} equals its source; run: speech-zoo check {folder}")
    elif not proof.passed:
        _object(f"{path} says that the checkpoint failed its parity check", force)


def _object(objection: str, force: bool) -> None:
    if not force:
        raise CheckpointError(f"{objection} (--force uploads it all the same)")
    warn(objection)


def _file(path: Path, name: str) -> File:
    """Read a file once for both hashes."""
    size = path.stat().st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with (
        path.open("rb") as file,
        progress(total=size, desc=name, unit="B", unit_scale=True, delay=1) as bar,
    ):
        while block := file.read(1 << 20):
            sha256.update(block)
            git.update(block)
            bar.update(len(block))
    return File(name, path, size, sha256.hexdigest(), git.hexdigest())
