import unittest

import mlx.core as mx
import numpy as np

from mlx_audio.voice_id.front_end import FrontEnd
from mlx_audio.voice_id.layers import fold_batch_norm
from mlx_audio.voice_id.tests.tiny import RATE, clip


class TestFeatures(unittest.TestCase):
    def test_kaldi_fbank(self):
        expected = np.array([])  # GOLDEN features.kaldi
        features = np.array(FrontEnd()(mx.array(clip(0.1))))
        self.assertEqual(features.shape, (8, 80))
        np.testing.assert_allclose(features[::4, ::16].ravel(), expected, atol=1e-3)

    def test_speechbrain_fbank(self):
        expected = np.array([])  # GOLDEN features.speechbrain
        front_end = FrontEnd("speechbrain_fbank", n_mels=60, scale=1.0)
        features = np.array(front_end(mx.array(clip(0.1))))
        self.assertEqual(features.shape, (11, 60))
        np.testing.assert_allclose(features[::4, ::16].ravel(), expected, atol=1e-2)

    def test_mean_over_time_is_zero(self):
        features = FrontEnd(window="povey", scale=1.0)(mx.array(clip()))
        self.assertLess(float(mx.abs(mx.mean(features, axis=0)).max()), 1e-4)

    def test_silence_is_finite(self):
        features = FrontEnd(cmn=False)(mx.zeros((RATE,)))
        self.assertTrue(bool(mx.isfinite(features).all()))


class TestFolding(unittest.TestCase):
    def test_batch_norm_folds_into_a_linear_layer(self):
        rng = np.random.default_rng(0)
        x = rng.standard_normal((5, 3))
        weight, bias, mean = (rng.standard_normal(shape) for shape in ((4, 3), 4, 4))
        variance, gain, offset = (rng.uniform(0.5, 1.5, 4) for _ in range(3))
        expected = (x @ weight.T + bias - mean) / np.sqrt(
            variance + 1e-5
        ) * gain + offset
        weights = {
            "fc.weight": weight,
            "fc.bias": bias,
            "bn.running_mean": mean,
            "bn.running_var": variance,
            "bn.weight": gain,
            "bn.bias": offset,
        }
        fold_batch_norm(weights, "fc", "bn")
        self.assertEqual(set(weights), {"fc.weight", "fc.bias"})
        np.testing.assert_allclose(
            x @ weights["fc.weight"].T + weights["fc.bias"], expected, atol=1e-5
        )


if __name__ == "__main__":
    unittest.main()
