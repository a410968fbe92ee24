"""The originals against every engine; one graph for all clips."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import speech_zoo
from mlprogram import MLProgram
from parity_oracles import (
    REAL_CAMPPLUS,
    eres2net,
    real_campplus,
    redimnet,
    redimnet2,
    resnet,
    save_state,
    save_wespeaker,
    wespeaker_ecapa,
)
from signals import COSINE, RATE, VOICES, cosine, waveforms
from speech_zoo_export import trace
from speech_zoo_export.coreml import to_coreml
from speech_zoo_redimnet.oracle import redimnet2_config_of
from speechbrain_files import SMALL, xvector_hyperparams
from speechbrain_oracles import SpeechBrain, save_speechbrain, speechbrain_speaker
from transformers_oracles import MMS, Classifier

SIGNALS = {"onnxruntime": ("voice 01", "voice 02", "voice 03", "1 s", "0.5 s", "noise"), "mlx": ("1 s", "0.5 s")}
LOGITS = 1e-4  # relative to the largest


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user without graphs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECH_ZOO_CACHE", str(tmp_path_factory.mktemp("home")))
        yield


SPEAKERS: dict[str, tuple[Callable[[], Any], Callable[[Path, Any], Any]]] = {
    "ResNet34": (
        lambda: resnet("ResNet34", seed=1),
        lambda folder, oracle: save_wespeaker(folder, oracle, "ResNet34", embed_dim=256, two_emb_layer=False),
    ),
    "ECAPA-TDNN, SpeechBrain": (lambda: speechbrain_speaker(seed=1), save_speechbrain),
    "ReDimNet B0": (
        lambda: redimnet("B0", 4),
        save_state,
    ),
    "ReDimNet2 B2": (
        lambda: redimnet2(redimnet2_config_of("B2"), 4),
        save_state,
    ),
    "x-vector, SpeechBrain": (lambda: SpeechBrain(xvector_hyperparams(), 1), save_speechbrain),
    "SE-ResNet, SpeechBrain": (lambda: SpeechBrain(SMALL["se-resnet"], 2), save_speechbrain),
    "ERes2Net-base": (
        lambda: eres2net("ERes2Net", 5, m_channels=32, embedding_size=512),
        save_state,
    ),
    "ECAPA-TDNN, WeSpeaker": (
        lambda: wespeaker_ecapa("GLOB_c512", 4),
        lambda folder, oracle: save_wespeaker(
            folder, oracle, "ECAPA_TDNN_GLOB_c512", embed_dim=192, pooling_func="ASTP", emb_bn=False
        ),
    ),
}


@pytest.mark.parametrize("name", SPEAKERS)
def test_speakers(name: str, tmp_path: Path, record: Callable[..., None]) -> None:
    make, save = SPEAKERS[name]
    oracle = make()
    compare(name, save(tmp_path / "source", oracle), oracle, record)


@pytest.mark.skipif(not REAL_CAMPPLUS.is_file(), reason="SPEECH_ZOO_CAMPPLUS_PT names no file")
def test_real_weights(record: Callable[..., None]) -> None:
    compare("CAM++, 3D-Speaker", REAL_CAMPPLUS, real_campplus(), record)


def compare(name: str, ref: Path, oracle: Any, record: Callable[..., None]) -> None:
    theirs = {signal: oracle.embed(signal) for signal in SIGNALS["onnxruntime"]}
    for engine, signals in SIGNALS.items():
        model = speech_zoo.load(ref, engine=engine)
        ours = {signal: np.array(model.embed((waveforms()[signal], RATE), vad=False)) for signal in signals}
        plain = {signal: cosine(ours[signal], theirs[signal]) for signal in signals}
        worst = min(plain, key=plain.__getitem__)
        figures = (worst, f"{max(0.0, 1 - plain[worst]):.1e}", "", str(COSINE["float32"]), oracle.name)
        record(name, f"engine {engine}", "float32", f"{len(signals)} signals", *figures)
        assert plain[worst] >= COSINE["float32"]


def test_mms(tmp_path: Path, record: Callable[..., None]) -> None:
    oracle = Classifier(True, **MMS)
    folder = oracle.save(tmp_path / "hf")
    for engine, signals in (("onnxruntime", ("voice 01", "1 s", "0.5 s")), ("mlx", ("0.5 s",))):
        model, errors = speech_zoo.load(folder, engine=engine), []
        for signal in signals:
            ours = np.array(model.logits((waveforms()[signal], RATE), vad=False))
            expected = oracle.logits(signal)
            errors.append(float(np.abs(ours - expected).max() / np.abs(expected).max()))
        figures = (f"{max(errors):.1e}", "", "", "1e-4", oracle.name)
        record("Wav2Vec2, MMS width", f"engine {engine}", "float32", f"{len(signals)} signals", *figures)
        assert max(errors) <= LOGITS


def test_a_core_ml_program(tmp_path: Path, record: Callable[..., None]) -> None:
    """Of three seconds, in float16, on nine voices; computed from the saved file."""
    model = speech_zoo.load("campplus-zh-en")
    mx.eval(model.parameters())
    samples = 3 * RATE
    graph = trace(model, mx.zeros((1, model.config.front_end.num_frames(samples), 80)))
    to_coreml(graph).save(str(tmp_path / "model.mlpackage"))
    program, worst = MLProgram(tmp_path / "model.mlpackage"), 1.0
    for voice in VOICES:
        x = mx.array(waveforms()[voice][:samples])
        features = np.array(model.config.front_end(x))[None]
        worst = min(worst, cosine(program(features)[0], np.array(model(mx.array(features)))))
    record(
        "CAM++", "Core ML program", "float16", "nine voices", "", f"{1 - worst:.1e}", "", str(COSINE["float16"]), "MLX"
    )
    assert worst >= COSINE["float16"]
