"""ERes2Net and ERes2NetV2 against speakerlab (3D-Speaker) and wespeaker.models.eres2net, with seeded weights."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import speech_zoo
import torch
from parity_oracles import (
    POVEY,
    Oracle,
    eres2net,
    export_onnx,
    minus_mean,
    renamed_onnx,
    save_state,
    save_wespeaker,
    wespeaker_eres2net,
)
from signals import ALL, BRIEF, FEW, RATE, cosine, voices
from speech_zoo_core.oracle import kaldi_features

Compare = Callable[..., None]
SIZES: dict[str, tuple[str, dict[str, Any]]] = {  # of speakerlab: the module, and what its model is made of
    "ERes2Net-base": ("ERes2Net", {"m_channels": 32, "embedding_size": 512}),
    "ERes2NetV2": ("ERes2NetV2", {"embedding_size": 192}),
    # As above and as the other published ones, but for the width: a CPU takes long for these, and to seed them.
    "ERes2Net, narrow": ("ERes2Net", {"m_channels": 8, "two_emb_layer": True}),
    "ERes2Net-huge, narrow": ("ERes2Net_huge", {"m_channels": 8}),
    "ERes2NetV2, narrow": ("ERes2NetV2", {"m_channels": 8}),
    "ERes2NetV2 w24s4ep4, narrow": ("ERes2NetV2", {"m_channels": 8, "baseWidth": 24, "scale": 4, "expansion": 4}),
}
SOME = tuple(signal for signal in ALL if signal != "60 s")
NARROW = [name for name in SIZES if name.endswith("narrow")]


@cache
def three_d_speaker(name: str) -> Oracle:
    module, sizes = SIZES[name]
    return eres2net(module, 31, **sizes)


@cache
def of_wespeaker() -> Oracle:
    return wespeaker_eres2net(seed=32)


@pytest.mark.parametrize("name", [name for name in SIZES if name not in NARROW])
def test_published_sizes(name: str, tmp_path: Path, compare: Compare) -> None:
    model = speech_zoo.load(save_state(tmp_path / "pretrained.ckpt", three_d_speaker(name)))
    compare(model, three_d_speaker(name), name, "state dict", signals=BRIEF)


@pytest.mark.parametrize("precision", ["float32", "float16", "8-bit"])
@pytest.mark.parametrize("name", NARROW)
def test_precisions(name: str, precision: str, tmp_path: Path, at_precision: Any, compare: Compare) -> None:
    signals = FEW if precision != "float32" else ALL if name == "ERes2Net, narrow" else SOME
    model = at_precision(save_state(tmp_path / "pretrained.ckpt", three_d_speaker(name)), precision)
    compare(model, three_d_speaker(name), name, "state dict", precision, signals)


def test_wespeaker(tmp_path: Path, compare: Compare) -> None:
    name = "ERes2Net34_Base"
    folder = save_wespeaker(tmp_path / "ws", of_wespeaker(), name, embed_dim=192, two_emb_layer=False)
    compare(speech_zoo.load(folder), of_wespeaker(), name, "avg_model.pt + config.yaml", signals=BRIEF)


@pytest.mark.parametrize(("name", "opset"), [("ERes2NetV2, narrow", 11), ("ERes2Net-huge, narrow", 17)])
@pytest.mark.filterwarnings("ignore")
def test_three_d_speaker_onnx(name: str, opset: int, tmp_path: Path, compare_onnx: Compare) -> None:
    """As speakerlab/bin/export_speaker_embedding_onnx.py exports it."""
    oracle = three_d_speaker(name)
    path = tmp_path / "eres2net.onnx"
    axes = {"feature": {0: "batch", 1: "frame"}, "embedding": {0: "batch"}}
    names = {"input_names": ["feature"], "output_names": ["embedding"], "dynamic_axes": axes}
    torch.onnx.export(oracle.module, (torch.randn(1, 345, 80),), str(path), opset_version=opset, dynamo=False, **names)
    compare_onnx(path, oracle, name, f"ONNX, opset {opset}")


KEPT = {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}


@pytest.mark.parametrize("options", [{}, KEPT], ids=["folded", "kept"])
@pytest.mark.filterwarnings("ignore")
def test_wespeaker_onnx(options: dict[str, Any], tmp_path: Path, compare_onnx: Compare) -> None:
    """With the training set's mean subtracted, under any names."""
    oracle = minus_mean(of_wespeaker(), 192)
    path = export_onnx(tmp_path / "model.onnx", oracle, dynamo=False, opset_version=14, **options)
    compare_onnx(renamed_onnx(path), oracle, "ERes2Net34_Base", "ONNX, BatchNorm " + ("kept" if options else "folded"))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("name", ["ERes2Net, narrow"])
def test_files(name: str, rate: int, tmp_path: Path, record: Callable[..., None]) -> None:
    """Stereo files: the first channel, soxr's resampler."""
    oracle = three_d_speaker(name)
    columns = [soxr.resample(np.resize(voices()[voice], 4 * RATE), RATE, rate) for voice in ("voice 04", "voice 05")]
    soundfile.write(tmp_path / "clip.wav", np.stack(columns, axis=1), rate, "FLOAT")
    waveform = soxr.resample(columns[0], rate, RATE, quality="HQ")
    expected = oracle(kaldi_features(waveform, **POVEY))
    score = cosine(
        speech_zoo.load(save_state(tmp_path / "pretrained.ckpt", oracle)).embed(tmp_path / "clip.wav"), expected
    )
    figures = (f"{score:.9f}", f"{max(0.0, 1 - score):.1e}", "", "0.999999", f"{oracle.name}, soxr")
    record(name, f"file, {rate} Hz", "float32", "1 file", *figures)
    assert score >= 0.999999
