"""Recognition is exact: what is wholly a family's is its own under any wrapper's names, and nothing else is."""

import random
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch_files as tf
from source_weights import source_weights
from speech_zoo_core import registry
from speech_zoo_core.checkpoint.reader import Checkpoint
from speech_zoo_core.checkpoint.source import Source, without_prefix
from speech_zoo_core.config import from_dict
from speech_zoo_core.errors import CheckpointError, SpeechZooError
from speech_zoo_core.layers import parameters
from speech_zoo_core.loader import build, load
from speech_zoo_core.tasks.methods import with_methods
from tiny_models import (
    CONFIGS,
    ECAPA,
    LID,
    PROXY,
    RESNET,
    SE_RESNET,
    TINY,
    XVECTOR,
    proxy_file,
    speechbrain_folder,
    tiny_source,
    to_mx,
    wespeaker_folder,
)
from wav2vec2_files import config as wav2vec2_config
from wav2vec2_files import hf_folder, source_tensors

PARTS = ["", "0", "1", "7", "999", "bn", "bn1", "conv", "conv1", "norm", "weight", "é"]
ENDS = ["running_var", "running_mean", "weight", "bias", "weight_g", "num_batches_tracked"]
WRAPPERS = ["module.", "model.", "_orig_mod.", "embedding_model.", "net.", "module.model.", "model._orig_mod.", "a"]
FAMILIES = [
    *TINY,
    "eres2net",
    "eres2netv2",
    "speechbrain",
    "lid",
    "xvector",
    "se_resnet",
    "redimnet",
    "redimnet2",
    "proxy",
    "wav2vec2",
]


def folder_of(path: Path, family: str, prefix: str = "", more: tuple[str, ...] = ()) -> Path:
    """A source whose tensors have a prefix, and `more` beside them without one."""
    extra = {name: np.ones((2, 2), np.float32) for name in more}

    def named(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {f"{prefix}{name}": x for name, x in weights.items()} | extra

    if family == "wav2vec2":
        return hf_folder(path, named(dict(source_tensors())))
    if family.startswith(("eres2net", "redimnet2")):
        return tf.save_zip(path, tf.state_dict(named(tiny_source(family))))
    if family == "redimnet":  # of IDRnD, whose features tell what they are
        constants = {"spec.torchfbank.2.mel_scale.fb": np.ones((257, 16), np.float32)}
        return tf.save_zip(path, tf.state_dict(named(dict(tiny_source(family)) | constants)))
    if family == "proxy":
        return proxy_file(path, named(source_weights(PROXY)))
    speechbrain = {"speechbrain": ECAPA, "lid": LID, "xvector": XVECTOR, "se_resnet": SE_RESNET}
    if family in speechbrain:
        folder = speechbrain_folder(path, speechbrain[family])
        for file in ("embedding_model.ckpt", "classifier.ckpt"):
            weights = source_weights(speechbrain[family])
            head = {name.removeprefix("classifier."): x for name, x in weights.items() if "classifier." in name}
            body = {name: x for name, x in weights.items() if "classifier." not in name}
            if part := head if file == "classifier.ckpt" else body:
                tf.save_zip(folder / file, tf.state_dict(named(part)))
        return folder
    folder = wespeaker_folder(path, TINY[family])
    weights = {name: np.array(x) for name, x in Source(folder).checkpoint.tensors.items()}
    tf.save_zip(folder / "avg_model.pt", tf.state_dict(named(weights)))
    return folder


@cache
def loaded(family: str) -> dict[str, mx.array]:
    with TemporaryDirectory() as folder:
        weights = parameters(load(folder_of(Path(folder) / "plain", family)))
        mx.eval(weights)
    return weights


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", WRAPPERS[:-1])
def test_names_of_wrappers(tmp_path: Path, family: str, prefix: str) -> None:
    expected, unwrapped = loaded(family), parameters(load(folder_of(tmp_path / "wrapped", family, prefix)))
    assert unwrapped.keys() == expected.keys()
    assert all(mx.array_equal(unwrapped[name], expected[name]) for name in expected)


@pytest.mark.parametrize("family", TINY)
def test_a_loss_beside_what_is_wrapped(tmp_path: Path, family: str) -> None:
    folder = folder_of(tmp_path / "source", family, "module.model.", ("projection.other", "module.projection.more"))
    assert load(folder).config.embed_dim == 8


@pytest.mark.parametrize("family", FAMILIES)
def test_a_name_that_is_no_wrapper(tmp_path: Path, family: str) -> None:
    with pytest.raises(CheckpointError):
        load(folder_of(tmp_path / "source", family, "teacher."))


def test_a_name_with_and_without_a_wrapper() -> None:
    tensors = {"module.a.weight": 1, "module.b.weight": 2, "b.weight": 3}
    with pytest.raises(CheckpointError, match=r"b\.weight stands twice"):
        without_prefix(tensors, "a.weight")
    assert without_prefix({"a.weight": 1, "module.a.weight": 2}, "a.weight") == {"a.weight": 1, "module.a.weight": 2}


def res2net() -> dict[str, np.ndarray]:
    """Names of 3D-Speaker's Res2Net, which begins and ends as a ResNet34 does, and has the blocks of an ERes2Net."""
    weights = {name: x for name, x in source_weights(RESNET).items() if not name.startswith("projection.")}
    for layer in range(1, 5):
        for part in ("convs.0.weight", "bns.0.weight", "bns.0.bias", "bns.0.running_mean", "bns.0.running_var"):
            weights[f"layer{layer}.0.{part}"] = np.ones((2, 2, 3, 3) if "conv" in part else 2, np.float32)
    return weights


def test_a_model_that_begins_and_ends_as_a_resnet(tmp_path: Path) -> None:
    path = tf.save_zip(tmp_path / "res2net.ckpt", tf.state_dict(res2net()))
    with pytest.raises(CheckpointError, match=r"is a Res2Net; put its config\.yaml beside it"):
        load(path)


def test_a_resnet_is_no_eres2net_and_the_reverse() -> None:
    for name in CONFIGS:
        source = Source(Path("model.safetensors"))
        source.__dict__["checkpoint"] = Checkpoint(to_mx(dict(tiny_source(name))))
        for other in ("resnet34", "eres2net"):
            try:
                known = registry.get(other).recognise(source) is not None
            except CheckpointError as error:
                known = "is a Res2Net" in str(error)  # for want of its config.yaml
            assert known == (CONFIGS[name].model_type == other)


# Whatever the tensors


def mutated(weights: dict[str, np.ndarray], chance: random.Random) -> dict[str, mx.array]:
    """Tensors dropped, renamed, added, of another shape or type."""
    tensors: dict[str, Any] = dict(weights)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        name = chance.choice(sorted(tensors) or ["a"])
        x = np.asarray(tensors.get(name, np.ones(3, np.float32)))
        match chance.choice(["drop", "rename", "copy", "add", "shape", "type", "swap"]):
            case "drop":
                tensors.pop(name, None)
            case "rename" | "copy" as how:
                parts = name.split(".")
                i = chance.randrange(len(parts))
                parts[i] = chance.choice(
                    ["", "0", "1", "7", "999", "bn", "bn1", "conv", "conv1", "norm", "weight", "é"]
                )
                tensors[".".join(parts)] = tensors.pop(name, x) if how == "rename" else x
            case "add":
                end = chance.choice(
                    ["running_var", "running_mean", "weight", "bias", "weight_g", "num_batches_tracked"]
                )
                start = chance.choice(["", "x.", f"{name}.", name.rpartition(".")[0] + ".", "bn.", "layer1.0.bn9."])
                tensors[f"{start}{end}"] = np.ones(chance.choice([(), (1,), (4,), (2, 2), (1, 1, 1)]), np.float32)
            case "shape":
                x = np.atleast_1d(x)
                tensors[name] = chance.choice(
                    [x.reshape(-1), x[..., None], x[:0], np.float32(1), x[:1], np.moveaxis(x, 0, -1)]
                )
            case "type":
                tensors[name] = x.astype(chance.choice([np.int32, np.bool_, np.float16, np.uint8, np.int64]))
            case "swap":
                tensors[name] = tensors[chance.choice(sorted(tensors) or ["a"])] if tensors else x
    return {name: mx.array(np.asarray(x)) for name, x in tensors.items()}


def family(name: str) -> tuple[Any, dict[str, np.ndarray]]:
    if name in CONFIGS:
        return CONFIGS[name], source_weights(CONFIGS[name])
    return wav2vec2_config(), source_tensors("old" if name.endswith("old") else "original")


@pytest.mark.parametrize("name", [*CONFIGS, "wav2vec2", "wav2vec2 old"])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.usefixtures("shallow_campplus")
def test_sanitize_and_recognition_whatever_the_tensors(tmp_path: Path, name: str, seed: int) -> None:
    config, weights = family(name)
    spec = registry.get(config.model_type)
    model = with_methods(spec.model, config.task)(config)
    converted = {key: np.array(x) for key, x in parameters(model).items()}
    (tmp_path / "model.pt").write_bytes(b"")
    for i in range(30):
        chance = random.Random(1000 * seed + i)
        tensors = mutated(converted if i % 3 == 0 else weights, chance)
        try:
            model.sanitize(dict(tensors))
        except CheckpointError as error:
            assert "\n" not in str(error)
        source = Source(tmp_path / "model.pt")
        source.__dict__["checkpoint"] = Checkpoint(tensors)
        for other in registry.specs():
            try:
                if recognised := other.recognise(source):
                    build(other, from_dict(other.config, recognised.config), recognised.weights, "the source")
            except SpeechZooError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("name", [*CONFIGS, "wav2vec2", "wav2vec2 old"])
def test_sanitize_twice_is_sanitize_once(name: str) -> None:
    config, weights = family(name)
    model = with_methods(registry.get(config.model_type).model, config.task)(config)
    once = model.sanitize(to_mx(weights))
    twice = model.sanitize(dict(once))
    assert once.keys() == twice.keys()
    assert all(mx.array_equal(once[key], twice[key]) for key in once)
