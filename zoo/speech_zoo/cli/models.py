"""`speech-zoo list` and `speech-zoo info`."""

from typing import Annotated, Any

import typer

from .options import JsonOption, print_json


def list_models(as_json: JsonOption = False) -> None:
    """List the checkpoints that are known by name."""
    from speech_zoo_core import registry

    from ..catalogue.entries import entries, facts

    bundled = registry.bundled()
    if as_json:
        print_json({name: {**facts(entry), "bundled": name in bundled} for name, entry in entries().items()})
        return
    for name, entry in entries().items():
        where = "bundled" if name in bundled else "Hub" if entry.repo else "file"
        typer.echo(f"{name:30} {where:8} {entry.licence:13} {entry.summary}")


def info(
    model: Annotated[str, typer.Argument(help="Catalogue name, folder, file or Hub repo.")],
    as_json: JsonOption = False,
) -> None:
    """Show what is known about a checkpoint; one that is only on the Hub is not fetched."""
    from speech_zoo_core import registry

    from ..catalogue import entries as catalogue

    facts: dict[str, Any] = {"name": model}
    entry = catalogue.entries().get(model)
    if entry is not None:
        facts |= {key: value for key, value in catalogue.facts(entry).items() if value is not None}
    if entry is None or model in registry.bundled():
        facts |= _checkpoint_facts(model)
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        title = key.replace("_", " ")
        for name, part in _lines(key, value):
            typer.echo(f"{f'{title} {name}'.strip():23}  {part}")


def _lines(key: str, value: Any) -> list[tuple[str, Any]]:
    """What `info` prints of a fact: a name within it, and the text."""
    if key == "languages":
        return [("", f"{len(value)}: {', '.join(value)}")] if value else []
    if key == "metrics":
        return [(f"{m['dataset']} {m['split']}", f"{m['value']:g} {m['metric']} ({m['source']})") for m in value]
    if key == "files":
        return [(name, "SHA-256 not known" if digest is None else digest) for name, digest in value.items()]
    if isinstance(value, dict):
        return [(name.replace("_", " "), part) for name, part in value.items()]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [("", ", ".join(value))] if value else []
    return [("", value)]


def _checkpoint_facts(model: str) -> dict[str, Any]:
    """Facts that stand in a checkpoint itself."""
    from speech_zoo_core.config import to_dict
    from speech_zoo_core.layers import parameters

    from ..calibration.thresholds import calibration_of
    from ..models import load

    loaded = load(model)
    facts = to_dict(loaded.config)
    if labels := facts.pop("id2label", None):
        facts["languages"] = list(labels.values())
    if loaded.config.task == "speaker-embedding" and (known := calibration_of(loaded)) is not None:
        facts["calibrated"] = {"threshold": known.threshold, "date": known.date, "eer": known.eer}
    facts["parameters"] = sum(value.size for value in parameters(loaded).values())
    if loaded.config.front_end is not None:
        facts["shortest_clip_seconds"] = loaded.config.front_end.seconds(loaded.min_frames)
    return facts
