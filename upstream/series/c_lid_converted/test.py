class TestWav2Vec2Converted(unittest.TestCase):
    def setUp(self):
        from mlx.utils import tree_flatten

        from mlx_audio.lid.models.wav2vec2 import Model, ModelConfig

        self.config = {
            "model_type": "wav2vec2",
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "num_feat_extract_layers": 2,
            "conv_dim": [16, 16],
            "conv_stride": [5, 2],
            "conv_kernel": [10, 3],
        }
        mx.random.seed(0)
        self.model = Model(ModelConfig.from_dict(self.config))
        self.model.eval()
        self.weights = dict(tree_flatten(self.model.parameters()))

    def test_sanitize_leaves_it_as_it_is(self):
        found = self.model.sanitize(dict(self.weights))
        self.assertEqual(
            {name: value.shape for name, value in found.items()},
            {name: value.shape for name, value in self.weights.items()},
        )

    def test_it_loads_again(self):
        import json
        import tempfile
        from pathlib import Path

        from mlx_audio.lid import load

        audio = mx.random.normal((1, 1600))
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(self.config))
            mx.save_safetensors(str(Path(folder) / "model.safetensors"), self.weights)
            again = load(folder, strict=True)
        self.assertTrue(mx.allclose(again(audio), self.model(audio), atol=1e-5).item())
