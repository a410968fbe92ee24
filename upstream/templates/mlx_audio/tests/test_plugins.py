import importlib.metadata
import sys
import types
import unittest
from unittest.mock import patch

from mlx_audio import convert, registry, utils


class FakeDistribution:
    def __init__(self, name):
        self.name = name


def point(name, value, distribution="acme-models"):
    found = importlib.metadata.EntryPoint(name, value, registry.PLUGIN_GROUP)
    vars(found).update(dist=FakeDistribution(distribution))
    return found


class TestPlugins(unittest.TestCase):
    def register(self, *points):
        everything = importlib.metadata.entry_points

        def entry_points(**wanted):
            if wanted == {"group": "mlx_audio.models"}:
                return points
            return everything(**wanted)

        patcher = patch("importlib.metadata.entry_points", entry_points)
        patcher.start()
        self.addCleanup(registry.plugin_models.cache_clear)
        self.addCleanup(convert._model_types_cache.clear)
        self.addCleanup(patcher.stop)
        registry.plugin_models.cache_clear()
        convert._model_types_cache.clear()

    def test_a_package_adds_a_model_type(self):
        module = sys.modules["acme_lid"] = types.ModuleType("acme_lid")
        self.addCleanup(sys.modules.pop, "acme_lid")
        self.register(point("lid.acme", "acme_lid"))
        self.assertEqual(registry.classify_model("acme"), "lid")
        self.assertEqual(utils.get_model_category("acme", ["repo"]), "lid")
        self.assertEqual(
            utils.get_model_class("acme", ["wav2vec2"], "lid", {}), (module, "acme")
        )
        self.assertIn("acme", convert.get_model_types(convert.Domain.LID))
        self.assertIs(convert.get_model_class("acme", convert.Domain.LID), module)

    def test_own_types_win(self):
        self.register(
            point("stt.whisper", "acme_whisper"), point("lid.whisper", "acme_whisper")
        )
        self.assertEqual(registry.classify_model("whisper"), "stt")
        self.assertEqual(
            registry.model_module("stt", "whisper"), "mlx_audio.stt.models.whisper"
        )

    def test_two_packages_of_one_type(self):
        self.register(
            point("lid.acme", "acme_lid"),
            point("lid.acme", "other_lid", "other-models"),
        )
        with self.assertRaisesRegex(ValueError, "acme-models and other-models"):
            registry.classify_model("acme")

    def test_without_plugins(self):
        self.register()
        self.assertIsNone(registry.classify_model("acme"))
        self.assertIsNone(utils.get_model_category("acme", ["repo"]))

    def test_nothing_is_imported_to_classify(self):
        self.register(point("lid.acme", "acme_not_installed"))
        self.assertEqual(registry.classify_model("acme"), "lid")


if __name__ == "__main__":
    unittest.main()
