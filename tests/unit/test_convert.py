"""Conversion: the folder that comes out, that it loads to the same model, and that it appears whole or not at all."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch_files as tf
from safetensors.numpy import load_file, save_file
from speech_zoo_core import atomic
from speech_zoo_core.checkpoint import writer
from speech_zoo_core.config import to_dict
from speech_zoo_core.conversion import convert
from speech_zoo_core.errors import CheckpointError, ConfigError
from speech_zoo_core.layers import parameters
from speech_zoo_core.loader import load
from tiny_models import (
    ECAPA,
    LID,
    RATE,
    RESNET,
    TINY,
    proxy_file,
    speechbrain_folder,
    tiny_model,
    tiny_source,
    voice,
    wespeaker_folder,
)

each_family = pytest.mark.parametrize("family", TINY)


@pytest.fixture
def source(tmp_path: Path, family: str) -> Path:
    return wespeaker_folder(tmp_path / "source", TINY[family])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def cosine(a: mx.array, b: mx.array) -> float:
    return float(a @ b)  # both have unit length


@each_family
def test_what_a_converted_folder_holds(tmp_path: Path, source: Path, family: str) -> None:
    out = convert(source, tmp_path / "out")
    assert out == tmp_path / "out"
    assert sorted(content(out)) == ["config.json", "model.safetensors"]
    config = config_of(out)
    assert config["model_type"] == family
    assert config["threshold"] == 0.3
    assert config["front_end"]["n_mels"] == 16
    assert (
        config["source"]["form"]
        == {
            "resnet34": "WeSpeaker ResNet34",
            "campplus": "WeSpeaker CAM++",
            "ecapa_tdnn": "WeSpeaker ECAPA_TDNN_GLOB_c512",
        }[family]
    )
    for name in ("avg_model.pt", "config.yaml"):
        assert config["source"]["sha256"][name] == hashlib.sha256((source / name).read_bytes()).hexdigest()
    tensors = load_file(out / "model.safetensors")
    assert {x.dtype.name for x in tensors.values()} == {"float32"}
    assert not [name for name in tensors if "running" in name or name.startswith("projection")]
    assert str(tmp_path) not in (out / "config.json").read_text(encoding="utf-8")


@each_family
def test_a_converted_folder_loads_to_the_same_model(tmp_path: Path, source: Path) -> None:
    original, converted = load(source), load(convert(source, tmp_path / "out"))
    assert set(parameters(converted)) == set(parameters(original))
    for name, x in parameters(original).items():
        assert mx.array_equal(parameters(converted)[name], x), name
    assert converted.config.front_end == original.config.front_end
    assert mx.array_equal(converted.embed(voice(RATE), RATE), original.embed(voice(RATE), RATE))


@each_family
@pytest.mark.parametrize("options", [{}, {"dtype": "float16"}, {"dtype": "bfloat16"}])
def test_converting_again_changes_no_byte(tmp_path: Path, source: Path, options: dict[str, str]) -> None:
    once = convert(source, tmp_path / "once", **options)
    assert content(convert(source, tmp_path / "same", **options)) == content(once)
    assert content(convert(once, tmp_path / "twice", **options)) == content(once)


@each_family
def test_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    whole = convert(source, tmp_path / "whole")
    monkeypatch.setattr(writer, "SHARD_BYTES", (whole / "model.safetensors").stat().st_size // 3)
    out = convert(source, tmp_path / "out")
    assert sum(name.startswith("model-0000") for name in content(out)) > 2
    assert "model.safetensors" not in content(out)
    assert content(convert(out, tmp_path / "again")) == content(out)
    tensors = parameters(load(out))
    assert all(mx.array_equal(x, tensors[name]) for name, x in parameters(load(whole)).items())


# The forms that are ECAPA-TDNN's alone

ECAPA_FORMS: dict[str, tuple[Callable[[Path], Path], str, set[str]]] = {  # how to write it, its form, its files
    "ecapa_speechbrain": (
        lambda path: speechbrain_folder(path, ECAPA),
        "SpeechBrain speaker ECAPA-TDNN",
        {"embedding_model.ckpt", "hyperparams.yaml", "config.json"},
    ),
    "ecapa_lid": (
        lambda path: speechbrain_folder(path, LID),
        "SpeechBrain language identification ECAPA-TDNN",
        {"embedding_model.ckpt", "hyperparams.yaml", "config.json", "classifier.ckpt", "label_encoder.txt"},
    ),
    "speaker_proxy": (lambda path: proxy_file(path.with_suffix(".pt")), "speaker proxy", {"source.pt"}),
}
each_ecapa = pytest.mark.parametrize("form", ECAPA_FORMS)


@each_ecapa
def test_an_ecapa_is_converted(tmp_path: Path, form: str) -> None:
    write, name, files = ECAPA_FORMS[form]
    source = write(tmp_path / "source")
    out = convert(source, tmp_path / "out")
    assert sorted(content(out)) == ["config.json", "model.safetensors"]
    assert str(tmp_path) not in (out / "config.json").read_text(encoding="utf-8")
    provenance = config_of(out)["source"]
    assert provenance["form"] == name
    place = source if source.is_dir() else source.parent
    assert provenance["sha256"] == {
        file: hashlib.sha256((place / file).read_bytes()).hexdigest() for file in sorted(files)
    }
    tensors = load_file(out / "model.safetensors")
    assert not [key for key in tensors if "running" in key or "num_batches" in key or "asp_bn" in key]
    original, converted, expected = load(source), load(out), parameters(tiny_model(form))
    for model in (original, converted):
        assert parameters(model).keys() == expected.keys()
        assert all(mx.array_equal(x, expected[key]) for key, x in parameters(model).items())
    assert replace(converted.config, source=None) == original.config == tiny_model(form).config


@each_ecapa
@pytest.mark.parametrize("options", [{}, {"dtype": "float16"}, {"bits": 8}, {"bits": 8, "dtype": "float16"}], ids=str)
def test_converting_an_ecapa_again_changes_no_byte(tmp_path: Path, form: str, options: dict[str, Any]) -> None:
    source = ECAPA_FORMS[form][0](tmp_path / "source")
    once = convert(source, tmp_path / "once", **options)
    assert content(convert(source, tmp_path / "same", **options)) == content(once)
    again = {key: value for key, value in options.items() if key != "bits"}  # quantized already
    assert content(convert(once, tmp_path / "twice", **again)) == content(once)


@each_ecapa
def test_the_parameters_that_a_model_has_load_again(tmp_path: Path, form: str) -> None:
    model = load(ECAPA_FORMS[form][0](tmp_path / "source"))
    (tmp_path / "saved").mkdir()
    mx.save_safetensors(str(tmp_path / "saved" / "model.safetensors"), parameters(model))
    (tmp_path / "saved" / "config.json").write_text(json.dumps(to_dict(model.config)), encoding="utf-8")
    again = load(tmp_path / "saved")
    assert again.config == model.config
    assert all(mx.array_equal(x, parameters(model)[key]) for key, x in parameters(again).items())


@each_ecapa
@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({"dtype": "float16"}, 0.9999),
        ({"dtype": "bfloat16"}, 0.999),
        ({"bits": 8}, 0.999),
        ({"bits": 4}, 0.9),
        ({"bits": 8, "dtype": "float16"}, 0.999),
    ],
    ids=str,
)
def test_an_ecapa_in_less_precision_stays_close(
    tmp_path: Path, form: str, options: dict[str, Any], least: float
) -> None:
    source = ECAPA_FORMS[form][0](tmp_path / "source")
    model, expected = load(convert(source, tmp_path / "out", **options)), tiny_model(form)
    x = mx.random.normal((2, 50, expected.config.feat_dim), key=mx.random.key(0))
    for row, other in zip(model(x), expected(x), strict=True):
        assert cosine(row / mx.linalg.norm(row), other / mx.linalg.norm(other)) > least


def test_a_classifier_is_not_quantized(tmp_path: Path) -> None:
    wide = replace(LID, embed_dim=32, classifier_neurons=32)
    out = convert(speechbrain_folder(tmp_path / "source", wide), tmp_path / "out", bits=8)
    types = {name: x.dtype.name for name, x in load_file(out / "model.safetensors").items()}
    assert types["fc.weight"] == types["mfa.conv.weight"] == "uint32"
    assert {kind for name, kind in types.items() if name.startswith("classifier.")} == {"float32"}


@pytest.mark.parametrize("name", ["square", "bottleneck", "two_emb_layer", "campplus_3dspeaker"])
def test_a_state_dict_alone(tmp_path: Path, name: str) -> None:
    path = tf.save_zip(tmp_path / "model.pt", tf.state_dict(tiny_source(name)))
    out = convert(path, tmp_path / "out")
    assert content(convert(out, tmp_path / "again")) == content(out)
    model, expected = load(out), tiny_model(name)
    assert model.config.front_end == expected.config.front_end
    for key, x in parameters(expected).items():
        assert mx.array_equal(parameters(model)[key], x), key


@each_family
@pytest.mark.parametrize(("dtype", "least"), [("float16", 0.9995), ("bfloat16", 0.99)])
def test_half_precision(tmp_path: Path, source: Path, dtype: str, least: float) -> None:
    out = convert(source, tmp_path / dtype, dtype=dtype)
    stored = mx.load(str(out / "model.safetensors"))
    assert {x.dtype for x in stored.values()} == {getattr(mx, dtype)}
    assert cosine(load(out).embed(voice(RATE), RATE), load(source).embed(voice(RATE), RATE)) > least


def test_the_type_to_compute_in(tmp_path: Path) -> None:
    out = convert(wespeaker_folder(tmp_path / "source", RESNET), tmp_path / "out", dtype="float16")
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    assert load(out).conv1.weight.dtype == (mx.float32 if on_cpu else mx.float16)
    assert load(out, dtype="float16").conv1.weight.dtype == mx.float16
    assert load(out, dtype="bfloat16").conv1.weight.dtype == mx.bfloat16


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized(tmp_path: Path, bits: int) -> None:
    source = wespeaker_folder(tmp_path / "source", RESNET)
    out = convert(source, tmp_path / "out", bits=bits)
    assert config_of(out)["quantization"] == {"bits": bits, "group_size": 32}
    tensors = load_file(out / "model.safetensors")
    assert tensors["seg_1.weight"].dtype == np.uint32
    assert tensors["layer1.0.conv1.weight"].dtype == np.float32
    model = load(out)
    assert cosine(model.embed(voice(RATE), RATE), load(source).embed(voice(RATE), RATE)) > {8: 0.999, 4: 0.97}[bits]
    assert content(convert(out, tmp_path / "again")) == content(out)
    with pytest.raises(ConfigError, match="quantized already"):
        convert(out, tmp_path / "twice", bits=8)


@pytest.mark.parametrize("dtype", ["float64", "int8", "half", "", "Float32"])
def test_an_unknown_type(tmp_path: Path, dtype: str) -> None:
    source = wespeaker_folder(tmp_path / "source", RESNET)
    with pytest.raises(ConfigError, match="use float32, float16, bfloat16"):
        convert(source, tmp_path / "out", dtype=dtype)
    with pytest.raises(ConfigError, match="use float32, float16, bfloat16"):
        load(source, dtype=dtype)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bits", [0, 2, 16, -8])
def test_an_unknown_quantization(tmp_path: Path, bits: int) -> None:
    source = wespeaker_folder(tmp_path / "source", RESNET)
    with pytest.raises(ConfigError, match="use 8 or 4 bits"):
        convert(source, tmp_path / "out", bits=bits)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# Where it is written


def test_into_an_empty_folder(tmp_path: Path) -> None:
    source = wespeaker_folder(tmp_path / "source", RESNET)
    (tmp_path / "out").mkdir()
    assert sorted(content(convert(source, tmp_path / "out"))) == ["config.json", "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_into_folders_that_do_not_exist_yet(tmp_path: Path) -> None:
    source = wespeaker_folder(tmp_path / "source", RESNET)
    assert sorted(content(convert(str(source), str(tmp_path / "a" / "b" / "out")))) == [
        "config.json",
        "model.safetensors",
    ]
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["a folder with a file", "a file", "itself"])
def test_a_place_that_is_taken(tmp_path: Path, kind: str) -> None:
    source = wespeaker_folder(tmp_path / "source", RESNET)
    out = source if kind == "itself" else tmp_path / "out"
    if kind == "a folder with a file":
        out.mkdir()
        (out / "notes.txt").write_text("keep me", encoding="utf-8")
    if kind == "a file":
        out.write_text("keep me", encoding="utf-8")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="exists already"):
        convert(source, out)
    with pytest.raises(CheckpointError, match=r"not replaced|not a folder"):
        convert(source, out, force=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_below_a_file(tmp_path: Path) -> None:
    source = wespeaker_folder(tmp_path / "source", RESNET)
    (tmp_path / "file").write_text("keep me", encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot be written"):
        convert(source, tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "keep me"


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("[save] disk"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("step", ["tensors", "config", "rename"])
def test_a_write_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException, existing: bool
) -> None:
    source = wespeaker_folder(tmp_path / "source", RESNET)
    out = tmp_path / "place" / "out"
    (out if existing else out.parent).mkdir(parents=True)

    def fail_half_way(*_: Any, **__: Any) -> None:
        raise error

    target, name = {
        "tensors": (writer.np, "ascontiguousarray"),
        "config": (Path, "write_text"),
        "rename": (Path, "replace"),
    }[step]
    monkeypatch.setattr(target, name, fail_half_way)
    monkeypatch.setattr(atomic, "_swap", lambda *_: False)  # as on systems that cannot
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else CheckpointError
    with pytest.raises(expected) as caught:
        convert(source, out)
    if expected is CheckpointError:
        assert f"{out} cannot be written" in str(caught.value)
    assert list(out.parent.iterdir()) == ([out] if existing else [])
    assert not existing or list(out.iterdir()) == []


@pytest.mark.parametrize("damage", ["missing", "extra", "shape", "truncated"])
def test_a_source_that_cannot_be_converted_leaves_nothing(tmp_path: Path, damage: str) -> None:
    weights = dict(tiny_source("basic"))
    if damage == "missing":
        del weights["layer2.0.conv1.weight"]
    if damage == "extra":
        weights["layer2.0.se.weight"] = np.ones(3, np.float32)
    if damage == "shape":
        weights["layer2.0.conv1.weight"] = weights["layer2.0.conv1.weight"][:, :, :, :1]
    path = tf.save_zip(tmp_path / "model.pt", tf.state_dict(weights))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError) as caught:
        convert(path, tmp_path / "out")
    named = {"extra": "layer2.0.se.weight", "truncated": str(path)}
    assert named.get(damage, "layer2.0.conv1.weight") in str(caught.value)
    assert [item.name for item in tmp_path.iterdir()] == ["model.pt"]


# A converted checkpoint that was damaged afterwards


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    return convert(wespeaker_folder(tmp_path / "source", RESNET), tmp_path / "out")


def change(folder: Path, **changes: np.ndarray | None) -> None:
    tensors = load_file(folder / "model.safetensors") | changes
    save_file({name: x for name, x in tensors.items() if x is not None}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("layer1.0.conv1.weight", None),
        ("layer1.0.conv1.bias", None),
        ("seg_1.weight", None),
        ("layer9.0.conv1.weight", np.ones(3, np.float32)),
        ("projection_of_mine", np.ones(3, np.float32)),
        ("layer1.0.conv1.weight", np.ones((2, 3, 3, 3), np.float32)),
        ("seg_1.bias", np.ones(9, np.float32)),
        ("seg_1.weight", np.ones(64, np.float32)),
        ("layer1.0.bn1.running_var", np.ones(2, np.float32)),
    ],
)
def test_a_converted_tensor_that_does_not_fit(converted: Path, name: str, x: np.ndarray | None) -> None:
    change(converted, **{name: x})
    with pytest.raises(CheckpointError) as caught:
        load(converted)
    assert name.replace("running_var", "running_mean") in str(caught.value)  # the half of a norm that is not there


def test_a_converted_tensor_that_holds_integers(converted: Path) -> None:
    bias = load_file(converted / "model.safetensors")["seg_1.bias"]
    change(converted, **{"seg_1.bias": np.ones_like(bias, np.int32)})
    with pytest.raises(CheckpointError, match=r"seg_1\.bias"):
        load(converted)


def test_a_converted_folder_whose_config_says_another_size(converted: Path) -> None:
    config = config_of(converted) | {"embed_dim": 9}
    (converted / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"seg_1\.weight \(8, 64\) instead of \(9, 64\)"):
        load(converted)


def test_a_converted_folder_without_its_config(converted: Path) -> None:
    (converted / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json says what it is"):
        load(converted)


def test_a_quantized_folder_whose_config_does_not_say_so(tmp_path: Path) -> None:
    out = convert(wespeaker_folder(tmp_path / "source", RESNET), tmp_path / "out", bits=8)
    config = config_of(out)
    del config["quantization"]
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"seg_1\.scales"):
        load(out)
