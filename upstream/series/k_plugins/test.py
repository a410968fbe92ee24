import importlib.metadata
import subprocess
import sys
import types
import unittest
from unittest.mock import patch

import mlx_audio
from mlx_audio import registry, utils


class TestLoad(unittest.TestCase):
    def test_does_what_load_model_does(self):
        with patch("mlx_audio.utils.load_model") as load_model:
            self.assertIs(mlx_audio.load("org/model"), load_model.return_value)
        load_model.assert_called_once_with("org/model")

    def test_import_stays_light(self):
        code = "import sys, mlx_audio; print(callable(mlx_audio.load), 'mlx_audio.utils' in sys.modules)"
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        self.assertEqual(found.stdout.split(), ["True", "False"])


class TestPlugins(unittest.TestCase):
    def register(self, **modules):
        group = "mlx_audio.models"
        points = [
            importlib.metadata.EntryPoint(name.replace("__", "."), value, group)
            for name, values in modules.items()
            for value in values
        ]
        everything = importlib.metadata.entry_points

        def entry_points(**wanted):
            return points if wanted == {"group": group} else everything(**wanted)

        patcher = patch("importlib.metadata.entry_points", entry_points)
        patcher.start()
        self.addCleanup(registry.plugin_models.cache_clear)
        self.addCleanup(patcher.stop)
        registry.plugin_models.cache_clear()

    def test_a_package_adds_a_model_type(self):
        module = sys.modules["acme_lid"] = types.ModuleType("acme_lid")
        self.addCleanup(sys.modules.pop, "acme_lid")
        self.register(lid__acme=["acme_lid"])
        self.assertEqual(registry.classify_model("acme"), "lid")
        self.assertEqual(utils.get_model_category("acme", ["whisper"]), "lid")
        found = utils.get_model_class("acme", ["wav2vec2"], "lid", {})
        self.assertEqual(found, (module, "acme"))

    def test_own_types_win(self):
        self.register(stt__whisper=["acme_stt"], lid__wav2vec2=["acme_lid"])
        self.assertEqual(registry.plugin_models("stt"), {})
        self.assertEqual(registry.plugin_models("lid"), {})
        self.assertEqual(registry.classify_model("whisper"), "stt")

    def test_two_packages_of_one_type(self):
        self.register(lid__acme=["acme_lid", "other_lid"])
        with self.assertRaisesRegex(ValueError, "acme_lid, other_lid"):
            registry.classify_model("acme")

    def test_nothing_is_imported_to_classify(self):
        self.register(lid__acme=["acme_not_installed"])
        self.assertEqual(registry.classify_model("acme"), "lid")
        self.register()
        self.assertIsNone(registry.classify_model("acme"))
        self.assertIsNone(utils.get_model_category("acme", ["repo"]))


if __name__ == "__main__":
    unittest.main()
