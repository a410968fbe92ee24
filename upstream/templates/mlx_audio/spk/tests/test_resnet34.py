import unittest

from mlx_audio.voice_id.tests.tiny import FamilyTests


class TestBasicBlocks(FamilyTests, unittest.TestCase):
    MODULE = "mlx_audio.spk.models.resnet34"
    CONFIG = {}  # GOLDEN resnet34_basic.config
    EXPECTED = []  # GOLDEN resnet34_basic.expected


class TestBottleneckBlocks(FamilyTests, unittest.TestCase):
    MODULE = "mlx_audio.spk.models.resnet34"
    CONFIG = {}  # GOLDEN resnet34_bottleneck.config
    EXPECTED = []  # GOLDEN resnet34_bottleneck.expected


if __name__ == "__main__":
    unittest.main()
