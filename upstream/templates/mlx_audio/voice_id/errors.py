"""Errors that a user can cause: one line each, all of them ``ValueError``."""


class VoiceIdError(ValueError):
    """Base class."""


class AudioError(VoiceIdError):
    """The audio is missing, broken, too short, silent, or of an unusable type."""


class InputError(VoiceIdError):
    """Input other than audio that a model cannot take."""


class ConfigError(VoiceIdError):
    """A config has an unknown key, a wrong value, or asks for something unsupported."""


class CheckpointError(VoiceIdError):
    """A checkpoint does not fit its model."""
