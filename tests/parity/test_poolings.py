"""WeSpeaker's poolings on each of its backbones, against wespeaker.models with seeded weights, on both engines."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speech_zoo
from parity_oracles import HAMMING, Oracle, save_wespeaker, seeded
from signals import BRIEF, COSINE, RATE, cosine, waveforms
from speech_zoo_core.oracle import wespeaker
from speech_zoo_core.pooling import VALUES

SIGNALS = ("voice 01", *BRIEF)
BACKBONES: dict[str, tuple[str, str, dict[str, Any]]] = {  # module, name, and what stands in config.yaml besides
    "ResNet34": ("resnet", "ResNet34", {"two_emb_layer": False}),
    "ECAPA-TDNN": ("ecapa_tdnn", "ECAPA_TDNN_c512", {"emb_bn": False}),
    "CAM++": ("campplus", "CAMPPlus", {}),
    "ERes2Net": ("eres2net", "ERes2Net34_Base", {"two_emb_layer": False}),
    "ReDimNet": ("redimnet", "ReDimNetB1", {"two_emb_layer": False, "feat_dim": 72}),
}
USUAL = {"ECAPA-TDNN": "ASTP", "ReDimNet": "ASTP"}  # what the other parity tests have
# ASP is of SimAM-ResNet alone.
CASES = [(n, p) for n in BACKBONES for p in VALUES if p not in (USUAL.get(n, "TSTP"), "ASP")]


def original(name: str, pooling: str, seed: int = 61) -> tuple[Oracle, str, dict[str, Any]]:
    module, kind, args = BACKBONES[name]
    args = {"feat_dim": 80, "embed_dim": 192, "pooling_func": pooling} | args
    made = getattr(wespeaker(module), kind)(**args)
    front_end = HAMMING | {"n_mels": args["feat_dim"]}
    oracle = Oracle(seeded(made, seed), f"wespeaker-unofficial {version('wespeaker-unofficial')}", front_end)
    return oracle, kind, args


def save(folder: Path, oracle: Oracle, kind: str, args: dict[str, Any]) -> Path:
    save_wespeaker(folder, oracle, kind, **args)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("num_mel_bins: 80", f"num_mel_bins: {args['feat_dim']}"))
    return folder


@pytest.mark.parametrize("engine", ["mlx", "onnxruntime"])
@pytest.mark.parametrize(("name", "pooling"), CASES)
def test_poolings(
    name: str, pooling: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Callable[..., None]
) -> None:
    monkeypatch.setenv("SPEECH_ZOO_CACHE", str(tmp_path / "home"))
    oracle, kind, args = original(name, pooling)
    model = speech_zoo.load(save(tmp_path / "source", oracle, kind, args), engine=engine)
    signals = SIGNALS if engine == "onnxruntime" else BRIEF
    scores = {}
    for signal in signals:
        ours = np.array(model.embed((waveforms()[signal], RATE), vad=False))
        scores[signal] = cosine(ours, oracle.embed(signal))
    worst = min(scores, key=scores.__getitem__)
    figures = (f"{scores[worst]:.9f} ({worst})", f"{max(0.0, 1 - scores[worst]):.1e}", "", str(COSINE["float32"]))
    record(f"{name}, {pooling}", f"engine {engine}", "float32", f"{len(signals)} signals", *figures, oracle.name)
    assert scores[worst] >= COSINE["float32"]


@pytest.mark.parametrize("precision", ["float16", "8-bit"])
@pytest.mark.parametrize(
    ("name", "pooling"), [("ResNet34", "ASTP"), ("ResNet34", "MHASTP"), ("CAM++", "MQMHASTP"), ("ECAPA-TDNN", "TSDP")]
)
def test_precisions(
    name: str, pooling: str, precision: str, tmp_path: Path, at_precision: Any, compare: Callable[..., None]
) -> None:
    oracle, kind, args = original(name, pooling)
    model = at_precision(save(tmp_path / "source", oracle, kind, args), precision)
    compare(model, oracle, f"{name}, {pooling}", "avg_model.pt + config.yaml", precision, SIGNALS)
