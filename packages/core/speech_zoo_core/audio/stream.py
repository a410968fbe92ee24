"""A waveform at the model's rate: whole, or block by block in memory that does not grow with the file."""

import logging
from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from ..errors import AudioError
from .decode import Decoder
from .resample import Resampler, resampled
from .samples import Array, Audio, Channel, File, check_channel, describe, in_memory, is_file, to_mono, unwrapped

LOG = logging.getLogger("speech_zoo")


def load_audio(
    audio: Audio,
    sample_rate: int,
    source_rate: int | None = None,
    *,
    resampler: Resampler = "soxr_hq",
    channel: Channel = "mean",
) -> mx.array:
    """Decode, take a channel, resample: the samples of `Stream`, all at once.

    Args:
        audio: a path, the bytes of a file, a binary file object (read from its start); samples, (N,) or (N, channels),
            int or float, NumPy's or MLX's; a torch tensor, (N,) or (channels, N); a pair (samples, rate); or datasets'
            {"array": samples, "sampling_rate": rate}.
        sample_rate: the rate wanted, in Hz.
        source_rate: the rate of samples that come without one, in Hz.
        resampler: see `resample`.
        channel: of several, its number from 0 on, "first" (0) or "mean".

    Returns:
        (N,) float32; full scale is 1, and what a file holds above that stays.

    Raises:
        AudioError: nothing that could be used; says why.
    """
    check_channel(channel)
    audio, name = unwrapped(audio), describe(audio)
    if is_file(audio):
        if source_rate is not None:
            raise AudioError(f"{name} has a sample rate of its own; leave sample_rate out")
        blocks = _blocks(audio, sample_rate, resampler, channel)
    else:
        samples, rate = in_memory(audio, source_rate)
        if not len(samples):
            raise AudioError(f"{name} is empty: it holds no samples")
        blocks = resampled([to_mono(samples, channel, name)], rate, sample_rate, resampler)
    return mx.array(np.concatenate(list(blocks)))


class Stream:
    """The waveform of a file; every call of `blocks` decodes it from the start.

    Attributes:
        name: what messages call it.
        sample_rate: of the waveform, in Hz.
        channels: of the file.
        seconds: duration; None where only the end of the decoding tells.
    """

    def __init__(
        self, audio: File, sample_rate: int, resampler: Resampler = "soxr_hq", channel: Channel = "mean"
    ) -> None:
        """Arguments as `load_audio`, for what is decoded; raises AudioError for all that shows at the file's start."""
        check_channel(channel)
        if not is_file(audio):
            raise AudioError(f"a stream takes a path, the bytes of a file or a file object, not {type(audio).__name__}")
        self.name, self.sample_rate = describe(audio), sample_rate
        self._audio, self._resampler, self._channel = audio, resampler, channel
        with Decoder(audio) as decoder:
            self.seconds, self.channels = decoder.seconds, decoder.channels

    def blocks(self) -> Iterator[Array]:
        """The waveform in blocks of some seconds, (N,) float32, none of them empty.

        Raises:
            AudioError: the file turns out to be truncated or not decodable; blocks may have come before that.
        """
        return _blocks(self._audio, self.sample_rate, self._resampler, self._channel)


def _blocks(audio: File, sample_rate: int, resampler: Resampler, channel: Channel) -> Iterator[Array]:
    with Decoder(audio) as decoder:
        if decoder.rate < sample_rate:
            LOG.warning(
                "warning: %s has %d Hz, the model %d: what lies above %d Hz is missing, and scores are less sure",
                decoder.name,
                decoder.rate,
                sample_rate,
                decoder.rate // 2,
            )
        yield from resampled(decoder.chunks(channel), decoder.rate, sample_rate, resampler)
