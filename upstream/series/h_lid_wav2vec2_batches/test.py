class TestWav2Vec2Batches(unittest.TestCase):
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
        mx.random.seed(0)
        model = Model(ModelConfig.from_dict(self.settings))
        model.eval()
        return model

    def clips(self):
        return [mx.random.normal((size,)) for size in (1600, 1111, 937)]

    def test_padded_clips_give_what_they_give_alone(self):
        for stable in (False, True):
            for layer_sum in (False, True):
                with self.subTest(stable=stable, layer_sum=layer_sum):
                    model = self.model(
                        do_stable_layer_norm=stable, use_weighted_layer_sum=layer_sum
                    )
                    clips = self.clips()
                    batch = mx.stack([mx.pad(x, (0, 1600 - x.size)) for x in clips])
                    sizes = mx.array([x.size for x in clips])
                    mask = mx.arange(1600)[None] < sizes[:, None]
                    for attention_mask in (mask, mask.astype(mx.int32)):
                        logits = model(batch, attention_mask=attention_mask)
                        for clip, row in zip(clips, logits):
                            alone = model(clip[None])[0]
                            self.assertTrue(mx.allclose(row, alone, atol=1e-4).item())

    def test_predict_batch(self):
        for norm in ("layer", "group"):
            with self.subTest(feat_extract_norm=norm):
                model = self.model(feat_extract_norm=norm)
                clips = self.clips()
                for clip, found in zip(clips, model.predict_batch(clips, top_k=2)):
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
        audio = mx.random.normal((1, 1600))
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(self.settings))
            model.save_weights(str(Path(folder) / "model.safetensors"))
            loaded = load(folder, strict=True)
        conv = loaded.wav2vec2.encoder.pos_conv_embed.conv
        self.assertIsInstance(conv, nn.Conv1d)
        self.assertTrue(mx.allclose(loaded(audio), model(audio), atol=1e-5).item())
