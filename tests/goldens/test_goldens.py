"""The zoo against golden files that `make_goldens.py` made with the originals; needs no PyTorch."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import speech_zoo  # isort: skip  # before MLX, whose TF32 it turns off
import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from signals import (
    COSINE,
    FEW,
    LOG_MEL,
    LOG_PROBS,
    RATE,
    UNIT,
    best,
    cosines,
    embed,
    log_probs,
    relative,
    rvq_sums,
    seeded_weights,
    waveforms,
)
from speech_zoo_core.audio.front_end import SPEECHBRAIN, THREE_D_SPEAKER, WESPEAKER, FrontEnd
from speech_zoo_core.audio.vad import silero
from speechbrain_files import LANGUAGES, SMALL, SMALL_PROXY, write_folder
from torch_files import save_zip, state_dict
from wav2vec2_files import VARIANTS, hf_folder, source_tensors

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
    vectors: dict[str, dict[str, np.ndarray]] = {}
    for name, vector in load_file(HERE / "embeddings.safetensors").items():
        case, signal = name.split("/")
        vectors.setdefault(case, {})[signal] = vector
    return vectors


def check(model: Any, case: str, precision: str, signals: tuple[str, ...] | None = None) -> None:
    """Fail if the model is further from the oracle than the precision allows, on any of its signals or those named."""
    theirs = goldens()[case]
    theirs = theirs if signals is None else {signal: theirs[signal] for signal in signals}
    plain, centred = cosines({signal: embed(model, signal) for signal in theirs}, theirs)
    assert min(plain.values()) >= COSINE[precision], plain
    if precision == "float32":
        assert min(centred.values()) >= COSINE[precision], centred


def check_features(front_end: FrontEnd, name: str, signal: str) -> None:
    """With and without CMN."""
    expected = load_file(HERE / "features.safetensors")[f"{name}/{signal}"]
    waveform = mx.array(waveforms()[signal])
    plain, normalised = np.array(replace(front_end, cmn=False)(waveform)), np.array(front_end(waveform))
    assert plain.shape == expected.shape
    assert np.abs(plain - expected).max() <= LOG_MEL
    assert np.abs(normalised - (expected - expected.mean(axis=0))).max() <= LOG_MEL


@pytest.mark.parametrize("front_end", [WESPEAKER, THREE_D_SPEAKER], ids=["hamming", "povey"])
@pytest.mark.parametrize("signal", ["1 s", "0.3 s", "silence", "noise"])
def test_features(front_end: FrontEnd, signal: str) -> None:
    check_features(front_end, front_end.window, signal)


@pytest.mark.parametrize("n_mels", [60, 80])
@pytest.mark.parametrize("signal", ["1 s", "0.5 s", "0.3 s"])
def test_speechbrain_features(n_mels: int, signal: str) -> None:
    check_features(replace(SPEECHBRAIN, n_mels=n_mels), f"speechbrain {n_mels}", signal)


@pytest.mark.parametrize("signal", ["voice 01", "voice 03", "0.3 s", "silence", "noise"])
def test_speech_detector(signal: str) -> None:
    expected = load_file(HERE / "silero.safetensors")[signal]
    padded = np.pad(waveforms()[signal], (64, -waveforms()[signal].size % 512))
    steps = np.stack([padded[i : i + 576] for i in range(0, padded.size - 64, 512)])
    first, state = silero()(steps[:7], np.zeros((2, 128), np.float32))  # in two pieces
    more, _ = silero()(steps[7:], state)
    assert np.abs(np.concatenate([first, more]) - expected).max() <= 1e-4


def test_bundled_campplus() -> None:
    """The bundled weights are the published ones, stored in float16."""
    check(speech_zoo.load("campplus-zh-en"), "campplus-zh-en", "float16")


def test_bundled_campplus_in_float16() -> None:
    check(speech_zoo.load("campplus-zh-en", dtype="float16"), "campplus-zh-en", "float16", FEW)


def test_bundled_campplus_in_8_bits(tmp_path: Path) -> None:
    model = speech_zoo.load(speech_zoo.convert("campplus-zh-en", tmp_path / "8-bit", bits=8))
    check(model, "campplus-zh-en", "8-bit", FEW)


def seeded(case: str) -> dict[str, np.ndarray]:
    """Weights that NumPy makes again, under the original names and in the original layout."""
    shapes = {name: tuple(shape) for name, shape in SEEDED[case]["shapes"].items()}
    return seeded_weights(shapes, SEEDED[case]["seed"])


@pytest.mark.parametrize("case", sorted(SEEDED.keys() - SMALL.keys() - {"speaker-proxy"}))
def test_seeded_weights(case: str, tmp_path: Path) -> None:
    save_file(seeded(case), tmp_path / "model.safetensors")
    if case == "campplus-wespeaker":
        (tmp_path / "config.yaml").write_text(CAMPPLUS_YAML)
    check(speech_zoo.load(tmp_path), case, "float32")


def speechbrain_folder(case: str, folder: Path, labels: Sequence[str]) -> Path:
    return write_folder(folder, SMALL[case], seeded(case), lambda path, x: save_zip(path, state_dict(x)), labels)


@pytest.mark.parametrize("case", ["ecapa-speechbrain", "xvector", "se-resnet"])
def test_speechbrain_speaker(case: str, tmp_path: Path) -> None:
    folder = speechbrain_folder(case, tmp_path / "sb", [f"id{i}" for i in range(8)])
    check(speech_zoo.load(folder), case, "float32")


def test_speechbrain_languages(tmp_path: Path) -> None:
    model = speech_zoo.load(speechbrain_folder("ecapa-lid", tmp_path / "sb", LANGUAGES))
    assert [f"{code}: {name}" for code, name in model._languages] == list(LANGUAGES)
    theirs = goldens()["ecapa-lid"]
    ours = {signal: log_probs(model, signal) for signal in theirs}
    for signal, expected in theirs.items():
        assert relative(ours[signal], expected) <= LOG_PROBS
        assert best(ours[signal], 5) == best(expected, 5)
    assert min(cosines(ours, theirs)[1].values()) >= COSINE["float32"]


def test_speaker_proxy(tmp_path: Path) -> None:
    content = {"model_state_dict": state_dict(seeded("speaker-proxy")), "config": SMALL_PROXY, "epoch": 1}
    model = speech_zoo.load(save_zip(tmp_path / "speaker_proxy.pt", content))
    for signal, expected in goldens()["speaker-proxy"].items():
        sums = rvq_sums(int(signal.removesuffix(" frames")), SMALL_PROXY["input_dim"])
        assert np.abs(np.array(model(mx.array(sums)[None])[0]) - expected).max() <= UNIT


@pytest.mark.parametrize("file", TINY)
def test_files_that_torch_wrote(file: str, tmp_path: Path) -> None:
    """As they are and converted. Their width of 3 makes PyTorch's and MLX's layout the same shape: no room to guess."""
    if file.endswith(".onnx"):
        pytest.importorskip("onnx")
    check(speech_zoo.load(HERE / "tiny" / file), file, "float32")
    check(speech_zoo.load(speech_zoo.convert(HERE / "tiny" / file, tmp_path / "zoo")), file, "float32")


@pytest.mark.parametrize("variant", VARIANTS)
def test_wav2vec2(variant: str, tmp_path: Path) -> None:
    changes = VARIANTS[variant]
    source = hf_folder(tmp_path / "hf", source_tensors(**changes), **changes)
    for model in (speech_zoo.load(source), speech_zoo.load(speech_zoo.convert(source, tmp_path / "zoo"))):
        for signal, expected in goldens()[variant].items():
            logits = np.array(model.logits(waveforms()[signal], RATE, vad=False))
            assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max(), signal
