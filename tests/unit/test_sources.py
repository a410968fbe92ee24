"""Source checkpoints: what is recognised in them, and settings that contradict the tensors or are not supported."""

import collections
import json
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files as tf
import yaml
from safetensors.numpy import save, save_file
from source_weights import source_weights, wespeaker_ecapa
from speech_zoo_core.audio.front_end import THREE_D_SPEAKER, WESPEAKER
from speech_zoo_core.conversion import convert
from speech_zoo_core.errors import CheckpointError, ConfigError, SpeechZooError
from speech_zoo_core.loader import load
from tiny_models import CAMPPLUS, CONFIGS, ECAPA_WESPEAKER, RESNET, tiny_source, wespeaker_folder, wespeaker_yaml

TINY = {"ResNet34": RESNET, "CAMPPlus": CAMPPLUS, "ECAPA_TDNN_GLOB_c512": ECAPA_WESPEAKER}
each_family = pytest.mark.parametrize("model", TINY)


def settings(family: str, /, **changes: Any) -> dict[str, Any]:
    """The usual config.yaml with some values changed; `part__key` reaches into a mapping."""
    data = wespeaker_yaml(TINY[family], family)
    for name, value in changes.items():
        *parts, key = name.split("__")
        target = data
        for part in parts:
            target = target[part]
        target[key] = value
    return data


@cache
def weights_of(model: str) -> bytes:
    weights = source_weights(TINY[model], projection=True)
    return save(wespeaker_ecapa(weights) if TINY[model] is ECAPA_WESPEAKER else weights)


def folder(tmp_path: Path, model: str, data: Any) -> Path:
    """Settings and weights; as safetensors, which read faster than pickles."""
    text = data if isinstance(data, str) else yaml.safe_dump(data)
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(weights_of(model))
    return tmp_path


def refusal(path: Path, error: type[SpeechZooError] = ConfigError) -> str:
    with pytest.raises(error) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# WeSpeaker's avg_model.pt and config.yaml


@each_family
def test_a_wespeaker_folder(tmp_path: Path, model: str) -> None:
    assert load(wespeaker_folder(tmp_path, TINY[model])).config == TINY[model]


@each_family
def test_a_wespeaker_file_in_its_folder(tmp_path: Path, model: str) -> None:
    assert load(wespeaker_folder(tmp_path, TINY[model]) / "avg_model.pt").config == TINY[model]


@each_family
def test_settings_of_training_do_not_matter(tmp_path: Path, model: str) -> None:
    data = settings(
        model, optimizer="SGD", num_epochs=150, dataset_args__speed_perturb=False, dataset_args__aug_prob=0.6
    )
    assert load(folder(tmp_path, model, data)).config == TINY[model]


@each_family
@pytest.mark.parametrize("part", ["dataset_args", "dataset_args__fbank_args", "dataset_args__cmvn_args"])
@pytest.mark.parametrize("value", [{}, None])
def test_features_that_the_settings_leave_out_have_their_default(
    tmp_path: Path, model: str, part: str, value: Any
) -> None:
    if part != "dataset_args__cmvn_args":  # the default is 80 mels, the tiny models have 16
        assert "feat_dim 16" in refusal(folder(tmp_path, model, settings(model, **{part: value})))
    else:
        assert load(folder(tmp_path, model, settings(model, **{part: value}))).config == TINY[model]


@each_family
def test_features_that_the_settings_name(tmp_path: Path, model: str) -> None:
    data = settings(
        model,
        dataset_args__resample_rate=8000,
        dataset_args__fbank_args__frame_length=32,
        dataset_args__fbank_args__frame_shift=12.5,
        dataset_args__cmvn_args__norm_mean=False,
    )
    expected = replace(WESPEAKER, sample_rate=8000, n_mels=16, frame_length=32.0, frame_shift=12.5, cmn=False)
    assert load(folder(tmp_path, model, data)).config.front_end == expected


UNSUPPORTED = {  # changes, and what the message names
    "variance normalised": ({"dataset_args__cmvn_args__norm_var": True}, "norm_var"),
    "windowed normalisation": ({"dataset_args__cmvn_args__window_size": 300}, "window_size"),
    "another window": ({"dataset_args__fbank_args__window_type": "povey"}, "window_type"),
    "energy": ({"dataset_args__fbank_args__use_energy": True}, "use_energy"),
    "an unknown feature setting": ({"dataset_args__fbank_args__low_freq": 40}, "low_freq"),
    "a self-supervised front end": ({"dataset_args__frontend": "s3prl"}, "frontend = 's3prl'"),
    "another feature": ({"dataset_args__feat_type": "raw"}, "feat_type = 'raw'"),
    "another scale": ({"dataset_args__wavform_norm": True}, "wavform_norm"),
    "another pooling": ({"model_args__pooling_func": "MQMHASTP"}, "pooling_func"),
    "an unknown model setting": ({"model_args__se_ratio": 8}, "se_ratio"),
    "other mels": ({"dataset_args__fbank_args__num_mel_bins": 40}, "40"),
    "a wrong embedding size": ({"model_args__embed_dim": 256}, "embed_dim"),
    "a wrong feature size": ({"model_args__feat_dim": 80}, "feat_dim"),
    "another model": ({"model": "ReDimNetB2"}, "ReDimNetB2"),
}


@each_family
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_settings_that_are_not_supported_or_contradict_the_tensors(tmp_path: Path, model: str, name: str) -> None:
    changes, named = UNSUPPORTED[name]
    assert named in refusal(folder(tmp_path, model, settings(model, **changes)))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "ResNet18"}, "num_blocks"),
        ({"model": "ResNet50"}, "block"),
        ({"model": "ResNet293"}, "block"),
        ({"model_args__two_emb_layer": True}, "two_emb_layer"),
        ({"model_args__m_channels": 32}, "m_channels"),
    ],
)
def test_a_resnet_that_is_another_than_its_settings_say(tmp_path: Path, changes: Any, named: str) -> None:
    message = refusal(folder(tmp_path, "ResNet34", settings("ResNet34", **changes)))
    assert named in message
    assert "the tensors say" in message


def test_a_campplus_that_is_another_than_its_settings_say(tmp_path: Path) -> None:
    for key, value in {"growth_rate": 32, "bn_size": 4, "init_channels": 128, "config_str": "batchnorm-prelu"}.items():
        assert key in refusal(folder(tmp_path, "CAMPPlus", settings("CAMPPlus", **{f"model_args__{key}": value})))


MALFORMED = {
    "numbers as text": ({"dataset_args__fbank_args__num_mel_bins": "16"}, "n_mels|num_mel_bins"),
    "a flag as a number": ({"dataset_args__fbank_args__frame_shift": True}, "frame_shift"),
    "half a mel": ({"dataset_args__fbank_args__num_mel_bins": 16.5}, "n_mels|num_mel_bins"),
    "no number": ({"dataset_args__fbank_args__num_mel_bins": float("nan")}, "n_mels|num_mel_bins"),
    "an infinite rate": ({"dataset_args__resample_rate": float("inf")}, "sample_rate|resample_rate"),
    "a negative shift": ({"dataset_args__fbank_args__frame_shift": -10}, "frame_shift"),
    "no frame": ({"dataset_args__fbank_args__frame_length": 0}, "frame_length"),
    "a list of features": ({"dataset_args": ["fbank"]}, "dataset_args"),
    "a line of features": ({"dataset_args__fbank_args": "num_mel_bins: 80"}, "fbank_args"),
    "a list of sizes": ({"model_args": [16, 8]}, "model_args"),
    "a line of sizes": ({"model_args": "feat_dim 16"}, "model_args"),
    "an unhashable model": ({"model_args__pooling_func": ["TSTP"]}, "pooling_func"),
    "numbers as keys": ({"dataset_args__fbank_args": {1: 2, "num_mel_bins": 16}}, "fbank_args"),
}


@each_family
@pytest.mark.parametrize("name", MALFORMED)
def test_settings_of_a_wrong_type(tmp_path: Path, model: str, name: str) -> None:
    changes, named = MALFORMED[name]
    message = refusal(folder(tmp_path, model, settings(model, **changes)))
    assert any(word in message for word in named.split("|"))


@pytest.mark.parametrize("model", ["ResNet34", "CAMPPlus"])
def test_settings_without_sizes(tmp_path: Path, model: str) -> None:
    assert load(folder(tmp_path, model, settings(model, model_args=None))).config == TINY[model]


NO_YAML = ["model: [", "a: b: c", "\tx", "- 1\n- 2", "just text", "!!python/object:os.system {}", "[" * 600]
ODD_YAML = [f"x: !!{kind}" for kind in ("bool maybe", "int ''", "float ''", "timestamp x", "binary x", "set [1]")]
ODD_YAML += ["x: 2001-99-99", "? [1]\n: 2", "x: &a [*a]", "x: *nothing", "%YAML 9.9\n---\n{}", "x: \x00"]


@pytest.mark.parametrize("text", ODD_YAML)
def test_yaml_that_its_reader_stumbles_over(tmp_path: Path, text: str) -> None:
    assert "config.yaml" in refusal(folder(tmp_path, "ResNet34", f"model: ResNet34\n{text}"))


@each_family
@pytest.mark.parametrize("text", NO_YAML)
def test_settings_that_are_no_yaml_mapping(tmp_path: Path, model: str, text: str) -> None:
    assert "config.yaml" in refusal(folder(tmp_path, model, text))


@each_family
def test_settings_that_are_not_utf8(tmp_path: Path, model: str) -> None:
    path = folder(tmp_path, model, "")
    (path / "config.yaml").write_bytes(b"model: \xff\xfe")
    assert "config.yaml cannot be read" in refusal(path)


BOMBS = {
    "laughs": "\n".join(
        [f"{letter}: &{letter} [{', '.join([f'*{chr(ord(letter) - 1)}'] * 9)}]" for letter in "bcdefghi"]
    ),
    "merges": "\n".join(
        [f"{letter}: &{letter} {{<<: [{', '.join([f'*{chr(ord(letter) - 1)}'] * 9)}]}}" for letter in "bcdefghi"]
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_aliases_of_aliases_take_no_time(tmp_path: Path, bomb: str) -> None:
    """A few lines that stand for a hundred million values, used where a message would print them."""
    model = "ResNet34"
    first = "a: &a {x: y}\n" if bomb == "merges" else "a: &a [x, y]\n"
    text = f"{first}{BOMBS[bomb]}\nmodel: {model}\nmodel_args: {{pooling_func: *i}}\n"
    start = time.perf_counter()
    message = refusal(folder(tmp_path, model, text))
    assert time.perf_counter() - start < 5
    assert "config.yaml" in message
    assert len(message) < 2000


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = folder(tmp_path, "ResNet34", f"model: !!python/object/apply:os.mkdir ['{marker}']")
    refusal(path)
    assert not marker.exists()


# Without settings


def test_a_resnet_without_settings_has_wespeakers_features(tmp_path: Path) -> None:
    path = tf.save_zip(tmp_path / "model.pt", tf.state_dict(tiny_source("basic")))
    assert load(path).config == CONFIGS["basic"]


def test_a_campplus_without_settings_is_3d_speakers(tmp_path: Path) -> None:
    path = tf.save_zip(tmp_path / "campplus_cn_common.bin", tf.state_dict(tiny_source("campplus_3dspeaker")))
    config = load(path).config
    assert config.front_end == THREE_D_SPEAKER
    assert config.pool_eps == 0
    assert config.threshold == 0.47


@pytest.mark.parametrize(("name", "projection"), [("avg_model.pt", True), ("avg_model.pt", False), ("model.pt", True)])
def test_a_wespeaker_campplus_without_settings(tmp_path: Path, name: str, projection: bool) -> None:
    weights = source_weights(CONFIGS["campplus_3dspeaker"], projection=projection)
    message = refusal(tf.save_zip(tmp_path / name, tf.state_dict(weights)), CheckpointError)
    assert "put its config.yaml beside it" in message
    assert name in message


# pyannote's Lightning checkpoint


def lightning(path: Path, weights: dict[str, np.ndarray], **hyper_parameters: Any) -> Path:
    state = {f"resnet.{name}": tf.tensor(x) for name, x in weights.items()}
    content = {"epoch": 0, "state_dict": collections.OrderedDict(state), "hyper_parameters": hyper_parameters}
    return tf.save_zip(path, content)


def test_a_lightning_checkpoint(tmp_path: Path) -> None:
    path = lightning(
        tmp_path / "pytorch_model.bin", tiny_source("basic"), num_mel_bins=16, frame_length=25.0, dither=0.0
    )
    front_end = replace(CONFIGS["basic"].front_end, channel="mean")  # as pyannote loads files
    assert load(path).config == replace(CONFIGS["basic"], front_end=front_end)


@pytest.mark.parametrize(
    "parameters",
    [{"num_channels": 2}, {"window_type": "povey"}, {"use_energy": True}, {"fbank_centering_span": 5.0}, {"n": 1}],
)
def test_hyper_parameters_that_are_not_supported(tmp_path: Path, parameters: dict[str, Any]) -> None:
    path = lightning(tmp_path / "pytorch_model.bin", tiny_source("basic"), num_mel_bins=16, **parameters)
    message = refusal(path)
    assert next(iter(parameters)) in message
    assert "hyper_parameters" in message


@pytest.mark.parametrize("parameters", [{"num_mel_bins": 80}, {"num_mel_bins": "16"}, {"sample_rate": None}])
def test_hyper_parameters_that_are_wrong(tmp_path: Path, parameters: dict[str, Any]) -> None:
    refusal(lightning(tmp_path / "pytorch_model.bin", tiny_source("basic"), **{"num_mel_bins": 16} | parameters))


@pytest.mark.parametrize("prefix", ["model.", "module.", "resnet.", ""])
def test_wrappers_of_training_frameworks(tmp_path: Path, prefix: str) -> None:
    save_file({prefix + name: x for name, x in tiny_source("basic").items()}, tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors").config == CONFIGS["basic"]


# Tensors that recognition itself relies on


def with_shape(name: str, weights: dict[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return weights | {name: np.ones(shape, np.float32)}


@pytest.mark.parametrize("shape", [(), (8,), (8, 64, 1), (8, 63), (0, 64), (8, 0)])
def test_a_resnet_with_an_impossible_embedding_layer(tmp_path: Path, shape: tuple[int, ...]) -> None:
    weights = with_shape("seg_1.weight", tiny_source("basic"), shape)
    message = refusal(tf.save_zip(tmp_path / "model.pt", tf.state_dict(weights)), SpeechZooError)
    assert "seg_1" in message or "embed_dim" in message


@pytest.mark.parametrize("shape", [(), (2,), (0, 1, 3, 3), (2, 1, 3), (3, 1, 3, 3)])
def test_a_resnet_with_an_impossible_first_convolution(tmp_path: Path, shape: tuple[int, ...]) -> None:
    weights = with_shape("conv1.weight", tiny_source("basic"), shape)
    refusal(tf.save_zip(tmp_path / "model.pt", tf.state_dict(weights)), SpeechZooError)


def test_a_resnet_with_three_stages(tmp_path: Path) -> None:
    weights = {name: x for name, x in tiny_source("basic").items() if not name.startswith("layer4.")}
    refusal(tf.save_zip(tmp_path / "model.pt", tf.state_dict(weights)), SpeechZooError)


def test_a_resnet_whose_block_numbers_have_a_gap(tmp_path: Path) -> None:
    """A name must not decide how many blocks are built."""
    weights = tiny_source("basic") | {"layer1.50000.conv1.weight": np.ones((2, 2, 3, 3), np.float32)}
    start = time.perf_counter()
    assert "layer1." in refusal(tf.save_zip(tmp_path / "model.pt", tf.state_dict(weights)), SpeechZooError)
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_resnet_that_lacks_half_of_its_second_embedding_layer(tmp_path: Path, part: str) -> None:
    weights = {name: x for name, x in tiny_source("two_emb_layer").items() if name != f"seg_2.{part}"}
    message = refusal(tf.save_zip(tmp_path / "model.pt", tf.state_dict(weights)), CheckpointError)
    assert "seg_2" in message or "seg_bn_1" in message


CAMPPLUS_KEYS = (
    "xvector.block1.tdnnd1.linear1.weight",
    "xvector.block1.tdnnd1.cam_layer.linear_local.weight",
    "xvector.tdnn.linear.weight",
    "xvector.dense.linear.weight",
)


@pytest.mark.parametrize("key", CAMPPLUS_KEYS)
@pytest.mark.parametrize("shape", [None, (), (8,), (0, 16, 1), (64, 7, 3)])
def test_a_campplus_with_an_impossible_or_missing_tensor(
    tmp_path: Path, key: str, shape: tuple[int, ...] | None
) -> None:
    weights = dict(tiny_source("campplus_3dspeaker"))
    del weights[key]
    if shape is not None:
        weights[key] = np.ones(shape, np.float32)
    save_file(weights, tmp_path / "model.safetensors")
    refusal(tmp_path / "model.safetensors", SpeechZooError)


def test_a_file_of_another_family(tmp_path: Path) -> None:
    save_file({"encoder.weight": np.ones((3, 3), np.float32)}, tmp_path / "model.safetensors")
    message = refusal(tmp_path / "model.safetensors", CheckpointError)
    assert "is not a source checkpoint that is known" in message
    assert "campplus" in message


# Settings that lie elsewhere


@each_family
@pytest.mark.parametrize("place", ["beside", "one folder up", "one folder up, of another name"])
def test_the_rate_that_a_wespeaker_model_was_trained_at(tmp_path: Path, model: str, place: str) -> None:
    name = "avg" if "another" in place else "models"
    folder = wespeaker_folder(
        tmp_path / "exp" / name, TINY[model], settings=settings(model, dataset_args__resample_rate=8000)
    )
    if place != "beside":
        (folder / "config.yaml").rename(folder.parent / "config.yaml")
    config = load(folder / "avg_model.pt").config
    assert config.front_end.sample_rate == 8000
    out = convert(folder, tmp_path / "out")
    assert load(out).config == config.__class__(**vars(config) | {"source": load(out).config.source})
    assert sorted(load(out).config.source["sha256"]) == ["avg_model.pt", "config.yaml"]


def test_settings_of_something_else_one_folder_up(tmp_path: Path) -> None:
    folder = wespeaker_folder(tmp_path / "exp" / "mine", RESNET)
    (folder / "config.yaml").unlink()
    for text in ("- a list", "!custom {a: 1}", "model: {name: another}", "{"):
        (folder.parent / "config.yaml").write_text(text)
        assert load(folder).config.front_end.sample_rate == 16000
        assert sorted(load(convert(folder, tmp_path / "out", force=True)).config.source["sha256"]) == ["avg_model.pt"]


THREE_D = """\
# speaker verification
exp_dir: exp/campplus
fbank_dim: 16
sample_rate: 8000
embedding_size: 8
feature_extractor:
  obj: speakerlab.process.processor.FBank
  args:
    n_mels: <fbank_dim>
    sample_rate: <sample_rate>
    mean_nor: True
embedding_model:
  obj: speakerlab.models.campplus.DTDNN.CAMPPlus
  args: {feat_dim: <fbank_dim>, embedding_size: <embedding_size>}
"""


@pytest.mark.parametrize("up", [0, 1, 2])
def test_the_rate_that_a_3d_speaker_model_was_trained_at(tmp_path: Path, up: int) -> None:
    folder = tmp_path / "exp" / "models" / "CKPT-EPOCH-1"
    folder.mkdir(parents=True)
    tf.save_zip(folder / "embedding_model.ckpt", tf.state_dict(source_weights(CAMPPLUS)))
    [folder, *folder.parents][up].joinpath("config.yaml").write_text(THREE_D)
    front_end = load(folder).config.front_end
    assert (front_end.sample_rate, front_end.n_mels, front_end.window, front_end.scale, front_end.cmn) == (
        8000,
        16,
        "povey",
        1.0,
        True,
    )


def test_the_rate_in_modelscopes_configuration(tmp_path: Path) -> None:
    tf.save_zip(tmp_path / "campplus.bin", tf.state_dict(source_weights(CAMPPLUS)))
    facts = {"sample_rate": 8000, "fbank_dim": 16, "emb_size": 8}
    text = json.dumps({"framework": "pytorch", "model": {"type": "cam++-sv", "model_config": facts}})
    (tmp_path / "configuration.json").write_text(text)
    assert load(tmp_path).config.front_end.sample_rate == 8000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sample_rate: 8000", "sample_rate: abc"),
        ("sample_rate: 8000", "sample_rate: 1e30"),
        ("<sample_rate>", "<nothing>"),
        ("processor.FBank", "processor.Spectrogram"),
        ("mean_nor: True", "mean_nor: maybe"),
        ("mean_nor: True", "dither: 1"),
        ("<fbank_dim>\n    sample", "24\n    sample"),
    ],
)
def test_3d_speaker_settings_that_are_not_supported(tmp_path: Path, old: str, new: str) -> None:
    tf.save_zip(tmp_path / "campplus.bin", tf.state_dict(source_weights(CAMPPLUS)))
    (tmp_path / "config.yaml").write_text(THREE_D.replace(old, new))
    with pytest.raises(ConfigError):
        load(tmp_path)
