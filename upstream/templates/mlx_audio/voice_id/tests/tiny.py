"""Tiny seeded checkpoints and what every family's tests ask of them."""

import contextlib
import importlib
import io
import json
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

RATE = 16000


def noise(bits: np.random.PCG64, *shape: int) -> np.ndarray:
    """Uniform, of unit variance; NumPy promises this stream for all versions."""
    return (bits.random_raw(shape) / 2.0**64 - 0.5) * np.sqrt(12)


def clip(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    """A voice-like signal: harmonics whose pitch wanders, and noise. (N,) float32 at 16 kHz."""
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = 110 + 20 * seed + 15 * np.sin(2 * np.pi * 2.5 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * (
        0.6 + 0.4 * np.sin(2 * np.pi * 3 * time)
    )
    return (0.1 * voice + 0.01 * noise(np.random.PCG64(seed), time.size)).astype(np.float32)


def random_weights(model, seed: int = 0) -> dict:
    """Seeded weights for every parameter, name by name; they keep the scale of the signal."""
    bits = np.random.PCG64(seed)
    weights = {}
    for name, value in sorted(tree_flatten(model.parameters())):
        draw = noise(bits, *value.shape)
        if value.ndim > 1:
            draw = draw * np.sqrt(2 / np.prod(value.shape[1:]))
        else:
            draw = 0.1 * draw if name.endswith("bias") else 1 + 0.2 * draw
        weights[name] = mx.array(draw.astype(np.float32))
    return weights


def save(folder: Path, config: dict, weights: dict) -> Path:
    """A converted checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


class FamilyTests:
    """For a ``unittest.TestCase`` that names the module, a config, and the output of its original on ``clip()``."""

    MODULE: str
    CONFIG: dict
    EXPECTED: list
    TOLERANCE = 2e-3

    def setUp(self):
        package = importlib.import_module(self.MODULE)
        self.model = package.Model(package.ModelConfig.from_dict(self.CONFIG))
        self.weights = random_weights(self.model)
        self.model.load_weights(list(self.weights.items()))
        self.model.eval()

    def output(self, model, audio) -> np.ndarray:
        """What the golden numbers are of: the embedding or the logits."""
        lid = self.CONFIG["task"] != "speaker-embedding"
        return np.array(model.logits(audio) if lid else model.encode(audio))

    def assert_expected(self, found, tolerance=None):
        tolerance = self.TOLERANCE if tolerance is None else tolerance
        np.testing.assert_allclose(
            found[: len(self.EXPECTED)], self.EXPECTED, atol=tolerance, rtol=tolerance
        )

    @contextlib.contextmanager
    def checkpoint(self, weights=None, **changes):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(
            io.StringIO()
        ):
            yield save(
                Path(folder) / "checkpoint",
                self.CONFIG | changes,
                weights or self.weights,
            )

    def test_equals_the_original(self):
        self.assert_expected(self.output(self.model, clip()))

    def test_batch_equals_single(self):
        model, seconds = self.model, (1.0, 0.6 if self.model.pads else 1.0)
        features = [
            model.features(clip(length, seed)) for seed, length in enumerate(seconds)
        ]
        singles = np.stack([np.array(model(one[None])[0]) for one in features])
        sizes = [len(one) for one in features]
        padded = mx.stack(
            [mx.pad(one, [(0, max(sizes) - len(one)), (0, 0)]) for one in features]
        )
        batch = np.array(model(padded, mx.array(sizes) if model.pads else None))
        scale = np.abs(singles).max()
        np.testing.assert_allclose(batch / scale, singles / scale, atol=1e-3)

    def test_sanitize_is_a_fixed_point(self):
        once = self.model.sanitize(dict(self.weights))
        twice = self.model.sanitize(dict(once))
        self.assertEqual(set(twice), set(self.weights))
        for name, value in self.weights.items():
            self.assertTrue(mx.array_equal(value, twice[name]), name)

    def test_loads_through_mlx_audio(self):
        import mlx_audio

        with self.checkpoint() as folder:
            self.assert_expected(self.output(mlx_audio.load(str(folder)), clip()))

    def test_loads_whatever_its_folder_is_called(self):
        from mlx_audio.utils import load_model

        with self.checkpoint() as folder:
            misleading = folder.rename(folder.parent / "whisper-csm-wav2vec2-lid")
            self.assert_expected(self.output(load_model(str(misleading)), clip()))

    def test_refuses_a_missing_tensor(self):
        import mlx_audio

        name = sorted(self.weights)[0]
        with self.checkpoint(
            {key: value for key, value in self.weights.items() if key != name}
        ) as folder:
            with self.assertRaisesRegex(ValueError, name.replace(".", r"\.")):
                mlx_audio.load(str(folder))

    def test_refuses_an_unknown_setting(self):
        import mlx_audio

        with self.checkpoint(dropout=0.1) as folder:
            with self.assertRaisesRegex(ValueError, "unknown key dropout"):
                mlx_audio.load(str(folder))

    def test_converts(self):
        import mlx_audio
        from mlx_audio.convert import convert

        with self.checkpoint() as folder:
            convert(str(folder), str(folder.parent / "half"), dtype="float16")
            half = mlx_audio.load(str(folder.parent / "half"))
            self.assertEqual(
                mx.load(str(folder.parent / "half" / "model.safetensors"))[
                    min(self.weights)
                ].dtype,
                mx.float16,
            )
            half.set_dtype(mx.float32)  # half precision is another matter
            self.assert_expected(self.output(half, clip()), 5e-2)

    def test_refuses_silence(self):
        with self.assertRaisesRegex(ValueError, "silent"):
            self.output(self.model, np.zeros(RATE, np.float32))
