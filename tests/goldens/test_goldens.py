"""The zoo against golden files that `make_goldens.py` made with the originals; needs no PyTorch."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import speech_zoo  # isort: skip  # before MLX, to open its BLAS
import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from signals import COSINE, FEW, LOG_MEL, cosines, embed, seeded_weights, waveforms
from speech_zoo_core.front_end import THREE_D_SPEAKER, WESPEAKER, FrontEnd

HERE = Path(__file__).parent
SEEDED = json.loads((HERE / "seeded.json").read_text())
TINY = sorted(path.name for path in (HERE / "tiny").iterdir())
CAMPPLUS_YAML = """
model: CAMPPlus
model_args: {feat_dim: 80, embed_dim: 512, pooling_func: TSTP}
dataset_args: {fbank_args: {num_mel_bins: 80, frame_shift: 10, frame_length: 25, dither: 1.0}, resample_rate: 16000}
"""


@cache
def goldens() -> dict[str, dict[str, np.ndarray]]:
    """The oracles' embeddings: case to signal to vector."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, vector in load_file(HERE / "embeddings.safetensors").items():
        case, signal = name.split("/")
        found.setdefault(case, {})[signal] = vector
    return found


def check(model: Any, case: str, precision: str, signals: tuple[str, ...] | None = None) -> None:
    """Fail if the model is further from the oracle than the precision allows, on any of its signals or those named."""
    theirs = goldens()[case]
    theirs = theirs if signals is None else {signal: theirs[signal] for signal in signals}
    plain, centred = cosines({signal: embed(model, signal) for signal in theirs}, theirs)
    assert min(plain.values()) >= COSINE[precision], plain
    if precision == "float32":
        assert min(centred.values()) >= COSINE[precision], centred


@pytest.mark.parametrize("front_end", [WESPEAKER, THREE_D_SPEAKER], ids=["hamming", "povey"])
@pytest.mark.parametrize("signal", ["1 s", "0.3 s", "silence", "noise"])
def test_features(front_end: FrontEnd, signal: str) -> None:
    expected = load_file(HERE / "features.safetensors")[f"{front_end.window}/{signal}"]
    waveform = mx.array(waveforms()[signal])
    plain, normalised = np.array(replace(front_end, cmn=False)(waveform)), np.array(front_end(waveform))
    assert plain.shape == expected.shape
    assert np.abs(plain - expected).max() <= LOG_MEL
    assert np.abs(normalised - (expected - expected.mean(axis=0))).max() <= LOG_MEL


def test_bundled_campplus() -> None:
    """The bundled weights are the published ones, stored in float16."""
    check(speech_zoo.load("campplus-zh-en"), "campplus-zh-en", "float16")


def test_bundled_campplus_in_float16() -> None:
    check(speech_zoo.load("campplus-zh-en", dtype="float16"), "campplus-zh-en", "float16", FEW)


def test_bundled_campplus_in_8_bits(tmp_path: Path) -> None:
    model = speech_zoo.load(speech_zoo.convert("campplus-zh-en", tmp_path / "8-bit", bits=8))
    check(model, "campplus-zh-en", "8-bit", FEW)


@pytest.mark.parametrize("case", SEEDED)
def test_seeded_weights(case: str, tmp_path: Path) -> None:
    """Weights that NumPy makes again, under the original names and in the original layout."""
    weights = seeded_weights(
        {name: tuple(shape) for name, shape in SEEDED[case]["shapes"].items()}, SEEDED[case]["seed"]
    )
    save_file(weights, tmp_path / "model.safetensors")
    if case == "campplus-wespeaker":
        (tmp_path / "config.yaml").write_text(CAMPPLUS_YAML)
    check(speech_zoo.load(tmp_path), case, "float32")


@pytest.mark.parametrize("file", TINY)
def test_files_that_torch_wrote(file: str, tmp_path: Path) -> None:
    """As they are and converted. Their width of 3 makes PyTorch's and MLX's layout the same shape: no room to guess."""
    if file.endswith(".onnx"):
        pytest.importorskip("onnx")
    check(speech_zoo.load(HERE / "tiny" / file), file, "float32")
    check(speech_zoo.load(speech_zoo.convert(HERE / "tiny" / file, tmp_path / "zoo")), file, "float32")
