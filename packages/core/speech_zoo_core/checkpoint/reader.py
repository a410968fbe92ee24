"""One way in for every file form; the form is told by the first bytes, not by the name."""

import json
import math
import os
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ..config import read_json
from ..errors import CheckpointError, shown
from ..processes import evaluated
from . import torch_pickle
from .pickle_machine import Damaged

if TYPE_CHECKING:
    from .onnx_graph import Graph

STATE_KEYS = ("state_dict", "model_state_dict", "model")  # where training frameworks put the tensors
SAFETENSORS_TYPES = {  # bfloat16 as uint16
    "BOOL": np.dtype("?"),
    "BF16": np.dtype("<u2"),
    **{f"{kind.upper()}{8 * size}": np.dtype(f"<{kind}{size}") for kind in "ui" for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
MAX_DIMS = 16
MAX_SIZE = 2**31 - 1  # of a dimension in MLX
SMALL = 16_000_000  # bytes that any file may become
COPIES = 4  # of a PyTorch file's storages, which tensors may share
DEFLATED = 20  # times that a compressed file's weights may be larger
MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors format


@dataclass
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: the state dict, by name, in the layout of the source.
        extra: what lay beside the state dict (a Lightning checkpoint's hyper-parameters, say).
        graph: the graph, if the file is ONNX; then `tensors` is empty.
        shards: the files that an index, or a graph, names.
    """

    tensors: dict[str, mx.array]
    extra: dict[str, Any] = field(default_factory=dict)
    graph: "Graph | None" = None
    shards: list[Path] = field(default_factory=list)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read `.safetensors` (single, or by its index `.json`), `.npz`, PyTorch files (zip and legacy) and `.onnx`.

    float64 becomes float32. No code from the file runs.

    Raises:
        CheckpointError: the file is damaged, unsafe, or of another kind.
    """
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises for a name that is too long)
        there = os.path.exists(path)  # noqa: PTH110
        raise CheckpointError(f"{path} is not a file" if there else f"{str(path)[:300]} does not exist")
    if path.suffix == ".json":
        return _read_sharded(path)
    if path.suffix == ".onnx":
        from .onnx_graph import read_graph

        graph = read_graph(path)
        return Checkpoint({}, graph=graph, shards=graph.files)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return Checkpoint(_read_safetensors(path))
    if head[:4] == b"PK\x03\x04":
        if path.suffix == ".npz" or _is_npz(path):
            return Checkpoint(_read_npz(path))
        return _state_dict(path, torch_pickle.read_zip(path))
    if head[:1] == b"\x80":
        return _state_dict(path, torch_pickle.read_legacy(path))
    raise CheckpointError(f"{path} is not a checkpoint (expected safetensors, npz, PyTorch or ONNX)")


def _state_dict(path: Path, content: Any) -> Checkpoint:
    """The tensors of a PyTorch file, wherever in it they are."""
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict")
    extra: dict[str, Any] = {}
    for key in STATE_KEYS:
        if isinstance(content.get(key), dict):
            extra = {name: value for name, value in content.items() if isinstance(name, str) and name != key}
            content = content[key]
            break
    if not content or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"{path} holds no state dict: a mapping of names to tensors")
    if odd := [name for name, value in content.items() if not isinstance(value, torch_pickle.TensorRef)]:
        raise CheckpointError(f"{path} holds no state dict (not tensors: {', '.join(odd[:5])[:200]})")
    return Checkpoint(_copied(path, content), extra)


def _copied(path: Path, refs: "dict[str, torch_pickle.TensorRef]") -> dict[str, mx.array]:
    """The tensors of a PyTorch file, its storages read one after the other."""
    _check_growth(path, sum(ref.nbytes for ref in refs.values()), COPIES)
    by_storage: dict[torch_pickle.Storage, list[str]] = {}
    for name, ref in refs.items():
        by_storage.setdefault(ref.storage, []).append(name)
    tensors: dict[str, mx.array] = {}
    try:
        for storage, names in by_storage.items():
            content = storage.read(storage.key)
            tensors.update((name, to_mlx(refs[name].numpy(content), refs[name].dtype)) for name in names)
    except Damaged as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    return {name: tensors[name] for name in refs}


def _check_growth(path: Path, size: int, times: int) -> None:
    """Raises CheckpointError where a file would take far more memory than it has bytes."""
    if size > times * path.stat().st_size + SMALL:
        raise CheckpointError(f"{path} was refused: its {path.stat().st_size} bytes would become {shown(size)}")


def in_memory(name: str, x: mx.array) -> mx.array:
    """A tensor that is in memory; NumPy's view of one that cannot be read is of whatever the memory held before.

    Raises:
        CheckpointError: its file cannot be read any more, or was cut.
    """
    try:
        return evaluated(x)
    except RuntimeError as error:
        raise CheckpointError(f"{name} cannot be read from its file: {error}") from error


def to_mlx(x: "np.ndarray[Any, Any]", dtype: str = "") -> mx.array:
    """NumPy to MLX; bfloat16 comes as uint16 and is named by `dtype`, float64 becomes float32."""
    if dtype == "bfloat16":
        return mx.array(x).view(mx.bfloat16)
    if x.dtype.kind not in "fiub" or x.dtype.itemsize > 8:
        raise CheckpointError(f"tensors of type {x.dtype} are not supported")
    native = x.dtype.newbyteorder("=") if x.dtype != np.float64 else np.dtype(np.float32)
    return mx.array(np.asarray(x, native, order="C"))


def _is_npz(path: Path) -> bool:
    members = _members(path)
    return bool(members) and all(member.filename.endswith(".npy") for member in members)


def _members(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is damaged or cut off: {error}") from error


def _read_npz(path: Path) -> dict[str, mx.array]:
    _check_growth(path, sum(member.file_size for member in _members(path)), DEFLATED)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: to_mlx(archive[name]) for name in archive.files}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # NumPy's reader raises nearly anything on a damaged file
        raise CheckpointError(f"{path} cannot be read: {error or type(error).__name__}") from error


def _read_safetensors(path: Path) -> dict[str, mx.array]:
    """Tensors of one file, loaded lazily; `in_memory` says whether that worked."""
    try:
        entries, start = _safetensors_header(path)
        if any(kind == "F64" for kind, *_ in entries.values()):  # which MLX does not read
            return {name: _from_file(path, start, *entry) for name, entry in entries.items()}
        return dict(mx.load(str(path), format="safetensors"))  # type: ignore[arg-type]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{path} cannot be read: {reason}") from error


def _safetensors_header(path: Path) -> tuple[dict[str, tuple[str, list[int], int]], int]:
    """Type, shape and first byte of each tensor by name, and where in the file the first byte is.

    All that the format demands is checked here: on wrong sizes MLX waits for ever or ends the process.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else size
        if length > min(size - 8, MAX_HEADER):
            raise CheckpointError(f"{path} is cut off or is not a safetensors file")
        try:
            header = json.loads(file.read(length), object_pairs_hook=_without_doubles)
            header.pop("__metadata__", None)
            entries = {name: _safetensors_entry(name, **entry) for name, entry in header.items()}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path} has a damaged safetensors header: {error}") from error
    start, end = 8 + length, 0
    for name, (kind, shape, first) in sorted(entries.items(), key=lambda item: (item[1][2], math.prod(item[1][1]))):
        if first < end:
            raise CheckpointError(f"{path} has a damaged safetensors header: {name[:80]} overlaps another tensor")
        end = first + math.prod(shape) * SAFETENSORS_TYPES[kind].itemsize
    if size < start + end:
        raise CheckpointError(f"{path} is cut off: it has {size} bytes, its header gives {start + end}")
    return entries, start


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(unique := dict(pairs)) < len(pairs):
        raise ValueError("a name stands twice")
    return unique


def _safetensors_entry(name: str, dtype: Any, shape: Any, data_offsets: Any) -> tuple[str, list[int], int]:
    if not isinstance(dtype, str) or dtype not in SAFETENSORS_TYPES:
        raise ValueError(f"tensors of type {shown(dtype)} are not supported")
    if not isinstance(shape, list) or not isinstance(data_offsets, list) or len(data_offsets) != 2:
        raise TypeError("shape and data_offsets must be lists")
    if not all(type(number) is int and number >= 0 for number in (*shape, *data_offsets)):
        raise ValueError(f"{name[:80]} has a size that is not a natural number")
    if len(shape) > MAX_DIMS or max(shape, default=0) > MAX_SIZE:
        raise ValueError(f"{name[:80]} has {len(shape)} dimensions of up to {shown(max(shape, default=0))}")
    first, last = data_offsets
    if last - first != math.prod(shape) * SAFETENSORS_TYPES[dtype].itemsize:
        raise ValueError(f"{name[:80]} has another size than its shape gives")
    return dtype, shape, first


def _from_file(path: Path, start: int, kind: str, shape: list[int], first: int) -> mx.array:
    x = np.fromfile(path, SAFETENSORS_TYPES[kind], math.prod(shape), offset=start + first)
    if x.size != math.prod(shape):
        raise CheckpointError(f"{path} was cut off while it was read")
    return to_mlx(x.reshape(shape), "bfloat16" if kind == "BF16" else "")


def _read_sharded(index: Path) -> Checkpoint:
    """Tensors of every shard that a `*.safetensors.index.json` or `*.bin.index.json` names."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map")
    tensors: dict[str, mx.array] = {}
    shards = []
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or name.endswith(".json"):
            raise CheckpointError(f"{index} names a shard outside its folder: {name}")
        shards.append(index.parent / name)
        tensors.update(read_checkpoint(shards[-1]).tensors)
    if missing := sorted(set(weight_map) - set(tensors)):
        raise CheckpointError(f"the shards of {index} lack {len(missing)} tensors: {', '.join(missing[:5])}")
    return Checkpoint(tensors, shards=shards)
