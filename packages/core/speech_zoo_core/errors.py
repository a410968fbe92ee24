"""Every error that a user can cause: one line that says what is wrong and what to do."""


class SpeechZooError(Exception):
    """Base class; the command line prints it as `error: …` and exits with status 1."""

    def __init__(self, message: str) -> None:
        # Messages that quote another library may carry line breaks; ours never do.
        super().__init__(" ".join(message.split()))


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
