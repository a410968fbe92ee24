"""`speech-zoo voices`: enroll, identify, index and search. Imports of MLX wait until a command needs them."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from speech_zoo_core.errors import SpeechZooError

from ..recordings.files import audio_files
from ..settings import DEFAULT_MODEL
from ..voices.database import check_name, printable
from .options import (
    FILES,
    ChannelOption,
    EngineOption,
    FilesArgument,
    JsonOption,
    ModelOption,
    ThreadsOption,
    VadOption,
    check_plot,
    computing,
    hearing,
    print_json_rows,
    print_result,
    results,
    source,
)

if TYPE_CHECKING:
    from ..voices.store import VoiceStore

app = typer.Typer(
    help="Known voices: who is it, and where in my recordings does this voice occur.", no_args_is_help=True
)

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="The SQLite file of the voices.", show_default="voices.sqlite of this user"),
]
JobsOption = Annotated[int, typer.Option(min=1, help="Processes that decode and embed.")]
ThresholdOption = Annotated[
    float | None,
    typer.Option(help="Cosine that counts as the same voice; default: your calibrated one, or the model's."),
]
NameArgument = Annotated[str, typer.Argument(help="Any text: spaces, emoji and slashes are part of it.")]
ExchangeHelp = "A .parquet or .safetensors file."


@app.command()
def enroll(
    name: NameArgument,
    given: Annotated[list[str] | None, typer.Argument(metavar="FILE…", help=FILES)] = None,
    talk: Annotated[
        Path | None, typer.Option("--from", help="A recording of several people; what --speaker says alone is a clip.")
    ] = None,
    speaker: Annotated[int | None, typer.Option(min=1, help="Its number, as diarize prints it.")] = None,
    store: StoreOption = None,
    model: ModelOption = DEFAULT_MODEL,
    channel: ChannelOption = None,
    vad: VadOption = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add clips to a voice; a clip that it has already is left out."""
    name = check_name(name)
    if (talk is None) != (speaker is None) or (talk is None) == (not given):
        raise typer.BadParameter("give FILE…, or --from FILE --speaker N, and not both")
    files = audio_files(given or [str(talk)])
    voices = open_store(store, model, create=True, **hearing(channel, vad), **computing(engine, threads))

    def one(file: Any) -> bool:
        return (
            voices.enroll(name, file if speaker is None else _speaker(voices.model, file, speaker, channel, vad)) == 1
        )

    added = results(files, "enrolling", one)
    if as_json:
        print_json_rows({"name": name, "file": printable(file), "new": new} for file, new in added)
        return
    for file, new in added:
        typer.echo(f"{name}: {_shown(file)} {'enrolled' if new else 'was enrolled already'}")


@app.command("list")
def list_voices(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the names, and how many clips each has."""
    names = open_store(store).names()
    lines = [f"{clips:5}  {name}" for name, clips in names.items()]
    facts = [{"name": name, "clips": clips} for name, clips in names.items()]
    print_result(as_json, facts, *lines or ["no voices yet: speech-zoo voices enroll NAME FILE"])


@app.command()
def rename(
    name: NameArgument,
    new: Annotated[str, typer.Argument(help="A name that no voice has yet.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a voice another name."""
    name, new = check_name(name), check_name(new)
    clips = open_store(store).rename(name, new)
    facts = {"name": new, "was": name, "clips": clips}
    print_result(as_json, facts, f"{name}: now {new}, with {_count(clips, 'clip')}")


@app.command()
def remove(
    name: NameArgument,
    clip: Annotated[Path | None, typer.Option(help="Delete only this clip of the voice.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a voice with all of its clips, or one of them."""
    name = check_name(name)
    clips = open_store(store).remove(name, clip)
    what = _count(clips, "clip")
    text = f"removed, with {what}" if clip is None else f"{what} removed"
    print_result(as_json, {"name": name, "clips": clips}, f"{name}: {text}")


@app.command()
def identify(
    given: FilesArgument,
    store: StoreOption = None,
    model: ModelOption = DEFAULT_MODEL,
    top: Annotated[int, typer.Option(min=1, help="How many names to print.")] = 3,
    threshold: ThresholdOption = None,
    channel: ChannelOption = None,
    vad: VadOption = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which of the known voices each file holds; "unknown" where none reaches the threshold."""
    files = audio_files(given)
    voices = open_store(store, model, **hearing(channel, vad), **computing(engine, threads))
    identified = results(files, "identifying", lambda file: voices.identify(file, top_k=top, threshold=threshold))
    if as_json:
        print_json_rows({"file": printable(file), "model": model, **asdict(result)} for file, result in identified)
        return
    for file, result in identified:
        typer.echo(f"{_shown(file)}: {'unknown' if result.name is None else result.name}")
        for match in result.matches:
            sign = ">=" if match.score >= result.threshold else "<"
            typer.echo(f"  {match.score:7.4f} {sign:2} {result.threshold:.4f}  {match.name}")


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="Audio files below it, hidden ones left out.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The index.", show_default="one of this user for the folder")
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    jobs: JobsOption = 1,
    channel: ChannelOption = None,
    vad: VadOption = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Index a folder for search: only new and changed files are decoded."""
    path = output or _index_of(folder, model)
    report = open_store(path, model, **hearing(channel, vad), **computing(engine, threads)).index(folder, jobs)
    print_result(
        as_json,
        {"index": printable(path), "model": model, **asdict(report)},
        *(f"skipped {_shown(item.file)}: {item.reason}" for item in report.skipped),
        f"{report.indexed} indexed, {report.unchanged} unchanged, {report.removed} removed, {len(report.skipped)} "
        f"skipped; {_count(report.files, 'file')} with {_count(report.windows, 'window')} in {printable(path)}",
    )


@app.command()
def search(
    within: Annotated[
        Path, typer.Option("--in", metavar="FOLDER-OR-INDEX", help="Where to look; a folder is indexed first.")
    ],
    file: Annotated[Path | None, typer.Argument(help="A clip of the voice; or --name.")] = None,
    name: Annotated[str | None, typer.Option(help="A voice that is enrolled, in place of FILE.")] = None,
    store: StoreOption = None,
    model: ModelOption = DEFAULT_MODEL,
    top: Annotated[int, typer.Option(min=1, help="How many passages to print at most.")] = 10,
    threshold: ThresholdOption = None,
    jobs: JobsOption = 1,
    channel: ChannelOption = None,
    vad: VadOption = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find where a voice occurs: file, from, to (seconds), score; the best first."""
    if (file is None) == (name is None):
        raise typer.BadParameter("give FILE, or --name NAME, and not both")
    how = hearing(channel, vad)
    voices = open_store(
        _index_of(within, model) if within.is_dir() else within, model, **how, **computing(engine, threads)
    )
    if file is not None:
        clip = voices.model.voice(source(file), **how)
        vector = clip.vector
    else:
        vector = open_store(store, voices.model).vector(check_name(name or ""))
    if within.is_dir():
        report = voices.index(within, jobs)
        if report.skipped:
            count = _count(len(report.skipped), "file")
            typer.echo(f"warning: {count} skipped; speech-zoo voices index says why", err=True)
    passages = voices.search(vector=vector, top_k=top, threshold=threshold)
    if file is not None and threshold is None:
        _warn_of_short(voices.model, file, clip.seconds)
    facts = [{"file": p.file, "from": p.start, "to": p.end, "score": p.score} for p in passages]
    lines = [f"{p.start:9.2f} s {p.end:9.2f} s  {p.score:7.4f}  {_shown(p.file)}" for p in passages]
    print_result(as_json, facts, *lines or ["not found: no passage reaches the threshold"])


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help=ExchangeHelp)], store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Write a store's voices and indexed windows to a file that other programs read."""
    _check_suffix(out)
    result = open_store(store).export(out)
    text = f"{printable(out)}: {_count(result.clips, 'clip')}, {_count(result.windows, 'window')}"
    print_result(as_json, {"output": printable(out), **asdict(result)}, text)


@app.command("import")
def import_file(
    source: Annotated[Path, typer.Argument(metavar="IN", help=ExchangeHelp)],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add what export wrote to a store, all of it or nothing."""
    _check_suffix(source)
    result = open_store(store, create=True).import_from(source)
    text = f"{printable(source)}: {_count(result.clips, 'new clip')}, {_count(result.windows, 'window')}"
    print_result(as_json, {"input": printable(source), **asdict(result)}, text)


@app.command("map")
def draw_map(
    out: Annotated[Path, typer.Argument(metavar="OUT.png", help="The picture.")], store: StoreOption = None
) -> None:
    """Draw the known voices in two dimensions, one colour per name."""
    check_plot(out, "OUT")
    from ..plots.voices import draw

    draw(*open_store(store).voices(), out)
    typer.echo(printable(out))


def _warn_of_short(model: Any, file: Path, seconds: float) -> None:
    """Warn of a clip that is short for the threshold in force."""
    from speech_zoo_core.tasks.speaker import warn_of_short

    from ..calibration.thresholds import threshold_in_force

    warn_of_short(str(file), seconds, threshold_in_force(model)[1])


def _speaker(model: Any, file: Path, number: int, channel: str | None, vad: bool) -> Any:
    """What a speaker of a recording says alone."""
    from ..recordings.diarization import diarize
    from ..recordings.names import alone

    where = hearing(channel, vad)["channel"]
    segments = diarize(file, model=model, channel=where)
    return alone(file, segments, f"speaker {number}", model, where)


def open_store(path: Path | None, model: Any = DEFAULT_MODEL, create: bool = False, **how: Any) -> "VoiceStore":
    """The store at a path, the user's own for none."""
    from ..voices.store import VoiceStore

    return VoiceStore(_own(create) / "voices.sqlite" if path is None else path, model, **how)


def _index_of(folder: Path, model: str) -> Path:
    """This user's index of a folder, by one model."""
    key = hashlib.sha256(f"{printable(folder.absolute())}\n{model}".encode()).hexdigest()
    return _own(True, "indexes") / f"{key[:16]}.sqlite"


def _own(create: bool, *parts: str) -> Path:
    """The folder of this user's own data, or one below it; made if need be."""
    from ..settings import folder

    path = folder().joinpath(*parts)
    if create:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SpeechZooError(f"{path} cannot be made: {error.strerror}") from error
    return path


def _check_suffix(path: Path) -> None:
    if path.suffix not in (".parquet", ".safetensors"):
        raise typer.BadParameter(f"{printable(path)} must end in .parquet or .safetensors")


def _shown(path: str | Path) -> str:
    """A path as one types it here: relative if it is below the current folder."""
    here = Path.cwd()
    return printable(Path(path).relative_to(here) if Path(path).is_relative_to(here) else path)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
