"""What the header of a sound file promises, for the formats whose lengths FFmpeg does not tell or takes at their word.

A data length is a placeholder where the writer could not go back to fill it in: 0, or what tools write into a pipe.
"""

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import AudioError

PIPES = (2**32, 2**31, 2_000_000_000, 0x7F000000)  # what placeholders are near to; the last is SoX's, of AIFF
NEAR = 1 << 16  # bytes
LONGEST_FMT = 4096  # bytes
RIFF = {b"RIFF": "<", b"RF64": "<", b"BW64": "<", b"RIFX": ">"}
AU_KINDS = {(1, 16): 3, (1, 24): 4, (1, 32): 5, (3, 32): 6, (3, 64): 7}  # PCM and float, bits
W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
W64_DATA = b"data" + bytes.fromhex("f3acd3118cd100c04f8edb8a")
CHUNKS = frozenset(b"data,fmt ,fact,LIST,bext,JUNK,junk,iXML,PEAK,cue ,smpl,inst,ds64,id3 ,ID3 ,PAD ,FLLR".split(b","))
XING = (b"Xing", b"Info", b"VBRI")
MP3_HEAD = 4096  # bytes after the ID3 tag in which a Xing frame shows


@dataclass(frozen=True)
class Extent:
    """The samples of a file.

    Attributes:
        start: where they begin.
        length: how many bytes there are, as the header says; None if it says nothing or a placeholder.
        there: how many bytes there are.
        head: what is put in place of the bytes before `start`; empty if these are in order.
    """

    start: int
    length: int | None
    there: int
    head: bytes = b""

    @property
    def lost(self) -> float:
        """How many times longer the file would be if all of it were there; 0 where nothing is lost."""
        return 0.0 if self.length is None or not self.there else max(0.0, self.length / self.there - 1)


def is_placeholder(length: int) -> bool:
    """Whether a length in bytes is one that was never filled in."""
    return length <= 0 or length >= 2**62 or any(abs(length - size) <= NEAR for size in PIPES)


class Spliced:
    """A file that reads as `head` and then the bytes of another from `start` on; what FFmpeg is given."""

    def __init__(self, file: BinaryIO, head: bytes, start: int, size: int) -> None:
        self._file, self._head, self._start, self._size, self._at = file, head, start, len(head) + size, 0

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        count = left if count < 0 else min(count, left)
        if self._at < len(self._head):
            part = self._head[self._at : self._at + count]
        else:
            self._file.seek(self._start + self._at - len(self._head))
            part = self._file.read(count)
        self._at += len(part)
        return part

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at


def after_tags(file: BinaryIO) -> int:
    """Where a file begins behind the ID3v2 tags at its start."""
    start = 0
    while True:
        file.seek(start)
        tag = file.read(10)
        if len(tag) < 10 or tag[:3] != b"ID3" or max(tag[6:10]) > 127:
            return start
        size = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]
        start += 10 + size + (10 if tag[5] & 0x10 else 0)  # a footer


def extent_of(file: BinaryIO, start: int, name: str) -> Extent | None:
    """The samples of a WAV (RIFF, RIFX, RF64, BW64), W64, AIFF, AU or CAF file that begins at `start`; else None.

    Raises:
        AudioError: it is one of these, without samples; in the words for a file of this `name`.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(start)
    head = file.read(40)
    if head[:4] in RIFF and head[8:12] == b"WAVE":
        extent = _riff(file, start + 12, size, RIFF[head[:4]])
    elif head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        extent = _chunked(file, start + 12, size, ">4sI", b"SSND", 8)
    elif head[:4] == b"caff":
        extent = _chunked(file, start + 8, size, ">4sq", b"data", 4)
    elif head[:16] == W64:
        extent = _chunked(file, start + 40, size, "<16sq", W64_DATA, -24)
    elif head[:4] == b".snd" and len(head) >= 24:
        offset, length = struct.unpack(">II", head[4:12])
        extent = _extent(start + offset, length, size)
    else:
        return None
    if extent is None:
        raise AudioError(f"{name} is truncated: it has no audio data")
    if not extent.there:
        raise AudioError(f"{name} is empty: it holds no samples")
    return extent


def has_length(file: BinaryIO, start: int) -> bool:
    """Whether an MP3 that begins at `start` says how many frames it has."""
    file.seek(start)
    head = file.read(MP3_HEAD)
    return any(mark in head for mark in XING)


def _extent(start: int, length: int, size: int, head: bytes = b"") -> Extent:
    there = max(0, size - start)
    if is_placeholder(length) and not 0 < length <= there:
        return Extent(start, None, there, head)
    return Extent(start, length, min(there, length), head)


def _chunked(file: BinaryIO, at: int, size: int, layout: str, wanted: bytes, inside: int) -> Extent | None:
    """The data chunk of a file of chunks.

    Args:
        at: where the first chunk begins.
        layout: of a chunk's name and length.
        inside: bytes of the data chunk before the samples; below 0: the bytes of the name and length, counted in.
    """
    step = struct.calcsize(layout)
    counted, skipped = (step, 0) if inside < 0 else (0, inside)
    while at + step <= size:
        file.seek(at)
        name, length = struct.unpack(layout, file.read(step))
        if name == wanted:
            return _extent(at + step + skipped, length - counted - skipped, size)
        length = max(length, counted)
        at += (length + 7 & ~7) if counted else step + length + (length % 2 if layout == ">4sI" else 0)
    return None


def _riff(file: BinaryIO, at: int, size: int, order: str) -> Extent | None:
    """The data chunk of a WAV, and a header without what FFmpeg stumbles over."""
    fmt, long = b"", None
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        at += 8
        if name == b"data" and not (length == 0 and _known(file, at, size)):
            if not fmt:
                break
            if long is not None and length == 0xFFFFFFFF:
                length = long
            extent = _extent(at, length, size)
            head = _wav_head(fmt, extent.there) if order == "<" else _big_endian_head(fmt, extent.there)
            return Extent(extent.start, extent.length, extent.there, head)
        if name == b"fmt ":
            fmt = file.read(min(length, LONGEST_FMT))
        elif name == b"ds64" and length >= 16:
            long = struct.unpack("<8xQ", file.read(16))[0]
        # The byte that evens out an odd chunk is missing in some files.
        padded = length % 2 and not (_known(file, at + length, size) and not _known(file, at + length + 1, size))
        at += length + padded
    return None


def _known(file: BinaryIO, at: int, size: int) -> bool:
    """Whether a chunk of a usual name begins here."""
    file.seek(at)
    return at + 8 <= size and file.read(4) in CHUNKS


def _wav_head(fmt: bytes, length: int) -> bytes:
    """The header of a WAV of `length` bytes of samples."""
    length = min(length, 0xFFFFFFFF)
    chunk = struct.pack("<4sI", b"fmt ", len(fmt)) + fmt + bytes(len(fmt) % 2)
    whole = min(0xFFFFFFFF, 12 + len(chunk) + length)
    return struct.pack("<4sI4s", b"RIFF", whole, b"WAVE") + chunk + struct.pack("<4sI", b"data", length)


def _big_endian_head(fmt: bytes, length: int) -> bytes:
    """A header for the samples of a RIFX file, whose byte order FFmpeg does not heed: that of an AU file."""
    fields = struct.unpack(">HHIIHH", fmt[:16].ljust(16, b"\0"))
    tag, channels, rate, bits = *fields[:3], fields[5]
    if tag == 0xFFFE:  # extensible: the tag stands further behind
        tag = int.from_bytes(fmt[24:26], "big")
    if (tag, bits) not in AU_KINDS:  # of single bytes, which have no order
        return _wav_head(struct.pack("<HHIIHH", *fields), length)
    return struct.pack(">4sIIIII", b".snd", 24, min(length, 0xFFFFFFFF), AU_KINDS[tag, bits], rate, channels)
