"""ERes2Net: both makers' names, the settings beside a checkpoint, and what is refused."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import yaml
from source_weights import source_weights
from speech_zoo.catalogue.entries import entries
from speech_zoo_core.audio.front_end import WESPEAKER
from speech_zoo_core.checkpoint.wespeaker import THRESHOLD
from speech_zoo_core.errors import CheckpointError, ConfigError, SpeechZooError
from speech_zoo_core.layers import parameters
from speech_zoo_core.loader import load
from speech_zoo_eres2net.model import _clipped
from speech_zoo_eres2net.source import THREE_D_SPEAKER_THRESHOLD
from tiny_models import CONFIGS, ERES2NET, tiny_source, wespeaker_yaml
from torch_files import save_zip, state_dict

GOLDEN = Path(__file__).parents[1] / "goldens" / "tiny" / "eres2net.onnx"
NAMES = ["eres2net", "eres2net_two_emb_layer", "eres2netv2"]
BASE = replace(ERES2NET, m_channels=32, num_blocks=[3, 4, 6, 3], front_end=replace(WESPEAKER, n_mels=16))


def saved(path: Path, weights: dict[str, np.ndarray]) -> Path:
    return save_zip(path, state_dict(weights))


def refusal(path: Path, error: type[SpeechZooError]) -> str:
    with pytest.raises(error) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def wespeaker_names(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """3D-Speaker's tensors as WeSpeaker has them: in a block that fuses, the first convolution of three taps apart."""
    renamed = {}
    for name, x in weights.items():
        if found := re.fullmatch(r"(layer[34]\.\d+\.)(conv|bn)s\.(\d)\.(.*)", name):
            block, kind, i, part = found.groups()
            renamed[f"{block}{kind}s.{int(i) - 1}.{part}" if i != "0" else f"{block}{kind}2_1.{part}"] = x
        else:
            renamed[name] = x
    return renamed


@pytest.fixture(scope="module")
def base() -> dict[str, np.ndarray]:
    """WeSpeaker's ERes2Net34_Base, of 16 mels."""
    return wespeaker_names(source_weights(BASE, projection=True))


def wespeaker(folder: Path, weights: dict[str, np.ndarray], **changes: Any) -> Path:
    saved(folder / "avg_model.pt", weights)
    settings = wespeaker_yaml(BASE, "ERes2Net34_Base")
    settings["model_args"] |= changes.pop("model_args", {})
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | changes))
    return folder


# 3D-Speaker


@pytest.mark.parametrize("name", NAMES)
def test_three_d_speaker(tmp_path: Path, name: str) -> None:
    model = load(saved(tmp_path / "pretrained_eres2net.ckpt", tiny_source(name)))
    assert replace(model.config, source=None) == CONFIGS[name]
    assert model.config.pool_eps == 1e-8


def test_the_threshold_is_the_catalogue_s() -> None:
    thresholds = {entry.threshold for entry in entries().values() if entry.model_type == "eres2net"}
    assert thresholds == {THREE_D_SPEAKER_THRESHOLD} == {ERES2NET.threshold}


def test_settings_of_model_scope(tmp_path: Path) -> None:
    model = {"model_config": {"fbank_dim": 16, "sample_rate": 8000}, "yesOrno_thr": 0.25}
    (tmp_path / "configuration.json").write_text(json.dumps({"model": model}))
    config = load(saved(tmp_path / "pretrained_eres2net.ckpt", tiny_source("eres2net"))).config
    assert (config.threshold, config.front_end.sample_rate) == (0.25, 8000)


@pytest.mark.parametrize("threshold", [2, "high", True, None, float("nan")])
def test_a_threshold_that_is_none(tmp_path: Path, threshold: Any) -> None:
    (tmp_path / "configuration.json").write_text(json.dumps({"model": {"yesOrno_thr": threshold}}))
    path = saved(tmp_path / "pretrained_eres2net.ckpt", tiny_source("eres2net"))
    if threshold is None:
        assert load(path).config.threshold is None
    else:
        assert "threshold" in refusal(path, ConfigError)


# WeSpeaker


def test_wespeaker(tmp_path: Path, base: dict[str, np.ndarray]) -> None:
    model = load(wespeaker(tmp_path, base))
    assert replace(model.config, source=None) == replace(BASE, pool_eps=1e-7, threshold=THRESHOLD)
    (tmp_path / "3d").mkdir()
    other = parameters(load(saved(tmp_path / "3d" / "eres2net.ckpt", source_weights(BASE))))
    assert all(mx.array_equal(x, other[name]) for name, x in parameters(model).items())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "ERes2Net34_Large"}, "m_channels = 64, the tensors say 32"),
        ({"model": "ERes2Net34_aug"}, "the tensors say"),
        ({"model": "ResNet34"}, "'ResNet34' is not in this family"),
        ({"model_args": {"embed_dim": 9}}, "embed_dim = 9, the tensors say 8"),
        ({"model_args": {"baseWidth": 24}}, "base_width = 24, the tensors say 32"),
        ({"model_args": {"pooling_func": "ASTP"}}, "pooling_func = 'ASTP', the tensors say TSTP"),
        ({"model_args": {"dropout": 0.1}}, "model_args.dropout is not supported"),
    ],
)
def test_settings_that_contradict(tmp_path: Path, base: dict[str, np.ndarray], changes: Any, named: str) -> None:
    assert named in refusal(wespeaker(tmp_path, base, **changes), ConfigError)


def test_wespeaker_without_settings(tmp_path: Path) -> None:
    path = saved(tmp_path / "avg_model.pt", wespeaker_names(tiny_source("eres2net")))
    assert "put its config.yaml beside it" in refusal(path, CheckpointError)


def test_both_makers_names_at_once(tmp_path: Path) -> None:
    both = {"layer4.0.conv2_1.weight": np.ones((16, 16, 3, 3), np.float32)}
    both["layer4.0.bns.-1.weight"] = both["layer4.0.bn2_1.weight"] = np.ones(16, np.float32)
    assert refusal(saved(tmp_path / "m.ckpt", tiny_source("eres2net") | both), CheckpointError)


# What is not of this family, and what is broken


def test_tensors_that_none_has(tmp_path: Path) -> None:
    weights = tiny_source("eres2net") | {"pool.linear3.weight": np.ones((2, 2), np.float32)}
    assert "1 tensors that none has: pool.linear3.weight" in refusal(
        saved(tmp_path / "m.ckpt", weights), CheckpointError
    )


def test_another_pooling(tmp_path: Path) -> None:
    weights = tiny_source("eres2net") | {"seg_1.weight": np.ones((8, 129), np.float32)}
    message = refusal(saved(tmp_path / "m.ckpt", weights), CheckpointError)
    assert "seg_1 takes 129 values, which TSTP pooling of 64 channels cannot give" in message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_blocks": [1, 1, 1]}, "no ERes2Net"),
        ({"m_channels": 0}, "no ERes2Net"),
        ({"base_width": 1}, "no ERes2Net"),
        ({"scale": 0}, "no ERes2Net"),
        ({"pool_eps": -1.0}, "pool_eps"),
        ({"feat_dim": 24}, "feat_dim 24"),
    ],
)
def test_configs_that_give_no_model(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        replace(ERES2NET, **changes)


def test_the_blocks_are_clipped() -> None:
    assert _clipped(mx.array([-1.0, 3.0, 25.0])).tolist() == [0.0, 3.0, 20.0]


# ONNX; the exporter itself is in tests/parity


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    """The golden graph with one node of it changed."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(GOLDEN))
    change(model.graph)
    onnx.save(model, str(path))
    return path


def set_constant(op: str, value: float, index: int, at: int = 0) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        onnx = pytest.importorskip("onnx")
        node = [node for node in graph.node if node.op_type == op][at]
        found = next(n for n in graph.node if n.output[0] == node.input[index])
        found.attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(np.float32(value)))

    return change


def set_op(op: str, other: str, at: int = 0) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        [node for node in graph.node if node.op_type == op][at].op_type = other

    return change


def set_ints(op: str, name: str, value: list[int], at: int = 0) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        node = [node for node in graph.node if node.op_type == op][at]
        next(attribute for attribute in node.attribute if attribute.name == name).ints[:] = value

    return change


CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "another clip": (set_constant("Clip", 6.0, 2), "not clipped at 20"),
    "a fusion of another weight": (set_constant("Sub", 3.0, 0), "weighs in another way"),
    "a fusion by sigmoid": (set_op("Tanh", "Sigmoid", at=1), "goes on with"),
    "a product where a sum is": (set_op("Add", "Mul"), "goes on without a Add"),
    "a dilation": (set_ints("Conv", "dilations", [2, 2], at=3), "another convolution"),
    "groups of parts": (set_op("Concat", "Sum"), "goes on without a Concat"),
    "no root": (set_op("Sqrt", "Exp"), "not the unbiased one"),
    "another variance": (set_constant("Add", 1e-3, 1, at=-1), "adds 0.00100"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_graphs_that_are_not_quite_one(tmp_path: Path, name: str) -> None:
    change, named = CHANGES[name]
    message = refusal(changed(tmp_path / "m.onnx", change), CheckpointError)
    assert re.search("looks like an ERes2Net", message) and re.search(named, message), message


def test_a_graph() -> None:
    pytest.importorskip("onnx")
    config = load(GOLDEN).config
    assert (config.variant, config.num_blocks, config.scale, config.expansion) == ("ERes2Net", [1, 1, 1, 1], 2, 2)
    assert (config.front_end.window, config.source) == ("povey", None)
