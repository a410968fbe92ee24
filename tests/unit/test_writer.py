"""Writing safetensors: bytes that others read, one tensor at a time, in shards above the limit; and whole folders."""

import json
import os
import struct
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from speech_zoo_core import atomic
from speech_zoo_core.atomic import whole_folder
from speech_zoo_core.checkpoint import read_checkpoint, writer
from speech_zoo_core.errors import CheckpointError

DTYPES = st.sampled_from(list(writer.TYPES))
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def written(folder: Path, tensors: dict[str, mx.array]) -> list[int]:
    return list(writer.write_checkpoint(folder, dict(tensors)))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=6), st.tuples(DTYPES, SHAPES), min_size=1, max_size=6))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, kinds: dict) -> None:
    folder = tmp_path_factory.mktemp("out")
    kinds.pop("__metadata__", None)
    tensors = {
        name: (mx.arange(int(np.prod(shape)), dtype=mx.int32) % 2).reshape(shape).astype(dtype)
        for name, (dtype, shape) in kinds.items()
    }
    sizes = written(folder, tensors)
    assert sum(sizes) == sum(x.nbytes for x in tensors.values())
    data = (folder / "model.safetensors").read_bytes()
    assert struct.unpack("<Q", data[:8])[0] % 8 == 0
    if any(0 in x.shape for x in tensors.values()):
        return  # MLX reads no empty tensors
    again = read_checkpoint(folder / "model.safetensors").tensors
    assert again.keys() == tensors.keys()
    for name, x in tensors.items():
        assert (again[name].dtype, again[name].shape) == (x.dtype, x.shape)
        assert mx.array_equal(again[name], x)


def test_the_order_of_the_tensors_changes_no_byte(tmp_path: Path) -> None:
    tensors = {f"layer{i}.weight": mx.full((3, i + 1), i) for i in range(12)}
    for name, given_order in (("a", tensors), ("b", dict(reversed(tensors.items())))):
        (tmp_path / name).mkdir()
        written(tmp_path / name, given_order)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert load_file(tmp_path / "a/model.safetensors")["layer7.weight"].tolist() == [[7.0] * 8] * 3


def test_a_transposed_tensor_is_written_as_it_reads(tmp_path: Path) -> None:
    x = mx.arange(24, dtype=mx.float32).reshape(2, 3, 4)
    written(tmp_path, {"x": mx.moveaxis(x, 1, -1), "y": x[:, ::2]})
    again = load_file(tmp_path / "model.safetensors")
    assert np.array_equal(again["x"], np.moveaxis(np.array(x), 1, -1))
    assert np.array_equal(again["y"], np.array(x)[:, ::2])


def test_shards_above_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SHARD_BYTES", 100)
    sizes = {"d": 10, "c": 30, "a": 20, "b": 5}
    tensors = {name: mx.full((size,), size, dtype=mx.float32) for name, size in sizes.items()}
    written(tmp_path, tensors)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["metadata"] == {"total_size": 260}
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert index["weight_map"] == {"a": shards[0], "b": shards[0], "c": shards[1], "d": shards[2]}
    assert sorted(path.name for path in tmp_path.iterdir()) == [*shards, "model.safetensors.index.json"]
    again = read_checkpoint(tmp_path / "model.safetensors.index.json").tensors
    assert all(mx.array_equal(again[name], x) for name, x in tensors.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70000.0])
def test_values_that_the_type_cannot_hold(tmp_path: Path, value: float) -> None:
    x = mx.array([1.0, value]).astype(mx.float16)
    with pytest.raises(CheckpointError, match=r"broken\.weight holds NaN or infinite values in F16"):
        written(tmp_path, {"broken.weight": x})


# Whole folders


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    for name in (".out.01234567.partial", ".out.89abcdef.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    with whole_folder(tmp_path / "out") as beside:
        assert list(beside.iterdir()) == []
        (beside / "a").write_text("b", encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_two_at_once(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as beside:
        with pytest.raises(CheckpointError, match="another process is writing"), whole_folder(tmp_path / "out"):
            raise AssertionError("both got in")
        (beside / "a").write_text("b", encoding="utf-8")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("old", encoding="utf-8")
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(5, os.strerror(5))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    monkeypatch.setattr(atomic, "_swap", lambda *_: False)  # as on systems that cannot
    with pytest.raises(OSError, match="Input/output"), whole_folder(tmp_path / "out") as beside:
        (beside / "config.json").write_text("new", encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "config.json").read_text(encoding="utf-8") == "old"


def test_a_folder_is_replaced_without_a_moment_in_which_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("old", encoding="utf-8")
    other = tmp_path / "other"
    other.mkdir()
    swapped = atomic._swap(out, other) and atomic._swap(out, other)
    other.rmdir()
    if not swapped:
        pytest.skip("names cannot be swapped here")
    monkeypatch.setattr(Path, "replace", lambda *_: pytest.fail("a name was taken away"))

    def refuse(path: Path) -> None:
        if path != out:
            raise CheckpointError("no")

    with pytest.raises(CheckpointError, match="no"), whole_folder(out, refuse) as beside:
        (beside / "config.json").write_text("new", encoding="utf-8")
    assert (out / "config.json").read_text(encoding="utf-8") == "old"
    with whole_folder(out) as beside:
        (beside / "config.json").write_text("new", encoding="utf-8")
    assert (out / "config.json").read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
