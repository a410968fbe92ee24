import json
import tempfile
import unittest
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten


class TestWeSpeakerResNet(unittest.TestCase):
    def setUp(self):
        from mlx_audio.codec.models.wespeaker_resnet import ModelConfig, WeSpeakerResNet

        mx.random.seed(0)
        self.ModelConfig, self.Model = ModelConfig, WeSpeakerResNet
        self.audio = 0.1 * mx.random.normal((16000,))

    def model(self, block="basic", two_emb_layer=False):
        model = self.Model(
            self.ModelConfig(
                block=block,
                num_blocks=[2, 1, 1, 1],
                m_channels=4,
                embed_dim=16,
                two_emb_layer=two_emb_layer,
            )
        )
        model.eval()
        return model

    def original(self, model):
        """Weights with batch norms, as WeSpeaker has them, and in its layout."""
        weights = {"projection.weight": mx.zeros((9, 16))}
        for name, value in tree_flatten(model.parameters()):
            layer, _, kind = name.rpartition(".")
            if value.ndim == 4:
                value = value.transpose(0, 3, 1, 2)
                norm = layer.replace("conv", "bn").replace("shortcut.0", "shortcut.1")
                size = (value.shape[0],)
                weights[f"{norm}.weight"] = mx.random.uniform(0.5, 1.5, size)
                weights[f"{norm}.bias"] = 0.1 * mx.random.normal(size)
                weights[f"{norm}.running_mean"] = 0.1 * mx.random.normal(size)
                weights[f"{norm}.running_var"] = mx.random.uniform(0.5, 1.5, size)
                weights[f"{norm}.num_batches_tracked"] = mx.array(7)
            if kind == "weight" or layer.startswith("seg"):
                weights[name] = value
        if model.config.two_emb_layer:
            weights["seg_bn_1.running_mean"] = 0.1 * mx.random.normal((16,))
            weights["seg_bn_1.running_var"] = mx.random.uniform(0.5, 1.5, (16,))
        return weights

    def reference(self, weights, model, x):
        """The original's steps, with its batch norms, one operation at a time."""

        def norm(x, name):
            scale = mx.rsqrt(weights[f"{name}.running_var"] + 1e-5)
            x = (x - weights[f"{name}.running_mean"]) * scale
            x = x * weights.get(f"{name}.weight", 1.0)
            return x + weights.get(f"{name}.bias", 0.0)

        def conv(x, name, stride=1):
            weight = weights[f"{name}.weight"].transpose(0, 2, 3, 1)
            return mx.conv2d(x, weight, stride, weight.shape[1] // 2)

        x = nn.relu(norm(conv(x.swapaxes(1, 2)[..., None], "conv1"), "bn1"))
        for i, count in enumerate(model.config.num_blocks):
            for j in range(count):
                at, stride = f"layer{i + 1}.{j}", 2 if i > 0 and j == 0 else 1
                strides = (stride, 1) if "conv3" not in model.layer1[0] else (1, stride)
                out = nn.relu(norm(conv(x, f"{at}.conv1", strides[0]), f"{at}.bn1"))
                out = norm(conv(out, f"{at}.conv2", strides[1]), f"{at}.bn2")
                if f"{at}.conv3.weight" in weights:
                    out = norm(conv(nn.relu(out), f"{at}.conv3"), f"{at}.bn3")
                if f"{at}.shortcut.0.weight" in weights:
                    x = norm(conv(x, f"{at}.shortcut.0", stride), f"{at}.shortcut.1")
                x = nn.relu(out + x)
        image = np.array(x).transpose(0, 3, 1, 2)  # (B, C, F, T)
        std = np.sqrt(image.var(axis=-1, ddof=1) + 1e-7)
        moments = [m.reshape(len(m), -1) for m in (image.mean(axis=-1), std)]
        x = mx.array(np.concatenate(moments, axis=1).astype(np.float32))
        x = x @ weights["seg_1.weight"].T + weights["seg_1.bias"]
        if not model.config.two_emb_layer:
            return x
        x = norm(nn.relu(x), "seg_bn_1")
        return x @ weights["seg_2.weight"].T + weights["seg_2.bias"]

    def test_original_checkpoints(self):
        for block, two in (("basic", False), ("bottleneck", True)):
            for prefix in ("", "resnet."):
                with self.subTest(block=block, prefix=prefix):
                    model = self.model(block, two)
                    weights = self.original(model)
                    named = {f"{prefix}{name}": x for name, x in weights.items()}
                    sanitized = model.sanitize(named)
                    model.load_weights(list(sanitized.items()), strict=True)
                    x = mx.random.normal((2, 50, 80))
                    expected = self.reference(weights, model, x)
                    self.assertTrue(mx.allclose(model(x), expected, atol=1e-4).item())
                    again = model.sanitize(sanitized)
                    self.assertTrue(all(again[k] is v for k, v in sanitized.items()))

    def test_encode(self):
        model = self.model()
        embedding = model.encode(self.audio)
        self.assertAlmostEqual(mx.linalg.norm(embedding).item(), 1.0, places=5)
        self.assertEqual(model.encode(np.array(self.audio), 24000).shape, (16,))
        with self.assertRaisesRegex(ValueError, "0.2 seconds"):
            model.encode(self.audio[:100])

    def test_from_pretrained(self):
        model = self.model("bottleneck", True)
        with tempfile.TemporaryDirectory() as folder:
            config = {"source": "more keys are ignored", **vars(model.config)}
            (Path(folder) / "config.json").write_text(json.dumps(config))
            model.save_weights(str(Path(folder) / "model.safetensors"))
            again = self.Model.from_pretrained(folder)
        same = mx.allclose(again.encode(self.audio), model.encode(self.audio))
        self.assertTrue(same.item())


if __name__ == "__main__":
    unittest.main()
