"""One way in for every file form; the form is told by the first bytes, not by the name."""

import json
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..config import read_json
from ..errors import CheckpointError
from . import torch_pickle

if TYPE_CHECKING:
    from .onnx_graph import Graph

STATE_KEYS = ("state_dict", "model_state_dict", "model")  # where training frameworks put the tensors
SAFETENSORS_TYPES = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "BF16", "F32", "F64"}
MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors format


@dataclass
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: the state dict, by name, in the layout of the source.
        extra: what lay beside the state dict (a Lightning checkpoint's hyper-parameters, say).
        graph: the graph, if the file is ONNX; then `tensors` is empty.
        shards: the files that an index names.
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
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    if path.suffix == ".json":
        return _read_sharded(path)
    if path.suffix == ".onnx":
        from .onnx_graph import read_graph

        return Checkpoint({}, graph=read_graph(path))
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
    try:
        return Checkpoint({name: to_mlx(value.numpy(), value.dtype) for name, value in content.items()}, extra)
    except torch_pickle.Damaged as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def to_mlx(x: "np.ndarray[Any, Any]", dtype: str = "") -> mx.array:
    """NumPy to MLX; bfloat16 comes as uint16 and is named by `dtype`, float64 becomes float32."""
    if dtype == "bfloat16":
        return mx.array(x).view(mx.bfloat16)
    if x.dtype.kind not in "fiub" or x.dtype.itemsize > 8:
        raise CheckpointError(f"tensors of type {x.dtype} are not supported")
    native = x.dtype.newbyteorder("=") if x.dtype != np.float64 else np.dtype(np.float32)
    return mx.array(np.asarray(x, native, order="C"))


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is damaged or cut off: {error}") from error
    return bool(names) and all(name.endswith(".npy") for name in names)


def _read_npz(path: Path) -> dict[str, mx.array]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: to_mlx(archive[name]) for name in archive.files}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # NumPy's reader raises nearly anything on a damaged file
        raise CheckpointError(f"{path} cannot be read: {error or type(error).__name__}") from error


def _read_safetensors(path: Path) -> dict[str, mx.array]:
    """Tensors of one file, loaded lazily."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else size
        if length > min(size - 8, MAX_HEADER):
            raise CheckpointError(f"{path} is cut off or is not a safetensors file")
        try:
            header = json.loads(file.read(length))
            kinds = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            needed = 8 + length + max(ends, default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
            raise CheckpointError(f"{path} has a damaged safetensors header: {error}") from error
    if size < needed:
        raise CheckpointError(f"{path} is cut off: it has {size} bytes, its header gives {needed}")
    if odd := kinds - SAFETENSORS_TYPES:
        raise CheckpointError(f"{path} has tensors of type {', '.join(sorted(map(str, odd)))}, which are not supported")
    try:
        if "F64" in kinds:  # which MLX does not read
            return {name: to_mlx(value) for name, value in load_file(path).items()}
        return dict(mx.load(str(path), format="safetensors"))  # type: ignore[arg-type]
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


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
