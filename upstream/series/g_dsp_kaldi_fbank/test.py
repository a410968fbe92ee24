def _kaldi_fbank(audio, window, n_mels=80):
    """Kaldi's fbank in NumPy, float64, for 16 kHz."""
    frames = np.lib.stride_tricks.sliding_window_view(audio.astype(np.float64), 400)
    frames = frames[::160] - frames[::160].mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    power = np.abs(np.fft.rfft((frames - 0.97 * before) * window, n=512)) ** 2
    mel = 1127 * np.log(1 + np.arange(257) * 31.25 / 700)
    edges = np.linspace(*(1127 * np.log(1 + np.array([20, 8000]) / 700)), n_mels + 2)
    slope = (mel - edges[:-1, None]) / np.diff(edges)[:, None]
    banks = np.maximum(0, np.minimum(slope[:-1], 1 - slope[1:]))
    return np.log(np.maximum(power @ banks.T, np.finfo(np.float32).eps))


@pytest.mark.parametrize("level", [1e-5, 0.1, 3000.0])
def test_compute_fbank_kaldi_matches_kaldi(level):
    """Quiet audio shows the floor, the hamming window the first sample of a frame."""
    import mlx.core as mx

    from mlx_audio.dsp import compute_fbank_kaldi

    audio = np.random.default_rng(0).normal(0, level, 8000)
    audio[3000:5000] *= np.linspace(1, 0, 2000)
    audio[1000:2000] = 1e-3 * level
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
    for win_type, window in (("povey", hann**0.85), ("hamming", 0.08 + 0.92 * hann)):
        found = compute_fbank_kaldi(
            mx.array(audio.astype(np.float32)),
            sample_rate=16000,
            win_len=400,
            win_inc=160,
            num_mels=80,
            win_type=win_type,
            dither=0.0,
        )
        expected = _kaldi_fbank(audio, window)
        np.testing.assert_allclose(np.array(found), expected, atol=2e-2)
