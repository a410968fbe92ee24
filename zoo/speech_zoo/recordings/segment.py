"""What is heard from when to when."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A stretch of a file in one language, or of one speaker.

    Attributes:
        start, end: seconds from the start of the file.
        label: the language's code, as the checkpoint spells it, or "unknown"; of a speaker, "speaker 1" and so on.
        name: the language's name in English; of a speaker empty.
        score: mean probability of the label over the steps, 0 to 1; of "unknown", of each step's best label; of a
            speaker, the share of the windows over the segment that heard this one.
        logit: mean top logit, on the checkpoint's own scale; of a speaker not a number.
        reason: of "unknown", which floor the first of its steps misses; else empty.
    """

    start: float
    end: float
    label: str
    name: str = ""
    score: float = math.nan
    logit: float = math.nan
    reason: str = ""
