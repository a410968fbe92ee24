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
