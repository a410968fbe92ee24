"""`check` with the originals live: what passes, what fails, and what nobody can compare."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speech_zoo
import torch
from parity_oracles import (
    REAL_CAMPPLUS,
    TINY_REDIMNET,
    Oracle,
    custom_ecapa,
    custom_resnet,
    eres2net,
    export_onnx,
    minus_mean,
    redimnet,
    redimnet2,
    save_pyannote,
    save_state,
    save_wespeaker,
    seeded,
    small_relative,
    state_dict,
    wespeaker_campplus,
    wespeaker_eres2net,
)
from redimnet_files import idrnd, save_idrnd, save_palabra, save_wespeaker_2
from safetensors.numpy import load_file, save_file
from speech_zoo.cli import main as cli
from speech_zoo.publish import check as comparison
from speech_zoo.publish.parity import read
from speech_zoo_core.oracle import NoOracle, read_tensors, wespeaker
from speech_zoo_redimnet.oracle import redimnet2_config_of
from speechbrain_files import SMALL, SMALL_PROXY
from speechbrain_oracles import Proxy, SpeechBrain, save_proxy, save_speechbrain
from transformers_oracles import LAYER, TINY, TINY_X_VECTOR, Classifier, WithAdapter, XVector

FEW = ("libri_07_spk1580", "1 s", "0.5 s", "silence", "noise")
PALABRA = replace(redimnet2_config_of("B0"), agg_gnorm=True, dual_agg=True, return_2d_output=True)
LEGACY = {"dynamo": False, "opset_version": 14}


@cache
def resnet(seed: int = 1) -> Oracle:
    return custom_resnet("basic", [1, 1, 1, 1], 8, 32, True, seed)


def wespeaker_folder(folder: Path, seed: int = 1) -> Path:
    sizes = {"m_channels": 8, "num_blocks": [1, 1, 1, 1], "embed_dim": 32, "two_emb_layer": True}
    return save_wespeaker(folder, resnet(seed), "ResNet34", **sizes)


def three_d_speaker(path: Path) -> Path:
    from speakerlab.models.campplus.DTDNN import CAMPPlus

    sizes = {"growth_rate": 8, "init_channels": 32, "embedding_size": 24}
    torch.save(seeded(CAMPPlus(feat_dim=80, **sizes), 3).state_dict(), path)
    return path


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def shards(folder: Path) -> Path:
    folder.mkdir()
    tensors = {name: value.numpy() for name, value in state_dict(resnet()).items()}
    names, weight_map = sorted(tensors), {}
    for file, part in (("a.safetensors", names[::2]), ("b.safetensors", names[1::2])):
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def npz(path: Path) -> Path:
    np.savez(path, **{name: value.numpy() for name, value in state_dict(resnet()).items()})
    return path


def of_transformers_4(folder: Path, original: Any = Classifier, **settings: Any) -> Path:
    original(True, **TINY, **LAYER, use_weighted_layer_sum=True, **settings).save(folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"transformers_version": "4.57.1"}))
    return folder


# How to write each published form into an empty folder, and the package that runs the original.
SOURCES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "resnet34: avg_model.pt": (lambda d: wespeaker_folder(d / "ws"), "wespeaker-unofficial"),
    "resnet34: state dict": (lambda d: saved(state_dict(resnet(), "module."), d / "m.pth"), "wespeaker-unofficial"),
    "resnet34: shards": (lambda d: shards(d / "shards"), "wespeaker-unofficial"),
    "resnet34: npz": (lambda d: npz(d / "weights.npz"), "wespeaker-unofficial"),
    "resnet34: pyannote": (lambda d: save_pyannote(d / "pytorch_model.bin", resnet()), "wespeaker-unofficial"),
    "resnet34: pyannote, legacy": (
        lambda d: save_pyannote(d / "m.ckpt", resnet(), _use_new_zipfile_serialization=False),
        "wespeaker-unofficial",
    ),
    "resnet34: ONNX": (lambda d: export_onnx(d / "m.onnx", minus_mean(resnet(), 32), **LEGACY), "onnxruntime"),
    "campplus: WeSpeaker": (
        lambda d: save_wespeaker(d / "ws", wespeaker_campplus(5, 64), "CAMPPlus", embed_dim=64),
        "wespeaker-unofficial",
    ),
    "campplus: 3D-Speaker": (lambda d: three_d_speaker(d / "campplus.bin"), "speakerlab"),
    "ecapa_tdnn: state dict": (lambda d: saved(state_dict(custom_ecapa(64, 6)), d / "m.pt"), "wespeaker-unofficial"),
    "ecapa_tdnn: ONNX": (
        lambda d: export_onnx(d / "m.onnx", minus_mean(custom_ecapa(64, 6), 192), **LEGACY),
        "onnxruntime",
    ),
    "ecapa_tdnn: SpeechBrain speaker": (
        lambda d: save_speechbrain(d / "sb", SpeechBrain(SMALL["ecapa-speechbrain"], 7)),
        "speechbrain",
    ),
    "ecapa_tdnn: SpeechBrain languages": (
        lambda d: save_speechbrain(d / "sb", SpeechBrain(SMALL["ecapa-lid"], 8)),
        "speechbrain",
    ),
    "xvector: SpeechBrain": (lambda d: save_speechbrain(d / "sb", SpeechBrain(SMALL["xvector"], 9)), "speechbrain"),
    "se_resnet: SpeechBrain": (lambda d: save_speechbrain(d / "sb", SpeechBrain(SMALL["se-resnet"], 9)), "speechbrain"),
    "resnet34: SimAM": (
        lambda d: save_state(d / "avg_model.pt", small_relative("simam", 5)),
        "wespeaker-unofficial",
    ),
    "resnet34: DF-ResNet": (
        lambda d: save_state(d / "avg_model.pt", small_relative("inverted", 6)),
        "wespeaker-unofficial",
    ),
    "campplus: WeSpeaker, MQMHASTP": (
        lambda d: save_wespeaker(
            d / "ws", wespeaker_campplus(7, 64, "MQMHASTP"), "CAMPPlus", embed_dim=64, pooling_func="MQMHASTP"
        ),
        "wespeaker-unofficial",
    ),
    "redimnet: WeSpeaker": (
        lambda d: save_state(d / "avg_model.pt", redimnet("", 3, **TINY_REDIMNET)),
        "wespeaker-unofficial",
    ),
    "redimnet: IDRnD": (
        lambda d: save_idrnd(d / "b0-vox2-ft_lm.pt", idrnd("B0", 4, feat_dim=60)),
        "wespeaker-unofficial",
    ),
    "redimnet: WeSpeaker, ReDimNet2": (
        lambda d: save_wespeaker_2(d / "ws", redimnet2(redimnet2_config_of("B0"), 5), "ReDimNet2B0"),
        "wespeaker-unofficial",
    ),
    "redimnet: PalabraAI": (
        lambda d: save_palabra(d / "b0-vox2-lm.pt", redimnet2(PALABRA, 6), PALABRA),
        "wespeaker-unofficial",
    ),
    "eres2net: 3D-Speaker": (lambda d: save_state(d / "a.ckpt", eres2net("ERes2NetV2", 3, m_channels=8)), "speakerlab"),
    "eres2net: WeSpeaker": (
        lambda d: save_wespeaker(d / "ws", wespeaker_eres2net(5, 64), "ERes2Net34_Base", embed_dim=64),
        "wespeaker-unofficial",
    ),
    "eres2net: ONNX": (
        lambda d: export_onnx(d / "m.onnx", eres2net("ERes2Net", 4, m_channels=8), **LEGACY),
        "onnxruntime",
    ),
    "wav2vec2_cls: layer norm": (lambda d: Classifier(True, **TINY, **LAYER).save(d / "hf"), "transformers"),
    "wav2vec2_cls: group norm, layer sum": (
        lambda d: Classifier(False, **TINY, use_weighted_layer_sum=True).save(d / "hf"),
        "transformers",
    ),
    "wav2vec2_cls: layer sum of transformers 4": (lambda d: of_transformers_4(d / "hf"), "transformers"),
    "wav2vec2_cls: pytorch_model.bin": (
        lambda d: Classifier(True, **TINY, **LAYER).save_bin(d / "hf", old_names=True),
        "transformers",
    ),
    "wav2vec2_cls: HuBERT": (lambda d: Classifier(True, kind="Hubert", **TINY).save(d / "hf"), "transformers"),
    "wav2vec2_cls: tags": (
        lambda d: Classifier(True, problem_type="multi_label_classification", **TINY, **LAYER).save(d / "hf"),
        "transformers",
    ),
    "wav2vec2_cls: values": (
        lambda d: Classifier(True, problem_type="regression", **TINY, **LAYER).save(d / "hf"),
        "transformers",
    ),
    "wav2vec2_cls: WavLM x-vector": (
        lambda d: XVector(True, kind="WavLM", **TINY, **TINY_X_VECTOR).save_bin(d / "hf", old_names=True),
        "transformers",
    ),
    "wav2vec2_cls: x-vector, layer sum of transformers 4": (
        lambda d: of_transformers_4(d / "hf", XVector, kind="UniSpeechSat", **TINY_X_VECTOR),
        "transformers",
    ),
}


@pytest.fixture(autouse=True)
def few_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    every = comparison.signals()
    monkeypatch.setattr(comparison, "signals", lambda: [clip for clip in every if clip.name in FEW])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", SOURCES)
def test_every_form(form: str, tmp_path: Path, record: Callable[..., None]) -> None:
    make, package = SOURCES[form]
    source = make(tmp_path)
    folder = speech_zoo.convert(source, tmp_path / "zoo")
    parity = speech_zoo.check(folder, source)
    assert parity.passed is True, parity.verdict()
    assert parity.oracle is not None
    assert (parity.oracle["name"], parity.oracle["from"]) == (package, "live")
    assert [clip.clip for clip in parity.clips if clip.engine == "onnxruntime"] == list(FEW)
    assert {clip.engine for clip in parity.clips} == {"onnxruntime", "mlx"}
    assert parity.not_compared == []
    assert parity.worst().keys() == {"features", "cosine" if parity.task == "speaker-embedding" else "logits"}
    assert all(clip.features is not None for clip in parity.clips)
    assert parity.reference["sha256"] == json.loads((folder / "config.json").read_text())["source"]["sha256"]
    assert (read(folder), parity.stale(folder)) == (parity, False)
    worst = ", ".join(f"{key} {abs((key == 'cosine') - value):.1e}" for key, value in parity.worst().items())
    record(f"check {form}", "", "float32", f"{len(FEW)} clips", worst, "", "", "", f"{package}")


PRECISIONS = {
    "resnet34: avg_model.pt": ("float16", "bfloat16", "8-bit"),
    "campplus: 3D-Speaker": ("float16", "8-bit", "4-bit"),
    "ecapa_tdnn: SpeechBrain languages": ("float16", "8-bit"),
    "wav2vec2_cls: layer norm": ("float16", "bfloat16", "8-bit", "4-bit"),
    "wav2vec2_cls: values": ("float16",),
}


@pytest.mark.parametrize(("form", "precision"), [(form, p) for form, all_of in PRECISIONS.items() for p in all_of])
def test_precisions(form: str, precision: str, tmp_path: Path) -> None:
    """Half precision is computed in float32 and, for a few clips, in itself."""
    source = SOURCES[form][0](tmp_path)
    how: dict[str, Any] = {"bits": int(precision[0])} if precision.endswith("bit") else {"dtype": precision}
    parity = speech_zoo.check(speech_zoo.convert(source, tmp_path / "zoo", **how), source)
    assert parity.precision == precision
    assert parity.passed is True, parity.verdict()
    assert [clip.computed for clip in parity.clips][: len(FEW)] == ["float32"] * len(FEW)
    runs = {(clip.computed, clip.engine) for clip in parity.clips}
    both = {("float32", "onnxruntime"), ("float32", "mlx")}
    assert runs == (both if precision.endswith("bit") else both | {(precision, "mlx")})
    if (form, precision) == ("campplus: 3D-Speaker", "4-bit"):
        assert parity.limits == {"features": 1e-3}
        assert "embeddings with a limit: in 4-bit they have none" in parity.not_compared[0]
        assert parity.verdict().startswith("features hold in 4-bit with speakerlab")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    """The command in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["speech-zoo", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def change_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = sorted(name for name, value in tensors.items() if value.ndim > 1)[0]
    tensors[name][0] *= np.float32(1.5)
    save_file(tensors, folder / "model.safetensors")


def change_setting(folder: Path, old: str, new: str) -> None:
    text = (folder / "config.json").read_text()
    assert old in text
    (folder / "config.json").write_text(text.replace(old, new))


CORRUPTIONS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a tensor": ("resnet34: avg_model.pt", change_tensor, "cosine"),
    "a tensor of a classifier": ("wav2vec2_cls: layer norm", change_tensor, "logits"),
    "the window": (
        "resnet34: avg_model.pt",
        lambda folder: change_setting(folder, '"hamming"', '"hanning"'),
        "features",
    ),
    "the frames": (
        "ecapa_tdnn: SpeechBrain speaker",
        lambda folder: change_setting(folder, '"frame_shift": 10.0', '"frame_shift": 5.0'),
        "features of shape",
    ),
    "the sample rate": (
        "campplus: 3D-Speaker",
        lambda folder: change_setting(folder, '"sample_rate": 16000', '"sample_rate": 8000'),
        "features",
    ),
    "the normalisation": (
        "wav2vec2_cls: layer norm",
        lambda folder: change_setting(folder, '"normalise": true', '"normalise": false'),
        "features",
    ),
    "the padding": (
        "ecapa_tdnn: state dict",
        lambda folder: change_setting(folder, '"zeros"', '"reflect"'),
        "cosine",
    ),
}


@pytest.mark.parametrize("what", CORRUPTIONS)
def test_a_corrupted_conversion(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    form, corrupt, seen = CORRUPTIONS[what]
    source = SOURCES[form][0](tmp_path)
    folder = speech_zoo.convert(source, tmp_path / "zoo")
    corrupt(folder)
    assert run(monkeypatch, "check", folder, "--reference", source) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {folder} is not equal to its original: ")
    assert (seen in err, err.count("\n")) == (True, 1)
    assert "missed" in out or seen in out
    parity = read(folder)
    assert parity is not None and parity.passed is False
    assert not parity.stale(folder)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    source = SOURCES["ecapa_tdnn: SpeechBrain languages"][0](tmp_path)
    folder = speech_zoo.convert(source, tmp_path / "zoo")
    assert run(monkeypatch, "check", folder, "--reference", source) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for clip in FEW:
        assert clip in out
    assert "Parity holds in float32 with speechbrain 1" in out
    assert run(monkeypatch, "check", folder, "--reference", source, "--json", "--output", tmp_path / "p.json") == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "p.json").read_text() == (folder / "parity.json").read_text()


def test_another_reference(tmp_path: Path) -> None:
    source, other = wespeaker_folder(tmp_path / "ws"), wespeaker_folder(tmp_path / "other", seed=2)
    folder = speech_zoo.convert(source, tmp_path / "zoo")
    with pytest.raises(speech_zoo.CheckpointError, match=r"other is not what .* was converted from: the sha256 of avg"):
        speech_zoo.check(folder, other)
    assert read(folder) is None


def test_what_has_no_oracle(tmp_path: Path) -> None:
    proxy = save_proxy(tmp_path / "proxy.pt", Proxy(9, **SMALL_PROXY))
    adapters = WithAdapter(True, **TINY, **LAYER).save(tmp_path / "hf")
    for source, reason in ((proxy, "code is not public"), (adapters, "refuse checkpoints with add_adapter")):
        folder = speech_zoo.convert(source, tmp_path / f"zoo-{source.stem}")
        parity = speech_zoo.check(folder, source)
        assert (parity.passed, parity.oracle, parity.clips) == (None, None, [])
        assert reason in parity.not_compared[0]
        assert read(folder) == parity


def test_other_features_in_the_source(tmp_path: Path) -> None:
    """The original's settings count, whatever the converted config says of them."""
    source = wespeaker_folder(tmp_path / "ws")
    text = (source / "config.yaml").read_text()
    (source / "config.yaml").write_text(text.replace("frame_shift: 10", "frame_shift: 8").replace("16000", "8000"))
    folder = speech_zoo.convert(source, tmp_path / "zoo")
    parity = speech_zoo.check(folder, source)
    assert parity.passed is True, parity.verdict()
    assert parity.not_compared == ["resampling from 16000 Hz to 8000 Hz, which both share"]


@pytest.mark.skipif(
    not REAL_CAMPPLUS.is_file(), reason="SPEECH_ZOO_CAMPPLUS_PT names 3D-Speaker's campplus_cn_en_common.pt"
)
@pytest.mark.parametrize("precision", ["float32", "bundled"])
def test_published_campplus(precision: str, tmp_path: Path) -> None:
    if precision == "bundled":
        parity = speech_zoo.check("campplus-zh-en", REAL_CAMPPLUS)
    else:
        parity = speech_zoo.check(speech_zoo.convert(REAL_CAMPPLUS, tmp_path / "zoo"), REAL_CAMPPLUS)
    assert parity.passed is True, parity.verdict()
    assert parity.oracle == {"name": "speakerlab", "version": "0.0.6", "from": "live"} | {
        "features": parity.oracle["features"]
    }


@pytest.mark.parametrize("function", [shutil.copyfile, os.link])
def test_code_in_a_file_does_not_run(function: Callable[..., Any], tmp_path: Path) -> None:
    """A Lightning checkpoint names classes: torch gets inert records for them, but for what it blocks."""

    class Copy:
        def __reduce__(self) -> Any:
            return (function, (__file__, str(tmp_path / "copy")))

    path = tmp_path / "m.ckpt"
    torch.save({"state_dict": {"w": torch.ones(2)}, "extra": Copy()}, path)
    if function is os.link:
        with pytest.raises(NoOracle, match=r"torch.load refuses m.ckpt: .*GLOBAL posix.link"):
            read_tensors(path)
    else:
        tensors, extra = read_tensors(path)
        assert tensors["w"].tolist() == [1, 1]
        assert type(extra["extra"]).__name__ == "copyfile"
    assert not (tmp_path / "copy").exists()


def test_nothing_is_left_behind() -> None:
    """Stand-ins for packages are gone once the originals are imported."""
    assert wespeaker("resnet").ResNet is wespeaker("resnet").ResNet
    assert not [name for name in sys.modules if name.partition(".")[0] in ("wespeaker", "torchaudio")]
