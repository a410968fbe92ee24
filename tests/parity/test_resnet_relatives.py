"""SimAM-ResNet, Res2Net and DF-ResNet against wespeaker.models with seeded weights, on both engines."""

from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speech_zoo
from parity_oracles import HAMMING, Oracle, save_wespeaker, seeded
from signals import BRIEF, COSINE, RATE, cosine, signals_for, waveforms
from speech_zoo_core.oracle import wespeaker

SIZES: dict[str, tuple[str, dict[str, Any]]] = {  # module of WeSpeaker, and what its config.yaml says besides
    "SimAM_ResNet34_ASP": ("samresnet", {"in_planes": 64, "acoustic_dim": 80, "dropout": 0}),
    "SimAM_ResNet100_ASP": ("samresnet", {"in_planes": 64, "acoustic_dim": 80, "dropout": 0}),
    "Res2Net34_Base": ("res2net", {"two_emb_layer": False}),
    "Res2Net34_Large": ("res2net", {"two_emb_layer": True}),
    "Gemini_DF_ResNet60": ("gemini_dfresnet", {"two_emb_layer": True, "pooling_func": "ASTP"}),
    "Gemini_DF_ResNet114": ("gemini_dfresnet", {"two_emb_layer": False}),
    "Gemini_DF_ResNet183": ("gemini_dfresnet", {"two_emb_layer": False}),
    "Gemini_DF_ResNet237": ("gemini_dfresnet", {"two_emb_layer": False}),
}
HEAVY = ("SimAM_ResNet100_ASP", "Res2Net34_Large", "Gemini_DF_ResNet183", "Gemini_DF_ResNet237")


@cache
def original(name: str) -> Oracle:
    module, args = SIZES[name]
    if module != "samresnet":
        args = {"feat_dim": 80} | args
    made = getattr(wespeaker(module), name)(embed_dim=256, **args)
    return Oracle(seeded(made, 71), f"wespeaker-unofficial {version('wespeaker-unofficial')}", HAMMING)


def save(folder: Path, name: str) -> Path:
    save_wespeaker(folder, original(name), name, embed_dim=256, **SIZES[name][1])
    if SIZES[name][0] == "samresnet":  # it takes neither
        config = folder / "config.yaml"
        config.write_text(config.read_text().replace("  feat_dim: 80\n", "").replace("  pooling_func: TSTP\n", ""))
    return folder


@pytest.mark.parametrize("engine", ["mlx", "onnxruntime"])
@pytest.mark.parametrize("name", SIZES)
def test_sizes(
    name: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Callable[..., None]
) -> None:
    monkeypatch.setenv("SPEECH_ZOO_CACHE", str(tmp_path / "home"))
    model = speech_zoo.load(save(tmp_path / "source", name), engine=engine)
    signals = ("voice 01", "noise", *BRIEF) if engine == "onnxruntime" and name not in HEAVY else BRIEF
    scores = {}
    for signal in signals:
        ours = np.array(model.embed((waveforms()[signal], RATE), vad=False))
        scores[signal] = cosine(ours, original(name).embed(signal))
    worst = min(scores, key=scores.__getitem__)
    figures = (f"{scores[worst]:.9f} ({worst})", f"{max(0.0, 1 - scores[worst]):.1e}", "", str(COSINE["float32"]))
    record(name, f"engine {engine}", "float32", f"{len(signals)} signals", *figures, original(name).name)
    assert scores[worst] >= COSINE["float32"]


@pytest.mark.parametrize("precision", ["float16", "8-bit"])
@pytest.mark.parametrize("name", ["SimAM_ResNet34_ASP", "Res2Net34_Base", "Gemini_DF_ResNet60"])
def test_precisions(name: str, precision: str, tmp_path: Path, at_precision: Any, compare: Callable[..., None]) -> None:
    model = at_precision(save(tmp_path / "source", name), precision)
    signals = ("voice 01", *BRIEF) if name.startswith("SimAM") else tuple(s for s in signals_for(precision))
    compare(model, original(name), name, "avg_model.pt + config.yaml", precision, signals)
