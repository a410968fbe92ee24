import unittest

import mlx.core as mx


class TestCAMPPlusContext(unittest.TestCase):
    def assert_every_segment_counts_its_own_frames(self, layer_class):
        # Frames that are all alike have the same context everywhere, whatever
        # the length of the last segment. The convolution sees the two edges.
        mx.random.seed(0)
        layer = layer_class(8, 4, 3, stride=1, padding=1, dilation=1, bias=False)
        for frames in (101, 150, 299):
            with self.subTest(frames=frames):
                x = mx.broadcast_to(mx.random.normal((1, 8, 1)), (1, 8, frames))
                out = layer(x)[:, :, 1:-1]
                first = mx.broadcast_to(out[:, :, :1], out.shape)
                self.assertTrue(mx.allclose(out, first, atol=1e-5).item())

    def test_chatterbox(self):
        from mlx_audio.tts.models.chatterbox.s3gen.xvector import CAMLayer

        self.assert_every_segment_counts_its_own_frames(CAMLayer)

    def test_chatterbox_turbo(self):
        from mlx_audio.tts.models.chatterbox_turbo.models.s3gen.xvector import CAMLayer

        self.assert_every_segment_counts_its_own_frames(CAMLayer)


if __name__ == "__main__":
    unittest.main()
