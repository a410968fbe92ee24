import tempfile
import unittest
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten


class TestSharedCAMPPlus(unittest.TestCase):
    def setUp(self):
        from mlx_audio.codec.models.campplus import CAMPPlus, ModelConfig

        mx.random.seed(0)
        self.CAMPPlus, self.ModelConfig = CAMPPlus, ModelConfig
        self.small = {"growth_rate": 4, "bn_size": 2, "init_channels": 8}
        self.model = CAMPPlus(ModelConfig(**self.small))
        self.model.eval()
        self.audio = 0.1 * mx.random.normal((8000,))

    def assert_close(self, a, b, atol=1e-4):
        self.assertEqual(a.shape, b.shape)
        self.assertTrue(mx.allclose(a, b, atol=atol).item())

    def pytorch(self):
        """The model's weights with 3D-Speaker's names and layout."""
        weights = {}
        for name, value in tree_flatten(self.model.parameters()):
            parts = name.split(".")
            if parts[0] in ("blocks", "transits"):
                parts[:2] = [f"{parts[0][:-1]}{int(parts[1]) + 1}"]
            if "layers" in parts:
                i = parts.index("layers")
                parts[i : i + 2] = [f"tdnnd{int(parts[i + 1]) + 1}"]
            for i, part in enumerate(parts[:-1]):
                if "nonlinear" in part:
                    parts[i + 1] = "batchnorm"
            if parts[0] != "head":
                parts.insert(0, "xvector")
            if value.ndim == 4:
                value = value.transpose(0, 3, 1, 2)
            elif value.ndim == 3:
                value = value.swapaxes(1, 2)
            weights[".".join(parts)] = value
        weights["head.bn1.num_batches_tracked"] = mx.array(7)
        return weights

    def test_original_and_converted_checkpoints(self):
        mine = dict(tree_flatten(self.model.parameters()))
        for weights in (self.pytorch(), mine):
            found = self.model.sanitize(weights)
            self.assertEqual(set(found), set(mine))
            for name, value in mine.items():
                self.assert_close(found[name], value)

    def test_every_user_shares_it(self):
        from mlx_audio.codec.models.stepaudio2 import StepAudio2CAMPPlus
        from mlx_audio.tts.models.chatterbox.s3gen import xvector
        from mlx_audio.tts.models.chatterbox_turbo.models.s3gen import xvector as turbo

        self.assertIs(xvector.CAMPPlus, self.CAMPPlus)
        self.assertIs(turbo.CAMPPlus, self.CAMPPlus)
        self.assertTrue(issubclass(StepAudio2CAMPPlus, self.CAMPPlus))
        self.assertNotIn("bn1", StepAudio2CAMPPlus().head)

    def test_turbo_checkpoints(self):
        turbo = (
            "tdnn.bn.weight",
            "blocks.0.layers.11.bn2.bias",
            "transits.2.bn.running_var",
            "head.layer1.0.shortcut_bn.weight",
            "head.layer1.0.bn1.weight",
            "out_bn.bias",
            "dense.bn.running_mean",
        )
        found = self.model.sanitize({name: mx.zeros((1,)) for name in turbo})
        parameters = dict(tree_flatten(self.model.parameters()))
        self.assertEqual(len(found), len(turbo))
        self.assertTrue(set(found) <= set(parameters), found.keys())

    def test_a_batch_is_as_one_at_a_time(self):
        clips = [self.audio, self.audio[:5000]]
        both = self.model.inference(clips)
        for clip, embedding in zip(clips, both):
            self.assert_close(self.model.inference(clip)[0], embedding)

    def test_encode(self):
        embedding = self.model.encode(self.audio)
        self.assert_close(mx.linalg.norm(embedding), mx.array(1.0))
        direct = self.model.inference(self.audio)[0]
        self.assert_close(embedding, direct / mx.linalg.norm(direct))
        self.assertEqual(self.model.encode(self.audio, 24000).shape, (192,))
        with self.assertRaisesRegex(ValueError, "0.1 seconds"):
            self.model.encode(self.audio[:100])

    def test_from_pretrained(self):
        for folded in (False, True):
            model = self.CAMPPlus(self.ModelConfig(folded=folded))
            model.eval()
            with tempfile.TemporaryDirectory() as folder:
                model.save_weights(str(Path(folder) / "model.safetensors"))
                again = self.CAMPPlus.from_pretrained(folder)
            short = self.audio[:2000]
            self.assert_close(again.encode(short), model.encode(short))


if __name__ == "__main__":
    unittest.main()
