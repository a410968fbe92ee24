"""Parity of a converted checkpoint with its source: the result of `speech_zoo.check`, as `parity.json` keeps it."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speech_zoo_core.errors import ConfigError

FILE = "parity.json"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
FEATURES = 1e-3  # the most that a feature may differ: log-mel, dB, or samples of a normalised waveform
COSINE = {"float32": 0.999999, "float16": 0.9999, "bfloat16": 0.9999, "8-bit": 0.999}  # the least
LOGITS = 1e-4  # the most that a logit may differ in float32, relative to the largest
FRAMES = 0.98  # the least share of a segmentation's frames with the same set of speakers
FIGURES = ("features", "cosine", "logits", "frames")
LEAST = ("cosine", "frames")  # of them, those of which more is better


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip, computed in one precision; a figure is None where it was not compared.

    Attributes:
        clip: its name.
        seconds: its length.
        computed: "float32", "float16" or "bfloat16".
        engine: what computed it, "mlx", "onnxruntime" or "coreml".
        features: largest difference.
        cosine: of the embeddings.
        logits: largest difference of logits or log-probabilities, relative to the original's largest.
        top1: the original's first label.
        frames: of a segmentation, the share in which the same set of speakers comes first.
        same_top1, same_top5: whether the checkpoint's first label, first five in their order, are the original's.
        problem: what kept it from being compared.
        passed: None where nothing that was compared has a limit.
    """

    clip: str
    seconds: float
    computed: str
    engine: str = "mlx"
    features: float | None = None
    cosine: float | None = None
    logits: float | None = None
    frames: float | None = None
    top1: str | None = None
    same_top1: bool | None = None
    same_top5: bool | None = None
    problem: str | None = None
    passed: bool | None = None

    @property
    def how(self) -> str:
        """The precision, and the engine where it is not MLX."""
        return self.computed if self.engine == "mlx" else f"{self.computed}, {self.engine}"


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The result of `check`.

    Attributes:
        checkpoint: sha256 of each file of the converted folder.
        precision: of its weights: "float32", "float16", "bfloat16", "8-bit" or "4-bit".
        task: of the checkpoint.
        oracle: name, version, features (who computed them, or None) and from ("live" or "goldens"); None if nothing
            was compared.
        reference: repo, revision and the files' sha256 of the original that was compared with.
        limits: features, cosine, logits, frames, top (how many labels must be the same).
        clips: one for each clip and precision that it was computed in.
        not_compared: sentences.
        passed: None if nothing was compared.
        machine: system, device, tf32 (whether float32 products were computed in it), python, packages.
        features_unit: what the differences of features are in.
    """

    checkpoint: dict[str, str]
    precision: str
    task: str
    oracle: dict[str, str | None] | None
    reference: dict[str, Any]
    limits: dict[str, float]
    clips: list[Clip]
    not_compared: list[str]
    passed: bool | None
    machine: dict[str, Any]
    features_unit: str = ""

    def stale(self, folder: str | os.PathLike[str]) -> bool:
        """Whether the files of a folder are others than those that were compared."""
        return self.checkpoint != hashes(Path(folder))

    def worst(self) -> dict[str, float]:
        """The worst of each figure: the largest difference of features and logits, the lowest cosine and share."""
        worst = {}
        for key, of in (("features", max), ("cosine", min), ("logits", max), ("frames", min)):
            if figures := [value for clip in self.clips if (value := getattr(clip, key)) is not None]:
                worst[key] = of(figures)
        return worst

    def to_json(self) -> str:
        """The text of `parity.json`."""
        data = asdict(self)
        for clip in data["clips"]:
            for key in [key for key, value in clip.items() if value is None and key not in ("features", "passed")]:
                del clip[key]
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"

    def verdict(self) -> str:
        """One line."""
        if self.oracle is None:
            return f"nothing was compared: {'; '.join(self.not_compared)}"
        by = f"{self.oracle['name']} {self.oracle['version']}, {self.oracle['from']}"
        figures = ", ".join(f"{key} {_figure(key, value)}" for key, value in self.worst().items())
        if self.passed is None:
            return f"{self.precision} compared with {by}, no limit applies; worst {figures}"
        if self.passed and "cosine" in self.worst().keys() - self.limits.keys():
            return f"features hold in {self.precision} with {by}; embeddings have no limit to meet; worst {figures}"
        if self.passed:
            return f"parity holds in {self.precision} with {by}; worst {figures}"
        missed = [clip for clip in self.clips if clip.passed is False]
        first = missed[0].problem or ", ".join(text for _, text in self._misses(missed[0]))
        return (
            f"{len(missed)} of {len(self.clips)} comparisons in {self.precision} with {by} miss a limit; "
            f"{missed[0].clip} ({missed[0].how}): {first}"
        )

    def _misses(self, clip: Clip) -> Iterator[tuple[str, str]]:
        """The figures of a clip that miss their limits: name, and both in words."""
        for key in FIGURES:
            value, limit = getattr(clip, key), self.limits.get(key)
            if value is not None and limit is not None and (value < limit if key in LEAST else value > limit):
                yield key, f"{key} {_figure(key, value)} (limit {limit:g})"
        for count in (1, 5):
            if self.limits.get("top", 0) >= count and getattr(clip, f"same_top{count}") is False:
                yield f"same_top{count}", "another first label" if count == 1 else "another order of the first five"


def _figure(key: str, value: float) -> str:
    return {"cosine": f"{value:.9f}", "frames": f"{value:.4f}"}.get(key, f"{value:.1e}")


def read(folder: str | os.PathLike[str]) -> Parity | None:
    """What `parity.json` in a folder says; None if there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    path = Path(folder) / FILE
    return read_report(path) if path.exists() else None


def read_report(path: Path) -> Parity:
    """What a file that `check` wrote says; errors as `read`."""
    import dacite
    from speech_zoo_core.config import read_json

    try:
        return dacite.from_dict(Parity, read_json(path), dacite.Config(strict=True))
    except dacite.DaciteError as error:
        raise ConfigError(f"{path} is not what check writes: {error}; run speech-zoo check again") from error


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of the config and the weights in a converted folder, by file name.

    Raises:
        ConfigError: a file cannot be read.
    """
    from speech_zoo_core.loader import sha256

    paths = [folder / "config.json", *(path for pattern in WEIGHTS for path in folder.glob(pattern))]
    return {path.name: sha256(path) for path in sorted(paths)}


def limits_of(task: str, precision: str) -> dict[str, float]:
    """What a checkpoint must meet; 4-bit embeddings have no limit, nor have values in less than float32."""
    limits: dict[str, float] = {"features": FEATURES}
    if task == "speaker-embedding":
        return limits | ({"cosine": COSINE[precision]} if precision in COSINE else {})
    if task == "speaker-segmentation":
        return limits | ({"logits": LOGITS} if precision == "float32" else {"frames": FRAMES})
    if task == "audio-regression":
        return limits | ({"logits": LOGITS} if precision == "float32" else {})
    return limits | ({"logits": LOGITS, "top": 5} if precision == "float32" else {"top": 1})


def show(parity: Parity) -> None:
    """Print a row for each clip, the worst figures, what was not compared, and the verdict."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    keys = [key for key in FIGURES if key in parity.worst()]
    labels = any(clip.top1 is not None for clip in parity.clips)
    if parity.clips:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in ["clip", "seconds", *keys, *(["top 1", "top 5"] if labels else []), ""]:
            table.add_column(name, no_wrap=True, justify="right" if name in ("seconds", *keys) else "left")
        by = None
        for clip in parity.clips:
            if by != (by := f"{clip.computed}, {clip.engine}"):
                table.add_row(f"[dim]{by}[/dim]")
            figures = [getattr(clip, key) for key in keys]
            cells = ["" if x is None else _figure(key, x) for key, x in zip(keys, figures, strict=True)]
            if labels:
                cells += [("" if same else "not ") + str(clip.top1) if (same := clip.same_top1) is not None else ""]
                cells += [{True: "same", False: "differs", None: ""}[clip.same_top5]]
            cells.append({True: "ok", False: clip.problem or "[bold]missed[/bold]", None: ""}[clip.passed])
            table.add_row(clip.clip, f"{clip.seconds:.2f}", *cells)
        table.add_section()
        worst = parity.worst()
        table.add_row("worst", "", *(_figure(key, worst[key]) for key in keys), *[""] * (2 * labels + 1))
        limits = [f"{parity.limits[key]:g}" if key in parity.limits else "none" for key in keys]
        tops = [{0: "none"}.get(int(parity.limits.get("top", 0)), "same"), "same" if "logits" in parity.limits else ""]
        table.add_row("limit", "", *limits, *(tops if labels else []), "")
        console.print(table)
    if parity.oracle is not None:
        for sentence in parity.not_compared:
            console.print(f"Not compared: {sentence}", markup=False)
    if parity.passed is not False:
        console.print(parity.verdict()[:1].upper() + parity.verdict()[1:] + ".", markup=False)
