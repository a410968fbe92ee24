import unittest
from pathlib import Path
from unittest.mock import patch

from mlx_audio import registry, utils
from mlx_audio.convert import Domain, detect_model_domain

SPEAKER = {
    "model_type": "ecapa_tdnn",
    "task": "speaker-embedding",
    "embed_dim": 192,
    "feat_dim": 80,
}


class TestSpeakerCategory(unittest.TestCase):
    def test_is_a_kind(self):
        self.assertIn("spk", registry.kinds())
        self.assertEqual(registry.kinds()[:3], ("tts", "stt", "sts"))

    def test_top_level_imports(self):
        from mlx_audio.spk import load, load_model

        self.assertTrue(callable(load))
        self.assertTrue(callable(load_model))

    def test_a_config_that_states_its_task(self):
        self.assertEqual(registry.kind_from_config(SPEAKER), "spk")
        self.assertEqual(registry.model_type_from_config(SPEAKER), "ecapa_tdnn")
        language = SPEAKER | {"task": "language-identification"}
        self.assertEqual(registry.kind_from_config(language), "lid")
        self.assertEqual(registry.model_type_from_config(language), "ecapa_tdnn_lid")

    def test_other_configs_are_left_alone(self):
        for config in (
            {},
            {"model_type": "wav2vec2", "task": "audio-classification"},
            {"model_type": "ecapa_tdnn"},
        ):
            self.assertIsNone(registry.kind_from_config(config), config)
            self.assertEqual(
                registry.model_type_from_config(config), config.get("model_type")
            )

    def test_converter_goes_by_the_task_not_by_the_path(self):
        self.assertIs(
            detect_model_domain(SPEAKER, Path("whisper-ecapa-tdnn")), Domain.SPK
        )
        with patch("mlx_audio.convert.get_detection_hints", return_value={}):
            other = {"model_type": "ecapa_tdnn"}
            self.assertIs(detect_model_domain(other, Path("x")), Domain.LID)

    def test_unknown_type(self):
        with self.assertLogs(level="ERROR"), self.assertRaisesRegex(
            ValueError, "not supported for spk"
        ):
            utils.get_model_class("nobody_knows", None, "spk", {})


if __name__ == "__main__":
    unittest.main()
