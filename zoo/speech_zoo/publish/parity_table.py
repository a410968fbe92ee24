"""A parity report as the tables of a model card."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .parity import Clip, Parity

# Column of the card, key of a clip in the report, the worst of several, how one is written.
Column = tuple[str, str, Callable[[list[Any]], Any], Callable[[Any], str]]


def _every(values: list[bool]) -> str:
    return f"{sum(values)} of {len(values)}"


KEPT = 1e-10  # cosines are kept to that
COLUMNS: list[Column] = [
    ("largest difference of the features", "features", max, lambda x: f"{x:.1e}" if x else "0"),
    ("1 - cosine", "cosine", min, lambda x: f"{1 - x:.1e}" if 1 - x >= KEPT else f"< {KEPT:.0e}"),
    ("largest difference of the logits, relative", "logits", max, lambda x: f"{x:.1e}"),
    ("frames with the same speakers", "frames", min, lambda x: f"{x:.2%}"),
    ("same top 1", "same_top1", _every, lambda x: x if isinstance(x, str) else "yes" if x else "no"),
    ("same top 5", "same_top5", _every, lambda x: x if isinstance(x, str) else "yes" if x else "no"),
]
LIMITS: dict[str, Callable[[float], str]] = {
    "features": lambda x: f"features within {x:g}",
    "cosine": lambda x: f"cosine at least {x:.10g}",
    "logits": lambda x: f"logits within {x:g} of the largest",
    "top": lambda x: f"the same top {x:g} in the same order" if x > 1 else "the same top label",
    "frames": lambda x: f"the same speakers in at least {x:.0%} of the frames",
}


def reason_against(parity: Parity, folder: Path | None) -> str | None:
    """Why a parity report says nothing about these files; None if it does.

    Args:
        parity: the report.
        folder: the converted folder; None if only the report is kept.
    """
    if parity.passed is None:
        return "there was nothing to compare it with"
    if folder is not None and parity.stale(folder):
        return "the parity report is of other files than these"
    return None


def parity_table(parity: Parity) -> dict[str, Any]:
    """What the template shows of a report: `columns`, the `worst` of each, all `clips`, by what and on what."""
    oracle, machine = parity.oracle or {}, parity.machine
    columns = [column for column in COLUMNS if any(getattr(clip, column[1]) is not None for clip in parity.clips)]

    def cells(some: list[Clip]) -> list[str]:
        values = [[x for clip in some if (x := getattr(clip, key)) is not None] for _, key, _, _ in columns]
        return [write(worst(v)) if v else "" for v, (_, _, worst, write) in zip(values, columns, strict=True)]

    def one(clip: Clip) -> list[str]:
        return [write(getattr(clip, key)) if getattr(clip, key) is not None else "" for _, key, _, write in columns]

    name = f"{oracle.get('name')} {oracle.get('version')}"
    features = f", features of {oracle['features']}" if oracle.get("features") else ""
    packages = ", ".join(f"{package} {version}" for package, version in machine["packages"].items())
    unit = f" ({parity.features_unit})" if parity.features_unit else ""
    return {
        "passed": parity.passed,
        "precision": parity.precision,
        "oracle": (f"outputs that {name} wrote earlier" if oracle.get("from") == "goldens" else name) + features,
        "limits": "Limits: " + "; ".join(LIMITS[key](value) for key, value in parity.limits.items()) + ".",
        "columns": [title + (unit if key == "features" else "") for title, key, _, _ in columns],
        "worst": [
            {"computed": computed, "clips": len(some), "cells": cells(some)}
            for computed in dict.fromkeys(clip.how for clip in parity.clips)
            if (some := [clip for clip in parity.clips if clip.how == computed])
        ],
        "clips": [
            {"clip": clip.clip, "seconds": clip.seconds, "computed": clip.how, "passed": clip.passed}
            | {"cells": one(clip)}
            for clip in parity.clips
        ],
        "machine": f"{machine['system']}, {machine['device']}, Python {machine['python']}, {packages}",
        "checkpoint": list(parity.checkpoint.items()),
    }
