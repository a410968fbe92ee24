"""The pictures of `speech-zoo calibrate` (DET) and of `speech-zoo verify` (one score); readable in greyscale."""

import os
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from speech_zoo_core.tasks.speaker import Verification

from ..calibration.det import Array, Det
from ..calibration.thresholds import BINS, Calibration
from .figure import new_figure, save

PER_CENT = (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 90, 95, 99)  # ticks of the normal-deviate axes
BOX = {"boxstyle": "round", "facecolor": "white", "edgecolor": "0.6"}


def draw_det(det: Det, calibration: Calibration, path: Path) -> None:
    """Write the detection error tradeoff on normal-deviate axes, with the EER and the minDCF marked, as a PNG.

    Raises:
        SpeechZooError: it cannot be written.
    """
    c = calibration
    k = int(np.argmin(det.costs(c.p_target, c.c_miss, c.c_fa)))
    high = 0.6 if max(c.eer, det.p_fa[k], det.p_miss[k]) < 0.5 else 0.95
    low = min(0.5 / det.targets, 0.5 / det.nontargets, 0.01)  # half an error: what is 0 lies on the edge
    figure = new_figure(6.4, 6.8)
    axes = figure.subplots()
    edges = _deviates(np.array([low, high]), low)
    axes.plot(edges, edges, color="0.75", linewidth=1, zorder=1)
    p_fa, p_miss = _deviates(det.p_fa, low), _deviates(det.p_miss, low)
    axes.plot(p_fa, p_miss, color="black", linewidth=1.8, label="every threshold; no errors: on the edge", zorder=3)
    # Straight lines between rates are curves between deviates.
    fine = np.linspace(0, len(det.hull) - 1, 100 * (len(det.hull) - 1) + 1)
    hull = [_deviates(np.interp(fine, range(len(det.hull)), rate[det.hull]), low) for rate in (det.p_fa, det.p_miss)]
    axes.plot(*hull, color="0.45", linestyle="--", linewidth=1.2, label="ROC convex hull", zorder=2)
    eer = f"EER {c.eer:.2%} (threshold {det.threshold(det.at_eer()):.3f})"
    cost = f"minDCF {c.min_dcf:.3f} (threshold {det.threshold(k):.3f})"
    costs = f"at p-target {c.p_target:g}, c-miss {c.c_miss:g}, c-fa {c.c_fa:g}"
    style: dict[str, Any] = {"markeredgecolor": "black", "markeredgewidth": 1.5, "clip_on": False}
    for rates, marker, size, shade, label, order in (
        ((c.eer, c.eer), "o", 9, "black", eer, 5),
        ((det.p_fa[k], det.p_miss[k]), "s", 11, "white", f"{cost}\n{costs}", 4),
    ):
        x, y = _deviates(np.array(rates), low)
        axes.plot(x, y, marker, markersize=size, color=shade, label=label, zorder=order, **style)
    ticks = [tick for tick in PER_CENT if low <= tick / 100 <= high]
    places = _deviates(np.array(ticks) / 100, low)
    for axis, name, count in (
        (axes.xaxis, "false alarms: different speakers accepted", det.nontargets),
        (axes.yaxis, "misses: same speaker refused", det.targets),
    ):
        axis.set_ticks(places, [f"{tick:g}" for tick in ticks])
        axis.set_label_text(f"{name} (% of {count})")
    axes.set(xlim=edges, ylim=edges, aspect="equal")
    axes.grid(color="0.9")
    axes.set_title(f"Detection error tradeoff, {_short(c.model)}", fontsize=11, parse_math=False)
    figure.legend(loc="outside lower center", fontsize=9)
    save(figure, path)


def draw_score(
    result: Verification, names: tuple[str, str], source: str, calibration: Calibration | None, path: Path
) -> None:
    """Write one score on the cosine axis against the threshold as a PNG, over the scores of the calibration if any.

    Args:
        result: what `verify` found.
        names: the two files.
        source: where the threshold comes from.
        calibration: whose histograms are drawn.
        path: of the PNG.

    Raises:
        SpeechZooError: it cannot be written.
    """
    figure = new_figure(7.2, 4.0 if calibration else 2.6)
    axes = figure.subplots()
    low = min(result.score, result.threshold)
    lowest = low - 0.35
    if calibration is None:
        axes.set_yticks([])
        axes.set_ylim(0, 1)
    else:
        lowest = min(lowest, _histograms(axes, calibration) - 0.05)
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    left, right = max(-1.02, min(lowest, -0.15)), 1.02
    if result.cosine is not None:  # the score is normalised
        left, right = min(low - 2, -1), max(result.score, result.threshold) + 2
    axes.set_xlim(left, right)
    top = axes.get_ylim()[1]
    axes.axvspan(left, result.threshold, color="0.93", zorder=0)
    axes.axvline(result.threshold, color="black", linestyle="--", linewidth=1.5, zorder=4)
    axes.axvline(result.score, color="black", linewidth=3, zorder=5)
    for x, height, text in (
        (result.threshold, 0.73, f"threshold {result.threshold:.3f}\n({source})"),
        (result.score, 0.91, f"score {result.score:.3f}"),
    ):
        leftward = x > left + 0.7 * (right - left) or (x == low and x - left > 0.3)
        axes.annotate(
            text,
            (x, height * top),
            xytext=(-7 if leftward else 7, 0),
            textcoords="offset points",
            ha="right" if leftward else "left",
            va="center",
            bbox=BOX,
            zorder=6,
        )
    axes.set_xlabel(
        f"{'cosine of the two embeddings' if result.cosine is None else 'normalised score'}; "
        "from the threshold on: the same speaker"
    )
    verdict = "the same speaker" if result.same_speaker else "different speakers"
    axes.set_title(f"{verdict}\n{_short(names[0])}, {_short(names[1])}", fontsize=10, parse_math=False)
    save(figure, path)


def _histograms(axes: Any, calibration: Calibration) -> float:
    """Draw the shares of the calibration's scores; returns the left end of the lowest."""
    edges = np.linspace(-1, 1, BINS + 1)
    kinds = (
        (calibration.nontarget_histogram, calibration.nontargets, "different speakers", "0.75", None),
        (calibration.target_histogram, calibration.targets, "the same speaker", "none", "////"),
    )
    for counts, total, name, shade, hatch in kinds:
        shares = 100 * np.array(counts) / total
        label = f"calibration: {name} ({total} pairs)"
        axes.stairs(shares, edges, fill=True, facecolor=shade, edgecolor="0.2", linewidth=0.8, hatch=hatch, label=label)
    axes.set_ylabel(f"% of these pairs\nin each {2 / BINS:g}")
    axes.margins(y=0.7)  # room for the labels
    filled = np.add(calibration.target_histogram, calibration.nontarget_histogram) > 0
    return float(edges[np.argmax(filled)])


def _deviates(rates: Array, low: float) -> Array:
    """Rates on the scale of the standard normal distribution; 0 and 1 lie half an error within."""
    inverse = NormalDist().inv_cdf
    return np.array([inverse(rate) for rate in np.clip(rates, low, 1 - low).tolist()])


def _short(name: str) -> str:
    """A file's name for a title: printable, at most 40 characters."""
    name = os.path.basename(name).encode("utf-8", "replace").decode()  # noqa: PTH119 (a Hub repo is no path)
    return name if len(name) <= 40 else f"{name[:20]}…{name[-19:]}"
