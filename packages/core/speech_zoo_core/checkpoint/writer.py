"""Write tensors as safetensors, one by one: same tensors, same bytes, and never more than one of them in memory."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import mlx.core as mx
import numpy as np

from ..errors import CheckpointError
from .reader import in_memory

SHARD_BYTES = 5_000_000_000  # the Hub's usual size of a shard
TYPES = {
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.uint32: "U32",
    mx.int32: "I32",
    mx.int64: "I64",
    mx.uint8: "U8",
    mx.bool_: "BOOL",
}


def write_checkpoint(folder: Path, tensors: dict[str, mx.array]) -> Iterator[int]:
    """Write `model.safetensors`, or shards with their index above 5 GB; empties `tensors` on the way.

    Yields:
        The bytes of each tensor once it is written.

    Raises:
        CheckpointError: a tensor holds NaN or infinite values, or cannot be read from its file.
        OSError: the folder cannot be written.
    """
    shards = _shards(tensors)
    names = (
        ["model.safetensors"]
        if len(shards) == 1
        else [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    )
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(x.nbytes for x in tensors.values())},
            "weight_map": {key: name for name, keys in zip(names, shards, strict=True) for key in keys},
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for name, keys in zip(names, shards, strict=True):
        with (folder / name).open("wb") as file:
            yield from _write(file, {key: tensors.pop(key) for key in keys})


def _shards(tensors: dict[str, mx.array]) -> list[list[str]]:
    """The names, sorted, in as few groups as stay below the size of a shard."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in sorted(tensors):
        if shards[-1] and size + tensors[name].nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensors[name].nbytes
    return shards


def _write(file: BinaryIO, tensors: dict[str, mx.array]) -> Iterator[int]:
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    start = 0
    for name, x in tensors.items():
        header[name] = {"dtype": TYPES[x.dtype], "shape": list(x.shape), "data_offsets": [start, start + x.nbytes]}
        start += x.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8
    file.write(struct.pack("<Q", len(text)) + text)
    for name in list(tensors):
        x = in_memory(name, tensors.pop(name))
        if mx.issubdtype(x.dtype, mx.floating) and not mx.all(mx.isfinite(x)).item():
            raise CheckpointError(f"{name} holds NaN or infinite values in {TYPES[x.dtype]}; it was not converted")
        raw = np.array(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x)
        file.write(np.ascontiguousarray(raw).data)
        yield x.nbytes
