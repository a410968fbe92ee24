class TestWav2Vec2ForSequenceClassification(unittest.TestCase):
    def test_sanitize_leaves_a_converted_checkpoint(self):
        from mlx.utils import tree_flatten

        model = self.Model(self.config)
        model.eval()
        weights = dict(tree_flatten(model.parameters()))
        sanitized = model.sanitize(dict(weights))
        self.assertEqual(
            {name: value.shape for name, value in sanitized.items()},
            {name: value.shape for name, value in weights.items()},
        )

        again = self.Model(self.config)
        again.eval()
        again.load_weights(list(sanitized.items()))
        audio = mx.random.normal((1, 1600))
        self.assertTrue(mx.allclose(again(audio), model(audio), atol=1e-5).item())
