"""What a GPU is measured for: each section yields findings, (case, figures, whether a limit or a goal is met)."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import mlx.core as mx
import numpy as np
import speech_zoo
from families import Finding, as_on_a_gpu, each
from precision import checked, outputs, parity
from speech_zoo.bench import diarization
from speech_zoo.bench.memory import peak_bytes
from speech_zoo.bench.run import speech
from speech_zoo.publish.check import _cosine
from speech_zoo.settings import DEFAULT_MODEL, VOICES
from speech_zoo_core import device
from speech_zoo_core.audio import load_audio
from speech_zoo_core.tasks import audio_model
from speed import speed

RATE = 16000


def run(name: str, models: list[str], cpu: bool) -> NoReturn:
    """Print the findings of a section, a line of JSON each, and end the process."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print, too
    if name.startswith("{"):
        outputs(**json.loads(name))
        os._exit(0)
    sections: dict[str, Callable[[], Iterator[Finding]]] = {
        "device": lambda: seen(cpu),
        "parity": lambda: each(parity, models, cpu),
        "check": lambda: each(checked, models, cpu),
        "speed": lambda: speed(models, cpu),
        "corpus": lambda: corpus(cpu),
        "diarize": lambda: diarize(cpu),
        "lengths": lambda: lengths(cpu),
        "exception": lambda: exception(cpu),
        "threads": lambda: threads(cpu),
    }
    for case, figures, passed in sections[name]():
        print(json.dumps({"case": case, "figures": figures, "passed": passed}), file=replies, flush=True)
    os._exit(0)  # without waiting for threads that wait for what is too slow


def seen(cpu: bool) -> Iterator[Finding]:
    facts = mx.device_info()
    memory = f"{facts.get('memory_size', 0) / 2**30:.0f} GiB"
    yield "MLX sees", {str(facts.get("device_name", "?")): memory}, cpu or not device.on_cpu()
    first, second, *_ = (load_audio(path, RATE) for path in sorted(VOICES.glob("*.wav")))
    model, half = speech_zoo.load(DEFAULT_MODEL), first.size // 2
    one = model.verify((first[:half], RATE), (first[half:], RATE))
    two = model.verify((first, RATE), (second, RATE))
    scores = {"one voice": f"{one.score:.3f}", "two": f"{two.score:.3f}", "threshold": f"{one.threshold:.3f}"}
    yield f"{DEFAULT_MODEL} verifies", scores, one.same_speaker and not two.same_speaker


def random_clips(count: int, shortest: float, longest: float, seed: int = 0) -> list[Any]:
    """Stretches of the bundled voices, of random length, (N,) float32 at RATE."""
    random, voices = np.random.default_rng(seed), speech(60.0, 1)[0]
    sizes = random.integers(int(shortest * RATE), int(longest * RATE), count)
    return [np.roll(voices, -random.integers(voices.size))[:size] for size in sizes]


def corpus(cpu: bool) -> Iterator[Finding]:
    """Seconds of audio in a second, of clips in memory."""
    model, clips = speech_zoo.load(DEFAULT_MODEL), random_clips(4 if cpu else 2000, 3, 15)
    for case, some, vad in (("cold", clips, False), ("warm", clips, False), ("speech check", clips[:300], True)):
        start = time.perf_counter()
        mx.eval(model.embed_batch(some, RATE, vad=vad))
        took, audio = time.perf_counter() - start, sum(clip.size for clip in some) / RATE
        yield f"{len(some)} clips, {case}", {"audio s / s": f"{audio / took:.0f}", "s": f"{took:.1f}"}, None


def diarize(cpu: bool) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "talk.wav"
        diarization.write_recording(path, 12.0 if cpu else 3600.0)
        row = diarization.measure(str(path))
    figures = {"s": f"{row['seconds']:.1f}", "times real time": f"{row['audio_seconds'] / row['seconds']:.0f}"}
    figures |= {f"{stage} s": f"{seconds:.1f}" for stage, seconds in row["stages"].items()}
    yield f"{row['audio_seconds']:.0f} s", figures, None


def on_gpu(cpu: bool) -> Any:
    """The default model, computed by MLX the way of a GPU, in float16 there."""
    if cpu:
        as_on_a_gpu()
    return speech_zoo.load(DEFAULT_MODEL, dtype="float32" if cpu else "float16", engine="mlx")


def lengths(cpu: bool) -> Iterator[Finding]:
    """Clips of random length: what a new one costs, and whether memory grows."""
    model, count = on_gpu(cpu), 8 if cpu else 500
    times: dict[str, list[float]] = {"new bucket": [], "new length": [], "known length": []}
    lengths, buckets, half = set(), set(), (0, 0)
    clips = random_clips(count, 0.5, 1.0 if cpu else 15.0)
    for i, clip in enumerate([*clips, *clips[:4]]):
        frames = model.config.front_end.num_frames(clip.size)
        size = audio_model.bucket(frames)
        kind = "new bucket" if size not in buckets else "new length" if frames not in lengths else "known length"
        lengths.add(frames), buckets.add(size)
        start = time.perf_counter()
        mx.eval(model.embed(clip, RATE, vad=False))
        times[kind].append(time.perf_counter() - start)
        if i == count // 2:
            half = mx.get_active_memory(), mx.get_cache_memory(), peak_bytes() or 0
    for kind, seconds in times.items():
        if seconds:
            worst, median = max(seconds) * 1e3, statistics.median(seconds) * 1e3
            yield kind, {"calls": len(seconds), "median ms": f"{median:.1f}", "worst ms": f"{worst:.1f}"}, None
    now = mx.get_active_memory(), mx.get_cache_memory(), peak_bytes() or 0
    names = ("active MB", "cached MB", "process's peak MB")
    figures = {name: f"{a / 1e6:.0f} to {b / 1e6:.0f}" for name, a, b in zip(names, half, now, strict=True)}
    grown = now[0] > half[0] * 1.05 + 1e6 or now[2] > half[2] * 1.1 + 50e6
    yield f"memory, {count // 2} to {count} lengths", figures | {"buckets": len(buckets)}, not grown


def exception(cpu: bool) -> Iterator[Finding]:
    """An exception within a model that is being traced: afterwards all is as before."""
    model = on_gpu(cpu)
    known, new = random_clips(2, 0.5, 1.0)
    before = np.array(model.embed(known, RATE, vad=False))
    kind, call = type(model), type(model).__call__

    def fails(self: Any, x: mx.array, lengths: mx.array | None = None) -> mx.array:
        call(self, x, lengths)
        raise ZeroDivisionError("while a model is traced")

    kind.__call__, raised = fails, False
    clip = np.concatenate([new, new])  # of a bucket that is not known yet
    try:
        model.embed(clip, RATE, vad=False)
    except ZeroDivisionError:
        raised = True
    kind.__call__ = call
    again, after = (np.array(model.embed(each, RATE, vad=False)) for each in (clip, known))
    fresh = np.array(on_gpu(cpu).embed(clip, RATE, vad=False))
    yield "was raised", {"in a trace still": device.in_trace()}, raised and not device.in_trace()
    figures = {"the clip": f"{_cosine(again, fresh):.6f}", "another": f"{_cosine(after, before):.6f}"}
    yield "the same embeddings", figures, min(_cosine(again, fresh), _cosine(after, before)) > 0.99999


def threads(cpu: bool) -> Iterator[Finding]:
    """Two threads with one model: the same embeddings as in turn."""
    model = on_gpu(cpu)
    clips = [random_clips(3 if cpu else 100, 0.5, 0.8 if cpu else 10.0, seed) for seed in (0, 1)]

    def embedded(some: list[Any]) -> Any:
        return [np.array(model.embed(clip, RATE, vad=False)) for clip in some]

    with ThreadPoolExecutor(2) as pool:  # first, so that both compile
        at_once = list(pool.map(embedded, clips))
        start = time.perf_counter()
        in_turn = [embedded(some) for some in clips]
        between = time.perf_counter()
        list(pool.map(embedded, clips))
    ratio = (time.perf_counter() - between) / (between - start)
    least = min(_cosine(a, b) for some in zip(at_once, in_turn, strict=True) for a, b in zip(*some, strict=True))
    yield "two at once", {"least cosine": f"{least:.6f}", "time / in turn": f"{ratio:.2f}"}, least > 0.9999
