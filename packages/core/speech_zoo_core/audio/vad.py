"""Where somebody speaks: Silero's voice activity detector, version 6.2, for 16 kHz.

Reference: https://github.com/snakers4/silero-vad. The weights (MIT, © 2020-present Silero Team) are those of the ONNX
file in its package, converted by `sanitize`.
"""

import itertools
from functools import cache
from importlib.resources import as_file, files

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import AudioError
from ..layers import load_strict, parameters
from ..processes import evaluated, zero_initialised
from .resample import Soxr
from .samples import Array

RATE = 16000  # Hz
STEP, CONTEXT = 512, 64  # samples: of a step, and of the one before that it sees as well
SECONDS = STEP / RATE
BINS = 129  # of the spectrum, of 256 samples each 128
SPEECH, SILENCE = 0.5, 0.35  # probability at which speech begins, and below which it ends
STRETCH = 312  # steps that are computed at once: 10 s
LEVEL, MOST_GAIN = 0.05, 1000.0  # RMS of the loudest step that quiet audio is brought up to, by so much at most
LEAST = 3  # steps of speech that a clip needs, and
BRIEF = 10  # one if it is shorter than so many
GAP = 3  # steps without speech, between others, that `only_speech` leaves in
BESIDE = 10  # steps around speech that count as speech to `seconds_of_speech`: pauses between words
# Silero's names in its ONNX file, by their beginnings, and those of its file for tinygrad, which are ours.
NAMES = {
    "model.stft.forward_basis_buffer": "stft_conv.weight",
    **{f"model.encoder.{i}.reparam_conv.": f"conv{i + 1}." for i in range(4)},
    "model.decoder.rnn.": "lstm_cell.",
    "model.decoder.decoder.2.": "final_conv.",
}


class Cell(nn.Module):
    """The parameters of an LSTM, as PyTorch's: gates i, f, g, o one below the other."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight_ih, self.weight_hh = mx.zeros((4 * size, size)), mx.zeros((4 * size, size))
        self.bias_ih, self.bias_hh = mx.zeros(4 * size), mx.zeros(4 * size)


class Silero(nn.Module):
    """Steps to probabilities of speech; the state of the LSTM goes in and comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * BINS, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(BINS, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = Cell(128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def __call__(self, steps: Array, state: Array) -> tuple[Array, Array]:
        """Steps with the context before them, (K, 576), and the LSTM's state, (2, 128): probabilities (K,), state.

        Computed by NumPy: so small a network is not worth a GPU, and on a CPU MLX takes seven times as long.
        """
        padded = np.concatenate([steps, steps[:, -2:-66:-1]], axis=1)[..., None]
        spectrum = _conv(self.stft_conv, padded)
        x = np.sqrt(np.square(spectrum[..., :BINS]) + np.square(spectrum[..., BINS:]))
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = np.maximum(_conv(conv, x), 0)
        cell = self.lstm_cell
        gates = x[:, 0] @ np.array(cell.weight_ih).T + np.array(cell.bias_ih + cell.bias_hh)
        hidden, state = _recur(gates, np.array(cell.weight_hh), state)
        logits = _conv(self.final_conv, np.maximum(hidden, 0)[:, None])[:, 0, 0]
        return (1 + np.tanh(logits / 2)) / 2, state

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Silero's tensors under our names, convolutions channels last; what is so already stays as it is."""
        renamed = {}
        for name, value in weights.items():
            old = next((old for old in NAMES if name.startswith(old)), "")
            new = NAMES.get(old, "") + name.removeprefix(old)
            module, _, part = new.rpartition(".")
            if value.ndim == 3 and part == "weight" and value.shape != getattr(self, module).weight.shape:
                value = value.swapaxes(1, 2)  # noqa: PLW2901
            renamed[new] = value
        return renamed


def _conv(layer: nn.Conv1d, x: Array) -> Array:
    """A convolution of (K, T, C) to (K, T', D)."""
    weight = np.array(layer.weight)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, [(0, 0), (layer.padding, layer.padding), (0, 0)]), weight.shape[1], axis=1
    )[:, :: layer.stride]
    rows = windows.swapaxes(2, 3).reshape(-1, weight.shape[1] * weight.shape[2])
    out = rows @ weight.reshape(len(weight), -1).T
    if "bias" in layer:
        out += np.array(layer.bias)
    return out.reshape(*windows.shape[:2], -1)


def _recur(gates: Array, weight: Array, state: Array) -> tuple[Array, Array]:
    """The LSTM over gates (K, 512): hidden states (K, 128), and the last state (2, 128).

    Step by step in NumPy: MLX takes longer to call an operation than this one takes. sigmoid(x) is
    (1 + tanh(x / 2)) / 2, so that one tanh serves all gates.
    """
    half = np.repeat(np.array([0.5, 0.5, 1, 0.5], np.float32), 128)
    gates, weight = gates * half, np.asfortranarray((weight * half[:, None]).T)
    hidden, cell = state
    outputs = np.empty((len(gates), 128), np.float32)
    for i, gate in enumerate(gates):
        x = np.tanh(hidden @ weight + gate)
        open_ = x * np.float32(0.5) + np.float32(0.5)
        cell = open_[128:256] * cell + open_[:128] * x[256:384]
        hidden = outputs[i] = open_[384:] * np.tanh(cell)
    return outputs, np.stack([hidden, cell])


@cache
def silero() -> Silero:
    """The bundled model."""
    with zero_initialised():
        model = Silero()
    with as_file(files(__package__) / "silero" / "model.safetensors") as path:
        load_strict(model, mx.load(str(path)), str(path))  # type: ignore[arg-type]
    evaluated(list(parameters(model).values()))
    return model


class SpeechDetector:
    """Tells which steps of 32 ms hold speech, of a waveform that comes in pieces; the pieces leave no trace.

    Quiet audio is made louder, as far as what was heard up to the end of the same 10 s allows: the network knows no
    speech below about -50 dB.
    """

    def __init__(self, sample_rate: int, probabilities: bool = False) -> None:
        """`probabilities` says that they are returned, (K,) float32, in place of what they mean."""
        self._soft = probabilities
        self._resampler = None if sample_rate == RATE else Soxr(sample_rate, RATE)
        self._waiting: list[Array] = []
        self._size, self._loudest, self._speaks = 0, 0.0, False
        self._context, self._state = np.zeros(CONTEXT, np.float32), np.zeros((2, 128), np.float32)

    def feed(self, samples: Array) -> Array:
        """More samples (N,) float32; returns whether somebody speaks in the steps that are known by now, (K,) bool."""
        return self._take(samples if self._resampler is None else self._resampler.feed(samples))

    def finish(self) -> Array:
        """The steps that are left; the last one may be cut short."""
        speaks = np.zeros(0, bool) if self._resampler is None else self._take(self._resampler.finish())
        rest = np.concatenate([*self._waiting, np.zeros(-self._size % STEP, np.float32)])
        return np.concatenate([speaks, self._detect(rest)]) if rest.size else speaks

    def _take(self, samples: Array) -> Array:
        self._waiting.append(samples)
        self._size += samples.size
        if self._size < STRETCH * STEP:
            return np.zeros(0, bool)
        buffer, done = np.concatenate(self._waiting), []
        while buffer.size >= STRETCH * STEP:
            done.append(self._detect(buffer[: STRETCH * STEP]))
            buffer = buffer[STRETCH * STEP :]
        self._waiting, self._size = [buffer], buffer.size
        return np.concatenate(done)

    def _detect(self, samples: Array) -> Array:
        steps = samples.reshape(-1, STEP)
        self._loudest = max(self._loudest, float(np.sqrt(np.square(steps, dtype=np.float64).mean(axis=1).max())))
        gain = min(MOST_GAIN, max(1.0, LEVEL / max(self._loudest, 1e-12)))
        before = np.concatenate([self._context[None], steps[:-1, -CONTEXT:]])
        self._context = steps[-1, -CONTEXT:]
        seen = np.concatenate([before, steps], axis=1) * np.float32(gain)
        probabilities, self._state = silero()(seen, self._state)
        if self._soft:
            return probabilities
        speaks = np.empty(len(steps), bool)
        for i, probability in enumerate(probabilities):
            self._speaks = bool(probability >= (SILENCE if self._speaks else SPEECH))
            speaks[i] = self._speaks
        return speaks


def speech(waveform: Array, sample_rate: int) -> Array:
    """Whether somebody speaks in each step of 32 ms: (N,) float32 to (T,) bool."""
    detector = SpeechDetector(sample_rate)
    return np.concatenate([detector.feed(waveform), detector.finish()])


def check_speech(speaks: Array, name: str) -> None:
    """Raises AudioError where a clip holds no speech: what a model says of it is as confident as of any other."""
    if speaks.sum() < (LEAST if speaks.size >= BRIEF else 1):
        raise AudioError(f"{name} holds no speech; vad=False (--no-vad) takes it as it is")


def seconds_of_speech(speaks: Array) -> float:
    """Seconds of the steps (T,) that hold speech or lie within 0.3 s of some."""
    return float((np.convolve(speaks, np.ones(2 * BESIDE + 1), "same") > 0)[: speaks.size].sum()) * SECONDS


def only_speech(waveform: Array, speaks: Array, sample_rate: int) -> Array:
    """The samples of the steps with speech, of those beside them, and of gaps of less than 0.1 s between them."""
    kept = speaks.copy()
    places = np.flatnonzero(kept)
    for last, following in itertools.pairwise(places):
        if following - last <= GAP + 2:  # one step beside each is kept anyway
            kept[last:following] = True
    kept[:-1] |= speaks[1:]
    kept[1:] |= speaks[:-1]
    edges = np.round(np.arange(kept.size + 1) * SECONDS * sample_rate).astype(int)
    return np.concatenate([waveform[edges[i] : edges[i + 1]] for i in np.flatnonzero(kept)])
