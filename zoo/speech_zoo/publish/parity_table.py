"""A parity report as the tables of a model card."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_zoo_core.errors import ConfigError

from .parity import hashes

# Column of the card, key of a clip in the report, the worst of several, how one is written.
Column = tuple[str, str, Callable[[list[Any]], Any], Callable[[Any], str]]


def _every(values: list[bool]) -> str:
    return f"{sum(values)} of {len(values)}"


COLUMNS: list[Column] = [
    ("largest difference of the features", "features", max, lambda x: f"{x:.1e}"),
    ("1 - cosine", "cosine", min, lambda x: f"{max(1 - x, 0):.1e}"),
    ("largest difference of the logits, relative", "logits", max, lambda x: f"{x:.1e}"),
    ("same top 1", "same_top1", _every, lambda x: x if isinstance(x, str) else "yes" if x else "no"),
    ("same top 5", "same_top5", _every, lambda x: x if isinstance(x, str) else "yes" if x else "no"),
]
LIMITS = {
    "features": "features within {:g}",
    "cosine": "cosine at least {:.10g}",
    "logits": "logits within {:g} of the largest",
    "top": "the same top {} in the same order",
}


def reason_against(parity: dict[str, Any], folder: Path | None) -> str | None:
    """Why a parity report says nothing about these files; None if it does.

    Args:
        parity: what stands in `parity.json`.
        folder: the converted folder; None if only the report is kept.

    Raises:
        ConfigError: it is no parity report.
    """
    if "passed" not in parity or not isinstance(parity.get("checkpoint"), dict):
        raise ConfigError("parity.json is no parity report: write it anew with speech-zoo check")
    if parity["passed"] is None:
        return "there was nothing to compare it with"
    if folder is not None and parity["checkpoint"] != hashes(folder):
        return "the parity report is of other files than these"
    return None


def parity_table(parity: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of a report: `columns`, the `worst` of each, every one of `clips`, and by what, on what.

    Raises:
        ConfigError: it is no parity report.
    """
    try:
        return _table(parity)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError("parity.json is no parity report: write it anew with speech-zoo check") from error


def _table(parity: dict[str, Any]) -> dict[str, Any]:
    clips, oracle, machine = parity["clips"], parity["oracle"], parity["machine"]
    columns = [column for column in COLUMNS if any(clip.get(column[1]) is not None for clip in clips)]

    def cells(some: list[dict[str, Any]]) -> list[str]:
        values = [[clip[key] for clip in some if clip.get(key) is not None] for _, key, _, _ in columns]
        return [write(worst(v)) if v else "" for v, (_, _, worst, write) in zip(values, columns, strict=True)]

    def one(clip: dict[str, Any]) -> list[str]:
        return [write(clip[key]) if clip.get(key) is not None else "" for _, key, _, write in columns]

    name = f"{oracle['name']} {oracle['version']}"
    features = f", features of {oracle['features']}" if oracle.get("features") else ""
    packages = ", ".join(f"{package} {version}" for package, version in machine["packages"].items())
    return {
        "passed": parity["passed"],
        "precision": parity["precision"],
        "oracle": (f"outputs that {name} wrote earlier" if oracle["from"] == "goldens" else name) + features,
        "limits": "Limits: " + "; ".join(LIMITS[key].format(value) for key, value in parity["limits"].items()) + ".",
        "columns": [column[0] for column in columns],
        "worst": [
            {"computed": computed, "clips": len(some), "cells": cells(some)}
            for computed in dict.fromkeys(clip["computed"] for clip in clips)
            if (some := [clip for clip in clips if clip["computed"] == computed])
        ],
        "clips": [
            {key: clip[key] for key in ("clip", "seconds", "computed", "passed")} | {"cells": one(clip)}
            for clip in clips
        ],
        "machine": f"{machine['system']}, {machine['device']}, Python {machine['python']}, {packages}",
        "checkpoint": list(parity["checkpoint"].items()),
    }
