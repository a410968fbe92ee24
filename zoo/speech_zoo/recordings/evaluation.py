"""How well a diarization matches a reference: diarization error rate and its parts, and Jaccard error rate."""

import os
from dataclasses import dataclass
from typing import Any

from speech_zoo_core.errors import InputError, SpeechZooError
from speech_zoo_core.extras import how_to_install

from .formats import read_rttm
from .segment import Segment


@dataclass(frozen=True)
class Evaluation:
    """Figures of a file, or of several together, as shares of the seconds that the reference has people speak.

    Attributes:
        der: diarization error rate, the sum of the next three; may exceed 1.
        missed: speech of the reference that nobody has in the hypothesis.
        false_alarm: speech of the hypothesis that nobody has in the reference.
        confusion: speech that is given to another speaker.
        jer: Jaccard error rate, on average over the speakers of the reference.
        seconds: of speech in the reference; where two speak, twice.
        speakers, found: in the reference and in the hypothesis.
    """

    der: float
    missed: float
    false_alarm: float
    confusion: float
    jer: float
    seconds: float
    speakers: int
    found: int


def evaluate(
    reference: str | os.PathLike[str] | dict[str, list[Segment]],
    hypothesis: str | os.PathLike[str] | dict[str, list[Segment]],
    *,
    collar: float = 0.0,
    skip_overlap: bool = False,
) -> dict[str, Evaluation]:
    """Compare diarizations with pyannote.metrics; labels may differ, speakers are matched as fits best.

    Args:
        reference, hypothesis: RTTM files, or segments by the name of the recording.
        collar: seconds around each edge of the reference that do not count, half of them on each side.
        skip_overlap: leave out where the reference has several speak.

    Returns:
        Figures by the name of the recording; where there are several, "all" comes last.

    Raises:
        InputError: a file is no RTTM, a recording is missing from one of them, or nobody speaks in the reference.
        SpeechZooError: pyannote.metrics is not installed.
    """
    try:
        from pyannote.metrics.diarization import DiarizationErrorRate, JaccardErrorRate
    except ImportError as error:
        raise SpeechZooError(f"evaluation needs pyannote.metrics: {how_to_install('eval')}") from error
    if not 0 <= collar < 10:
        raise InputError(f"collar is some seconds around an edge, not {collar!r}")
    wanted = reference if isinstance(reference, dict) else read_rttm(reference)
    given = hypothesis if isinstance(hypothesis, dict) else read_rttm(hypothesis)
    if odd := sorted(wanted.keys() ^ given.keys()):
        raise InputError(f"{odd[0]} is in the {'reference' if odd[0] in wanted else 'hypothesis'} alone")
    if not any(wanted.values()):
        raise InputError("nobody speaks in the reference; there is nothing to compare with")
    options: dict[str, Any] = {"collar": collar, "skip_overlap": skip_overlap}
    rate: Any = DiarizationErrorRate(**options)
    jaccard: Any = JaccardErrorRate(**options)
    results = {}
    for name in wanted:
        pair = _annotation(wanted[name]), _annotation(given[name])
        extent = pair[0].get_timeline().union(pair[1].get_timeline()).extent()
        options = {"detailed": True, "uem": extent}
        counts = [len(annotation.labels()) for annotation in pair]
        results[name] = _figures(rate(*pair, **options), jaccard(*pair, **options), *counts)
    if len(results) > 1:
        speakers, found = (sum(getattr(row, key) for row in results.values()) for key in ("speakers", "found"))
        total = {part: rate[part] for part in rate.components_}
        results["all"] = _figures(total | {rate.name: abs(rate)}, {jaccard.name: abs(jaccard)}, speakers, found)
    return results


def _figures(parts: dict[str, float], jaccard: dict[str, float], speakers: int, found: int) -> Evaluation:
    seconds = float(parts["total"])

    def share(part: str) -> float:
        return float(parts[part]) / seconds if seconds else 0.0

    return Evaluation(
        der=float(parts["diarization error rate"]),
        missed=share("missed detection"),
        false_alarm=share("false alarm"),
        confusion=share("confusion"),
        jer=float(jaccard["jaccard error rate"]),
        seconds=seconds,
        speakers=speakers,
        found=found,
    )


def _annotation(segments: list[Segment]) -> Any:
    from pyannote.core import Annotation
    from pyannote.core import Segment as Piece

    annotation = Annotation()
    for i, segment in enumerate(segments):
        annotation[Piece(segment.start, segment.end), i] = segment.label
    return annotation
