"""The command `speech-zoo`. Imports of MLX wait until a command needs them, so that `--help` answers at once."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from speech_zoo_core.errors import SpeechZooError

from .bench import bench
from .calibrate import calibrate
from .diarize import conversation, diarize, evaluate
from .embed import embed
from .lid import lid
from .models import info, list_models
from .publish import card, check, convert, export, upload
from .verify import cohort, verify
from .voices import app as voices_app

app = typer.Typer(
    help="Who is speaking and in which language, in pure MLX.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _ToStderr(logging.Handler):
    """Messages as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(record.getMessage(), err=True)


def _version(wanted: bool) -> None:
    if wanted:
        from ..settings import __version__

        typer.echo(f"speech-zoo {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no warnings.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what is loaded, fetched and read.")] = False,
) -> None:
    """Set up what every command shares."""
    if quiet and verbose:
        raise typer.BadParameter("--quiet and --verbose contradict each other")
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    logger = logging.getLogger("speech_zoo")
    logger.handlers[:] = [_ToStderr()]
    logger.setLevel(level)


app.command("list")(list_models)
app.command()(info)
app.command()(embed)
app.command()(verify)
app.command()(cohort)
app.command()(calibrate)
app.command()(lid)
app.command()(diarize)
app.command()(evaluate)
app.command()(conversation)
app.add_typer(voices_app, name="voices")
app.command()(convert)
app.command()(export)
app.command()(check)
app.command()(card)
app.command()(upload)
app.command()(bench)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The heat map.")] = Path("speech-zoo-demo.png"),
) -> None:
    """Compare nine real voices, and tell who speaks when in a conversation of three; needs no network."""
    from ..demo import run

    run(output)


def main() -> None:
    """Run the command: one line on stderr and status 1 for an error, 2 for wrong usage."""
    try:
        status = app(prog_name="speech-zoo", standalone_mode=False)
        sys.stdout.flush()
    except SpeechZooError as error:
        status = _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        status = _fail("interrupted", 130)
    except OSError as error:  # of printing: a closed pipe, a full disk
        if isinstance(error, FileNotFoundError) and error.filename is None:  # os.getcwd's
            sys.exit(_fail("the current folder is gone; change to one that exists", 1))
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 (for Python's own flush at exit)
        status = 1 if isinstance(error, BrokenPipeError) else _fail(f"cannot write the output: {error.strerror}", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer raises for wrong usage
            raise
        message = error.format_message().rstrip(".")
        status = _fail(f"{message}; see {_command()} --help", 2) if message else 2  # no command: the help was printed
    sys.exit(status if isinstance(status, int) else 0)


def _command() -> str:
    """The command that was asked for; not every error of usage knows it."""
    command: Any = typer.main.get_command(app)
    words = ["speech-zoo"]
    for word in (word for word in sys.argv[1:] if not word.startswith("-")):
        if (command := getattr(command, "commands", {}).get(word)) is None:
            break
        words.append(word)
    return " ".join(words)


def _fail(message: str, status: int) -> int:
    typer.echo(f"error: {message}", err=True)
    return status


if __name__ == "__main__":
    main()
