"""Before any test module imports MLX, so that it computes with OpenBLAS."""

import speech_zoo_core  # noqa: F401
