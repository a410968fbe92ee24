"""SpeechBrain's x-vector and ResNet: the settings beside a checkpoint, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_weights import source_weights
from speech_zoo_core.errors import CheckpointError, ConfigError, SpeechZooError
from speech_zoo_core.loader import load
from tiny_models import CONFIGS, SE_RESNET, XVECTOR, hyperparams, speechbrain_folder, tiny_source
from torch_files import save_zip, state_dict

EACH = pytest.mark.parametrize("name", ["xvector", "se_resnet"])


def changed(folder: Path, name: str, old: str, new: str) -> Path:
    """A published folder with one piece of its `hyperparams.yaml` replaced."""
    speechbrain_folder(folder, CONFIGS[name])
    text = hyperparams(CONFIGS[name])
    assert old in text
    (folder / "hyperparams.yaml").write_text(text.replace(old, new))
    return folder


def refusal(path: Path, error: type[SpeechZooError]) -> str:
    with pytest.raises(error) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@EACH
def test_a_published_folder(tmp_path: Path, name: str) -> None:
    assert replace(load(speechbrain_folder(tmp_path / "sb", CONFIGS[name])).config, source=None) == CONFIGS[name]


@EACH
def test_without_settings(tmp_path: Path, name: str) -> None:
    path = save_zip(tmp_path / "embedding_model.ckpt", state_dict(tiny_source(name)))
    assert "put its hyperparams.yaml beside it" in refusal(path, CheckpointError)


@EACH
def test_settings_of_another_model(tmp_path: Path, name: str) -> None:
    folder = speechbrain_folder(tmp_path / "sb", CONFIGS[name])
    other = {"xvector": "se_resnet", "se_resnet": "xvector"}[name]
    (folder / "hyperparams.yaml").write_text(hyperparams(CONFIGS[other]))
    assert "does not hold the" in refusal(folder, CheckpointError)


CHANGES = [
    ("xvector", "lin_neurons: 8", "lin_neurons: 9", "lin_neurons = 9, the tensors say 8"),
    ("xvector", "in_channels: 16", "in_channels: 24", "in_channels = 24, the tensors say 16"),
    ("xvector", "[5, 3, 3, 1, 1]", "[3, 3, 3, 1, 1]", "kernel_sizes = [3, 3, 3, 1, 1], the tensors say"),
    ("xvector", "[32, 32, 32, 32, 48]", "[32, 32, 32, 48]", "tdnn_channels must have one entry"),
    ("xvector", "torch.nn.LeakyReLU", "torch.nn.ReLU", "only the activation torch.nn.LeakyReLU"),
    ("xvector", "    tdnn_blocks: 5", "    tdnn_blocks: 5\n    groups: 2", "groups is not supported"),
    ("xvector", "[1, 2, 3, 1, 1]", "[1, 2, 3000, 1, 1]", "a dilation is 100 frames at most"),
    ("xvector", "norm_type: sentence", "norm_type: global", "norm_type must be 'sentence'"),
    ("se_resnet", "lin_neurons: 8", "lin_neurons: 9", "lin_neurons = 9, the tensors say 8"),
    ("se_resnet", "[4, 4, 8, 8]", "[4, 4, 8, 16]", "channels = [4, 4, 8, 16], the tensors say"),
    ("se_resnet", "[1, 2, 1, 1]", "[1, 2, 2, 1]", "block_sizes = [1, 2, 2, 1], the tensors say"),
    ("se_resnet", "[1, 2, 2, 2]", "[1, 2, 2]", "four positive numbers each"),
    ("se_resnet", "input_size: 16", "input_size: 80", "feat_dim 80 must equal"),
    ("se_resnet", "    lin_neurons", "    activation: !name:torch.nn.GELU\n    lin_neurons", "only the activation"),
]


@pytest.mark.parametrize(("name", "old", "new", "named"), CHANGES, ids=[f"{n}: {new}" for n, _, new, _ in CHANGES])
def test_settings_that_contradict(tmp_path: Path, name: str, old: str, new: str, named: str) -> None:
    assert named in refusal(changed(tmp_path / "sb", name, old, new), ConfigError)


@pytest.mark.parametrize(("name", "key"), [("xvector", "blocks.3.conv.weight"), ("se_resnet", "layer1.0.bn3.weight")])
def test_a_tensor_that_is_missing(tmp_path: Path, name: str, key: str) -> None:
    weights = {other: x for other, x in tiny_source(name).items() if other != key}
    assert key in refusal(speechbrain_folder(tmp_path / "sb", CONFIGS[name], weights), CheckpointError)


def test_a_layer_under_two_names(tmp_path: Path) -> None:
    weights = source_weights(XVECTOR) | {"fc.weight": np.ones((8, 96), np.float32)}
    folder = speechbrain_folder(tmp_path / "sb", XVECTOR, weights)
    assert "fc.weight stands twice" in refusal(folder, CheckpointError)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (XVECTOR, {"channels": [8]}),
        (XVECTOR, {"kernel_sizes": [5, 2, 3, 1, 1]}),
        (XVECTOR, {"dilations": [0, 2, 3, 1, 1]}),
        (XVECTOR, {"feat_dim": 24}),
        (SE_RESNET, {"strides": [1, 2, 2, 9]}),
        (SE_RESNET, {"block_sizes": [1, 0, 1, 1]}),
        (SE_RESNET, {"feat_dim": 24}),
    ],
    ids=str,
)
def test_configs_that_give_no_model(config: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(config, **changes)
