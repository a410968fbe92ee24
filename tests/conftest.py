"""Before any test module imports MLX or the Hub's client: OpenBLAS is opened, and no test can reach the real Hub."""

import os

import speech_zoo_core  # noqa: F401

os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nobody listens on the discard port
