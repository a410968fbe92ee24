"""The bar chart of `speech-zoo bench --plot`: contenders side by side for each model, readable in greyscale."""

from pathlib import Path
from typing import Any

from .figure import STYLES, new_figure, save


def draw(result: dict[str, Any], path: Path) -> None:
    """Write what `bench.measure` found as a PNG, a panel for each length and batch; what was not measured has no bar.

    Raises:
        SpeechZooError: it cannot be written.
    """
    rows, machine = result["rows"], result["machine"]
    cases = list(dict.fromkeys((row["audio_seconds"], row["batch"]) for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    labels = {row["contender"]: _label(row["contender"]) for row in rows}
    shown = list(dict.fromkeys(labels.values()))
    figure = new_figure(max(6.0, 0.45 * len(models) * (len(shown) + 1)), 3.6 * len(cases))
    panels = figure.subplots(len(cases), squeeze=False)[:, 0]
    for axes, case in zip(panels, cases, strict=True):
        for i, (label, (shade, hatch)) in enumerate(zip(shown, STYLES, strict=False)):
            bars = [
                (models.index(row["model"]) + (i - (len(shown) - 1) / 2) * 0.8 / len(shown), row["seconds"])
                for row in rows
                if (row["audio_seconds"], row["batch"]) == case and labels[row["contender"]] == label and row["seconds"]
            ]
            container = axes.bar(
                [x for x, _ in bars],
                [seconds for _, seconds in bars],
                0.8 / len(shown),
                color=shade,
                hatch=hatch,
                edgecolor="black",
                label=label,
            )
            axes.bar_label(container, [f"{seconds:.3g}" for _, seconds in bars], padding=2, fontsize=7, rotation=90)
        axes.set_yscale("log")
        axes.margins(y=0.2)
        axes.set_xticks(range(len(models)), models)
        axes.set_ylabel("seconds (log scale)")
        clips = f"{case[1]} clips of" if case[1] > 1 else "one clip of"
        axes.set_title(f"{clips} {case[0]:g} s: median seconds from samples to output; lower is faster", fontsize=9)
    figure.suptitle(f"{machine['cpu']}, {machine['cores']} cores, MLX on {machine['device']}", fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    save(figure, path)


def _label(contender: str) -> str:
    """kaldi-native-fbank stands where torch does."""
    return "torch / kaldi-native-fbank" if contender in ("torch", "kaldi-native-fbank") else contender
