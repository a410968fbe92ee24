"""CAM++ against speakerlab (the published weights) and wespeaker.models.campplus (seeded weights)."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import speech_zoo
from parity_oracles import REAL_CAMPPLUS, Oracle, real_campplus, save_wespeaker, wespeaker_campplus
from signals import ALL, BRIEF, FEW, signals_for

Compare = Callable[..., None]
needs_weights = pytest.mark.skipif(
    not REAL_CAMPPLUS.is_file(),
    reason="the published CAM++ weights are not here; SPEECH_ZOO_CAMPPLUS_PT names campplus_cn_en_common.pt",
)


@needs_weights
@pytest.mark.parametrize("precision", ["float32", "float16", "8-bit"])
def test_published_weights(precision: str, at_precision: Any, compare: Compare) -> None:
    model = at_precision(REAL_CAMPPLUS, precision)
    compare(model, real_campplus(), "CAM++ zh-en", "campplus_cn_en_common.pt", precision, signals_for(precision))


@needs_weights
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_bundled_weights(dtype: str | None, compare: Compare) -> None:
    """They are stored in float16; without a dtype a CPU computes in float32."""
    model = speech_zoo.load("campplus-zh-en", dtype=dtype)
    form = "bundled (float16)" + (f", computed in {dtype}" if dtype else "")
    compare(model, real_campplus(), "CAM++ zh-en", form, "float16", FEW if dtype else ALL)


@cache
def wespeaker() -> Oracle:
    return wespeaker_campplus(seed=11)


@pytest.mark.parametrize("precision", ["float32", "float16", "8-bit"])
def test_wespeaker(precision: str, tmp_path: Path, at_precision: Any, compare: Compare) -> None:
    folder = save_wespeaker(tmp_path / "ws", wespeaker(), "CAMPPlus", embed_dim=512)
    model, form = at_precision(folder, precision), "avg_model.pt + config.yaml"
    compare(model, wespeaker(), "CAM++ WeSpeaker", form, precision, signals_for(precision))


def test_wespeaker_embedding_size(tmp_path: Path, compare: Compare) -> None:
    oracle = wespeaker_campplus(seed=12, embed_dim=192)
    folder = save_wespeaker(tmp_path / "ws", oracle, "CAMPPlus", embed_dim=192)
    compare(speech_zoo.load(folder), oracle, "CAM++ WeSpeaker, 192-d", "avg_model.pt + config.yaml", signals=BRIEF)


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("opset", [11, 17])
def test_onnx(opset: int, dynamic: bool, tmp_path: Path) -> None:
    """3D-Speaker's own export (speakerlab/bin/export_speaker_embedding_onnx.py), against onnxruntime on it."""
    import mlx.core as mx
    import numpy as np
    import onnxruntime
    import torch
    from parity_oracles import seeded
    from speakerlab.models.campplus.DTDNN import CAMPPlus

    module = seeded(CAMPPlus(feat_dim=80, embedding_size=192), 5)
    path = tmp_path / "campplus.onnx"
    axes = {"feature": {0: "batch", 1: "frame"}, "embedding": {0: "batch"}}
    torch.onnx.export(
        module,
        (torch.randn(1, 345, 80),),
        str(path),
        opset_version=opset,
        dynamo=False,
        input_names=["feature"],
        output_names=["embedding"],
        dynamic_axes=axes if dynamic else None,
    )
    model = speech_zoo.load(path)
    assert (model.config.front_end.window, model.config.pool_eps) == ("povey", 0.0)
    features = np.random.default_rng(0).standard_normal((1, 345, 80)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = module(torch.from_numpy(features)).numpy()[0]
    assert np.allclose(session.run(None, {"feature": features})[0][0], expected, rtol=1e-3, atol=1e-4)
    embedding = np.array(model(mx.array(features)))[0]
    assert embedding @ expected / np.linalg.norm(embedding) / np.linalg.norm(expected) >= 0.999999
