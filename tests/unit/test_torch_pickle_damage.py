"""Damaged and hostile PyTorch files: whatever the bytes, only CheckpointError comes out, and soon."""

import random
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from speech_zoo_core.checkpoint import read_checkpoint
from speech_zoo_core.errors import CheckpointError
from torch_files import SAVERS

FORMATS = sorted(SAVERS)
MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)
PATIENCE = 2.0  # seconds that refusing a small file may take on a busy machine


def checkpoint() -> dict[str, Any]:
    weights = {"a": tf.tensor(MATRIX), "b": tf.parameter(MATRIX[0]), "c": tf.tensor(tf.bfloat16(MATRIX), "BFloat16")}
    return {"state_dict": weights, "epoch": 3, "hyper_parameters": {"rate": 16000, "names": ["x", "y"]}}


def outcome(path: Path) -> str:
    """ "read" or the refusal; anything else is an error of the test."""
    start = time.process_time()
    try:
        read_checkpoint(path)
        message = "read"
    except CheckpointError as error:
        message = str(error)
    assert "\n" not in message
    assert time.process_time() - start < PATIENCE
    return message


def refusal(path: Path) -> str:
    message = outcome(path)
    assert message != "read"
    return message


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_cut_off_anywhere(tmp_path: Path, form: str) -> None:
    path = SAVERS[form](tmp_path / "model.pt", checkpoint())
    whole = path.read_bytes()
    assert outcome(path) == "read"
    for kept in range(len(whole) % 2, len(whole), 2):
        path.write_bytes(whole[:kept])
        assert refusal(path).startswith(str(path)), kept


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("seed", range(2))
def test_flipped_bytes(tmp_path: Path, form: str, seed: int) -> None:
    path = SAVERS[form](tmp_path / "model.pt", checkpoint())
    whole = path.read_bytes()
    rng = random.Random(seed)
    refused = 0
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 8])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        refused += outcome(path) != "read"
    assert refused > 250


@pytest.mark.parametrize("form", FORMATS)
def test_missing_and_repeated_stretches(tmp_path: Path, form: str) -> None:
    path = SAVERS[form](tmp_path / "model.pt", checkpoint())
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(300):
        start, end = sorted(rng.sample(range(len(whole)), 2))
        path.write_bytes(whole[:start] + rng.choice([b"", whole[start:end] * 2]) + whole[end:])
        outcome(path)


@given(data=st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_as_a_pickle(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("pickle")
    outcome(tf.save_zip(folder / "zip.pt", data))
    outcome(tf.save_legacy(folder / "legacy.pt", b"\x80\x02" + data))


def test_a_compressed_archive(tmp_path: Path) -> None:
    """PyTorch never compresses; a small file must not unfold into a huge one."""
    path = tf.save_zip(tmp_path / "model.pt", checkpoint())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in members.items():
            archive.writestr(name, part)
    assert "compressed" in refusal(path)


SIZES = {  # offset, size, stride of a tensor over the twelve items of MATRIX
    "one item too many": (0, (13,), (1,)),
    "an offset beyond the end": (12, (1,), (1,)),
    "rows beyond the end": (4, (3, 4), (4, 1)),
    "a stride beyond the end": (0, (2,), (12,)),
    "a negative size": (0, (-1,), (1,)),
    "a negative stride": (4, (2,), (-1,)),
    "a negative offset": (-1, (1,), (1,)),
    "a huge offset": (2**70, (1,), (1,)),
    "a huge size": (0, (2**62,), (1,)),
    "a huge size of one item": (0, (10**15,), (0,)),
    "a size that only memory can hold": (0, (2**40,), (0,)),
    "a product that overflows": (0, (2**62, 2**62), (0, 0)),
    "a product that overflows to nothing": (0, (2**32, 2**32, 4), (0, 0, 0)),
    "nothing, but of a huge size": (0, (0, 2**62, 2**62), (1, 1, 1)),
    "a huge stride": (0, (2,), (2**70,)),
    "more dimensions than an array can have": (0, (1,) * 70, (1,) * 70),
    "a size and a stride that differ in length": (0, (3, 4), (1,)),
    "a size that is a number": (0, 12, (1,)),
    "a size of fractions": (0, (1.5,), (1,)),
    "a size of flags": (0, (True,), (1,)),
    "a size of text": (0, ("1",), (1,)),
    "no size": (0, None, None),
    "an offset that is missing": (None, (1,), (1,)),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_a_tensor_that_does_not_fit_its_storage(tmp_path: Path, form: str, size: str) -> None:
    content = {"x": tf.view(tf.storage(MATRIX), *SIZES[size])}
    refusal(SAVERS[form](tmp_path / "model.pt", content))


@pytest.mark.parametrize("items", [None, 5, "text", (1, 2), [1.0]])
def test_a_tensor_over_something_else_than_a_storage(tmp_path: Path, items: Any) -> None:
    refusal(tf.save_zip(tmp_path / "model.pt", {"x": tf.view(items, 0, (1,), (1,))}))


def test_a_storage_with_half_an_item(tmp_path: Path) -> None:
    items = tf.Storage(MATRIX.tobytes()[:-1], "Float", 12)
    refusal(tf.save_zip(tmp_path / "model.pt", {"x": tf.view(items, 0, (12,), (1,))}))


def test_a_storage_that_is_missing(tmp_path: Path) -> None:
    path = tf.save_zip(tmp_path / "model.pt", {"x": tf.tensor(MATRIX)})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in members.items():
            if not name.endswith("data/0"):
                archive.writestr(name, part)
    refusal(path)


@pytest.mark.parametrize("pid", [(), ("storage",), ("file", 1, "0", "cpu", 1), ("storage", 1, "0", "cpu", 1), 5, None])
@pytest.mark.parametrize("form", FORMATS)
def test_a_storage_that_is_described_wrongly(tmp_path: Path, form: str, pid: Any) -> None:
    data = tf.dumps(pid)[:-1] + b"Q."
    assert "damaged pickle" in refusal(SAVERS[form](tmp_path / "model.pt", data))


@pytest.mark.parametrize("count", [13, 2**36, 2**62, 2**64 - 1])
def test_a_legacy_storage_longer_than_the_file(tmp_path: Path, count: int) -> None:
    path = tf.save_legacy(tmp_path / "model.bin", {"x": tf.tensor(MATRIX)})
    head, data = path.read_bytes()[:-56], path.read_bytes()[-48:]
    path.write_bytes(head + count.to_bytes(8, "little") + data)
    refusal(path)


@pytest.mark.parametrize("keys", [[], ["1"], ["0", "1"], [["0"]], [{}], [None], "0", 5, {"0": 1}])
def test_legacy_keys_that_are_wrong(tmp_path: Path, keys: Any) -> None:
    refusal(tf.save_legacy(tmp_path / "model.bin", {"x": tf.tensor(MATRIX)}, keys=keys))


@pytest.mark.parametrize("system", [[], 5, "little", {"little_endian": False}])
def test_a_legacy_machine_that_is_wrong(tmp_path: Path, system: Any) -> None:
    refusal(tf.save_legacy(tmp_path / "model.bin", {"x": tf.tensor(MATRIX)}, system=system))


PICKLES = {
    "a memo slot far away": b"\x80\x02}r" + struct.pack("<I", 2**28) + b".",  # the C unpickler makes room for all below
    "bytes longer than the file": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"a.",
    "text longer than the file": b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"a.",
    "a frame longer than the file": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
    "a number of a thousand digits": b"\x80\x02I" + b"9" * 1000 + b"\n.",
    "a key too long to print": b"\x80\x02}\x8b" + struct.pack("<I", 4000) + b"\x7f" * 4000 + b"K\x01s.",
    "lists in lists": b"\x80\x02" + b"(" * 100_000 + b"l" * 100_000 + b".",
    "tuples in tuples": b"\x80\x02)" + b"\x85" * 100_000 + b".",
    "a dict in itself": b"\x80\x02}q\x00X\x01\0\0\0ah\x00s.",
    "a state dict in itself": b"\x80\x02}q\x00X\x0a\0\0\0state_dicth\x00s.",
    "nothing on the stack": b"\x80\x020.",
    "no end": b"\x80\x02}",
    "an unknown protocol": b"\x80\xff}.",
    "an unknown opcode": b"\x80\x02\xff.",
    "text that is not UTF-8": b"\x80\x02X\x02\0\0\0\xff\xfe.",
    "a surrogate": b"\x80\x02}X\x03\0\0\0\xed\xa0\x80K\x01s.",
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", PICKLES)
def test_a_hostile_pickle(tmp_path: Path, form: str, name: str) -> None:
    refusal(SAVERS[form](tmp_path / "model.pt", PICKLES[name]))


@pytest.mark.parametrize(
    ("offset", "value"),
    [(6, 0x01), (6, 0x20), (6, 0x40), (8, 8), (8, 12), (8, 14), (8, 99), (4, 255)],
    ids=["encrypted", "patched", "strongly encrypted", "deflate", "bzip2", "lzma", "unknown method", "a later version"],
)
@pytest.mark.parametrize("member", ["archive/data.pkl", "archive/data/0", "archive/byteorder"])
def test_a_member_in_a_form_that_torch_does_not_write(tmp_path: Path, member: str, offset: int, value: int) -> None:
    path = tf.save_zip(tmp_path / "model.pt", checkpoint())
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        local = archive.getinfo(member).header_offset
    content[local + offset] = value
    central = content.index(b"PK\x01\x02")
    while content[central + 46 : central + 46 + len(member)] != member.encode():
        central = content.index(b"PK\x01\x02", central + 1)
    content[central + offset + 2] = value
    path.write_bytes(content)
    refusal(path)


def test_a_wrong_checksum(tmp_path: Path) -> None:
    path = tf.save_zip(tmp_path / "model.pt", {"x": tf.tensor(MATRIX)})
    content = bytearray(path.read_bytes())
    start = content.index(MATRIX.tobytes())
    content[start] ^= 1
    path.write_bytes(content)
    assert "damaged or cut off" in refusal(path)
