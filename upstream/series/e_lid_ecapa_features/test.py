class TestEcapaMelSpectrogram(unittest.TestCase):
    def test_matches_speechbrain(self):
        from mlx_audio.lid.models.ecapa_tdnn.mel import compute_mel_spectrogram

        # SpeechBrain's Fbank in NumPy: both slopes have the lower side's width.
        audio = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(audio, 200), 400)
        window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 400)
        power = np.abs(np.fft.rfft(frames[::160] * window, axis=-1)) ** 2
        top = 2595 * np.log10(1 + 8000 / 700)
        edges = 700 * (10 ** (np.linspace(0, top, 62) / 2595) - 1)
        slope = np.linspace(0, 8000, 201)[:, None] - edges[1:-1]
        slope = slope / np.diff(edges)[:-1]
        banks = np.maximum(0, np.minimum(slope + 1, 1 - slope))
        expected = 10 * np.log10(np.maximum(power @ banks, 1e-10))
        expected = np.maximum(expected, expected.max() - 80)
        found = np.array(compute_mel_spectrogram(mx.array(audio)))[0]
        np.testing.assert_allclose(found, expected, atol=1e-2)
