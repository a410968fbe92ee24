import unittest

from mlx_audio.voice_id.tests.tiny import FamilyTests, clip


class TestEcapaLid(FamilyTests, unittest.TestCase):
    MODULE = "mlx_audio.lid.models.ecapa_tdnn_lid"
    CONFIG = {}  # GOLDEN ecapa_lid.config
    EXPECTED = []  # GOLDEN ecapa_lid.expected
    TOLERANCE = 1e-2  # of logits

    def test_predict_gives_pairs_best_first(self):
        pairs = [(label, score) for label, score in self.model.predict(clip(), top_k=3)]
        self.assertEqual(len(pairs), 3)
        self.assertEqual(
            [score for _, score in pairs],
            sorted((score for _, score in pairs), reverse=True),
        )

    def test_predict_among_some(self):
        found = self.model.predict(clip(), languages=["ab", "af"])
        self.assertEqual({label for label, _ in found}, {"ab", "af"})
        self.assertAlmostEqual(sum(score for _, score in found), 1, places=5)

    def test_the_other_ecapa_tdnn_still_loads(self):
        from mlx_audio.registry import (
            classify_model,
            kind_from_config,
            model_type_from_config,
        )

        self.assertEqual(model_type_from_config(self.CONFIG), "ecapa_tdnn_lid")
        self.assertEqual(kind_from_config(self.CONFIG), "lid")
        other = {"model_type": "ecapa_tdnn", "n_mels": 60}
        self.assertEqual(model_type_from_config(other), "ecapa_tdnn")
        self.assertIsNone(kind_from_config(other))
        self.assertEqual(classify_model("ecapa_tdnn"), "lid")


if __name__ == "__main__":
    unittest.main()
