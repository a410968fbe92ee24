"""Decoding: files of every kind to the samples that they hold, whole and streamed; what is damaged in one line."""

import io
import signal
import struct
import tracemalloc
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sounds import RATE, chunk, encoded, fmt, noise, pcm, riff, written
from speech_zoo_core.audio.headers import is_placeholder
from speech_zoo_core.audio.stream import Stream, load_audio
from speech_zoo_core.errors import AudioError

X = noise(RATE)  # one second
PCM = pcm(X)
HELD = np.frombuffer(PCM, "<i2") / np.float32(32768)
DATA = chunk(b"data", PCM)
INFO = b"INFOISFT" + struct.pack("<I", 5) + b"Lavf\0"


def decoded(content: Any, rate: int = RATE) -> np.ndarray:
    """What `load_audio` gives, which `Stream` must give as well."""
    whole = np.array(load_audio(content, rate))
    blocks = list(Stream(content, rate).blocks())
    assert all(block.dtype == np.float32 and block.size for block in blocks)
    assert np.array_equal(np.concatenate(blocks), whole)
    return whole


def refusal(content: Any) -> str:
    """The one line with which a file is refused, whole and streamed."""
    said = []
    for read in (lambda: load_audio(content, RATE), lambda: list(Stream(content, RATE).blocks())):
        with pytest.raises(AudioError) as caught:
            read()
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "\n" not in said[0]
    return said[0]


# Exactness


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("form", "subtype"),
    [
        *(("WAV", kind) for kind in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM")),
        *((form, "PCM_24") for form in ("FLAC", "W64", "RF64", "AU", "AIFF", "CAF", "NIST")),
        *((form, "FLOAT") for form in ("W64", "RF64", "AU", "AIFF", "CAF")),
    ],
)
def test_samples_are_those_of_libsndfile_to_the_last_bit(form: str, subtype: str, channels: int) -> None:
    content = written(noise(RATE, channels), RATE, form, subtype)
    expected = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0]
    assert np.array_equal(load_audio(content, RATE, channel="first"), expected[:, 0])
    assert np.array_equal(decoded(content), expected.mean(axis=1, dtype=np.float64).astype(np.float32))


@pytest.mark.parametrize(("form", "subtype"), [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_lossy_formats_are_as_libsndfile_decodes_them(form: str, subtype: str) -> None:
    content = written(X, RATE, form, subtype)
    assert np.abs(decoded(content) - soundfile.read(io.BytesIO(content), dtype="float32")[0]).max() < 1e-5


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_what_lies_above_full_scale_stays(subtype: str) -> None:
    loud = decoded(written(10 * X, RATE, "WAV", subtype))
    assert np.array_equal(loud, (10 * X).astype(np.float32))
    assert np.abs(loud).max() > 8


def test_what_lies_below_16_bits_stays() -> None:
    quiet = decoded(written(1e-4 * X, RATE, "WAV", "PCM_24"))
    assert np.abs(quiet - 1e-4 * X).max() < 2**-23
    assert len(np.unique(quiet)) > 1000


@pytest.mark.parametrize(
    ("content", "rate"),
    [
        (written(X[:8000], 8000, "WAV", "GSM610"), 8000),
        (written(X[:8000], 8000, "WAV", "G721_32"), 8000),
        (encoded(X, RATE, "wav", "libmp3lame"), RATE),
        (encoded(X[:8000], 8000, "amr", "libopencore_amrnb"), 8000),
        (encoded(X, RATE, "mp4", "aac"), RATE),
        (encoded(X, RATE, "adts", "aac"), RATE),
        (encoded(noise(48000), 48000, "webm", "libopus"), 48000),
        (written(X, RATE, "OGG", "OPUS"), RATE),
        (written(X, RATE, "CAF", "ALAC_16"), RATE),
    ],
    ids=["gsm in wav", "g.721 in wav", "mp3 in wav", "amr", "m4a", "aac", "webm", "opus", "alac"],
)
def test_formats_of_telephones_and_browsers(content: bytes, rate: int) -> None:
    samples = decoded(content, rate)
    assert 0.97 * rate < samples.size < 1.12 * rate
    assert np.abs(samples).max() > 0.05


# How a file is given


def test_a_path_bytes_and_file_objects_are_the_same(tmp_path: Path) -> None:
    content = riff(fmt(), DATA)
    path = tmp_path / "a.mp3"  # its name says nothing
    path.write_bytes(content)
    assert np.array_equal(decoded(path), HELD)
    assert np.array_equal(decoded(str(path)), HELD)
    assert np.array_equal(decoded(content), HELD)
    assert np.array_equal(decoded(memoryview(content)), HELD)
    assert np.array_equal(decoded(io.BytesIO(content)), HELD)
    with path.open("rb") as file:
        file.read()  # they are read from their start
        assert np.array_equal(decoded(file), HELD)
    with path.open(encoding="latin-1") as file:
        assert refusal(file) == f"{path} is open as text; open it in binary mode"


class Pipe(io.RawIOBase):
    """Bytes that come once, as from standard input."""

    def __init__(self, content: bytes) -> None:
        self._bytes = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._bytes.read(size)


def test_a_pipe_is_read_to_its_end() -> None:
    assert np.array_equal(load_audio(Pipe(riff(fmt(), chunk(b"data", PCM, 0))), RATE), HELD)


# Headers


EXTENSIBLE = struct.pack("<HHI", 22, 16, 4) + bytes.fromhex("0100000000001000800000aa00389b71")
LAYOUTS = {
    "plain": riff(fmt(), DATA),
    "a list of zeros": riff(fmt(), chunk(b"LIST", bytes(393164)), DATA),
    "an odd list": riff(fmt(), chunk(b"LIST", INFO), DATA),
    "an odd list without its pad byte": riff(fmt(), chunk(b"LIST", INFO, pad=False), DATA),
    "chunks of field recorders": riff(chunk(b"JUNK", bytes(28)), chunk(b"bext", bytes(858)), fmt(), DATA),
    "format of 18 bytes": riff(fmt(more=b"\0\0"), DATA),
    "extensible": riff(fmt(tag=0xFFFE, more=EXTENSIBLE), DATA),
    "a second format": riff(fmt(8000), fmt(), DATA),
    "an ID3 tag before": b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + riff(fmt(), DATA),
    "two ID3 tags before": 2 * (b"ID3\3\0\0\0\0\1\x00" + bytes(128)) + riff(fmt(), DATA),
    "something behind": riff(fmt(), DATA) + b"\1\2\3behind",
    "a list behind": riff(fmt(), DATA, chunk(b"LIST", INFO)),
    "an empty data chunk before": riff(fmt(), chunk(b"data", b""), DATA),
    "no length of the whole": riff(fmt(), DATA, size=0),
    "RF64 with a placeholder": riff(
        chunk(b"ds64", struct.pack("<QQQI", 2**33, len(PCM), RATE, 0)), fmt(), chunk(b"data", PCM, 2**32 - 1)
    ).replace(b"RIFF", b"RF64", 1),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_a_wav(name: str) -> None:
    assert np.array_equal(decoded(LAYOUTS[name]), HELD)


@pytest.mark.parametrize(("tag", "kind"), [(1, ">i2"), (3, ">f4"), (3, ">f8"), (1, "u1")])
def test_a_big_endian_wav(tag: int, kind: str) -> None:
    scaled = {">i2": HELD * 32768, "u1": HELD * 128 + 128}.get(kind, HELD).astype(kind)
    width = scaled.itemsize
    head = b"fmt " + struct.pack(">IHHIIHH", 16, tag, 1, RATE, width * RATE, width, 8 * width)
    data = b"data" + struct.pack(">I", scaled.nbytes) + scaled.tobytes()
    samples = decoded(b"RIFX" + struct.pack(">I", 4 + len(head + data)) + b"WAVE" + head + data)
    assert np.abs(samples - HELD).max() <= (1 / 128 if kind == "u1" else 0)


@pytest.mark.parametrize(
    "size",
    [0, 2**31, 2**32 - 1, 2**32 - 37, 2**32 - 101, 2**31 - 1, 2**31 - 37, 0x7FFFF000, 0x7FFF0000, 2_000_000_000,
     2**32 - 4096],
)  # fmt: skip
def test_lengths_of_wavs_that_were_written_to_a_pipe(size: int) -> None:
    assert np.array_equal(decoded(riff(fmt(), chunk(b"data", PCM, size), size=min(size + 36, 2**32 - 1))), HELD)
    float_pcm = HELD.astype("<f4").tobytes()
    assert np.array_equal(decoded(riff(fmt(bits=32, tag=3), chunk(b"data", float_pcm, size))), HELD)


@pytest.mark.parametrize("more", [1, 2, 16, 44, 300])
def test_lengths_that_count_a_little_more_than_there_is(more: int) -> None:
    assert np.array_equal(decoded(riff(fmt(), chunk(b"data", PCM, len(PCM) + more, pad=False))), HELD)


def test_placeholders_of_other_formats() -> None:
    au, aiff, caf = (written(X, RATE, form, "PCM_16") for form in ("AU", "AIFF", "CAF"))
    assert np.abs(decoded(au[:8] + b"\xff" * 4 + au[12:]) - X).max() < 1e-4
    at = aiff.index(b"SSND") + 4
    assert np.abs(decoded(aiff[:at] + struct.pack(">I", 0x7F000008) + aiff[at + 4 :]) - X).max() < 1e-4
    at = caf.index(b"data") + 4
    assert np.abs(decoded(caf[:at] + b"\xff" * 8 + caf[at + 8 :]) - X).max() < 1e-4


def test_a_length_that_a_file_may_have_is_no_placeholder() -> None:
    assert not any(map(is_placeholder, (1, 2**24, 10**9, 2**31 - 2**20, 2**31 + 2**20, 3 * 10**9, 2**33)))


# Files that end early


@pytest.mark.parametrize(
    ("form", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("RF64", "PCM_16"), ("W64", "PCM_24"), ("AIFF", "PCM_16"), ("AU", "PCM_16"),
     ("CAF", "PCM_16"), ("NIST", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("WAV", "IMA_ADPCM")],
)  # fmt: skip
def test_half_a_file_is_refused_and_says_how_much_is_there(form: str, subtype: str) -> None:
    content = written(noise(4 * RATE), RATE, form, subtype)
    said = refusal(content[: len(content) // 2])
    given, there = (float(word) for word in said.split() if word.replace(".", "").isdigit())
    assert said.startswith("the clip is truncated: its header gives ")
    assert given == pytest.approx(4, abs=0.2)
    assert there == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("form", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF"])
def test_a_small_loss_is_taken_as_it_is(form: str) -> None:
    content = written(X, RATE, form, "PCM_16")
    size = decoded(content[:-1000]).size  # 1/32 s
    assert size in (RATE - 500, RATE - 499)
    assert "0.89 s are there" in refusal(content[:-3400])


def test_a_loss_of_less_than_a_hundredth_is_taken_as_it_is() -> None:
    content = riff(fmt(), chunk(b"data", pcm(noise(20 * RATE))))
    assert decoded(content[: -2 * RATE // 8]).size == 20 * RATE - RATE // 8
    assert "its header gives 20.00 s, 19.75 s are there" in refusal(content[: -2 * RATE // 4])


@pytest.mark.parametrize("kept", [0, 4, 11, 12, 20, 36, 40, 43, 44])
def test_a_header_alone(kept: int) -> None:
    assert refusal(riff(fmt(), DATA)[:kept]).startswith("the clip is ")


def test_damage_in_the_middle_that_is_no_small_loss() -> None:
    content = bytearray(written(noise(4 * RATE), RATE, "FLAC"))
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    assert "the clip is truncated: its header gives 4.00 s" in refusal(bytes(content))


# Files that are put together


def test_joined_mp3s_are_read_to_their_end() -> None:
    one, two = (written(noise(n), RATE, "MP3", "MPEG_LAYER_III") for n in (RATE, 2 * RATE))
    samples = decoded(one + two + one)
    assert samples.size == pytest.approx(4 * RATE, abs=8000)
    alone = decoded(two)[2000:-2000]
    best = np.argmax(np.correlate(samples[: 2 * RATE], alone[:4000], "valid"))
    assert np.abs(samples[best : best + alone.size] - alone).max() < 0.01
    assert Stream(one, RATE).seconds == pytest.approx(1, abs=0.1)


def test_joined_opus_and_vorbis_are_read_to_their_end() -> None:
    for subtype in ("OPUS", "VORBIS"):
        parts = [written(noise(n), RATE, "OGG", subtype) for n in (2 * RATE, 3 * RATE)]
        assert decoded(b"".join(parts)).size == pytest.approx(5 * RATE, abs=1000)


def test_a_rate_that_changes_in_the_middle() -> None:
    one, two = (written(noise(32000), rate, "MP3", "MPEG_LAYER_III") for rate in (16000, 24000))
    assert "changes its sample rate from 16000 to 24000 Hz" in refusal(one + two)


# What is wrong with a file


BROKEN = {  # content, and what the message says
    "empty.wav": (b"", "is empty"),
    "text.wav": (b"this is no audio, it is a line of text\n" * 20, "not audio that can be decoded"),
    "noise.wav": (bytes(range(256)) * 20, "not audio that can be decoded"),
    "noise.mp3": (b"ID3" + bytes(200), "not audio that can be decoded"),
    "noise.flac": (b"fLaC" + bytes(200), "not audio that can be decoded"),
    "notes.txt": (b"a text file", "not audio that can be decoded"),
    "one_byte.mp3": (b"\xff", "not audio that can be decoded"),
    "riff_alone.wav": (b"RIFF", "not audio that can be decoded"),
    "no_data.wav": (riff(fmt()), "truncated: it has no audio data"),
    "no_samples.wav": (riff(fmt(), chunk(b"data", b"")), "is empty"),
    "rate_0.wav": (riff(fmt(0), DATA), ""),
    "rate_1.wav": (riff(fmt(1), DATA), "outside 1000 to 768000 Hz"),
    "unknown_kind.wav": (riff(fmt(tag=0x2801), DATA), "FFmpeg has no decoder for it"),
    "rate_max.wav": (riff(fmt(2**32 - 1), DATA), ""),
    "voice.ogg": (b"OggS" + bytes(100), "not audio that can be decoded"),
    "voice.m4a": (b"\0\0\0\x20ftypM4A " + bytes(100), "not audio that can be decoded"),
    "list.m3u8": (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "not audio that can be decoded"),
    "list.txt": (b"ffconcat version 1.0\nfile a.wav\n", "not audio that can be decoded"),
    "call.sdp": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n", "decoded"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_not_audio(tmp_path: Path, name: str) -> None:
    content, reason = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    said = refusal(path)
    assert said.startswith(str(path))
    assert reason in said


def crc(data: bytes, bits: int, polynomial: int) -> bytes:
    value = 0
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (bits - 1) & 1 else 0)
        value &= (1 << bits) - 1
    return value.to_bytes(bits // 8, "big")


@pytest.mark.parametrize("rate", [0, 1, RATE])
def test_a_flac_whose_header_says_what_rate_its_frames_have(rate: int) -> None:
    """STREAMINFO and one frame of 1000 samples as they are (RFC 9639), which leaves the rate to STREAMINFO."""
    info = (1000).to_bytes(2, "big") * 2 + bytes(6) + (rate << 44 | 15 << 36 | 1000).to_bytes(8, "big") + bytes(16)
    head = bytes([0xFF, 0xF8, 0x70, 0x08, 0]) + (999).to_bytes(2, "big")
    head += crc(head, 8, 0x07)
    body = head + b"\x02" + np.frombuffer(PCM, "<i2")[:1000].astype(">i2").tobytes()
    content = b"fLaC" + bytes([0x80, 0, 0, len(info)]) + info + body + crc(body, 16, 0x8005)
    if rate == RATE:
        assert np.array_equal(decoded(content), HELD[:1000])
    else:
        assert refusal(content).startswith("the clip")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("form", "subtype"), [("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("RF64", "FLOAT"), ("AU", "FLOAT")])
def test_nan_and_infinite_samples(form: str, subtype: str, bad: float) -> None:
    samples = noise(200_000)
    samples[-1] = bad
    assert refusal(written(samples, RATE, form, subtype)) == (
        "the clip holds NaN or infinite samples; clean it before use"
    )


def test_a_film_without_sound() -> None:
    out = io.BytesIO()
    import av

    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 16
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        container.mux(stream.encode(None))
    assert refusal(out.getvalue()) == "the clip holds no audio"


def test_a_decoder_that_raises_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    def fail(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setattr(av, "open", fail)
    assert refusal(riff(fmt(), DATA)) == "the clip is not audio that can be decoded (float division by zero)"


# Rates and memory


def test_a_file_below_the_rate_asked_for_gets_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "call.wav"
    path.write_bytes(written(X, 8000))
    load_audio(path, RATE)
    assert [record.getMessage() for record in caplog.records] == [
        f"warning: {path} has 8000 Hz, the model 16000: what lies above 4000 Hz is missing, and scores are less sure"
    ]
    caplog.clear()
    load_audio(path, 8000)
    load_audio(written(X, 44100), RATE)
    assert not caplog.records


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    peaks = []
    for minutes in (1, 4):
        with path.open("wb") as raw, wave.open(raw) as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(44100)
            for _ in range(minutes * 6):
                file.writeframes(bytes(10 * 44100 * 4))
        tracemalloc.start()
        assert sum(block.size for block in Stream(path, RATE).blocks()) == minutes * 60 * RATE
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


@pytest.mark.parametrize("number", [2, 20])
def test_an_interrupt_while_a_file_is_read_is_no_end_of_it(number: int, tmp_path: Path) -> None:
    class Interrupted(io.FileIO):
        reads = 0

        def read(self, size: int = -1) -> bytes:
            self.reads += 1
            if self.reads == number:
                signal.raise_signal(signal.SIGINT)
            return super().read(size)

    soundfile.write(tmp_path / "long.wav", np.sin(np.arange(120 * RATE)) * 0.3, RATE)
    file = Interrupted(str(tmp_path / "long.wav"))
    with pytest.raises(KeyboardInterrupt):
        load_audio(file, RATE)
    assert file.reads >= number and signal.getsignal(signal.SIGINT) is signal.default_int_handler
