"""The WeSpeaker ResNet family against wespeaker.models.resnet, in every form that it is published in."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import speech_zoo
import torch
from parity_oracles import (
    Oracle,
    custom_resnet,
    export_onnx,
    minus_mean,
    renamed_onnx,
    resnet,
    save_pyannote,
    save_wespeaker,
    state_dict,
    with_weights_of,
)
from signals import BRIEF, FEW, signals_for

Compare = Callable[..., None]


@cache
def resnet34(layers: int) -> Oracle:
    """ResNet34 with one or two embedding layers; its embeddings are computed once for the module."""
    return resnet("ResNet34", seed=layers, two_emb_layer=layers == 2)


def with_layers(name: str, layers: int) -> str:
    return f"{name}, {layers} embedding layer{'s' * (layers - 1)}"


@pytest.mark.parametrize("precision", ["float32", "float16", "8-bit"])
@pytest.mark.parametrize("layers", [1, 2])
def test_resnet34(layers: int, precision: str, tmp_path: Path, at_precision: Any, compare: Compare) -> None:
    oracle = resnet34(layers)
    folder = save_wespeaker(tmp_path / "ws", oracle, "ResNet34", embed_dim=256, two_emb_layer=layers == 2)
    model, form = at_precision(folder, precision), "avg_model.pt + config.yaml"
    signals = FEW if layers == 2 and precision == "float16" else signals_for(precision)
    compare(model, oracle, with_layers("ResNet34", layers), form, precision, signals)


@pytest.mark.parametrize("layers", [1, 2])
def test_converted_folder(layers: int, tmp_path: Path, compare: Compare) -> None:
    oracle = resnet34(layers)
    folder = save_wespeaker(tmp_path / "ws", oracle, "ResNet34", embed_dim=256, two_emb_layer=layers == 2)
    model = speech_zoo.load(speech_zoo.convert(folder, tmp_path / "zoo"))
    compare(model, oracle, with_layers("ResNet34", layers), "converted folder", signals=BRIEF)


@pytest.mark.parametrize("embed_dim", [128, 192, 512])
def test_embedding_sizes(embed_dim: int, tmp_path: Path, compare: Compare) -> None:
    oracle = resnet("ResNet34", 3, embed_dim=embed_dim)
    folder = save_wespeaker(tmp_path / "ws", oracle, "ResNet34", embed_dim=embed_dim, two_emb_layer=False)
    compare(speech_zoo.load(folder), oracle, f"ResNet34, {embed_dim}-d", "avg_model.pt + config.yaml", signals=BRIEF)


@pytest.mark.parametrize("name", ["ResNet18", "ResNet50", "ResNet101", "ResNet152", "ResNet221", "ResNet293"])
def test_sizes(name: str, tmp_path: Path, compare: Compare) -> None:
    oracle = resnet(name, 4, two_emb_layer=name == "ResNet293")
    folder = save_wespeaker(tmp_path / "ws", oracle, name, embed_dim=256, two_emb_layer=name == "ResNet293")
    compare(speech_zoo.load(folder), oracle, name, "avg_model.pt + config.yaml", signals=BRIEF)


def test_features_follow_the_config(tmp_path: Path, compare: Compare) -> None:
    oracle = resnet("ResNet18", 5, feat_dim=40)
    oracle.front_end = {**oracle.front_end, "n_mels": 40, "cmn": False}
    folder = save_wespeaker(tmp_path / "ws", oracle, "ResNet18", feat_dim=40, embed_dim=256, two_emb_layer=False)
    config = folder / "config.yaml"
    text = config.read_text().replace("cmvn: true", "cmvn: false").replace("num_mel_bins: 80", "num_mel_bins: 40")
    config.write_text(text)
    compare(speech_zoo.load(folder), oracle, "ResNet18, 40 mels", "config.yaml without CMN", signals=BRIEF)


def _numpy(oracle: Oracle) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in state_dict(oracle).items()}


def _saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def _safetensors(folder: Path, oracle: Oracle) -> Path:
    safetensors.torch.save_file(state_dict(oracle), folder / "model.safetensors")
    return folder


def _shards(folder: Path, oracle: Oracle, ending: str, save: Callable[..., None]) -> Path:
    tensors = state_dict(oracle)
    names, weight_map = sorted(tensors), {}
    for i, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"shard-{i:05}-of-00002.{ending}"
        save({name: tensors[name] for name in part}, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    stem = {"safetensors": "model", "bin": "pytorch_model"}[ending]
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    return folder


def _npz(folder: Path, oracle: Oracle) -> Path:
    np.savez(folder / "weights.npz", **_numpy(oracle))
    return folder


FORMS: dict[str, Callable[[Path, Oracle], Path]] = {
    "torch.save, zip": lambda d, o: _saved(state_dict(o), d / "resnet.pt"),
    "torch.save, legacy": lambda d, o: _saved(state_dict(o), d / "m.pt", _use_new_zipfile_serialization=False),
    "torch.save, float64": lambda d, o: _saved(state_dict(o, dtype=torch.float64), d / "resnet.pth"),
    "state dict under 'model', prefix module.": lambda d, o: _saved({"model": state_dict(o, "module.")}, d / "m.bin"),
    "Lightning (pyannote)": lambda d, o: save_pyannote(d / "pytorch_model.bin", o),
    "Lightning (pyannote), legacy": lambda d, o: save_pyannote(d / "m.ckpt", o, _use_new_zipfile_serialization=False),
    "safetensors": _safetensors,
    "safetensors, 2 shards": lambda d, o: _shards(d, o, "safetensors", safetensors.torch.save_file),
    "bin, 2 shards": lambda d, o: _shards(d, o, "bin", torch.save),
    "npz": _npz,
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str, tmp_path: Path, compare: Compare) -> None:
    model = speech_zoo.load(FORMS[form](tmp_path, resnet34(1)))
    compare(model, resnet34(1), "ResNet34", form, signals=BRIEF)


@pytest.mark.parametrize("form", ["torch.save, zip", "torch.save, legacy", "safetensors"])
@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_half_precision_sources(form: str, half: str, tmp_path: Path, compare: Compare) -> None:
    """The oracle is given the same rounded weights, so the limit is that of float32."""
    dtype = getattr(torch, half)
    rounded = with_weights_of(resnet34(1), lambda: resnet("ResNet34", 1), dtype)
    source = Oracle(resnet("ResNet34", 1).module.to(dtype), "", rounded.front_end)
    model = speech_zoo.load(FORMS[form](tmp_path, source))
    compare(model, rounded, "ResNet34", f"{form}, {half}", signals=BRIEF)


LEGACY = {"dynamo": False, "opset_version": 14}
EXPORTS: dict[str, dict[str, Any]] = {
    "ONNX, BatchNorm folded": {**LEGACY, "do_constant_folding": True},
    "ONNX, BatchNorm kept": {
        **LEGACY,
        "do_constant_folding": False,
        "training": torch.onnx.TrainingMode.PRESERVE,
    },
    "ONNX, dynamo": {"dynamo": True},
}


def _batch_norms(path: Path) -> int:
    return sum(node.op_type == "BatchNormalization" for node in onnx.load(str(path)).graph.node)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", EXPORTS)
@pytest.mark.parametrize("layers", [1, 2])
def test_onnx(layers: int, form: str, tmp_path: Path, compare_onnx: Compare) -> None:
    if form == "ONNX, dynamo":
        pytest.importorskip("onnxscript")
    oracle = minus_mean(resnet34(layers), 256)
    path = export_onnx(tmp_path / "resnet34.onnx", oracle, **EXPORTS[form])
    if "dynamo" not in form:  # 36 in the trunk of ResNet34; the one between the embedding layers cannot be folded
        assert _batch_norms(path) == (36 if "kept" in form else 0) + (layers == 2)
    compare_onnx(path, oracle, with_layers("ResNet34", layers), form)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layers", [1, 2])
def test_onnx_bottleneck_without_mean(layers: int, tmp_path: Path, compare_onnx: Compare) -> None:
    oracle = custom_resnet("bottleneck", [1, 2, 1, 1], 16, 64, layers == 2, seed=6)
    last = Oracle(torch.nn.Sequential(oracle.module, _Last()), oracle.name, oracle.front_end)
    path = export_onnx(tmp_path / "bottleneck.onnx", last, **LEGACY)
    compare_onnx(path, last, with_layers("bottleneck [1, 2, 1, 1]", layers), "ONNX, no mean vector")


class _Last(torch.nn.Module):
    def forward(self, outputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return outputs[-1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layers", [1, 2])
def test_onnx_with_other_names(layers: int, tmp_path: Path, compare_onnx: Compare) -> None:
    oracle = minus_mean(resnet34(layers), 256)
    path = renamed_onnx(export_onnx(tmp_path / "named.onnx", oracle, **LEGACY))
    compare_onnx(path, oracle, with_layers("ResNet34", layers), "ONNX, renamed")
