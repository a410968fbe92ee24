import unittest

import mlx.core as mx
import numpy as np

from mlx_audio.lid.models.wav2vec2 import Model, ModelConfig

TINY = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "num_feat_extract_layers": 2,
    "conv_dim": [16, 16],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
    "num_labels": 3,
    "use_weighted_layer_sum": True,
}


class TestWeightedLayerSum(unittest.TestCase):
    def expected(self, model, audio, layer_weights):
        """The weighted sum over the hidden states, in NumPy."""
        states = model.wav2vec2(audio, output_hidden_states=True).hidden_states
        shares = np.exp(layer_weights) / np.exp(layer_weights).sum()
        hidden = sum(share * np.array(state) for share, state in zip(shares, states))
        return np.array(
            model.classifier(
                mx.mean(model.projector(mx.array(hidden.astype(np.float32))), axis=1)
            )
        )

    def test_is_honoured(self):
        for stable in (False, True):
            with self.subTest(do_stable_layer_norm=stable):
                mx.random.seed(0)
                model = Model(
                    ModelConfig.from_dict(TINY | {"do_stable_layer_norm": stable})
                )
                model.eval()
                layer_weights = np.array([2.0, -1.0, 0.5], np.float32)
                weights = model.sanitize({"layer_weights": mx.array(layer_weights)})
                model.load_weights(list(weights.items()), strict=False)
                audio = mx.random.normal((2, 1600))
                expected = self.expected(model, audio, layer_weights)
                np.testing.assert_allclose(np.array(model(audio)), expected, atol=1e-5)


if __name__ == "__main__":
    unittest.main()
