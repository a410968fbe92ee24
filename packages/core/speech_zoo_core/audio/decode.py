"""A sound file of any format to float32 samples at the file's own precision, through PyAV.

PyAV brings FFmpeg's libraries, so nothing else need be installed; nothing is read but the file itself. PyAV is
BSD-3-Clause and FFmpeg LGPL; the wheels on PyPI also carry x264 and x265 (GPL) and take about 100 MB. libsndfile (LGPL,
2 MB) gives the same samples of what both read, but reads no M4A, WebM or AMR and only the first of joined MP3s.
"""

import io
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import AudioError, SpeechZooError
from .headers import Extent, Spliced, after_tags, extent_of, has_length
from .samples import Array, Channel, File, check_rate, describe, to_mono

CHUNK = 1 << 17  # samples that are put together before anything is done with them
BUFFER = 1 << 16  # bytes that FFmpeg asks for at once
# Formats whose durations FFmpeg reads from a header; of others it guesses them, or looks at the end of the file.
LENGTHS = frozenset("flac mov,mp4,m4a,3gp,3g2,mj2 nistsphere tta wv ape mpc mpc8".split())
LOSS_SECONDS, LOSS_SHARE = 0.1, 0.01  # what a file may lack of what its header gives


class Decoder:
    """The audio of a file, to be decoded once; a context manager.

    Attributes:
        name: what messages call it.
        rate: of its samples, in Hz.
        channels: how many it begins with.
        seconds: duration, as the header or its size tell; None where only the end of the decoding does.
    """

    def __init__(self, audio: File) -> None:
        """Open a path, the content of a file, or a binary file object, which is read from its start.

        Raises:
            AudioError: it is missing or not audio; whatever shows up to its first samples.
        """
        self.name = describe(audio)
        with ExitStack() as resources, _clear_errors(self.name):
            file = resources.enter_context(opened(audio, self.name))
            if not file.seek(0, io.SEEK_END):
                raise AudioError(f"{self.name} is empty")
            start = after_tags(file)
            self._extent, counted = extent_of(file, start, self.name), has_length(file, start)
            self._container = resources.enter_context(_container(_readable(file, start, self._extent)))
            if not self._container.streams.audio:
                raise AudioError(f"{self.name} holds no audio")
            self._stream = self._container.streams.best("audio") or self._container.streams.audio[0]
            if self._stream.codec_context is None:  # PyAV 17 and earlier do not survive to decode such a stream
                raise AudioError(f"{self.name} is not audio that can be decoded: FFmpeg has no decoder for it")
            self._given = self._promised(counted)
            self._failed, self._undecodable = 0, 0.0  # packets; their seconds, where these are known
            self._frames = self._decoded()
            self._first = next(self._frames, None)
            if self._first is None:
                what = "is not audio that can be decoded" if self._failed else "is empty: it holds no samples"
                raise AudioError(f"{self.name} {what}")
            self.rate = check_rate(self._first.sample_rate, f"{self.name}: ")
            self.channels = self._first.layout.nb_channels
            self.seconds = self._duration()
            self._resources = resources.pop_all()

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def chunks(self, channel: Channel) -> Iterator[Array]:
        """All samples of one channel, or of the mean of all, in order: (N,) float32, none of them empty.

        Raises:
            AudioError: no such channel, NaN or infinite samples, or a file that cannot be decoded or ends early; chunks
                may have come before that.
        """
        total = 0
        with _clear_errors(self.name):
            for samples in self._together():
                total += len(samples)
                yield to_mono(samples, channel, self.name)
        self._check_length(total / self.rate)

    def _together(self) -> Iterator[Array]:
        """Samples (N, channels) of the file's own type, about `CHUNK` at a time."""
        waiting: list[Array] = []
        kind, size = None, 0
        while (frame := self._first or next(self._frames, None)) is not None:
            self._first = None
            if frame.sample_rate != self.rate:
                raise AudioError(
                    f"{self.name} changes its sample rate from {self.rate} to {frame.sample_rate} Hz; cut it there"
                )
            if size >= CHUNK or (waiting and kind != (frame.format.name, frame.layout.nb_channels)):
                yield np.concatenate(waiting)
                waiting, size = [], 0
            kind = frame.format.name, frame.layout.nb_channels
            values = frame.to_ndarray()
            waiting.append(values.T if frame.format.is_planar else values.reshape(-1, kind[1]))
            size += frame.samples
        if waiting:
            yield np.concatenate(waiting)

    def _decoded(self) -> Iterator[Any]:
        """Frames that hold samples; packets that cannot be decoded are counted and passed over, as players do."""
        import av

        packets = self._container.demux(self._stream)
        while True:
            with _interrupts_after():
                packet = next(packets, None)
            if packet is None:
                return
            try:
                yield from (frame for frame in packet.decode() if frame.samples)
            except (av.error.InvalidDataError, av.error.EOFError):
                self._failed += 1
                self._undecodable += float((packet.duration or 0) * packet.time_base)

    def _promised(self, counted: bool) -> float | None:
        """The duration that a header gives, where it can be trusted, in seconds; `counted` says whether an MP3 can."""
        kind = self._container.format.name
        if self._extent is None and (kind in LENGTHS or (kind == "mp3" and counted)):
            return _seconds(self._stream.duration, self._stream.time_base)
        alone = len(self._container.streams) == 1
        if kind == "matroska,webm" and alone and self._container.duration:
            return (self._container.duration - (self._container.start_time or 0)) / 1e6
        return None

    def _duration(self) -> float | None:
        if self._extent is not None and self._extent.length is None and not self._extent.head:
            return None
        own = _seconds(self._stream.duration, self._stream.time_base)
        return own or (self._container.duration / 1e6 if self._container.duration else None)

    def _check_length(self, there: float) -> None:
        """Raises AudioError where more is missing than `LOSS_SECONDS` and `LOSS_SHARE`."""
        given = self._given if self._extent is None else there * (1 + self._extent.lost)
        wrong, says = "truncated", "its header gives"
        if given is None:
            given, wrong, says = there + self._undecodable, "damaged", "of"
        if given - there > max(LOSS_SECONDS, LOSS_SHARE * given):
            raise AudioError(f"{self.name} is {wrong}: {says} {given:.2f} s, {there:.2f} s are there")


@contextmanager
def opened(audio: Any, name: str) -> Iterator[BinaryIO]:
    """A path, the content of a file or a file object as a binary file that can be read in any order, at its start.

    Raises:
        AudioError: there is no such file, or it cannot be read.
    """
    if isinstance(audio, (bytes, bytearray, memoryview)):
        yield io.BytesIO(audio)
        return
    if not isinstance(audio, (str, os.PathLike)):
        seekable = getattr(audio, "seekable", lambda: hasattr(audio, "seek"))()
        if seekable:
            audio.seek(0)
        if not isinstance(audio.read(0), bytes):
            raise AudioError(f"{name} is open as text; open it in binary mode")
        yield audio if seekable else io.BytesIO(audio.read())
        return
    path = Path(audio)
    if not os.path.exists(path):  # noqa: PTH110 (Path.exists raises for a name that is too long)
        raise AudioError(f"{name} does not exist")
    if not path.is_file():
        raise AudioError(f"{name} is {'a folder' if path.is_dir() else 'a pipe or device'}, not an audio file")
    try:
        file = path.open("rb")
    except OSError as error:
        raise AudioError(f"{name} cannot be read: {error.strerror}") from error
    with file:
        yield file


def _readable(file: BinaryIO, start: int, extent: Extent | None) -> Any:
    """What FFmpeg is given: the file, without tags that it stumbles over, and with a WAV's header made plain."""
    if extent is not None and (extent.head or start):
        begin = extent.start if extent.head else start
        size = extent.there if extent.head else file.seek(0, io.SEEK_END) - start
        return Spliced(file, extent.head, begin, size)
    file.seek(0)
    return file


@contextmanager
def _container(file: Any) -> Iterator[Any]:
    """FFmpeg's view of a file; it may open no other one, as playlists ask it to."""
    import av

    options = {"protocol_whitelist": "none"}
    with _interrupts_after():
        container = av.open(file, metadata_errors="replace", buffer_size=BUFFER, container_options=options)
    with container:
        yield container


@contextmanager
def _interrupts_after() -> Iterator[None]:
    """Ctrl-C is raised at the end: while PyAV reads a Python file, it would be taken for the end of the file."""
    handler, main = signal.default_int_handler, threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not handler:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        raise KeyboardInterrupt


def _seconds(value: Any, base: Any) -> float | None:
    """A duration of FFmpeg's; None where it has none."""
    return float(value * base) if value and value > 0 and base else None


@contextmanager
def _clear_errors(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises into AudioError."""
    try:
        yield
    except (SpeechZooError, GeneratorExit):
        raise
    except Exception as error:
        import av

        if type(error) is MemoryError:  # ours, not FFmpeg's
            raise
        known = isinstance(error, (av.error.InvalidDataError, av.error.EOFError))
        reason = "" if known else getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise AudioError(f"{name} is not audio that can be decoded{reason and f' ({reason})'}") from error
