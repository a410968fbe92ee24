"""Every error that a user can cause: one line that says what is wrong and what to do."""

import re
import reprlib
from typing import Any

MAX_MESSAGE = 10_000  # characters
# What moves a terminal's cursor or turns its text around, and halves of surrogate pairs, which cannot be printed.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlevel, _SHORT.maxlist = 3, 12


def printable(text: str) -> str:
    """Text from a file, with its control characters as Python's escapes."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


def shown(value: Any) -> str:
    """Any value of a file for a message: at most about a line, whatever its size."""
    try:
        return printable(_SHORT.repr(value))
    except ValueError:  # Python does not print whole numbers of thousands of digits
        return f"a huge {type(value).__name__}"


class SpeechZooError(Exception):
    """Base class; the command line prints it as `error: …` and exits with status 1."""

    def __init__(self, message: str) -> None:
        # Messages that quote another library may carry line breaks; ours never do.
        message = printable(" ".join(message.split()))
        super().__init__(message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} …")


class AudioError(SpeechZooError):
    """The audio is missing, broken, too short, silent, or of an unusable type."""


class InputError(SpeechZooError):
    """Input other than audio that a model cannot take: an unknown language code, tokens outside a codebook."""


class ConfigError(SpeechZooError):
    """A config has an unknown key, a wrong value, or asks for something unsupported."""


class TaskError(ConfigError, AttributeError):
    """A model is asked for a method of a task that its checkpoint is not for; says what works."""


class CheckpointError(SpeechZooError):
    """A checkpoint is missing, damaged, unsafe, or does not fit its model."""


class HubError(SpeechZooError):
    """A Hub repo does not exist, is not readable, or cannot be reached."""


class RegistryError(SpeechZooError):
    """A model type is unknown, or two packages claim the same one."""
