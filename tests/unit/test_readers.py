"""One way in for every file form: safetensors (single and sharded), npz; the form is told by the first bytes."""

import json
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch_files as tf
from safetensors.numpy import save, save_file
from speech_zoo_core.checkpoint import read_checkpoint
from speech_zoo_core.errors import CheckpointError, SpeechZooError

A = np.arange(12, dtype=np.float32).reshape(3, 4)
B = np.arange(5, dtype=np.float16)


def refusal(path: Path, error: type[SpeechZooError] = CheckpointError) -> str:
    with pytest.raises(error) as caught:
        mx.eval(read_checkpoint(path).tensors)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def outcome(path: Path) -> str:
    """ "read" or the refusal; anything else is an error of the test."""
    try:
        mx.eval(read_checkpoint(path).tensors)
    except CheckpointError as error:
        return str(error)
    return "read"


def safetensors(path: Path, header: Any, data: bytes = b"") -> Path:
    """A file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def npz(path: Path, member: bytes, name: str = "a.npy") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, member)
    return path


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def sharded(folder: Path, shards: dict[str, dict[str, np.ndarray]], ending: str = "model.safetensors") -> Path:
    """Shards and their index."""
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    index = folder / f"{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {k: n for n, part in shards.items() for k in part}}))
    return index


def assert_tensors(path: Path, expected: dict[str, np.ndarray]) -> None:
    tensors = read_checkpoint(path).tensors
    assert set(tensors) == set(expected)
    for name, x in expected.items():
        assert str(tensors[name].dtype) == f"mlx.core.{x.dtype.name}"
        assert np.array_equal(np.array(tensors[name]), x), name


# safetensors


def test_safetensors(tmp_path: Path) -> None:
    tensors = {
        "a": A,
        "b": B,
        "n": np.array([2**40, -1]),
        "flat": np.array(3, np.float32),
        "none": np.zeros((0, 2), "f4"),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_tensors(tmp_path / "model.safetensors", tensors)


def test_safetensors_of_another_name(tmp_path: Path) -> None:
    save_file({"a": A}, tmp_path / "weights.bin")
    assert_tensors(tmp_path / "weights.bin", {"a": A})


def test_bfloat16_safetensors(tmp_path: Path) -> None:
    x = mx.array(A).astype(mx.bfloat16)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"a": x})
    tensor = read_checkpoint(tmp_path / "model.safetensors").tensors["a"]
    assert tensor.dtype == mx.bfloat16
    assert mx.array_equal(tensor, x)


def test_float64_safetensors_become_float32(tmp_path: Path) -> None:
    save_file({"a": A.astype(np.float64), "b": B}, tmp_path / "model.safetensors")
    assert_tensors(tmp_path / "model.safetensors", {"a": A, "b": B})


def test_float8_safetensors_are_not_taken_for_integers(tmp_path: Path) -> None:
    header = {"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}
    assert "F8_E4M3" in refusal(safetensors(tmp_path / "model.safetensors", header, bytes(8)))


def test_safetensors_cut_off_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    whole = save({"a": A, "b": B})
    for kept in range(len(whole)):
        path.write_bytes(whole[:kept])
        assert refusal(path).startswith(str(path)), kept
    path.write_bytes(whole)
    assert outcome(path) == "read"


def test_safetensors_with_flipped_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    whole = save({"a": A, "b": B})
    rng = random.Random(0)
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        outcome(path)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS: dict[str, Any] = {
    "no JSON": b"this is no header, only text",
    "not UTF-8": b"{\xff\xfe}",
    "a list": [],
    "a number": 5,
    "null": None,
    "entries that are numbers": {"a": 5},
    "entries that are lists": {"a": [0, 8]},
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "one offset": {"a": ENTRY | {"data_offsets": [0]}},
    "offsets of text": {"a": ENTRY | {"data_offsets": ["0", "8"]}},
    "offsets beyond the end": {"a": ENTRY | {"data_offsets": [8, 16]}},
    "offsets in reverse": {"a": ENTRY | {"data_offsets": [8, 0]}},
    "negative offsets": {"a": ENTRY | {"data_offsets": [-8, 0]}},
    "huge offsets": {"a": ENTRY | {"data_offsets": [0, 2**70]}},
    "no type": {"a": {"shape": [2], "data_offsets": [0, 8]}},
    "an unknown type": {"a": ENTRY | {"dtype": "Q17"}},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
    "a shape larger than the data": {"a": ENTRY | {"shape": [1000]}},
    "a huge shape": {"a": ENTRY | {"shape": [2**40]}},
    "a negative shape": {"a": ENTRY | {"shape": [-2]}},
    "a shape of text": {"a": ENTRY | {"shape": ["2"]}},
    "metadata that is a number": {"__metadata__": 5, "a": ENTRY},
    "lists in lists": b"[" * 200_000,
    "objects in objects": b'{"a":' * 100_000,
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_safetensors_header_that_is_wrong(tmp_path: Path, name: str) -> None:
    refusal(safetensors(tmp_path / "model.safetensors", HEADERS[name], bytes(8)))


@pytest.mark.parametrize("length", [9, 2**31, 2**62, 2**64 - 1])
def test_a_safetensors_header_longer_than_the_file(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    assert "is cut off or is not a safetensors file" in refusal(path)


# Sharded


@pytest.mark.parametrize("ending", ["model.safetensors", "pytorch_model.bin"])
def test_shards(tmp_path: Path, ending: str) -> None:
    index = sharded(tmp_path, {"part-1": {"a": A}, "part-2": {"b": B, "c": A[0]}}, ending)
    assert_tensors(index, {"a": A, "b": B, "c": A[0]})


def test_shards_in_pytorch_form(tmp_path: Path) -> None:
    for i, name in enumerate("ab", 1):
        tf.save_zip(tmp_path / f"pytorch_model-0000{i}-of-00002.bin", tf.state_dict({name: A * i}))
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(
        json.dumps({"weight_map": {n: f"pytorch_model-0000{i}-of-00002.bin" for i, n in enumerate("ab", 1)}})
    )
    assert_tensors(index, {"a": A, "b": A * 2})


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    index = sharded(tmp_path, {"part-1": {"a": A}, "part-2": {"b": B}})
    (tmp_path / "part-2").unlink()
    assert refusal(index) == f"{tmp_path / 'part-2'} does not exist"


def test_a_tensor_that_its_shard_lacks(tmp_path: Path) -> None:
    index = sharded(tmp_path, {"part-1": {"a": A}, "part-2": {"b": B, "c": B}})
    save_file({"b": B}, tmp_path / "part-2")
    assert "lack 1 tensors: c" in refusal(index)


@pytest.mark.parametrize("shard", ["../part-1", "/etc/hostname", "sub/part-1", "./part-1", "..", ".", "", "/"])
def test_a_shard_outside_the_folder(tmp_path: Path, shard: str) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder, folder / "sub"):
        save_file({"a": A}, place / "part-1")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    refusal(index)


def test_an_index_that_names_itself(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": index.name}}))
    refusal(index)


@pytest.mark.parametrize("weight_map", [None, [], "part-1", {"a": 1}, {"a": None}, {"a": ["part-1"]}])
def test_an_index_without_a_weight_map(tmp_path: Path, weight_map: Any) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert "has no weight_map" in refusal(index)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "\ud800".encode("utf-8", "surrogatepass"), "[" * 100_000])
def test_an_index_that_is_not_json(tmp_path: Path, text: str | bytes) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(text if isinstance(text, bytes) else text.encode())
    refusal(index, SpeechZooError)


# npz


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["weights.npz", "weights"])
def test_npz(tmp_path: Path, write: Any, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        write(file, **{"layer.weight": A, "b": B, "wide": A.astype(np.float64), "n": np.array([2**40])})
    assert_tensors(tmp_path / name, {"layer.weight": A, "b": B, "wide": A, "n": np.array([2**40])})


def test_npz_in_other_byte_and_axis_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=A.astype(">f4"), b=np.asfortranarray(A), c=A.astype(">f8"))
    assert_tensors(tmp_path / "a.npz", {"a": A, "b": A, "c": A})


def test_npz_with_objects_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Gadget:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    path = tmp_path / "weights.npz"
    np.savez(path, a=A, b=np.array([Gadget()], object))
    assert str(path) in refusal(path)
    assert not marker.exists()
    np.load(path, allow_pickle=True)["b"]
    assert marker.exists()  # it would have run


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_that_is_damaged(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "weights.npz"
    (np.savez_compressed if compressed else np.savez)(path, a=np.sin(np.arange(200, dtype=np.float32)))
    whole = path.read_bytes()
    for kept in range(0, len(whole), 7):
        path.write_bytes(whole[:kept])
        refusal(path)
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        outcome(path)


FLOATS = "{{'descr': {}, 'fortran_order': False, 'shape': {}}}"
MEMBERS = {
    "no array": b"hello",
    "nothing": b"",
    "no header": b"\x93NUMPY\x01\x00\x00\x00",
    "an unknown version": b"\x93NUMPY\x09\x00\x00\x00",
    "an unfinished header": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2"),
    "a call in the header": npy("__import__('os').system('true')"),
    "a negative shape": npy(FLOATS.format("'<f4'", "(-2,)"), bytes(8)),
    "too little data": npy(FLOATS.format("'<f4'", "(3,)"), bytes(8)),
    "a huge shape": npy(FLOATS.format("'<f4'", f"({10**15},)"), bytes(8)),
    "a huge product": npy(FLOATS.format("'<f4'", f"({2**62}, {2**62})"), bytes(8)),
    "text": npy(FLOATS.format("'<U4'", "(1,)"), bytes(16)),
    "records": npy(FLOATS.format("[('a', '<f4')]", "(1,)"), bytes(4)),
    "dates": npy(FLOATS.format("'<M8[s]'", "(1,)"), bytes(8)),
    "raw bytes": npy(FLOATS.format("'|V2'", "(1,)"), bytes(2)),
    "an unknown type": npy(FLOATS.format("'nonsense'", "(1,)"), bytes(2)),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_npz_with_something_else_than_numbers(tmp_path: Path, name: str) -> None:
    path = npz(tmp_path / "weights.npz", MEMBERS[name])
    assert str(path) in refusal(path)


# Something else


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.safetensors") == f"{tmp_path / 'no.safetensors'} does not exist"


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path} is not a file"


@pytest.mark.parametrize("name", ["model.pt", "model.ckpt", "model.bin", "model.npz", "model"])
@pytest.mark.parametrize(
    "content", [b"", b"a", b"hello, this is text", bytes(100), b"\x1f\x8b\x08" + bytes(50), b"GGUF" + bytes(50)]
)
def test_a_file_of_another_kind(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert "is not a checkpoint (expected safetensors, npz, PyTorch or ONNX)" in refusal(path)


def test_a_pytorch_file_that_is_called_safetensors(tmp_path: Path) -> None:
    path = tf.save_zip(tmp_path / "model.safetensors", tf.state_dict({"a": A}))
    assert "is not a safetensors file" in refusal(path)


def test_a_safetensors_file_that_is_called_npz(tmp_path: Path) -> None:
    save_file({"a": A}, tmp_path / "weights.npz")
    assert_tensors(tmp_path / "weights.npz", {"a": A})
