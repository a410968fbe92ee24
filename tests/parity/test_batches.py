"""Clips that were padded into one batch against the same clips one at a time."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import speech_zoo
import torch
from parity_oracles import (
    TINY_REDIMNET,
    custom_resnet,
    eres2net,
    redimnet,
    redimnet2,
    resnet,
    save_state,
    save_wespeaker,
    state_dict,
    wespeaker_campplus,
    wespeaker_ecapa,
)
from signals import COSINE, RATE, cosine, raw_bits, waveforms
from speech_zoo_core.tasks import audio_model
from speech_zoo_redimnet.oracle import redimnet2_config_of
from speechbrain_files import SMALL
from speechbrain_oracles import SpeechBrain, save_speechbrain, speechbrain_speaker


@cache
def sources() -> dict[str, Callable[[Path], Any]]:
    """How to make each model from a folder that does not exist yet."""

    def bottleneck(folder: Path) -> Path:
        folder.mkdir()
        oracle = custom_resnet("bottleneck", [1, 2, 1, 1], 16, 64, True, seed=6)
        torch.save(state_dict(oracle), folder / "bottleneck.pt")
        return folder

    return {
        "ResNet34": lambda d: save_wespeaker(d, resnet("ResNet34", 1), "ResNet34", embed_dim=256, two_emb_layer=False),
        "bottleneck, 2 layers": bottleneck,
        "CAM++ zh-en": lambda d: "campplus-zh-en",
        "CAM++ WeSpeaker": lambda d: save_wespeaker(d, wespeaker_campplus(11), "CAMPPlus", embed_dim=512),
        "ERes2Net": lambda d: save_state(d, eres2net("ERes2Net", 7, m_channels=8)),
        "ERes2NetV2": lambda d: save_state(d, eres2net("ERes2NetV2", 8, m_channels=8)),
        "ECAPA SpeechBrain": lambda d: save_speechbrain(d, speechbrain_speaker(1)),
        "ReDimNet": lambda d: save_state(d, redimnet("", 9, **TINY_REDIMNET)),
        "ReDimNet2": lambda d: save_state(d, redimnet2(redimnet2_config_of("B0"), 10)),
        "x-vector": lambda d: save_speechbrain(d, SpeechBrain(SMALL["xvector"], 7)),
        "SE-ResNet": lambda d: save_speechbrain(d, SpeechBrain(SMALL["se-resnet"], 8)),
        "ECAPA WeSpeaker GLOB": lambda d: save_wespeaker(
            d, wespeaker_ecapa("GLOB_c512", 4), "ECAPA_TDNN_GLOB_c512", embed_dim=192, pooling_func="ASTP"
        ),
    }


@pytest.fixture(scope="module", params=sources())
def named_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    source = sources()[request.param](tmp_path_factory.mktemp("batches") / "source")
    return request.param, speech_zoo.load(source)


def _lengths(seed: int, low: int) -> list[int]:
    return [low + int(x) for x in raw_bits(seed, 4, 32) % np.uint64(420 - low)]


@pytest.mark.parametrize("lengths", ["edges", 1, 2], ids=["edges", "random 1", "random 2"])
def test_padding(named_model: tuple[str, Any], lengths: str | int, record: Callable[..., None]) -> None:
    """Lengths at the edges of the strides and of CAM++'s segments (100 frames after a stride of 2), and random ones."""
    name, model = named_model
    low = model.min_frames
    sizes = [low, low + 1, 16, 17, 199, 200, 201, 401] if lengths == "edges" else _lengths(int(lengths), low)
    features = model.features(waveforms()["60 s"][: 60 * RATE], RATE)
    clips = [features[70 * i : 70 * i + size] for i, size in enumerate(sizes)]
    together = np.array(model._padded(clips))
    alone = np.concatenate([np.array(model._padded([clip])) for clip in clips])
    cosines = [cosine(a, b) for a, b in zip(together, alone, strict=True)]
    worst = min(cosines)
    what, below = f"{len(sizes)} clips, {min(sizes)} to {max(sizes)} frames", f"{max(0.0, 1 - worst):.1e}"
    record(name, "padded batch", "float32", what, f"{worst:.9f}", below, "", "0.999999", "one at a time")
    assert worst >= COSINE["float32"], dict(zip(sizes, cosines, strict=True))


@pytest.mark.parametrize("one_batch", [False, True], ids=["as on this device", "one batch"])
def test_embed_batch(named_model: tuple[str, Any], one_batch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`embed_batch` gives what `embed` gives, in the order given, whatever the device's way to form batches."""
    _, model = named_model
    if one_batch:
        monkeypatch.setattr(audio_model, "_batches", lambda sizes, _limit, _mixed: [list(sizes)])
    clips = [waveforms()[name] for name in ("noise", "0.3 s", "voice 07")]
    together = model.embed_batch(clips, sample_rate=RATE, vad=False)
    assert together.dtype == mx.float32
    alone = [model.embed(clip, sample_rate=RATE, vad=False) for clip in clips]
    assert [cosine(a, b) >= COSINE["float32"] for a, b in zip(together, alone, strict=True)] == [True] * 3
