"""What comes before a model: decoding and resampling of an hour, and the speech check: `speech-zoo bench --audio`."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.audio import load_audio
from speech_zoo_core.audio.vad import speech
from speech_zoo_core.errors import SpeechZooError

from ..models import load
from ..settings import DEFAULT_MODEL, VOICES

FILE_RATE, RATE = 44100, 16000  # Hz
HOUR = 3600  # seconds
CLIP = 10.0  # seconds, of the speech check
STREAMED = "sum(block.size for block in Stream(path, 16000, {!r}).blocks())"
OURS = "from speech_zoo_core.audio import Stream, load_audio"
RUNS = {  # what is imported before the clock starts, and what gives a number of samples
    "ours, streamed, torchaudio's sinc": (OURS, STREAMED.format("torchaudio")),
    "ours, streamed, soxr": (OURS, STREAMED.format("soxr_hq")),
    "ours, whole, soxr": (OURS, "load_audio(path, 16000).size"),
    "mlx-audio, whole": (
        "from mlx_audio import audio_io; from mlx_audio.resample import resample_audio_array",
        "resample_audio_array(audio_io.read(path, dtype='float32')[0], 44100, 16000).size",
    ),
}
PROCESS = """
import json, sys, time
path = sys.argv[1]
{}
start = time.perf_counter()
samples = {}
seconds = time.perf_counter() - start
from speech_zoo.bench.memory import peak_bytes
print(json.dumps([samples, seconds, peak_bytes()]))
"""


def write_mp3(path: Path, seconds: int) -> None:
    """The bundled voices, one after the other and over again, at 44.1 kHz."""
    import av
    import soxr

    voices = np.concatenate([np.array(load_audio(file, RATE)) for file in sorted(VOICES.glob("*.wav"))])
    loop = soxr.resample(voices, RATE, FILE_RATE)
    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=FILE_RATE)
        stream.codec_context.layout = "mono"  # type: ignore[attr-defined]
        stream.codec_context.format = "fltp"  # type: ignore[attr-defined]
        fit = av.AudioResampler(format="fltp", layout="mono", rate=FILE_RATE, frame_size=1152)
        for _ in range(-(-seconds * FILE_RATE // loop.size)):
            frame = av.AudioFrame.from_ndarray(loop[None], format="fltp", layout="mono")
            frame.sample_rate = FILE_RATE
            for part in fit.resample(frame):
                container.mux(stream.encode(part))  # type: ignore[attr-defined]
        container.mux(stream.encode(None))  # type: ignore[attr-defined]


def decoding(seconds: int) -> dict[str, dict[str, Any]]:
    """Seconds and peak bytes of each of RUNS, in a process of its own, on a file of so many seconds."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.mp3"
        write_mp3(path, seconds)
        for name, (imports, run) in RUNS.items():
            command = [sys.executable, "-c", PROCESS.format(imports, run), str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SpeechZooError(f"bench: {name}: {''.join(done.stderr.strip().splitlines()[-1:])}")
            samples, took, peak = json.loads(done.stdout)
            found[name] = {"audio_seconds": samples / RATE, "seconds": took, "peak_bytes": peak}
    return found


def speech_check(repeats: int) -> dict[str, float]:
    """Median seconds of the check of 10 s, and of the default model's embedding of them without it."""
    voices = np.concatenate([np.array(load_audio(file, RATE)) for file in sorted(VOICES.glob("*.wav"))])
    clip, model = np.resize(voices, round(CLIP * RATE)), load(DEFAULT_MODEL)
    times: dict[str, list[float]] = {"check": [], "embedding": []}
    for _ in range(repeats + 1):
        start = time.perf_counter()
        speech(clip, RATE)
        between = time.perf_counter()
        model.embed(clip, RATE, vad=False)
        times["check"].append(between - start)
        times["embedding"].append(time.perf_counter() - between)
    found = {name: statistics.median(each[1:]) for name, each in times.items()}
    return found | {"share": found["check"] / (found["check"] + found["embedding"])}


def run(repeats: int, as_json: bool, seconds: int = HOUR) -> None:
    """Measure and print."""
    result: dict[str, Any] = {"decoding": decoding(seconds), "speech_check": speech_check(repeats)}
    if as_json:
        print(json.dumps(result))
        return
    print(f"{seconds} s of {FILE_RATE} Hz MP3 to {RATE} Hz")
    for name, row in result["decoding"].items():
        peak = f"{row['peak_bytes'] / 2**20:5.0f} MiB" if row["peak_bytes"] else ""
        print(f"{row['seconds']:8.2f} s {peak:9}  {name}")
    check = result["speech_check"]
    share = f"{check['share']:.1%} of the check and {DEFAULT_MODEL}"
    print(f"{check['check'] * 1000:8.2f} ms            the speech check of {CLIP:g} s: {share}")
