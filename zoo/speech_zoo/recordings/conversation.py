"""Conversations made of the bundled voices, with who speaks when: for tests, documentation and a first try.

Speakers take turns, an excerpt of their clip each; some turns begin before the last one has ended, the others after a
pause. Every speaker is a little louder or softer than the others, and the room hums.
"""

import io
import wave
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from speech_zoo_core.audio import load_audio
from speech_zoo_core.errors import InputError

from ..settings import VOICES
from .segment import Segment

Array: TypeAlias = "np.ndarray[Any, Any]"

RATE = 16000
TURN = (2.0, 6.0)  # seconds
PAUSE = 0.5  # seconds, on average
INTERRUPTED, EARLY = 0.36, (0.4, 1.6)  # share of the turns that begin early, and by how many seconds: 10 % overlap
GAIN, NOISE = 4.0, -55.0  # dB: between speakers at most, to each side; of the room, to full scale
FRAME = 160  # samples in which speech is looked for
RANGE, ABOVE = 30.0, 10.0  # dB: speech is at most so far below a clip's loud frames, and so far above its soft ones
BRIDGE = 0.3  # seconds: shorter pauses are speech, as in NIST's evaluations


def conversation(speakers: int = 3, seconds: float = 180.0, seed: int = 0) -> tuple[Array, list[Segment]]:
    """A conversation of bundled voices; the same seed gives the same one.

    Args:
        speakers: 1 to 9.
        seconds: its length.
        seed: chooses the voices, their turns and the noise.

    Returns:
        The waveform (N,) float32 at 16 kHz, and the segments in which each speaker is heard, in order of their start.

    Raises:
        InputError: more speakers than there are voices, or no length.
    """
    clips = sorted(VOICES.glob("*.wav"))
    if not 1 <= speakers <= len(clips) or not seconds > 0:
        raise InputError(f"a conversation has 1 to {len(clips)} speakers and some seconds, not {speakers}, {seconds}")
    rng = np.random.default_rng(seed)
    chosen = [np.array(load_audio(clips[i], RATE)) for i in rng.permutation(len(clips))[:speakers]]
    chosen = [clip / np.abs(clip).max() * 0.4 * 10 ** (rng.uniform(-GAIN, GAIN) / 20) for clip in chosen]
    speech = [_speech(clip) for clip in chosen]
    size = round(seconds * RATE)
    heard = np.zeros((speakers, size), bool)
    mixed = rng.standard_normal(size) * 10 ** (NOISE / 20)
    end, last = round(rng.exponential(PAUSE) * RATE), -1
    free = [0] * speakers  # when each may speak again: nobody interrupts himself
    while end < size:
        who = int(rng.choice([i for i in range(speakers) if i != last or speakers == 1]))
        length = min(round(rng.uniform(*TURN) * RATE), chosen[who].size)
        first = int(rng.integers(chosen[who].size - length + 1))
        early = rng.random() < INTERRUPTED and last >= 0
        start = end - round(rng.uniform(*EARLY) * RATE) if early else end + round(rng.exponential(PAUSE) * RATE)
        start = max(start, free[who], 0)
        stop = min(start + length, size)
        if stop > start:
            mixed[start:stop] += chosen[who][first : first + stop - start]
            heard[who, start:stop] |= speech[who][first : first + stop - start]
        free[who] = start + length
        end, last = max(end, start + length), who
    segments = [segment for who in range(speakers) for segment in _segments(heard[who], f"voice {who + 1}")]
    return mixed.astype(np.float32), sorted(segments, key=lambda segment: (segment.start, segment.end))


def wav(samples: Array) -> bytes:
    """A waveform (N,) at `RATE` as a WAV file of 16 bits."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return out.getvalue()


def _speech(clip: Array) -> Array:
    """Which samples of a clean clip hold speech: its loud frames, and short gaps between these."""
    frames = clip[: clip.size // FRAME * FRAME].reshape(-1, FRAME)
    level = 10 * np.log10(np.maximum((frames**2).mean(axis=1), 1e-12))
    soft, high = np.percentile(level, [5, 95])
    loud = np.flatnonzero(level > max(high - RANGE, soft + ABOVE))
    speech = np.zeros(len(frames), bool)
    speech[loud] = True
    for before, after in pairwise(loud):
        if (after - before) * FRAME < BRIDGE * RATE:
            speech[before:after] = True
    return np.pad(np.repeat(speech, FRAME), (0, clip.size % FRAME))


def _segments(heard: Array, label: str) -> list[Segment]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], heard, [False]])))
    return [Segment(float(a) / RATE, float(b) / RATE, label) for a, b in edges.reshape(-1, 2)]
