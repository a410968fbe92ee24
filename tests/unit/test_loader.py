"""What a name, a folder or a file leads to."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch_files as tf
from safetensors.numpy import save_file
from speech_zoo_core import hub
from speech_zoo_core.checkpoint.source import Source, checkpoint_names, needed_names
from speech_zoo_core.errors import CheckpointError, ConfigError, HubError, SpeechZooError
from speech_zoo_core.layers import parameters
from speech_zoo_core.loader import find, load
from tiny_models import CONFIGS, RESNET, tiny_model, tiny_source, wespeaker_folder


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo: str, revision: str | None = None) -> Any:
        raise HubError(f"asked the Hub for {repo} at {revision}")

    monkeypatch.setattr(hub, "download", download)


def refusal(ref: Any, error: type[SpeechZooError] = CheckpointError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        load(ref, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_bundled_name() -> None:
    source = find("campplus-zh-en")
    assert source.main_file.name == "model.safetensors"
    assert source.repo is None


def test_a_bundled_name_wins_over_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "campplus-zh-en").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("campplus-zh-en").folder != Path("campplus-zh-en")
    assert find("./campplus-zh-en").folder == Path("campplus-zh-en")


def test_a_name_that_nearly_is_one() -> None:
    assert "did you mean campplus-zh-en?" in refusal("campplus-zh")


@pytest.mark.parametrize(
    "ref", ["nothing", "/no/such/folder", "./org/name", "a/b/c", "no folder.pt", "", "a" * 300, "~nobody-here/x"]
)
def test_a_name_of_nothing(ref: str) -> None:
    assert refusal(ref)


def test_a_path_below_a_folder_that_exists_is_not_a_repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "models/mine does not exist" in refusal("models/mine")


def test_a_repo() -> None:
    assert refusal("org/name", HubError) == "asked the Hub for org/name at None"
    assert refusal("org/name", HubError, revision="v1") == "asked the Hub for org/name at v1"


def test_a_repo_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = wespeaker_folder(tmp_path / "snapshot", RESNET)
    monkeypatch.setattr(hub, "download", lambda repo, revision: (folder, "abc123"))
    source = find("org/name")
    assert (source.path, source.repo, source.revision) == (folder, "org/name", "abc123")


@pytest.mark.parametrize("ref", ["campplus-zh-en", "folder"])
def test_a_revision_goes_with_a_repo_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ref: str) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "is local" in refusal(ref, ConfigError, revision="main")


# Folders


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "holds no checkpoint" in refusal(tmp_path)


def test_a_folder_with_a_config_alone(tmp_path: Path) -> None:
    config = {"model_type": "resnet34", "embed_dim": 8, "front_end": {}, "block": "basic", "num_blocks": [1, 1, 1, 1]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "holds no checkpoint" in refusal(tmp_path)


def test_several_checkpoints(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        tf.save_zip(tmp_path / name, tf.state_dict(tiny_source("basic")))
    message = refusal(tmp_path)
    assert "a.pt, b.pt" in message
    assert "name the file itself" in message
    assert load(tmp_path / "b.pt").config == CONFIGS["basic"]


def test_the_usual_name_wins(tmp_path: Path) -> None:
    tf.save_zip(tmp_path / "avg_model.pt", tf.state_dict(tiny_source("basic")))
    tf.save_zip(tmp_path / "optimizer.pt", {"step": 1})
    assert Source(tmp_path).main_file.name == "avg_model.pt"


@pytest.mark.parametrize(
    ("names", "best"),
    [
        (["model.onnx", "avg_model.pt", "config.yaml"], ["avg_model.pt"]),
        (["pytorch_model.bin", "model.safetensors"], ["model.safetensors"]),
        (["model-00001-of-00002.safetensors", "model.safetensors.index.json"], ["model.safetensors.index.json"]),
        (["weights.npz", "model.bin"], ["weights.npz"]),
        (["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"], ["pytorch_model.bin.index.json"]),
        (["b.ckpt", "a.pth"], ["a.pth", "b.ckpt"]),
        (["sub/model.safetensors", "a.onnx"], ["a.onnx"]),
        (["config.json", "README.md"], []),
    ],
)
def test_the_best_form_is_read(names: list[str], best: list[str]) -> None:
    assert checkpoint_names(names) == best


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        (["voice.onnx", "voice.onnx.data", "a.data", "README.md"], ["voice.onnx", "voice.onnx.data"]),
        (["model.onnx", "model.onnx_data", "config.yaml"], ["config.yaml", "model.onnx", "model.onnx_data"]),
        (["pytorch_model.bin", "optimizer.bin", "scheduler.bin", "training_args.bin"], ["pytorch_model.bin"]),
        (["model.safetensors", "adapter_model.safetensors", "optimizer.safetensors"], ["model.safetensors"]),
        (["embedding_model.ckpt", "classifier.ckpt", "optimizer.ckpt", "mean_var_norm_emb.ckpt"], 2),
        (
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin", "training_args.bin", "tf_model.h5"],
            ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"],
        ),
        (["optimizer.pt", "scheduler.pt"], []),
        (["model.pt", "optimizer.pt", "sub/other.pt"], ["model.pt"]),
        (["a.pt", "b.pt", "config.yaml"], ["a.pt", "b.pt", "config.yaml"]),
        (["*.pt", "[a].yaml"], ["*.pt", "[a].yaml"]),
    ],
)
def test_what_of_a_repo_is_needed(names: list[str], needed: list[str] | int) -> None:
    wanted = sorted(needed_names(names))
    assert wanted == (sorted(names[:needed]) if isinstance(needed, int) else needed)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors", "npz", "sharded"])
def test_every_form_gives_the_same_model(tmp_path: Path, form: str) -> None:
    weights = tiny_source("basic")
    if form in tf.SAVERS:
        tf.SAVERS[form](tmp_path / "model.pt", tf.state_dict(weights))
    elif form == "npz":
        np.savez(tmp_path / "weights.npz", **weights)
    elif form == "safetensors":
        save_file(weights, tmp_path / "model.safetensors")
    else:
        shards = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(weights)}
        for shard in set(shards.values()):
            save_file({name: x for name, x in weights.items() if shards[name] == shard}, tmp_path / shard)
        index = json.dumps({"weight_map": shards})
        (tmp_path / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    model, expected = load(tmp_path), parameters(tiny_model("basic"))
    assert model.config == CONFIGS["basic"]
    assert all(mx.array_equal(x, expected[name]) for name, x in parameters(model).items())
