class TestWav2Vec2ForSequenceClassification(unittest.TestCase):
    def test_weighted_layer_sum(self):
        for stable in (False, True):
            with self.subTest(do_stable_layer_norm=stable):
                settings = {
                    **vars(self.config),
                    "do_stable_layer_norm": stable,
                    "use_weighted_layer_sum": True,
                }
                model = self.Model(self.ModelConfig.from_dict(settings))
                model.eval()
                learnt = mx.array([2.0, -1.0, 0.5])
                weights = model.sanitize({"layer_weights": learnt})
                model.load_weights(list(weights.items()), strict=False)

                audio = mx.random.normal((2, 1600))
                states = model.wav2vec2(audio).hidden_states
                shares = mx.softmax(learnt).tolist()
                hidden = sum(share * state for share, state in zip(shares, states))
                expected = model.classifier(mx.mean(model.projector(hidden), axis=1))
                self.assertTrue(mx.allclose(model(audio), expected, atol=1e-5).item())
