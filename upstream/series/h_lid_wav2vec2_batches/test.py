class TestWav2Vec2Batches(unittest.TestCase):
    def setUp(self):
        mx.random.seed(0)
        self.clips = [mx.random.normal((size,)) for size in (1600, 1111, 937)]

    def model(self, **settings):
        from mlx_audio.lid.models.wav2vec2 import Model, ModelConfig

        self.settings = {
            "model_type": "wav2vec2",
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "num_feat_extract_layers": 2,
            "conv_dim": [16, 16],
            "conv_stride": [5, 2],
            "conv_kernel": [10, 3],
            "feat_extract_norm": "layer",
            **settings,
        }
        model = Model(ModelConfig.from_dict(self.settings))
        model.eval()
        return model

    def test_padded_clips_give_what_they_give_alone(self):
        batch = mx.stack([mx.pad(x, (0, 1600 - x.size)) for x in self.clips])
        sizes = mx.array([x.size for x in self.clips])
        mask = mx.arange(1600)[None] < sizes[:, None]
        for stable in (False, True):
            with self.subTest(do_stable_layer_norm=stable):
                model = self.model(
                    do_stable_layer_norm=stable, use_weighted_layer_sum=stable
                )
                for attention_mask in (mask, mask.astype(mx.int32)):
                    logits = model(batch, attention_mask=attention_mask)
                    for clip, row in zip(self.clips, logits):
                        alone = model(clip[None])[0]
                        self.assertTrue(mx.allclose(row, alone, atol=1e-4).item())

    def test_predict_batch(self):
        for norm in ("layer", "group"):
            with self.subTest(feat_extract_norm=norm):
                model = self.model(feat_extract_norm=norm)
                results = model.predict_batch(self.clips, top_k=2)
                for clip, found in zip(self.clips, results):
                    expected = model.predict(clip, top_k=2)
                    self.assertEqual([x for x, _ in found], [x for x, _ in expected])
                    for (_, a), (_, b) in zip(found, expected):
                        self.assertAlmostEqual(a, b, places=4)

    def test_weight_norm_is_resolved_once(self):
        import json
        import tempfile
        from pathlib import Path

        from mlx_audio.lid import load

        model = self.model()
        audio = self.clips[0][None]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(self.settings))
            model.save_weights(str(Path(folder) / "model.safetensors"))
            loaded = load(folder, strict=True)
        conv = loaded.wav2vec2.encoder.pos_conv_embed.conv
        self.assertIsInstance(conv, nn.Conv1d)
        self.assertTrue(mx.allclose(loaded(audio), model(audio), atol=1e-5).item())
