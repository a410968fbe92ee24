"""What every parity test uses: conversion to each precision, the comparison, and the table at the end of the run."""

import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speech_zoo
from signals import ALL, BRIEF, COSINE, RATE, cosines, embed, in_words, waveforms

COLUMNS = ("model", "form", "precision", "signals", "worst", "1 - worst", "centred", "limit", "oracle")
ROWS = pytest.StashKey[list[tuple[str, ...]]]()
LOGITS = 1e-4  # of the largest logit
HAS_TORCH = find_spec("torch") is not None
collect_ignore_glob = [] if HAS_TORCH else ["test_*.py"]

if HAS_TORCH and "LD_PRELOAD" in os.environ and hasattr(os, "RTLD_DEEPBIND"):
    # With OpenBLAS preloaded for MLX, torch.bmm would call that one's sgemm_batch with MKL's arguments, and crash.
    usual = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_DEEPBIND)
    import torch  # noqa: F401

    sys.setdlopenflags(usual)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    config.pluginmanager.register(Workers(config))


class Workers:
    """The rows of pytest-xdist's workers go into the table of the run."""

    def __init__(self, config: pytest.Config) -> None:
        self.rows = config.stash[ROWS]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["parity"] = self.rows

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.rows += map(tuple, getattr(node, "workeroutput", {}).get("parity", []))  # none of one that crashed


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not HAS_TORCH:
        terminalreporter.write_line("parity: PyTorch is not installed, nothing was compared")
    if rows := config.stash[ROWS]:
        terminalreporter.section("parity")
        packages = ("mlx", "mlx-audio", "torch", "onnxruntime", "kaldi-native-fbank", "numpy")
        terminalreporter.write_line(
            f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
            + ", ".join(f"{package} {version(package)}" for package in packages)
        )
        terminalreporter.write_line(
            "worst: the lowest cosine to the oracle, or the largest difference of features, or of log-probabilities "
            "relative to the largest; centred: 1 - cosine after the oracle's mean over the signals is subtracted"
        )
        widths = [max(len(row[i]) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS))]
        for row in [COLUMNS, *rows]:
            line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
            terminalreporter.write_line(line.rstrip())


@pytest.fixture(scope="session")
def record(pytestconfig: pytest.Config) -> Callable[..., None]:
    """Add a row to the table."""
    return lambda *row: pytestconfig.stash[ROWS].append(tuple(row))


@pytest.fixture(scope="session")
def compare(record: Callable[..., None]) -> Callable[..., None]:
    """Compare a model with an oracle on test signals, record the worst cosine, and fail if it is below the limit."""

    def check(
        model: Any, oracle: Any, name: str, form: str, precision: str = "float32", signals: Sequence[str] = ALL
    ) -> None:
        plain, centred = cosines({s: embed(model, s) for s in signals}, {s: oracle.embed(s) for s in signals})
        worst, limit = min(plain, key=plain.__getitem__), COSINE[precision]
        figures = [f"{max(0.0, 1 - x):.1e}" for x in (plain[worst], min(centred.values()))]
        record(
            name, form, precision, in_words(signals), f"{plain[worst]:.9f} ({worst})", *figures, str(limit), oracle.name
        )
        assert plain[worst] >= limit, plain
        assert precision != "float32" or min(centred.values()) >= limit, centred

    return check


@pytest.fixture
def compare_logits(record: Callable[..., None]) -> Callable[..., None]:
    """Compare logits on test signals; float32 has a limit on logits and the top 5, others on the top 1."""

    def check(model: Any, theirs: Any, name: str, form: str, precision: str, signals: tuple[str, ...]) -> None:
        worst, where = 0.0, ""
        for signal in signals:
            clip = waveforms()[signal]
            logits = np.array(model.logits(clip, RATE, vad=False))
            expected = theirs.logits(signal)
            error = float(np.abs(logits - expected).max() / np.abs(expected).max())
            worst, where = max((worst, where), (error, signal))
            assert logits.argmax() == expected.argmax(), signal
            if precision == "float32":
                assert error <= LOGITS, signal
                assert (np.argsort(-logits)[:5] == np.argsort(-expected)[:5]).all(), signal
        limit = "logits 1e-4, top 5" if precision == "float32" else "top 1"
        record(name, form, precision, f"{len(signals)} signals", f"{worst:.1e} ({where})", "", "", limit, theirs.name)

    return check


@pytest.fixture(scope="session")
def compare_onnx(compare: Callable[..., None]) -> Callable[..., None]:
    """Compare an ONNX file with the module that it was exported from, and with onnxruntime on the same file."""
    from parity_oracles import OnnxOracle

    def check(path: Path, oracle: Any, name: str, form: str) -> None:
        model = speech_zoo.load(path)
        compare(model, oracle, name, form, signals=BRIEF)
        compare(model, OnnxOracle(path, oracle.front_end), name, form, signals=BRIEF)

    return check


@pytest.fixture
def at_precision(tmp_path: Path) -> Callable[..., Any]:
    """Load a source at a precision: the source itself for float32, else what `convert` makes of it."""

    def load(source: Path | str, precision: str) -> Any:
        if precision == "float32":
            return speech_zoo.load(source)
        if precision == "float16":
            return speech_zoo.load(speech_zoo.convert(source, tmp_path / "float16", dtype="float16"), dtype="float16")
        return speech_zoo.load(speech_zoo.convert(source, tmp_path / "8-bit", bits=8))

    return load
