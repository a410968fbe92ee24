"""`speech-zoo demo`: nine real voices, each in two halves, compared with the bundled checkpoint."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.audio import load_audio

from .models import load
from .plots.demo import heat_map
from .settings import DEFAULT_MODEL, VOICES


def halves(path: Path, rate: int) -> list[tuple[Any, int]]:
    """The two halves of a clip, as pairs (samples, rate)."""
    samples = load_audio(path, rate)
    middle = samples.size // 2
    return [(samples[:middle], rate), (samples[middle:], rate)]


def similarity(model: Any, files: list[Path]) -> "np.ndarray[Any, Any]":
    """Cosines of every first half (rows) with every second half (columns), (N, N); the diagonal is one speaker."""
    rate = model.config.front_end.sample_rate
    vectors = np.array(model.embed_batch([half for file in files for half in halves(file, rate)]))
    return vectors[0::2] @ vectors[1::2].T  # type: ignore[no-any-return]


def run(output: Path) -> None:
    """Print the matrix, write the heat map to `output`, and say what passes the threshold."""
    from rich.console import Console
    from rich.table import Table

    files = sorted(VOICES.glob("*.wav"))
    names = [file.stem.rsplit("spk", 1)[-1] for file in files]
    model = load(DEFAULT_MODEL)
    threshold = model.config.threshold
    console = Console(highlight=False)
    console.print(
        f"Nine LibriSpeech speakers, {DEFAULT_MODEL}. Cosine of each clip's first half (rows) with each second half "
        "(columns); [bold]\\[same speaker][/bold], * passes the threshold.\n"
    )
    scores = similarity(model, files)
    table = Table(box=None, padding=(0, 0, 0, 1), header_style="dim")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for i, name in enumerate(names):
        table.add_row(f"[dim]{name}[/dim]", *(_cell(score, i == j, threshold) for j, score in enumerate(scores[i])))
    console.print(table)
    same, different = np.diag(scores), scores[~np.eye(len(scores), dtype=bool)]
    console.print(
        f"\nThreshold {threshold}: {(same >= threshold).sum()} of {same.size} same-speaker pairs pass "
        f"(lowest {same.min():.3f}), {(different >= threshold).sum()} of {different.size} different-speaker pairs pass "
        f"(highest {different.max():.3f})."
    )
    console.print(heat_map(scores, names, threshold, output), soft_wrap=True)
    command = "speech-zoo" if shutil.which("speech-zoo") else _shown(Path(sys.argv[0]))
    console.print("\nTry next:", style="bold")
    for line in (
        f"{command} verify {_shown(files[0])} {_shown(files[1])}",
        f"{command} embed {_shown(files[0].parent)} --output vectors.safetensors",
        f"{command} info {DEFAULT_MODEL}",
    ):
        console.print(f"  {line}", soft_wrap=True)


def _shown(path: Path) -> str:
    """A path as one types it here: relative if it is below the current folder."""
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def _cell(score: float, same: bool, threshold: float) -> str:
    text = f"{score:.2f}{'*' if score >= threshold else ' '}"
    return f"[bold]\\[{text}][/bold]" if same else f"{text} "
