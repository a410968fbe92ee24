import subprocess
import sys
import unittest
from unittest.mock import patch

import mlx_audio


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


if __name__ == "__main__":
    unittest.main()
