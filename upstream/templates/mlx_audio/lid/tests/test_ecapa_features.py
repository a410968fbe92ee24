import unittest

import mlx.core as mx
import numpy as np

from mlx_audio.lid.models.ecapa_tdnn.mel import compute_mel_spectrogram


def speechbrain_fbank(audio: np.ndarray, n_mels: int) -> np.ndarray:
    """SpeechBrain's Fbank in NumPy: both slopes of a triangle have the width of its lower side."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(audio, 200), 400)[::160]
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(frames * window, axis=-1)) ** 2
    top = 2595 * np.log10(1 + 8000 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, n_mels + 2) / 2595) - 1)
    slope = (np.linspace(0, 8000, 201)[:, None] - edges[1:-1]) / np.diff(edges)[:-1]
    banks = np.maximum(0, np.minimum(slope + 1, 1 - slope))
    features = 10 * np.log10(np.maximum(power @ banks, 1e-10))
    return np.maximum(features, features.max() - 80)


class TestSpeechBrainTriangles(unittest.TestCase):
    def test_noise(self):
        audio = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
        found = np.array(compute_mel_spectrogram(mx.array(audio)))[0]
        np.testing.assert_allclose(found, speechbrain_fbank(audio, 60), atol=1e-2)

    def test_a_tone_between_two_filters(self):
        audio = (0.5 * np.sin(2 * np.pi * 5120 * np.arange(8000) / 16000)).astype(
            np.float32
        )
        found = np.array(compute_mel_spectrogram(mx.array(audio)))[0]
        inside = speechbrain_fbank(audio, 60)
        loud = inside > inside.max() - 60  # far below the tone, rounding shows
        np.testing.assert_allclose(found[loud], inside[loud], atol=2e-2)


if __name__ == "__main__":
    unittest.main()
