"""Who speaks when as one HTML file to look at and listen to, which holds the recording and needs no network."""

import base64
import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from speech_zoo_core.atomic import written_beside
from speech_zoo_core.audio.samples import Channel, File, describe
from speech_zoo_core.errors import InputError, SpeechZooError

from .listening import encode
from .segment import Segment

PIECE = 3 << 14  # bytes that become base64 at once; of three, so that no piece but the last is padded
COLOURS = 7  # of Okabe and Ito's palette, in report.html.j2; from then on they come again, with stripes


def check_report(output: str | os.PathLike[str]) -> None:
    """Raises, before any work, if no page can be written there: InputError, SpeechZooError."""
    path = Path(output)
    if path.suffix.lower() != ".html":
        raise InputError(f"the name of the page, {path}, must end in .html")
    if not path.parent.is_dir():
        raise SpeechZooError(f"{path} cannot be written: there is no folder {path.parent}")


def report(audio: File, segments: list[Segment], output: str | os.PathLike[str], *, channel: Channel = "mean") -> Path:
    """Write a page that shows and plays who speaks when, and on which speakers can be named; returns its path.

    It is one file for any browser, with the recording in it as Opus, 11 MB an hour (15 MB in the page). Where nobody
    speaks, it says so.

    Args:
        audio: the recording: a path, or what else `diarize` takes.
        segments: as `diarize` or `read_rttm` gives them.
        output: ends in .html.
        channel: what is heard of several: a number from 0 on, or "mean".

    Raises:
        InputError: the name of the page does not end in .html.
        AudioError: the recording cannot be decoded.
        SpeechZooError: the page cannot be written.
    """
    check_report(output)
    with tempfile.TemporaryFile() as opus:
        peaks, seconds = encode(audio, opus, channel)
        page = _facts(Path(describe(audio)), sorted(segments, key=lambda s: (s.start, s.end)), seconds)
        page["data"]["peaks"] = base64.b64encode(peaks.tobytes()).decode()
        with written_beside(Path(output)) as beside, beside.open("w", encoding="utf-8", errors="replace") as out:
            out.writelines(_template().generate(**page, audio=_base64(opus)))
    return Path(output)


def talk_time(segments: list[Segment]) -> tuple[dict[str, float], float, float]:
    """Seconds in which each label speaks, in which anybody does, and in which several do."""
    edges = sorted(
        [(s.start, 1, s.label) for s in segments] + [(s.end, -1, s.label) for s in segments], key=lambda edge: edge[0]
    )
    talk = dict.fromkeys((s.label for s in segments), 0.0)
    active: Counter[str] = Counter()
    speech, overlap, before = 0.0, 0.0, 0.0
    for time, change, label in edges:
        speaking = [one for one, count in active.items() if count > 0]
        for one in speaking:
            talk[one] += time - before
        speech += (time - before) * (len(speaking) > 0)
        overlap += (time - before) * (len(speaking) > 1)
        active[label] += change
        before = time
    return talk, speech, overlap


def _facts(path: Path, segments: list[Segment], seconds: float) -> dict[str, Any]:
    """What the template fills in; `data` is for its script."""
    talk, speech, overlap = talk_time(segments)
    number = {label: i for i, label in enumerate(talk)}
    speakers = [
        {
            "label": label,
            "colour": i % COLOURS,
            "striped": i >= COLOURS,
            "talk": talk[label],
            "share": talk[label] / max(sum(talk.values()), 1e-9),
            "turns": sum(s.label == label for s in segments),
        }
        for label, i in number.items()
    ]
    rows = [
        {  # rounded as in RTTM
            "speaker": number[s.label],
            "start": round(s.start, 3),
            "length": round(s.end - s.start, 3),
            "score": None if math.isnan(s.score) else round(s.score, 4),
        }
        for s in segments
    ]
    data = {"stem": "_".join(path.stem.split()), "seconds": seconds, "segments": rows}
    return {
        "name": path.name,
        "seconds": seconds,
        "speech": speech,
        "overlap": overlap,
        "speakers": speakers,
        "segments": rows,
        "data": data | {"speakers": [{key: s[key] for key in ("label", "colour")} for s in speakers]},
    }


def _base64(file: BinaryIO) -> Iterator[str]:
    file.seek(0)
    while piece := file.read(PIECE):
        yield base64.b64encode(piece).decode()


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    files = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=files, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=True
    )
    environment.filters |= {"clock": _clock, "length": _length}
    return environment.get_template("report.html.j2")


def _clock(seconds: float) -> str:
    """A time of the recording: 1:02.5, 1:01:02.5."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours = f"{minutes // 60}:{minutes % 60:02}" if minutes >= 60 else f"{minutes}"
    return f"{hours}:{rest // 10:02}.{rest % 10}"


def _length(seconds: float) -> str:
    """How long something is: 4.2 s, 3:07 min, 1:02 h."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{round(seconds / 60) // 60}:{round(seconds / 60) % 60:02} h"
