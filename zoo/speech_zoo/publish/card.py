"""Model cards: the README.md of a converted checkpoint, from one template and the facts.

`python -m speech_zoo.publish.card hub_cards` renders the card of every catalogue entry.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speech_zoo_core import registry
from speech_zoo_core.atomic import EXPORTS, written_beside
from speech_zoo_core.config import from_dict, read_json, to_dict
from speech_zoo_core.errors import CheckpointError, ConfigError
from speech_zoo_core.hub import REPO_ID

from ..catalogue.entries import VARIANTS, entries, entry_of, licences
from .card_text import ORGANISATION, PLAIN, Checkpoint, Wording, fill
from .parity import Parity, read, read_report
from .parity_table import reason_against

PRECISIONS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def card(
    checkpoint: str | os.PathLike[str],
    *,
    licence: str | None = None,
    repo: str | None = None,
    title: str | None = None,
    base_model: str | None = None,
    languages: Sequence[str] = (),
    trust_name: bool = False,
) -> Path:
    """Write the model card (`README.md`) of a converted folder, from what is known and was measured; returns its path.

    Args:
        checkpoint: a folder that `convert` wrote.
        licence: the Hub's id of the licence ("apache-2.0"), for a source that the catalogue does not know.
        repo: `org/name` that the usage snippets load.
        title: of the card; default: the catalogue's name, else the folder's.
        base_model: the original's repo on the Hub, `org/name`, where the conversion did not record it.
        languages: ISO 639 codes, where the catalogue does not know them.
        trust_name: state the published figures and the original of the catalogue's entry although nothing but the name
            says that this copy is it.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """
    folder = Path(checkpoint).expanduser()
    wording = Wording(repo=repo, title=title, base_model=base_model, languages=tuple(languages), trust_name=trust_name)
    text = render(folder, licence, wording)
    with written_beside(folder / "README.md") as beside:
        beside.write_text(text, encoding="utf-8")
    return folder / "README.md"


def render(folder: Path, licence: str | None = None, wording: Wording = PLAIN) -> str:
    """The card of a converted folder; see `card`."""
    for repo in (wording.repo, wording.base_model):
        if repo is not None and not REPO_ID.fullmatch(repo):
            raise ConfigError(f"{repo!r} is not a valid repo name; give it as org/name")
    checkpoint = _read_folder(folder)
    known = entry_of(checkpoint.config.get("source"))
    if known is not None:
        name, entry = known
        if licence not in (None, entry.licence):
            raise ConfigError(f"{folder} is {name}, which is under {entry.licence}; leave --licence out")
        return fill(checkpoint, name, entry, entry.licence, wording)
    if licence is None:
        raise ConfigError(
            f"the catalogue does not know the source of {folder}, so its licence is not known: name it with --licence "
            f"({', '.join(licences())})"
        )
    return fill(checkpoint, folder.resolve().name, None, licence, wording)


def render_entry(name: str, parity: Parity | None = None) -> str:
    """The card of a catalogue entry as far as it is known without a conversion.

    Args:
        name: of the entry.
        parity: the parity report that is kept of a conversion.
    """
    entry = entries()[name]
    exports = tuple(variant for variant in entry.variants if variant in EXPORTS)
    if parity is None:
        return fill(Checkpoint(exports=exports), name, entry, entry.licence)
    checkpoint = Checkpoint(precision=parity.precision, exports=exports, **_comparison(parity, None))
    return fill(checkpoint, name, entry, entry.licence)


def catalogue_cards(directory: Path) -> dict[str, str]:
    """The card of every catalogue entry by its file name; reads the parity reports that are kept in `directory`."""
    cards = {}
    for name in entries():
        report = directory / f"{name}.parity.json"
        cards[f"{name}.md"] = render_entry(name, read_report(report) if report.exists() else None)
    return cards


def for_repo(card: str, repo: str) -> str:
    """The card with its repo in the snippets, where they still name the placeholder."""
    name = card.partition("\n# ")[2].partition("\n")[0]
    return card.replace(f"{ORGANISATION}/{name}", repo)


def _read_folder(folder: Path) -> Checkpoint:
    """Raises CheckpointError: it is not what `speech-zoo convert` writes."""
    weights = sorted(folder.glob("model*.safetensors")) if folder.is_dir() else []
    if not weights or not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is no converted folder (config.json and model.safetensors): convert it first")
    settings = read_json(folder / "config.json")
    model_type = settings.get("model_type")
    if model_type not in registry.model_types():
        raise CheckpointError(f"{folder / 'config.json'} is not of a converted checkpoint: convert it first")
    config = to_dict(from_dict(registry.get(model_type).config, settings, str(folder / "config.json")))
    bits = config.get("quantization", {}).get("bits")
    parameters, stored = _count(weights, bits)
    report = read(folder)
    return Checkpoint(
        precision=stored if bits is None else f"{bits}-bit",
        config=config,
        parameters=parameters,
        size=sum(path.stat().st_size for path in weights),
        exports=tuple(name for name in EXPORTS if (folder / VARIANTS[name].lstrip("/")).exists()),
        **(_comparison(report, folder) if report else {}),
    )


def _count(files: list[Path], bits: int | None) -> tuple[int, str]:
    """The number of parameters as before quantization, and the type that most of them are stored in."""
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, str]] = {}
    for path in files:
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 (it is no mapping)
                    part = file.get_slice(name)
                    count = 1
                    for length in part.get_shape():
                        count *= length
                    shapes[name] = (count, str(part.get_dtype()))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
    total, types = 0, Counter[str]()
    for name, (count, kind) in shapes.items():
        owner, _, part = name.rpartition(".")
        packed = f"{owner}.scales" in shapes
        if not packed or part not in ("scales", "biases"):
            total += count * 32 // bits if packed and part == "weight" and bits else count
            types[PRECISIONS.get(kind, kind)] += count if kind in PRECISIONS else 0
    return total, max(types, key=lambda kind: types[kind], default="float32")


def _comparison(parity: Parity, folder: Path | None) -> dict[str, Any]:
    """The fields of `Checkpoint` that a parity report fills."""
    reason = reason_against(parity, folder)
    return {"parity": parity} if reason is None else {"not_compared_because": reason}


def main(arguments: list[str]) -> None:
    """Write the card of every catalogue entry into a folder: `hub_cards` unless another is named."""
    directory = Path(arguments[0] if arguments else "hub_cards")
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in catalogue_cards(directory).items():
        with written_beside(directory / name) as beside:
            beside.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
