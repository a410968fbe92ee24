import unittest

import mlx.core as mx

from mlx_audio.lid.models.wav2vec2 import Model, ModelConfig

TINY = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 32,
    "num_feat_extract_layers": 2,
    "conv_dim": [16, 16],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
    "num_labels": 3,
}


class TestMaskedSpecEmbed(unittest.TestCase):
    def test_is_dropped_under_the_prefix_of_real_checkpoints(self):
        # Wav2Vec2ForSequenceClassification saves it as wav2vec2.masked_spec_embed.
        model = Model(ModelConfig.from_dict(TINY))
        weights = {
            "wav2vec2.masked_spec_embed": mx.zeros((32,)),
            "projector.bias": mx.zeros((16,)),
        }
        self.assertEqual(list(model.sanitize(weights)), ["projector.bias"])


if __name__ == "__main__":
    unittest.main()
