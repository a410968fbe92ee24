"""Before any test module is imported: no test can reach the real Hub, and small models are computed by MLX."""

import gc
import os
import signal
import tempfile

import speech_zoo_core  # noqa: F401 (before MLX)

os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nobody listens on the discard port

# Ctrl-C is no more ignored than elsewhere where the tests run in the background of a shell.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Graphs are traced once for all workers and processes of a run.
os.environ.setdefault("SPEECH_ZOO_CACHE", tempfile.mkdtemp(prefix="speech-zoo-tests-"))

import small_models

small_models.install()


def pytest_collection_finish() -> None:
    """What lives to the end of the run is not looked through for garbage again and again."""
    gc.freeze()
