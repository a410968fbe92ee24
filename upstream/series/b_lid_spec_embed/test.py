class TestWav2Vec2ForSequenceClassification(unittest.TestCase):
    def test_sanitize_drops_masked_spec_embed_of_classifiers(self):
        # Wav2Vec2ForSequenceClassification saves it below wav2vec2.
        weights = {
            "wav2vec2.masked_spec_embed": mx.zeros((64,)),
            "projector.bias": mx.zeros((32,)),
        }
        sanitized = self.Model(self.config).sanitize(weights)
        self.assertEqual(list(sanitized), ["projector.bias"])
