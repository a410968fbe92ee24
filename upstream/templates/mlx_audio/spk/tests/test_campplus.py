import unittest

from mlx_audio.voice_id.tests.tiny import FamilyTests, clip


class TestCampPlus(FamilyTests, unittest.TestCase):
    MODULE = "mlx_audio.spk.models.campplus"
    CONFIG = {}  # GOLDEN campplus.config
    EXPECTED = []  # GOLDEN campplus.expected

    def test_verify(self):
        same = self.model.verify(clip(), clip(), threshold=0.5)
        self.assertTrue(same.same_speaker)
        self.assertAlmostEqual(same.score, 1, places=5)

    def test_quantizes(self):
        import mlx.nn as nn

        import mlx_audio
        from mlx_audio.convert import convert

        with self.checkpoint() as folder:
            quantized_folder = str(folder.parent / "quantized")
            convert(str(folder), quantized_folder, quantize=True, q_bits=8)
            model = mlx_audio.load(quantized_folder)
            kinds = {name: type(module) for name, module in model.named_modules()}
            self.assertIs(kinds["xvector.block2.tdnnd2.linear1"], nn.QuantizedLinear)
            self.assertIs(kinds["xvector.block1.tdnnd7.linear1"], nn.Linear)
            found, expected = self.output(model, clip()), self.output(
                self.model, clip()
            )
            self.assertGreater(float(found @ expected), 0.99)


if __name__ == "__main__":
    unittest.main()
