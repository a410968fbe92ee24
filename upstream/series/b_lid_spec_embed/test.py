class TestWav2Vec2SpecEmbed(unittest.TestCase):
    def test_is_dropped_under_the_prefix_of_real_checkpoints(self):
        from mlx_audio.lid.models.wav2vec2 import Model, ModelConfig

        model = Model(
            ModelConfig(
                hidden_size=32,
                num_attention_heads=2,
                num_hidden_layers=1,
                num_feat_extract_layers=2,
                conv_dim=[16, 16],
                conv_stride=[5, 2],
                conv_kernel=[10, 3],
            )
        )
        # Wav2Vec2ForSequenceClassification saves it as wav2vec2.masked_spec_embed.
        weights = {
            "wav2vec2.masked_spec_embed": mx.zeros((32,)),
            "projector.bias": mx.zeros((256,)),
        }
        self.assertEqual(list(model.sanitize(weights)), ["projector.bias"])
