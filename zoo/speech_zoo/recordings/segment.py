"""What is heard from when to when."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A stretch of a file in one language.

    Attributes:
        start, end: seconds from the start of the file.
        label: the language's code, as the checkpoint spells it, or "unknown".
        name: the language's name in English.
        score: mean probability of the label over the steps, 0 to 1; of "unknown", of each step's best label.
        logit: mean top logit, on the checkpoint's own scale.
        reason: of "unknown", which floor the first of its steps misses; else empty.
    """

    start: float
    end: float
    label: str
    name: str
    score: float
    logit: float
    reason: str = ""
