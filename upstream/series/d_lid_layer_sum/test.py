class TestWav2Vec2WeightedLayerSum(unittest.TestCase):
    def test_is_honoured(self):
        from mlx_audio.lid.models.wav2vec2 import Model, ModelConfig

        for stable in (False, True):
            with self.subTest(do_stable_layer_norm=stable):
                mx.random.seed(0)
                config = {
                    "hidden_size": 32,
                    "num_attention_heads": 2,
                    "num_hidden_layers": 2,
                    "num_feat_extract_layers": 2,
                    "conv_dim": [16, 16],
                    "conv_stride": [5, 2],
                    "conv_kernel": [10, 3],
                    "do_stable_layer_norm": stable,
                    "use_weighted_layer_sum": True,
                }
                model = Model(ModelConfig.from_dict(config))
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
