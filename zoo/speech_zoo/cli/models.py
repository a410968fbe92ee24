"""`speech-zoo list` and `speech-zoo info`."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from .options import JsonOption, print_json


def list_models(
    task: Annotated[
        str | None, typer.Option(help="Only those for this: speaker-embedding, language-identification, …")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the checkpoints that are known by name."""
    from speech_zoo_core import registry

    from ..catalogue.entries import entries, facts

    tasks = sorted({entry.task for entry in entries().values()})
    if task not in (None, *tasks):
        raise typer.BadParameter(f"--task is {', '.join(tasks)}")
    bundled = registry.bundled()
    known = {name: entry for name, entry in entries().items() if task in (None, entry.task)}
    if as_json:
        print_json({name: {**facts(entry), "bundled": name in bundled} for name, entry in known.items()})
        return
    typer.echo(f"{'NAME':30} {'WHERE':8} {'PARAMETERS':>10}  {'LICENCE':13} WHAT")
    for name, entry in known.items():
        where = "bundled" if name in bundled else "Hub" if entry.repo else "file"
        typer.echo(f"{name:30} {where:8} {entry.parameters / 1e6:8.1f} M  {entry.licence:13} {entry.summary}")


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
    typer.echo("\n".join(_shown(model, facts)))


def _shown(model: str, facts: dict[str, Any]) -> Iterator[str]:
    """What `info` prints for people: what it is, where from, how good, and what to type."""
    yield f"{model}: {facts.get('summary') or facts['task'].replace('-', ' ') + ' with ' + facts['model_type']}"
    source = facts.get("source") or {}
    languages, labels = facts.get("languages") or [], facts.get("labels") or []
    threshold, calibrated = facts.get("threshold"), facts.get("calibrated")
    speaker, outputs = facts["task"] == "speaker-embedding", facts.get("outputs", len(labels or languages))
    chosen = f" ({facts['threshold_from']})" if facts.get("threshold_from") else ""
    rows = {
        "task": facts["task"],
        "model type": facts["model_type"],
        "size": f"{facts['parameters'] / 1e6:.1f} million parameters",
        "gives": f"{facts.get('embed_dim', outputs)} values" if speaker else f"{outputs} labels",
        "languages": _some(languages),
        "labels": _some(labels),
        "threshold": f"{threshold}{chosen}" if threshold is not None else "",
        "calibrated": f"{calibrated['threshold']:.4f} on {calibrated['date']}" if calibrated else "",
        "shortest clip": f"{facts['shortest_clip_seconds']:.3f} s" if "shortest_clip_seconds" in facts else "",
        "trained on": facts.get("training_data"),
        "licence": facts.get("licence"),
        "from": facts.get("origin") or source.get("repo") or source.get("form"),
        "published": "; ".join(_figures(facts)),
        "limits": facts.get("limits"),
    }
    for title, text in rows.items():
        if text:
            yield f"  {title:14} {text}"
    usage = {"speaker-embedding": "verify A.wav B.wav", "language-identification": "lid A.wav"}.get(facts["task"])
    if usage:
        yield f"Try: speech-zoo {usage} --model {model}"
    yield "All of it: --json"


def _some(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _figures(facts: dict[str, Any]) -> Iterator[str]:
    for metric in facts.get("metrics", []):
        yield f"{metric['value']:g} {metric['metric']}, {metric['dataset']} {metric['split']}"


def _checkpoint_facts(model: str) -> dict[str, Any]:
    """Facts that stand in a checkpoint itself."""
    from speech_zoo_core.config import to_dict
    from speech_zoo_core.layers import parameters

    from ..calibration.thresholds import calibration_of
    from ..models import load

    loaded = load(model)
    facts = to_dict(loaded.config)
    if labels := facts.pop("id2label", None):
        languages = loaded.config.task == "language-identification"
        facts["languages" if languages else "labels"] = list(labels.values())
    if loaded.config.task == "speaker-embedding" and (known := calibration_of(loaded)) is not None:
        facts["calibrated"] = {key: getattr(known, key) for key in ("threshold", "date", "eer", "seconds")}
    facts["parameters"] = sum(value.size for value in parameters(loaded).values())
    if loaded.config.front_end is not None:
        facts["shortest_clip_seconds"] = loaded.config.front_end.seconds(loaded.min_frames)
    return facts
