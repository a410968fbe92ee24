"""ReDimNet and ReDimNet2 against wespeaker.models.redimnet and redimnet2 with seeded weights, from WeSpeaker's form and
from those of IDRnD and PalabraAI.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import speech_zoo
from parity_oracles import Oracle, redimnet, redimnet2, save_state
from redimnet_files import IdrndOracle, idrnd, save_idrnd, save_palabra, save_wespeaker_2
from signals import ALL, BRIEF, FEW, RATE, VOICES, cosine, voices, waveforms
from speech_zoo_redimnet.oracle import mel_banks, redimnet2_config_of, tf_mel_banks
from torchaudio_resampling import torchaudio_resample

Compare = Callable[..., None]
SOME = tuple(signal for signal in ALL if signal != "60 s")


@cache
def of_wespeaker(size: str) -> Oracle:
    return redimnet(size, 51)


@cache
def of_idrnd() -> IdrndOracle:
    return idrnd("B0", 52, feat_dim=60)


@pytest.mark.parametrize("size", ["B1", "B2", "B3", "B4", "B5", "B6"])
def test_sizes(size: str, tmp_path: Path, compare: Compare) -> None:
    path = save_state(tmp_path / "avg_model.pt", of_wespeaker(size))
    signals = BRIEF if size in ("B1", "B2") else BRIEF[-1:]  # a CPU takes long for the others
    compare(speech_zoo.load(path), of_wespeaker(size), f"ReDimNet {size}", "avg_model.pt", signals=signals)


@pytest.mark.parametrize("precision", ["float32", "float16", "8-bit"])
def test_precisions(precision: str, tmp_path: Path, at_precision: Any, compare: Compare) -> None:
    model = at_precision(save_state(tmp_path / "avg_model.pt", of_wespeaker("B0")), precision)
    signals = SOME if precision == "float32" else FEW
    compare(model, of_wespeaker("B0"), "ReDimNet B0", "avg_model.pt", precision, signals)


@pytest.mark.parametrize("converted", [False, True], ids=["source", "converted"])
def test_idrnd(converted: bool, tmp_path: Path, compare: Compare) -> None:
    source = save_idrnd(tmp_path / "b0-vox2-ft_lm.pt", of_idrnd())
    path = speech_zoo.convert(source, tmp_path / "zoo") if converted else source
    name = "converted folder" if converted else "model_config"
    compare(speech_zoo.load(path), of_idrnd(), "ReDimNet B0, IDRnD", name, signals=BRIEF if converted else FEW)


# ReDimNet2. The last stage has one frame for four of the clip's; the rest of these is dropped.


@cache
def of_redimnet2(size: str) -> Oracle:
    return redimnet2(redimnet2_config_of(size), 53)


@pytest.mark.parametrize("size", ["B1", "B2", "B3", "B4", "B5", "B6"])
def test_redimnet2_sizes(size: str, tmp_path: Path, compare: Compare) -> None:
    model = speech_zoo.load(save_wespeaker_2(tmp_path / "source", of_redimnet2(size), f"ReDimNet2{size}"))
    assert replace(model.config, source=None, threshold=None) == redimnet2_config_of(size)
    signals = BRIEF if size in ("B1", "B2", "B6") else BRIEF[-1:]
    compare(model, of_redimnet2(size), f"ReDimNet2 {size}", "avg_model.pt", signals=signals)


@pytest.mark.parametrize("precision", ["float32", "float16", "8-bit"])
def test_redimnet2_precisions(precision: str, tmp_path: Path, at_precision: Any, compare: Compare) -> None:
    model = at_precision(save_wespeaker_2(tmp_path / "source", of_redimnet2("B0"), "ReDimNet2B0"), precision)
    signals = SOME if precision == "float32" else FEW
    compare(model, of_redimnet2("B0"), "ReDimNet2 B0", "avg_model.pt", precision, signals)


@pytest.mark.parametrize("engine", ["mlx", "onnxruntime"])
def test_redimnet2_lengths(engine: str, tmp_path: Path) -> None:
    """Of every rest after the strides."""
    import mlx.core as mx  # after speech_zoo, which turns TF32 off

    oracle, model = (
        of_redimnet2("B0"),
        speech_zoo.load(save_state(tmp_path / "avg_model.pt", of_redimnet2("B0")), engine=engine),
    )
    features = tf_mel_banks(voices()["voice 01"], 72)
    for frames in (4, 5, 7, 20, 21, 22, 23, 198, 199, 200, 201):
        clip = np.ascontiguousarray(features[:frames])
        assert cosine(np.array(model(mx.array(clip)[None]))[0], oracle(clip)) >= 0.999999, frames


@pytest.mark.parametrize(
    "changes",
    [
        {"agg_gnorm": True, "return_2d_output": True},
        {"agg_gnorm": True, "dual_agg": True},
        {"block_2d_type": "basic_resnet_fwse", "dual_agg": True},
        {"block_2d_type": "convnext_like", "stages_setup": [5, 7]},
        {"return_2d_output": True, "out_channels": None},
    ],
    ids=str,
)
def test_palabra(changes: dict[str, Any], tmp_path: Path, compare: Compare) -> None:
    """What a recipe may choose; without a head the two kinds of output have the same tensors."""
    config = redimnet2_config_of("B0")
    if kernel := changes.get("stages_setup"):
        changes = changes | {"stages_setup": [replace(stage, kernel_size=kernel) for stage in config.stages_setup]}
    config = replace(config, **changes)
    oracle = redimnet2(config, 54)
    model = speech_zoo.load(save_palabra(tmp_path / "b0-vox2-lm.pt", oracle, config))
    assert replace(model.config, source=None, threshold=None) == config
    compare(model, oracle, "ReDimNet2 B0, PalabraAI", ", ".join(changes), signals=BRIEF)


@pytest.mark.parametrize("signal", [*VOICES, "0.3 s", "silence", "noise"])
def test_features(signal: str) -> None:
    from speech_zoo_core.audio.front_end import REDIMNET, REDIMNET2

    import mlx.core as mx  # isort: skip  # after speech_zoo, which turns TF32 off

    for front_end, banks in ((REDIMNET, mel_banks), (REDIMNET2, tf_mel_banks)):
        ours = np.array(front_end(mx.array(waveforms()[signal])))
        theirs = banks(waveforms()[signal], 72)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1e-3


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_files(rate: int, tmp_path: Path, record: Callable[..., None]) -> None:
    """Stereo files: the first channel, torchaudio's resampler."""
    columns = [soxr.resample(np.resize(voices()[voice], 3 * RATE), RATE, rate) for voice in ("voice 04", "voice 05")]
    soundfile.write(tmp_path / "clip.wav", np.stack(columns, axis=1), rate, "FLOAT")
    expected = of_idrnd()(mel_banks(torchaudio_resample(columns[0].astype(np.float32), rate), 60))
    model = speech_zoo.load(save_idrnd(tmp_path / "b0.pt", of_idrnd()))
    score = cosine(model.embed(tmp_path / "clip.wav"), expected)
    figures = (f"{score:.9f}", f"{max(0.0, 1 - score):.1e}", "", "0.999999", f"{of_idrnd().name}, torchaudio")
    record("ReDimNet B0, IDRnD", f"file, {rate} Hz", "float32", "1 file", *figures)
    assert score >= 0.999999
