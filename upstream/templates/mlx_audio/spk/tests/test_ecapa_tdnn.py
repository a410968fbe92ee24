import unittest

from mlx_audio.voice_id.tests.tiny import FamilyTests


class TestSpeechBrain(FamilyTests, unittest.TestCase):
    MODULE = "mlx_audio.spk.models.ecapa_tdnn"
    CONFIG = {}  # GOLDEN ecapa_speechbrain.config
    EXPECTED = []  # GOLDEN ecapa_speechbrain.expected


class TestWeSpeaker(FamilyTests, unittest.TestCase):
    MODULE = "mlx_audio.spk.models.ecapa_tdnn"
    CONFIG = {}  # GOLDEN ecapa_wespeaker.config
    EXPECTED = []  # GOLDEN ecapa_wespeaker.expected


if __name__ == "__main__":
    unittest.main()
