"""SimAM-ResNet, Res2Net and DF-ResNet under WeSpeaker's own names, and the settings beside them."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import yaml
from source_weights import source_weights
from speech_zoo_core.errors import CheckpointError, ConfigError, SpeechZooError
from speech_zoo_core.layers import parameters
from speech_zoo_core.loader import load
from speech_zoo_resnet34.blocks import simam
from tiny_models import CONFIGS, RESNET, model_of, wespeaker_folder, wespeaker_yaml
from torch_files import save_zip, state_dict

SIZES: dict[str, tuple[str, list[int], dict[str, Any]]] = {
    "SimAM_ResNet34_ASP": ("simam", [3, 4, 6, 3], {"pooling_func": "ASP"}),
    "SimAM_ResNet100_ASP": ("simam", [6, 16, 24, 3], {"pooling_func": "ASP"}),
    "Res2Net34_Base": ("res2net", [3, 4, 6, 3], {}),
    "Gemini_DF_ResNet60": ("inverted", [3, 3, 9, 3], {}),
    "Gemini_DF_ResNet114": ("inverted", [3, 3, 27, 3], {"two_emb_layer": True}),
    "Gemini_DF_ResNet183": ("inverted", [3, 8, 45, 3], {"pooling_func": "ASTP"}),
    "Gemini_DF_ResNet237": ("inverted", [3, 8, 63, 3], {}),
}
TO_WESPEAKER: dict[str, tuple[tuple[str, Any], ...]] = {
    "simam": (
        (r"\.shortcut\.", ".downsample."),
        (r"^(conv1|bn1|layer)", r"front.\1"),
        (r"^pool\.linear1\.", "pooling.attention.0."),
        (r"^pool\.norm\.", "pooling.attention.2."),
        (r"^pool\.linear2\.", "pooling.attention.3."),
        (r"^seg_1\.", "bottleneck."),
    ),
    "inverted": (
        (r"^conv1\.", "downsample_layers.0.0."),
        (r"^bn1\.", "downsample_layers.0.1."),
        (r"^layer(\d)\.0\.conv\.", r"downsample_layers.\1.0."),
        (r"^layer(\d)\.0\.bn\.", r"downsample_layers.\1.1."),
        (r"^layer(\d)\.(\d+)\.", lambda found: f"stages.{int(found[1]) - 1}.{int(found[2]) - 1}."),
    ),
    "res2net": (),
}


def config_of(name: str) -> Any:
    block, num_blocks, more = SIZES[name]
    return replace(RESNET, block=block, num_blocks=num_blocks, **more)


def wespeaker_names(config: Any) -> dict[str, np.ndarray]:
    renamed = {}
    for name, x in source_weights(config).items():
        new = name
        for old, to in TO_WESPEAKER[config.block]:
            new = re.sub(old, to, new)
        renamed[new] = x
    return renamed


def saved(folder: Path, name: str, **args: Any) -> Path:
    """`avg_model.pt` with the training loss, and `config.yaml`, which tells the width that its name does not."""
    config = config_of(name)
    settings = wespeaker_yaml(config, name)
    if config.block == "simam":
        settings["model_args"] = {"in_planes": 2, "embed_dim": 8, "acoustic_dim": 16, "dropout": 0}
    else:
        settings["model_args"]["m_channels"] = 2
    settings["model_args"] = {key: x for key, x in (settings["model_args"] | args).items() if x is not None}
    weights = wespeaker_names(config) | {"projection.weight": np.ones((3, 8), np.float32)}
    return wespeaker_folder(folder, config, weights, yaml.safe_dump(settings))


def refusal(path: Path, error: type[SpeechZooError]) -> str:
    with pytest.raises(error) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", SIZES)
def test_wespeaker(tmp_path: Path, name: str) -> None:
    model = load(saved(tmp_path, name))
    assert replace(model.config, source=None) == config_of(name)
    expected = parameters(model_of(config_of(name), source_weights(config_of(name))))
    assert all(mx.array_equal(x, expected[key]) for key, x in parameters(model).items())


@pytest.mark.parametrize("name", ["SimAM_ResNet34_ASP", "Gemini_DF_ResNet60"])
def test_without_settings(tmp_path: Path, name: str) -> None:
    path = save_zip(tmp_path / "avg_model.pt", state_dict(wespeaker_names(config_of(name))))
    assert replace(load(path).config, source=None) == config_of(name)


def test_a_res2net_without_settings(tmp_path: Path) -> None:
    """3D-Speaker's has the same tensors."""
    path = save_zip(tmp_path / "m.pt", state_dict(wespeaker_names(config_of("Res2Net34_Base"))))
    assert "put its config.yaml beside it, which tells its features" in refusal(path, CheckpointError)


@pytest.mark.parametrize(
    ("name", "args", "named"),
    [
        ("SimAM_ResNet34_ASP", {"in_planes": None}, "m_channels = 64, the tensors say 2"),
        ("SimAM_ResNet34_ASP", {"acoustic_dim": 80}, "feat_dim = 80, the tensors say 16"),
        ("SimAM_ResNet34_ASP", {"hidden_dim": 64}, "model_args.hidden_dim is not supported"),
        ("Res2Net34_Base", {"m_channels": None}, "m_channels = 32, the tensors say 2"),
        ("Res2Net34_Base", {"pooling_func": "TAP"}, "feat_dim = 16, the tensors say 32"),
        ("Gemini_DF_ResNet60", {"two_emb_layer": True}, "two_emb_layer = True, the tensors say False"),
        ("Gemini_DF_ResNet60", {"dropout": 0}, "model_args.dropout is not supported"),
    ],
)
def test_settings_that_contradict(tmp_path: Path, name: str, args: dict[str, Any], named: str) -> None:
    assert named in refusal(saved(tmp_path, name, **args), ConfigError)


def test_a_relative_under_the_name_of_another(tmp_path: Path) -> None:
    path = saved(tmp_path, "SimAM_ResNet34_ASP")
    settings = wespeaker_yaml(RESNET, "ResNet34")
    (path / "config.yaml").write_text(yaml.safe_dump(settings))
    assert "block = 'basic', the tensors say simam" in refusal(path, ConfigError)


def test_names_of_two_makers(tmp_path: Path) -> None:
    weights = wespeaker_names(config_of("SimAM_ResNet34_ASP")) | {"seg_1.weight": np.ones((8, 8), np.float32)}
    path = save_zip(tmp_path / "avg_model.pt", state_dict(weights))
    assert "stands twice in the checkpoint" in refusal(path, CheckpointError)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("inverted", {"feat_dim": 24, "front_end": replace(RESNET.front_end, n_mels=24)}),
        ("res2net", {"m_channels": 3}),
        ("simam", {"num_blocks": [1, 1, 1]}),
    ],
)
def test_configs_that_give_no_model(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(CONFIGS[name], **changes)


def test_simam_against_plain_sums() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 4))
    d = (x - x.mean(axis=(1, 2), keepdims=True)) ** 2
    v = d.sum(axis=(1, 2), keepdims=True) / (3 * 7 - 1)
    expected = x / (1 + np.exp(-(d / (4 * (v + 1e-4)) + 0.5)))
    assert np.array(simam(mx.array(x.astype(np.float32)), None)) == pytest.approx(expected, abs=1e-5)


def test_simam_of_large_half_precision_values() -> None:
    """Their squares are out of float16's range."""
    x = mx.random.normal((1, 3, 9, 4), key=mx.random.key(0)) * 1000
    half = simam(x.astype(mx.float16), None).astype(mx.float32)
    assert mx.allclose(half, simam(x, None), rtol=1e-2, atol=1)


def test_fewer_frames_are_enough_for_df_resnet() -> None:
    """It halves the time once, not three times."""
    model = model_of(CONFIGS["inverted"], source_weights(CONFIGS["inverted"]))
    assert (model.min_frames, model_of(CONFIGS["simam"], source_weights(CONFIGS["simam"])).min_frames) == (3, 9)
