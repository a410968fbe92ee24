"""Audio in: decoding, resampling, streaming, and the features that models take."""

from .stream import Stream as Stream
from .stream import load_audio as load_audio
