"""PyTorch files, zip and legacy: every tensor comes out as it went in; other files are named for what they are."""

import collections
import zipfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch_files as tf
from speech_zoo_core.checkpoint import Checkpoint, read_checkpoint
from speech_zoo_core.errors import CheckpointError
from torch_files import SAVERS, Call, Name

FORMATS = sorted(SAVERS)
MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)


def read(folder: Path, form: str, content: Any, **options: Any) -> Checkpoint:
    return read_checkpoint(SAVERS[form](folder / "model.pt", content, **options))


def refusal(folder: Path, form: str, content: Any, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(folder, form, content, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", tf.KINDS)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (2, 3, 4, 5), (0,), (2, 0, 3)])
def test_every_type_and_shape(tmp_path: Path, form: str, dtype: str, shape: tuple[int, ...]) -> None:
    x = np.asarray(100 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    tensors = read(tmp_path, form, {"x": tf.tensor(x), "other": tf.tensor(MATRIX)}).tensors
    expected = x.astype(np.float32) if dtype == "float64" else x
    assert tensors["x"].shape == shape
    assert str(tensors["x"].dtype).removeprefix("mlx.core.").rstrip("_") == expected.dtype.name
    assert np.array_equal(np.array(tensors["x"]), expected)
    assert np.array_equal(np.array(tensors["other"]), MATRIX)


@pytest.mark.parametrize("form", FORMATS)
def test_bfloat16(tmp_path: Path, form: str) -> None:
    x = np.array([[1.0, -2.5], [3.1415927, 1e30]], np.float32)
    bits = tf.bfloat16(x)
    tensor = read(tmp_path, form, {"x": tf.tensor(bits, "BFloat16")}).tensors["x"]
    assert tensor.dtype == mx.bfloat16
    assert np.array_equal(np.array(tensor.view(mx.uint16)), bits)
    assert np.allclose(np.array(tensor.astype(mx.float32)), x, rtol=1 / 128)


@pytest.mark.parametrize("form", FORMATS)
def test_views_of_one_storage(tmp_path: Path, form: str) -> None:
    items = tf.storage(MATRIX)
    views = {  # offset, size, stride, what it shows
        "whole": (0, (3, 4), (4, 1), MATRIX),
        "transposed": (0, (4, 3), (1, 4), MATRIX.T),
        "block": (5, (2, 2), (4, 1), MATRIX[1:, 1:3]),
        "column": (3, (3,), (4,), MATRIX[:, 3]),
        "every_other": (0, (3, 2), (4, 2), MATRIX[:, ::2]),
        "repeated": (2, (3, 2), (0, 1), np.tile(MATRIX[0, 2:], (3, 1))),
        "last": (11, (), (), MATRIX[2, 3]),
        "none": (12, (0, 4), (4, 1), np.zeros((0, 4))),
    }
    content = {name: tf.view(items, *view[:3]) for name, view in views.items()}
    tensors = read(tmp_path, form, content).tensors
    for name, (*_, expected) in views.items():
        assert tensors[name].shape == expected.shape
        assert np.array_equal(np.array(tensors[name]), expected), name


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path: Path, form: str, protocol: int) -> None:
    content = collections.OrderedDict(a=tf.tensor(MATRIX), b=tf.parameter(MATRIX[0]))
    tensors = read(tmp_path, form, content, protocol=protocol).tensors
    assert list(tensors) == ["a", "b"]
    assert np.array_equal(np.array(tensors["b"]), MATRIX[0])


@pytest.mark.parametrize("form", FORMATS)
def test_every_way_that_a_tensor_is_rebuilt(tmp_path: Path, form: str) -> None:
    empty = collections.OrderedDict()
    args = (tf.storage(MATRIX), 0, Name("torch", "Size")((3, 4)), (4, 1))
    rebuild = Name("torch._utils", "_rebuild_tensor_v2")
    content = {
        "old": Name("torch._utils", "_rebuild_tensor")(*args),
        "usual": rebuild(*args, False, empty),
        "metadata": rebuild(*args, False, empty, {}),
        "parameter": Name("torch._utils", "_rebuild_parameter")(rebuild(*args, False, empty), True, empty),
        "with_state": Name("torch._utils", "_rebuild_parameter_with_state")(
            rebuild(*args, False, empty), True, empty, {"tag": 1}
        ),
        "subclass": Name("torch._tensor", "_rebuild_from_type_v2")(
            rebuild, Name("torch.nn.parameter", "Parameter"), (*args, False, empty), {}
        ),
    }
    for name, tensor in read(tmp_path, form, content).tensors.items():
        assert np.array_equal(np.array(tensor), MATRIX), name


def test_a_tensor_whose_type_stands_beside_an_untyped_storage(tmp_path: Path) -> None:
    items = tf.Storage(MATRIX.tobytes(), "Untyped", MATRIX.nbytes)
    rebuild = Name("torch._utils", "_rebuild_tensor_v3")
    args = (items, 0, (3, 4), (4, 1), False, collections.OrderedDict())
    assert np.array_equal(
        np.array(read(tmp_path, "zip", {"x": rebuild(*args, Name("torch", "float32"))}).tensors["x"]), MATRIX
    )
    assert "float8_e4m3fn" in refusal(tmp_path, "zip", {"x": rebuild(*args, Name("torch", "float8_e4m3fn"))})


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_state_dict_inside_a_training_checkpoint(tmp_path: Path, form: str, key: str) -> None:
    content = {"epoch": 3, key: tf.state_dict({"a": MATRIX, "b": MATRIX[0]}), "lr": 0.1}
    checkpoint = read(tmp_path, form, content)
    assert set(checkpoint.tensors) == {"a", "b"}
    assert checkpoint.extra == {"epoch": 3, "lr": 0.1}


@pytest.mark.parametrize("form", FORMATS)
def test_a_lightning_checkpoint(tmp_path: Path, form: str) -> None:
    attributes = Call(
        Name("pytorch_lightning.utilities.parsing", "AttributeDict"),
        (),
        items={"sample_rate": 16000, "num_mel_bins": 80, "nested": {"a": [1, None, True]}},
        new=True,
    )
    specifications = Name("pyannote.audio.core.task", "Specifications")
    content = {
        "epoch": 0,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": collections.OrderedDict({"resnet.a": tf.tensor(MATRIX)}),
        "hyper_parameters": attributes,
        "pyannote.audio": {
            "specifications": tf.Built(
                Call(specifications, (), new=True),
                {"problem": Name("pyannote.audio.core.task", "Problem")(2), "duration": 5.0},
            )
        },
        "callbacks": {"when": Name("torch", "device")("cuda", 0), "path": Name("pathlib", "PosixPath")("a", "b")},
        "optimizer_states": [{"state": {0: {"exp_avg": tf.tensor(MATRIX)}}, "seen": {1, 2}}],
        "loss": Name("numpy.core.multiarray", "scalar")(Name("numpy", "dtype")("f8", False, True), b"\0" * 8),
        "namespace": tf.Built(Call(Name("argparse", "Namespace"), (), new=True), {"a": 1}),
        "conf": tf.Built(Call(Name("omegaconf.dictconfig", "DictConfig"), (), new=True), {"_content": {"a": 1}}),
    }
    checkpoint = read(tmp_path, form, content)
    assert list(checkpoint.tensors) == ["resnet.a"]
    assert dict(checkpoint.extra["hyper_parameters"]) == {
        "sample_rate": 16000,
        "num_mel_bins": 80,
        "nested": {"a": [1, None, True]},
    }
    assert checkpoint.extra["epoch"] == 0


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "holds a list, not a state dict"),
        (5, "holds a int, not a state dict"),
        (None, "holds a NoneType, not a state dict"),
        (tf.tensor(MATRIX), "not a state dict"),
        (Call(Name("pyannote.audio", "Model"), (), new=True), "not a state dict"),
        ({}, "holds no state dict"),
        ({"state_dict": {}}, "holds no state dict"),
        ({"a": tf.tensor(MATRIX), "vocabulary": [1, 2]}, "vocabulary"),
        ({"epoch": 3}, "epoch"),
    ],
)
def test_a_file_without_a_state_dict(tmp_path: Path, form: str, content: Any, reason: str) -> None:
    assert reason in refusal(tmp_path, form, content)


@pytest.mark.parametrize("form", FORMATS)
def test_an_unknown_type_of_storage(tmp_path: Path, form: str) -> None:
    items = tf.Storage(bytes(16), "ComplexFloat", 2)
    assert "ComplexFloat" in refusal(tmp_path, form, {"x": tf.view(items, 0, (2,), (1,))})


def test_a_torchscript_archive(tmp_path: Path) -> None:
    message = refusal(tmp_path, "zip", tf.state_dict({"a": MATRIX}), **{"constants.pkl": b"", "code/model.py": b""})
    assert "TorchScript" in message
    assert "state dict" in message


def test_a_plain_zip_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(CheckpointError, match="is a zip file but not a PyTorch checkpoint"):
        read_checkpoint(path)


def test_a_big_endian_archive(tmp_path: Path) -> None:
    assert "big-endian" in refusal(tmp_path, "zip", tf.state_dict({"a": MATRIX}), byteorder=b"big")


def test_a_big_endian_legacy_file(tmp_path: Path) -> None:
    system = tf.LEGACY_SYSTEM | {"little_endian": False}
    assert "big-endian" in refusal(tmp_path, "legacy", tf.state_dict({"a": MATRIX}), system=system)


@pytest.mark.parametrize("content", [{"weights": [1.0, 2.0]}, 5, [1], None])
def test_a_pickle_that_is_no_checkpoint(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(tf.dumps(content))
    with pytest.raises(CheckpointError, match="is a pickle but not a PyTorch checkpoint"):
        read_checkpoint(path)


def test_an_unknown_version_of_the_legacy_format(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(tf.dumps(tf.LEGACY_MAGIC) + tf.dumps(1002))
    with pytest.raises(CheckpointError, match="unknown version"):
        read_checkpoint(path)
