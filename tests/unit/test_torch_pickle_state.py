"""Pickle's BUILD opcode writes attributes past every check: no file may bend a tensor, or the reader, with it."""

import collections
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files as tf
from speech_zoo_core.checkpoint import read_checkpoint
from speech_zoo_core.errors import CheckpointError
from torch_files import SAVERS, Built, Call, Name

FORMATS = sorted(SAVERS)
MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def attempt(path: Path) -> None:
    """Read a file that may be refused or read, but must do nothing else."""
    with contextlib.suppress(CheckpointError):
        read_checkpoint(path)


@pytest.fixture
def unchanged(tmp_path: Path) -> Iterator[None]:
    """Fails if a good file, of every way to rebuild a tensor, no longer reads as it did before the test."""
    args = (tf.storage(MATRIX), 0, (3, 4), (4, 1))
    untyped = (tf.Storage(MATRIX.tobytes(), "Untyped", MATRIX.nbytes), *args[1:])
    empty: dict[str, Any] = collections.OrderedDict()
    rebuild = {name: Name("torch._utils", f"_rebuild_{name}") for name in ("tensor", "tensor_v2", "tensor_v3")}
    content = {
        "tensor": rebuild["tensor"](*args),
        "tensor_v2": rebuild["tensor_v2"](*args, False, empty),
        "tensor_v3": rebuild["tensor_v3"](*untyped, False, empty, Name("torch", "float32")),
        "parameter": tf.parameter(MATRIX),
    }
    extra = {"namespace": Built(Call(Name("argparse", "Namespace"), (), new=True), {"a": 1})}
    good = tf.save_zip(tmp_path / "good.pt", {"state_dict": content, **extra})
    incomplete = tf.save_zip(tmp_path / "incomplete.pt", {"a": rebuild["tensor_v2"](args[0])})
    yield
    tensors = read_checkpoint(good).tensors
    assert all(np.array_equal(np.array(tensors[name]), MATRIX) for name in content)
    refusal(incomplete)


STATES = {
    "a tensor's size": {"size": (4, 4)},
    "a negative size": {"size": (-1,), "stride": (1,)},
    "a negative stride": {"size": (2,), "stride": (-1,)},
    "a negative offset": {"offset": -1},
    "a size of another kind": {"size": "ab"},
    "a type of another kind": {"dtype_key": ["Float"]},
    "another type": {"dtype_key": "Double"},
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("state", STATES)
def test_state_set_on_a_tensor(tmp_path: Path, form: str, state: str) -> None:
    """A negative stride would read memory before the data."""
    content = {"a": Built(tf.tensor(MATRIX), STATES[state])}
    assert refusal(SAVERS[form](tmp_path / "model.pt", content))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("state", [{"_read": Name("builtins", "int")}, {"dtype": ["Float"]}, {"dtype": "Double"}])
def test_state_set_on_a_storage(tmp_path: Path, form: str, state: Any) -> None:
    content = {"a": tf.view(Built(tf.storage(MATRIX), state), 0, (2,), (1,))}
    assert refusal(SAVERS[form](tmp_path / "model.pt", content))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("method", ["get", "items", "keys", "__getitem__"])
def test_state_set_on_a_state_dict(tmp_path: Path, form: str, method: str) -> None:
    """torch writes `_metadata` this way; methods must not be replaced."""
    made = Name("collections", "OrderedDict")([["a", tf.tensor(MATRIX)]])
    path = SAVERS[form](tmp_path / "model.pt", Built(made, {method: Name("builtins", "int"), "_metadata": {}}))
    try:
        tensors = read_checkpoint(path).tensors
    except CheckpointError:
        return
    assert np.array_equal(np.array(tensors["a"]), MATRIX)


@pytest.mark.parametrize(
    ("module", "name"),
    [("torch", "UntypedStorage"), ("torch.storage", "UntypedStorage"), ("torch._utils", "_rebuild_tensor_v2")],
)
@pytest.mark.parametrize(
    "state", [{"name": "Float"}, (None, {"__defaults__": (1, 2, 3, 4)}), (None, {"__name__": "x"}), {"a": 1}]
)
@pytest.mark.usefixtures("unchanged")
def test_state_set_on_a_name_does_not_outlive_the_file(tmp_path: Path, module: str, name: str, state: Any) -> None:
    attempt(tf.save_zip(tmp_path / "model.pt", {"a": tf.tensor(MATRIX), "b": Built(Name(module, name), state)}))


@pytest.mark.parametrize("name", [("argparse", "Namespace"), ("torch.nn.parameter", "Parameter"), ("torch", "Tensor")])
@pytest.mark.parametrize("state", [{"append": 1}, (None, {"__init__": 1, "__setstate__": None, "append": 1})])
@pytest.mark.usefixtures("unchanged")
def test_state_set_on_a_class_does_not_outlive_the_file(tmp_path: Path, name: tuple[str, str], state: Any) -> None:
    attempt(tf.save_zip(tmp_path / "model.pt", {"a": tf.tensor(MATRIX), "b": Built(Name(*name), state)}))
