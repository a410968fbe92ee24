class TestEcapaSpeechBrainTriangles(unittest.TestCase):
    @staticmethod
    def speechbrain_fbank(audio, n_mels=60):
        """SpeechBrain's Fbank in NumPy: both slopes have the lower side's width."""
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(audio, 200), 400)
        window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 400)
        power = np.abs(np.fft.rfft(frames[::160] * window, axis=-1)) ** 2
        top = 2595 * np.log10(1 + 8000 / 700)
        edges = 700 * (10 ** (np.linspace(0, top, n_mels + 2) / 2595) - 1)
        slope = np.linspace(0, 8000, 201)[:, None] - edges[1:-1]
        slope = slope / np.diff(edges)[:-1]
        banks = np.maximum(0, np.minimum(slope + 1, 1 - slope))
        features = 10 * np.log10(np.maximum(power @ banks, 1e-10))
        return np.maximum(features, features.max() - 80)

    def test_noise(self):
        from mlx_audio.lid.models.ecapa_tdnn.mel import compute_mel_spectrogram

        audio = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
        found = np.array(compute_mel_spectrogram(mx.array(audio)))[0]
        np.testing.assert_allclose(found, self.speechbrain_fbank(audio), atol=1e-2)

    def test_a_tone_between_two_filters(self):
        from mlx_audio.lid.models.ecapa_tdnn.mel import compute_mel_spectrogram

        audio = 0.5 * np.sin(2 * np.pi * 5120 * np.arange(8000) / 16000)
        found = np.array(compute_mel_spectrogram(mx.array(audio.astype(np.float32))))
        expected = self.speechbrain_fbank(audio)
        loud = expected > expected.max() - 60  # far below the tone, rounding shows
        np.testing.assert_allclose(found[0][loud], expected[loud], atol=2e-2)
