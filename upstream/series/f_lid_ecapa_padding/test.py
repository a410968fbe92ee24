class TestEcapaReflectPadding(unittest.TestCase):
    def setUp(self):
        from mlx_audio.lid.models.ecapa_tdnn import Model, ModelConfig

        mx.random.seed(0)
        self.model = Model(
            ModelConfig(
                channels=16,
                res2net_scale=2,
                se_channels=8,
                attention_channels=8,
                embedding_dim=8,
                classifier_hidden_dim=8,
                num_classes=3,
            )
        ).embedding_model
        self.model.eval()

    def assert_reflects(self, block, x, size):
        """Frames that were mirrored beforehand give the same, away from the edges."""
        mirrored = np.pad(np.array(x), ((0, 0), (size, size), (0, 0)), mode="reflect")
        expected = np.array(block(mx.array(mirrored)))[:, size:-size]
        np.testing.assert_allclose(np.array(block(x)), expected, atol=1e-5)

    def test_first_layer(self):
        self.assert_reflects(self.model.block0, mx.random.normal((1, 20, 60)), 2)

    def test_dilated_layers(self):
        for block, dilation in ((self.model.block1, 2), (self.model.block3, 4)):
            layer = block.res2net_block.blocks[0]
            self.assert_reflects(layer, mx.random.normal((1, 20, 8)), dilation)
