"""A config is read strictly: an unknown key, a wrong type or an impossible value is named, never ignored."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from speech_zoo_campplus import ModelConfig as CamPlusConfig
from speech_zoo_core.audio.front_end import FrontEnd
from speech_zoo_core.config import Quantization, from_dict, read_json, to_dict
from speech_zoo_core.errors import ConfigError
from speech_zoo_resnet34 import ModelConfig as ResNetConfig

RESNET = {
    "model_type": "resnet34",
    "embed_dim": 16,
    "front_end": {},
    "block": "basic",
    "num_blocks": [3, 4, 6, 3],
}
CAMPPLUS = {"model_type": "campplus", "embed_dim": 16, "front_end": {}}
CLASSES: dict[str, Any] = {"resnet34": ResNetConfig, "campplus": CamPlusConfig}


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        from_dict(CLASSES[config["model_type"]], config, "the/config.json")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        RESNET,
        CAMPPLUS,
        RESNET
        | {"threshold": 0.3, "two_emb_layer": True, "front_end": {"window": "povey", "n_mels": 40}, "feat_dim": 40},
        CAMPPLUS | {"quantization": {"bits": 8}, "source": {"form": "x", "sha256": {"a": "b"}}, "pool_eps": 1e-7},
    ],
)
def test_a_config_survives_the_round_trip(config: dict[str, Any]) -> None:
    cls = CLASSES[config["model_type"]]
    read = from_dict(cls, config)
    plain = json.loads(json.dumps(to_dict(read)))
    assert from_dict(cls, plain) == read
    assert to_dict(from_dict(cls, plain)) == plain
    assert None not in plain.values()
    for key, value in config.items():
        assert plain[key] == value or plain[key].items() >= value.items()


def test_what_is_left_out_has_its_default() -> None:
    config = from_dict(ResNetConfig, RESNET)
    assert config.front_end == FrontEnd()
    assert (config.m_channels, config.feat_dim, config.two_emb_layer) == (32, 80, False)
    assert (config.threshold, config.quantization, config.source) == (None, None, None)
    assert from_dict(CamPlusConfig, CAMPPLUS | {"quantization": {"bits": 4}}).quantization == Quantization(4, 32)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"dropout": 0.1}, "dropout"),
        ({"front_end": {"dither": 1.0}}, "dither"),
        ({"quantization": {"bits": 8, "mode": "affine"}}, "mode"),
    ],
)
def test_an_unknown_key(change: dict[str, Any], name: str) -> None:
    message = refusal(RESNET | change)
    assert message.startswith("the/config.json")
    assert name in message


@pytest.mark.parametrize("key", ["embed_dim", "front_end", "block", "num_blocks"])
def test_a_missing_key(key: str) -> None:
    message = refusal({name: value for name, value in RESNET.items() if name != key})
    assert message.startswith("the/config.json")
    assert key in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("embed_dim", "16"),
        ("embed_dim", 16.0),
        ("embed_dim", None),
        ("embed_dim", [16]),
        ("embed_dim", True),
        ("m_channels", False),
        ("num_blocks", "3463"),
        ("num_blocks", ["3", 4, 6, 3]),
        ("num_blocks", [3, 4, 6, True]),
        ("num_blocks", {"0": 3}),
        ("block", "residual"),
        ("block", 1),
        ("two_emb_layer", 1),
        ("two_emb_layer", "false"),
        ("pooling_func", "XI"),
        ("task", "language-identification"),
        ("threshold", "0.3"),
        ("threshold", [0.3]),
        ("threshold", True),
        ("source", "there"),
        ("quantization", 8),
        ("front_end", None),
        ("front_end", "kaldi_fbank"),
        ("front_end.sample_rate", "16000"),
        ("front_end.sample_rate", 16000.0),
        ("front_end.n_mels", True),
        ("front_end.window", "hann"),
        ("front_end.kind", "mfcc"),
        ("front_end.cmn", 1),
        ("front_end.scale", "32768"),
        ("quantization.bits", "8"),
    ],
)
def test_a_value_of_a_wrong_type(key: str, value: Any) -> None:
    part, _, field = key.rpartition(".")
    message = refusal(RESNET | ({part: {field: value}} if part else {key: value}))
    assert key in message or field in message


@pytest.mark.parametrize("data", [None, [], "config", 5])
def test_a_config_that_is_no_object(data: Any) -> None:
    with pytest.raises(ConfigError, match="must be a JSON object"):
        from_dict(ResNetConfig, data)


@pytest.mark.parametrize("threshold", [-1, -1.0, 0, 0.5, 1, 1.0])
def test_a_threshold_is_a_cosine(threshold: float) -> None:
    assert from_dict(CamPlusConfig, CAMPPLUS | {"threshold": threshold}).threshold == threshold


@pytest.mark.parametrize("threshold", [-1.01, 1.01, 50, math.nan, math.inf, -math.inf])
def test_a_threshold_that_is_no_cosine(threshold: float) -> None:
    assert "threshold" in refusal(CAMPPLUS | {"threshold": threshold})


@pytest.mark.parametrize("embed_dim", [0, -1])
def test_an_embedding_without_values(embed_dim: int) -> None:
    assert "embed_dim" in refusal(RESNET | {"embed_dim": embed_dim})


@pytest.mark.parametrize(
    "change",
    [
        {"num_blocks": []},
        {"num_blocks": [3, 4, 6]},
        {"num_blocks": [3, 4, 6, 3, 3]},
        {"num_blocks": [3, 0, 6, 3]},
        {"num_blocks": [3, 4, -6, 3]},
        {"m_channels": 0},
    ],
)
def test_sizes_that_give_no_resnet(change: dict[str, Any]) -> None:
    assert next(iter(change)) in refusal(RESNET | change)


@pytest.mark.parametrize(
    "change",
    [
        {"growth_rate": 0},
        {"growth_rate": -32},
        {"bn_size": 0},
        {"init_channels": 0},
        {"growth_rate": 3, "bn_size": 1},  # the context layer halves an odd width
        {"pool_eps": -1.0},
        {"pool_eps": math.nan},
    ],
)
def test_sizes_that_give_no_campplus(change: dict[str, Any]) -> None:
    assert next(iter(change)) in refusal(CAMPPLUS | change)


@pytest.mark.parametrize("config", [RESNET, CAMPPLUS])
@pytest.mark.parametrize(("feat_dim", "n_mels"), [(80, 40), (40, 80), (20, 20), (81, 81)])
def test_feat_dim_must_be_the_number_of_mels(config: dict[str, Any], feat_dim: int, n_mels: int) -> None:
    assert "feat_dim" in refusal(config | {"feat_dim": feat_dim, "front_end": {"n_mels": n_mels}})


@pytest.mark.parametrize("key", ["sample_rate", "n_mels", "frame_length", "frame_shift", "scale"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_a_front_end_with_an_impossible_number(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        FrontEnd(**{key: value})


@pytest.mark.parametrize("values", [{"frame_length": 0.01}, {"frame_shift": 0.01}, {"sample_rate": 10}])
def test_a_frame_shorter_than_a_sample(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        FrontEnd(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"sample_rate": 10**9},
        {"n_mels": 10**7},
        {"frame_length": 1e7},
        {"frame_shift": 1e9},
        {"sample_rate": 300_000, "frame_length": 1000.0},
        {"scale": 1e30},
    ],
)
def test_a_front_end_that_would_take_all_memory(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"out of range|too long"):
        FrontEnd(**values)


def test_a_number_that_no_float_can_hold() -> None:
    assert "sample_rate" in refusal(RESNET | {"front_end": {"sample_rate": 10**400}})


# Files


@pytest.mark.parametrize("text", ["", "{", '{"a": }', "not json", "\0", "[" * 100_000], ids=range(6))
def test_a_file_that_is_not_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="is not valid JSON"):
        read_json(path)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ConfigError, match="is not valid JSON"):
        read_json(path)


@pytest.mark.parametrize("text", ["[]", "5", "null", '"config"'])
def test_a_file_that_holds_no_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="must hold a JSON object"):
        read_json(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json cannot be read: No such file"):
        read_json(tmp_path / "config.json")
