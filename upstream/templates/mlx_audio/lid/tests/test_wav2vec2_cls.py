import unittest

from mlx_audio.voice_id.tests.tiny import FamilyTests, clip


class TestStableLayerNorm(FamilyTests, unittest.TestCase):
    MODULE = "mlx_audio.lid.models.wav2vec2_cls"
    CONFIG = {}  # GOLDEN wav2vec2_stable.config
    EXPECTED = []  # GOLDEN wav2vec2_stable.expected
    TOLERANCE = 1e-2  # of logits

    def test_predict_gives_pairs_best_first(self):
        pairs = [(label, score) for label, score in self.model.predict(clip(), top_k=2)]
        self.assertEqual(len(pairs), 2)
        self.assertGreaterEqual(pairs[0][1], pairs[1][1])

    def test_names_without_iso639(self):
        import sys
        from unittest.mock import patch

        from mlx_audio.voice_id.language import match_language

        with patch.dict(sys.modules, {"iso639": None}):
            self.assertEqual(
                self.model.predict(clip())[0].name, self.model.predict(clip())[0].label
            )
            self.assertEqual(match_language("fra", ["eng", "fra"]), [1])
            with self.assertRaisesRegex(ValueError, "iso639-lang"):
                match_language("fr", ["eng", "fra"])

    def test_long_clips_are_cut_into_windows(self):
        package_model = self.model
        short = type(package_model.config)(
            **(vars(package_model.config) | {"single_pass": 1.0, "window": 0.8})
        )
        package_model.config = short
        scores = [score for _, score in package_model.predict(clip(1.5), top_k=9)]
        self.assertAlmostEqual(sum(scores), 1, places=5)


class TestGroupNormWithWeightedLayerSum(FamilyTests, unittest.TestCase):
    MODULE = "mlx_audio.lid.models.wav2vec2_cls"
    CONFIG = {}  # GOLDEN wav2vec2_group.config
    EXPECTED = []  # GOLDEN wav2vec2_group.expected
    TOLERANCE = 1e-2  # of logits


if __name__ == "__main__":
    unittest.main()
