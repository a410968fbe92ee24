"""`speech-zoo demo`: nine real voices, compared with the bundled checkpoint; then three of them in a conversation."""

import shlex
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.audio import load_audio

from .models import load
from .plots.demo import heat_map
from .recordings.conversation import conversation, wav
from .recordings.diarization import diarize
from .recordings.evaluation import evaluate
from .recordings.segment import Segment
from .settings import DEFAULT_MODEL, SEGMENTATION, VOICES

SPEAKERS, SECONDS, SEED = 3, 30.0, 1  # of the conversation
CELLS = 60  # of a row that shows it


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
    """Print the matrix, write the heat map to `output`, say what passes the threshold; and who speaks when."""
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
    _converse(console, model)
    command = "speech-zoo" if shutil.which("speech-zoo") else _shown(Path(sys.argv[0]))
    console.print("\nTry next:", style="bold")
    for line in (
        f"{command} verify {_shown(files[0])} {_shown(files[1])}",
        f"{command} embed {_shown(files[0].parent)} --output vectors.safetensors",
        f"{command} conversation talk.wav --speakers 3 --seconds 60",
        f"{command} diarize talk.wav --html report.html",
    ):
        console.print(f"  {line}", soft_wrap=True)


def _converse(console: Any, model: Any) -> None:
    """Make up a conversation, find out who speaks when, and print that below the truth."""
    samples, truth = conversation(SPEAKERS, SECONDS, SEED)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "talk.wav")
        path.write_bytes(wav(samples))
        found = diarize(path, model=model)
    console.print(
        f"\nWho speaks when in {SECONDS:g} seconds that {SPEAKERS} of them talk, as {SEGMENTATION} and "
        f"{DEFAULT_MODEL} hear it ([bold]█[/bold]), above what is true:\n"
    )
    for label, bar in _rows(found).items():
        console.print(f"{label:>10}  [bold]{bar}[/bold]", no_wrap=True)
    for label, bar in _rows(truth).items():
        console.print(f"[dim]{label:>10}  {bar.replace('█', '▒')}[/dim]", no_wrap=True)
    console.print(f"{'':12}0 s{f'{SECONDS:g} s':>{CELLS - 3}}", style="dim")
    if find_spec("pyannote") is not None and find_spec("pyannote.metrics") is not None:
        figures = evaluate({"talk": truth}, {"talk": found})["talk"]
        console.print(f"\nDiarization error rate {figures.der:.1%}; {figures.found} of {figures.speakers} speakers.")


def _rows(segments: list[Segment]) -> dict[str, str]:
    """A row of `CELLS` characters for each label: a block where it is heard in the middle of the cell."""
    rows = {}
    for label in sorted({segment.label for segment in segments}):
        mine = [segment for segment in segments if segment.label == label]
        times = [(cell + 0.5) / CELLS * SECONDS for cell in range(CELLS)]
        rows[label] = "".join("█" if any(s.start <= time < s.end for s in mine) else " " for time in times)
    return rows


def _shown(path: Path) -> str:
    """A path as one types it here: relative if it is below the current folder."""
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def _cell(score: float, same: bool, threshold: float) -> str:
    text = f"{score:.2f}{'*' if score >= threshold else ' '}"
    return f"[bold]\\[{text}][/bold]" if same else f"{text} "
