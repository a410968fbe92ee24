"""Test signals, seeded weights and the measures that the golden and the parity tests share."""

import wave
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

RATE = 16000
COSINE = {"float32": 0.999999, "float16": 0.9999, "8-bit": 0.999}  # the least that each precision must reach
LOG_MEL = 1e-3  # the most that a feature may differ from kaldi-native-fbank; in dB from SpeechBrain
LOG_PROBS = 1e-4  # the most that a log-probability may differ in float32, relative to the largest
UNIT = 1e-6  # the most that a component of an embedding of unit length may differ in float32


@cache
def voices() -> dict[str, np.ndarray]:
    """The nine bundled clips, float32 in [-1, 1], decoded without the code under test."""
    clips = {}
    for path in sorted((files("speech_zoo") / "data" / "voices").iterdir(), key=lambda path: path.name):
        if path.name.endswith(".wav"):
            with path.open("rb") as file, wave.open(file) as clip:
                assert (clip.getframerate(), clip.getnchannels(), clip.getsampwidth()) == (RATE, 1, 2)
                clips[path.name[6:8]] = np.frombuffer(clip.readframes(clip.getnframes()), "<i2") / np.float32(32768)
    assert len(clips) == 9
    return {f"voice {number}": samples for number, samples in clips.items()}


def raw_bits(seed: int, size: int, bits: int) -> np.ndarray:
    """The upper `bits` of PCG64's output: NumPy promises this stream for all versions, unlike its distributions."""
    return np.random.PCG64(seed).random_raw(size) >> np.uint64(64 - bits)


@cache
def waveforms() -> dict[str, np.ndarray]:
    """Every test signal by name: float32 in [-1, 1] at 16 kHz."""
    clips = voices()
    long = np.concatenate(list(clips.values()))
    return {
        **clips,
        "1 s": clips["voice 02"][RATE : 2 * RATE],
        "0.3 s": clips["voice 01"][RATE : RATE + 3 * RATE // 10],
        "60 s": np.resize(long, 60 * RATE),  # repeats
        "silence": np.zeros(3 * RATE, np.float32),
        "noise": raw_bits(0, 3 * RATE, 16).astype(np.uint16).view(np.int16) / np.float32(32768),
        "0.5 s": clips["voice 03"][RATE : RATE + RATE // 2],
        "30 s": np.resize(long, 30 * RATE),
    }


VOICES = tuple(f"voice {i:02}" for i in range(1, 10))
ALL = (*VOICES, "0.3 s", "60 s", "silence", "noise")
ECAPA = (*VOICES, "0.5 s", "30 s", "silence", "noise")
ECAPA_FEW = ("voice 07", "1 s", "0.5 s")
FEW = ("voice 01", "0.3 s", "silence", "noise")  # where a CPU is slow and a longer test covers the rest
BRIEF = ("1 s", "0.3 s")  # where only the form or the size of the checkpoint differs


def signals_for(precision: str) -> tuple[str, ...]:
    """Every signal; on a CPU the minute in float32 only, because MLX's other products are slow there."""
    import mlx.core as mx  # here, because speech_zoo turns TF32 off before MLX is imported

    if precision == "float32" or mx.default_device().type != mx.DeviceType.cpu:
        return ALL
    return tuple(name for name in ALL if name != "60 s")


def ecapa_signals_for(precision: str) -> tuple[str, ...]:
    """Every signal; on a CPU few in other precisions: a second of audio takes 1024 channels two seconds in 8 bits."""
    return ECAPA if signals_for(precision) == ALL else ECAPA_FEW


def in_words(signals: Sequence[str]) -> str:
    """A set of signals in a few words."""
    if len(signals) <= 4:
        return ", ".join(signals)
    if not {*signals} <= {*ALL} and {*VOICES} <= {*signals}:
        return ", ".join(["nine voices", *(name for name in signals if name not in VOICES)])
    left_out = [name for name in ALL if name not in signals]
    return f"all {len(ALL)}" + (f" but {', '.join(left_out)}" if left_out else "")


def embed(model: Any, name: str) -> np.ndarray:
    """The model's embedding of a test signal, from the waveform on; some of them hold no speech."""
    return np.array(model.embed(waveforms()[name], sample_rate=RATE, vad=False))


def log_probs(model: Any, name: str) -> np.ndarray:
    """The model's log-probabilities of a test signal, from the waveform on."""
    return np.array(model.log_probs(waveforms()[name], sample_rate=RATE, vad=False))


def rvq_sums(n_frames: int, width: int) -> np.ndarray:
    """Seeded input of the speaker proxy, (T, F) float32 in [-1, 1): one stream, so that longer ones go on."""
    bits = raw_bits(20, n_frames * width, 24).astype(np.float32)
    return (bits * np.float32(2**-23) - np.float32(1)).reshape(n_frames, width)


def cosine(a: Any, b: Any) -> float:
    """The cosine of two vectors in float64."""
    a, b = (np.asarray(x, np.float64).ravel() for x in (a, b))
    assert a.shape == b.shape
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def cosines(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """The cosine of each signal's embeddings, and the same after the oracle's mean is subtracted from both.

    Random weights give embeddings that are alike for all clips (cosine about 0.99), which hides errors; what the
    second figure compares is how the clips differ.
    """
    assert ours.keys() == theirs.keys()
    mine, right = ({name: _unit(x) for name, x in vectors.items()} for vectors in (ours, theirs))
    sizes = [float(np.linalg.norm(x)) for x in theirs.values()]
    assert min(sizes) > 1e-2 * np.median(sizes), "an embedding of the oracle is so small that it has no direction"
    mean = sum(right.values()) / len(right) if len(right) > 1 else 0.0
    return (
        {name: cosine(mine[name], right[name]) for name in right},
        {name: cosine(mine[name] - mean, right[name] - mean) for name in right},
    )


def relative(ours: Any, theirs: Any) -> float:
    """The largest difference, relative to the largest value."""
    ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def best(scores: np.ndarray, count: int) -> list[int]:
    """The places of the highest scores, best first."""
    return np.argsort(-scores, kind="stable")[:count].tolist()


def _unit(x: Any) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x)


def seeded_weights(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, np.ndarray]:
    """Random weights and BatchNorm statistics for a PyTorch state dict with these names and shapes.

    The same on every machine: only exact operations on PCG64's bits.
    """
    norms = {name.removesuffix(".running_var") for name in shapes if name.endswith(".running_var")}
    weights = {}
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        owner, _, part = name.rpartition(".")
        if part == "num_batches_tracked":
            weights[name] = np.array(1000, np.int64)
            continue
        if part == "running_var":
            low, high = 0.5, 2.0
        elif owner in norms:
            low, high = {"running_mean": (-0.3, 0.3), "weight": (0.4, 1.1), "bias": (-0.3, 0.3)}[part]
        else:  # He's uniform for weights; biases of linear layers
            bound = 0.1 if part == "bias" else float(np.sqrt(6 / np.prod(shape[1:])))
            low, high = -bound, bound
        uniform = raw_bits(seed * 10_000 + i, int(np.prod(shape)), 24).astype(np.float32) * np.float32(2**-24)
        weights[name] = (np.float32(low) + np.float32(high - low) * uniform).reshape(shape)
    return weights
