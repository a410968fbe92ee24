class TestEcapaTdnnModel(unittest.TestCase):
    def test_convolutions_pad_by_reflection(self):
        backbone = self.Model(self.config).embedding_model
        backbone.eval()
        dilated = backbone.block3.res2net_block.blocks[0]
        for layer, channels, size in ((backbone.block0, 60, 2), (dilated, 32, 4)):
            # Frames that were mirrored beforehand give the same.
            x = mx.random.normal((1, 20, channels))
            mirrored = np.pad(np.array(x), ((0, 0), (size, size), (0, 0)), "reflect")
            expected = np.array(layer(mx.array(mirrored)))[:, size:-size]
            np.testing.assert_allclose(np.array(layer(x)), expected, atol=1e-5)
