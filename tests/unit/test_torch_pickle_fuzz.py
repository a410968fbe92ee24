"""Pickles made at random, opcode by opcode: each is read or refused in one line, and none runs anything.

The programs are the same in every run. For more of them, set SPEECH_ZOO_PICKLES=10000.
"""

import codecs
import os
import pickletools
import random
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files as tf
from speech_zoo_core import registry
from speech_zoo_core.checkpoint.source import Source
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.loader import read_model
from torch_files import SAVERS, Name

PROGRAMS = int(os.environ.get("SPEECH_ZOO_PICKLES", "400"))
BATCHES = 8
FORBIDDEN = ("exec", "compile", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pickle.find_class")
NAMES = [
    *(
        "os system",
        "os mkdir",
        "builtins eval",
        "builtins exec",
        "builtins getattr",
        "subprocess Popen",
        "posix system",
    ),
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v3"),
    *("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state", "torch Size", "torch float32"),
    *("torch._tensor _rebuild_from_type_v2", "collections OrderedDict", "torch FloatStorage", "torch HalfStorage"),
    *("torch.storage UntypedStorage", "argparse Namespace", "numpy.core.multiarray scalar", "numpy dtype"),
    *("pathlib PosixPath", "builtins dict", "builtins set", "lightning.fabric.utilities.data AttributeDict", "a b"),
]
TEXTS = [
    "",
    "storage",
    "0",
    "cpu",
    "state_dict",
    "model_state_dict",
    "model",
    "a.weight",
    "config",
    "touch ran",
    "\x1b[",
]
OPCODES = {opcode.name: opcode for opcode in pickletools.opcodes if opcode.name != "STOP"}
COMMON = ["MARK", "EMPTY_DICT", "EMPTY_LIST", "SETITEM", "SETITEMS", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL"]
COMMON += ["REDUCE", "BINPERSID", "BINUNICODE", "BININT1", "APPEND", "APPENDS", "BUILD", "BINPUT", "BINGET", "DUP"]
_events: list[str] | None = None


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if _events is not None and event.startswith(FORBIDDEN):
        _events.append(f"{event} {args!r:.100}")


sys.addaudithook(_watch)


def argument(opcode: Any, chance: random.Random) -> bytes:
    """The bytes of an argument, mostly a sensible one."""
    kind = opcode.arg.name if opcode.arg else ""
    number = chance.choice([0, 1, 2, 3, 4, 5, 12, 127, 255])
    text = chance.choice(TEXTS).encode()
    counted = {1: "<B", 4: "<I", 8: "<Q"}
    if kind in ("uint1", "int1"):
        return struct.pack("<B", number)
    if kind == "uint2":
        return struct.pack("<H", number * 257 % 65536)
    if kind in ("int4", "uint4"):
        return struct.pack("<I", chance.choice([number, 2**31 - 1, 2**32 - 1]))
    if kind == "uint8":
        return struct.pack("<Q", chance.choice([number, 2**63]))
    if kind == "float8":
        return struct.pack(">d", chance.choice([0.5, float("nan"), 1e300]))
    if kind == "stringnl_noescape_pair":
        return chance.choice(NAMES).replace(" ", "\n").encode() + b"\n"
    if kind in ("decimalnl_short", "decimalnl_long", "floatnl"):
        return chance.choice([b"1", b"00", b"01", b"-5L", b"1e400", b"9" * 60]) + b"\n"
    if kind.endswith("nl") or kind.startswith("stringnl"):
        return chance.choice([b"'a'", b"a", b"'", b"\\x41"]) + b"\n"
    size = 1 if kind.endswith("1") else 8 if kind.endswith("8") else 4
    length = chance.choice([len(text)] * 8 + [0, 200, 256**size - 1])
    return struct.pack(counted[size], length) + text if kind else b""


def tensor_call(chance: random.Random) -> bytes:
    """The opcodes of a tensor, with something wrong in it now and then."""
    numbers = [b"K" + bytes([chance.choice([0, 1, 2, 3, 255])]) for _ in range(6)]
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0X\3\0\0\0cpuK\x0ctQ"
    args = storage + numbers[0] + numbers[1] + b"\x85" + numbers[2] + b"\x85" + b"\x89}"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + args + b"tR"


def program(seed: int) -> bytes:
    """A pickle of up to 60 steps, half of which begins as a state dict does."""
    chance = random.Random(seed)
    parts = [b"\x80", bytes([chance.choice([2, 2, 2, 3, 4, 5])])]
    if chance.random() < 0.5:
        parts.append(b"}(X\x0e\0\0\0a.conv1.weight" + tensor_call(chance) + b"u")
    for _ in range(chance.randint(1, 60)):
        if chance.random() < 0.1:
            parts.append(chance.choice([tensor_call(chance), b"X\1\0\0\0a", b"}", b"(", b"\x93", b"0"]))
            continue
        name = chance.choice(COMMON) if chance.random() < 0.7 else chance.choice(sorted(OPCODES))
        opcode = OPCODES[name]
        parts += [opcode.code.encode("latin-1"), argument(opcode, chance)]
    data = bytearray(b"".join(parts) + b".")
    for _ in range(chance.choice([0, 0, 0, 1, 3])):
        data[chance.randrange(2, len(data))] = chance.randrange(256)
    return bytes(data)


@pytest.fixture
def events() -> Iterator[list[str]]:
    """What was run, in the hands of the audit hook."""
    for codec in ("ascii", "latin-1", "utf-8", "unicode-escape", "raw-unicode-escape", "cp437"):
        codecs.lookup(codec)  # imports it
    list(registry.specs())
    seen: list[str] = []
    yield seen
    assert seen == []


def attempt(path: Path, events: list[str]) -> str:
    global _events  # noqa: PLW0603 (an audit hook cannot be removed)
    start, _events = time.process_time(), events
    try:
        read_model(Source(path))
        message = "read"
    except SpeechZooError as error:
        message = str(error)
    finally:
        _events = None
    assert time.process_time() - start < 2
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < 11_000
    return message


@pytest.mark.parametrize("form", sorted(SAVERS))
@pytest.mark.parametrize("batch", range(BATCHES))
def test_random_programs(tmp_path: Path, events: list[str], form: str, batch: int) -> None:
    outcomes = set()
    for seed in range(batch, PROGRAMS, BATCHES):
        path = SAVERS[form](tmp_path / "model.pt", program(seed))
        try:
            outcomes.add(attempt(path, events).replace(str(path), "")[:60])
        except Exception as error:
            raise AssertionError(f"program({seed}): {type(error).__name__}: {error}") from error
        assert events == [], f"program({seed})"
    assert len(outcomes) >= min(4, PROGRAMS // BATCHES), outcomes


@pytest.mark.parametrize("form", sorted(SAVERS))
def test_random_damage_to_a_real_checkpoint(tmp_path: Path, events: list[str], form: str) -> None:
    rng = np.random.default_rng(0)
    weights = {f"layer{i}.weight": rng.standard_normal((4, 3)).astype(np.float32) for i in range(6)}
    content = {"state_dict": tf.state_dict(weights), "epoch": 3, "extra": Name("argparse", "Namespace")()}
    good = tf.dumps(content)
    for seed in range(PROGRAMS // BATCHES):
        chance = random.Random(seed)
        data = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            change = chance.choice(["flip", "cut", "double", "insert"])
            if change == "flip":
                data[at] = chance.randrange(256)
            elif change == "cut":
                del data[at : at + chance.randint(1, 30)]
            elif change == "double":
                data[at:at] = data[at : at + chance.randint(1, 60)]
            else:
                data[at:at] = chance.choice([b"cos\nsystem\n", b"(", b".", b"R", b"\x81", b"\x93", b"Q", b"b"])
            data = data or bytearray(b".")
        attempt(SAVERS[form](tmp_path / "model.pt", bytes(data)), events)
    assert events == []


def test_the_watch_is_awake(tmp_path: Path) -> None:
    global _events  # noqa: PLW0603
    _events = seen = []
    try:
        (tmp_path / "ran").mkdir()
        eval("1 + 1")
    finally:
        _events = None
    assert {event.split()[0] for event in seen} >= {"os.mkdir", "compile", "exec"}
