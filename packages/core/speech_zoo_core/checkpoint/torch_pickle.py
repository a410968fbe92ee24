"""PyTorch's file formats, read as data: the machine that runs their pickles can only call what describes tensors.

Format: torch/serialization.py, `_legacy_load` and `_load`.
"""

import io
import math
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ..errors import CheckpointError
from .pickle_machine import Damaged, Name, run

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_DIMS = 16

DTYPES = {  # name in torch: (type of the stored items, name of the type)
    "Float": ("<f4", "float32"),
    "Double": ("<f8", "float64"),
    "Half": ("<f2", "float16"),
    "BFloat16": ("<u2", "bfloat16"),
    "Long": ("<i8", "int64"),
    "Int": ("<i4", "int32"),
    "Short": ("<i2", "int16"),
    "Char": ("<i1", "int8"),
    "Byte": ("<u1", "uint8"),
    "Bool": ("?", "bool"),
}
TORCH_NAMES = {name: key for key, (_, name) in DTYPES.items()}


class Storage(NamedTuple):
    """A run of items in the file; `dtype` is a key of `DTYPES`, or "" for plain bytes. Equal where `key` is."""

    dtype: str
    key: str
    read: Callable[[str], bytes]


class TensorRef(NamedTuple):
    """A strided view of a storage; `dtype_key` is a key of `DTYPES`."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype_key: str

    @property
    def dtype(self) -> str:
        """The type's name; bfloat16 items are given as uint16 by `numpy`."""
        return DTYPES[self.dtype_key][1]

    @property
    def nbytes(self) -> int:
        """Bytes of a copy."""
        return math.prod(self.size) * np.dtype(DTYPES[self.dtype_key][0]).itemsize

    def numpy(self, content: bytes) -> "np.ndarray[Any, Any]":
        """A contiguous copy, from the storage's content.

        Raises:
            Damaged: the tensor does not fit its data.
        """
        items = np.dtype(DTYPES[self.dtype_key][0])
        data = np.frombuffer(content[: len(content) // items.itemsize * items.itemsize], items)
        count = math.prod(self.size)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if count > data.size or (count and last >= data.size) or max(self.size, default=0) > sys.maxsize // 64:
            raise Damaged("a tensor reaches beyond its data")
        if not count:
            return np.zeros(self.size, items)
        strides = [step * items.itemsize if n > 1 else 0 for n, step in zip(self.size, self.stride, strict=True)]
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.size, strides, writeable=False).copy()


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any, dtype: str = "") -> TensorRef:
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise Damaged("a tensor is described wrongly")
    if len(size) != len(stride) or len(size) > MAX_DIMS:
        raise Damaged("a tensor's size and stride are not of one rank")
    if not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
        raise Damaged("a tensor's offset, size or stride is not a natural number")
    dtype = dtype or storage.dtype
    if dtype not in DTYPES:
        raise Damaged(f"tensors of type {dtype or 'bytes'} are not supported")
    return TensorRef(storage, offset, size, stride, dtype)


def _rebuild_tensor_v3(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TensorRef:
    dtype = rest[2] if len(rest) > 2 else None
    if not isinstance(dtype, Name) or dtype.name not in TORCH_NAMES:
        raise Damaged(f"tensors of type {dtype.name if isinstance(dtype, Name) else '?'} are not supported")
    return _rebuild_tensor(storage, offset, size, stride, dtype=TORCH_NAMES[dtype.name])


def _rebuild_parameter(data: Any, *rest: Any) -> Any:
    return data


REBUILDS: dict[Name, Callable[..., Any]] = {
    Name("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    Name("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    Name("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    Name("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
}


def _rebuild_from_type(function: Any, kind: Any, args: Any, *rest: Any) -> Any:
    """A tensor of a subclass, which is rebuilt as a tensor."""
    if function not in REBUILDS or not isinstance(args, tuple):
        raise Damaged("a tensor subclass is rebuilt in an unknown way")
    return REBUILDS[function](*args)


FUNCTIONS = REBUILDS | {Name("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type}


def _is_type(name: Name) -> bool:
    """Whether a name is of a type of tensors or storages."""
    storage = name.module in ("torch", "torch.cuda", "torch.storage") and name.name.endswith("Storage")
    return storage or (name.module == "torch" and name.name in TORCH_NAMES)


def _run(file: Any, path: Path, storage: Callable[[Any], Storage]) -> Any:
    return run(file, path, FUNCTIONS, _is_type, storage)


def _parts(pid: Any) -> tuple[str, str]:
    """The type of a storage and the key it is stored under."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], Name):
        raise Damaged("a storage is described wrongly")
    if not isinstance(pid[2], (str, int)):
        raise Damaged("a storage's key is not a string")
    if len(pid) > 5 and pid[5] is not None:
        raise Damaged("storages that are views of others are not supported")
    kind = pid[1].name.removesuffix("Storage")
    return "" if kind == "Untyped" else kind, str(pid[2])


def _no_storage(pid: Any) -> NoReturn:
    raise Damaged("a storage stands where none belongs")


def read_zip(path: Path) -> Any:
    """Read the format of PyTorch 1.6 and newer; tensors come as `TensorRef`.

    Raises:
        CheckpointError: the file is damaged, is TorchScript, or names something other than tensors.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is damaged or cut off: {error}") from error
    members = {info.filename.split("/", 1)[-1]: info for info in archive.infolist()}

    def read(name: str) -> bytes:
        if name not in members:
            raise CheckpointError(f"{path} is damaged: it lacks {name[:80]}")
        if members[name].compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"{path} is compressed, which PyTorch's files are not")
        try:
            return archive.read(members[name])
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path} is damaged or cut off: {error}") from error

    def read_data(key: str) -> bytes:
        return read(f"data/{key}")

    if "constants.pkl" in members:
        raise CheckpointError(f"{path} is a TorchScript archive; a state dict is needed (torch.save of it)")
    if "data.pkl" not in members:
        raise CheckpointError(f"{path} is a zip file but not a PyTorch checkpoint")
    if "byteorder" in members and read("byteorder") != b"little":
        raise CheckpointError(f"{path} was written on a big-endian machine, which is not supported")

    def storage(pid: Any) -> Storage:
        return Storage(*_parts(pid), read_data)

    return _run(io.BytesIO(read("data.pkl")), path, storage)


class _Bounded:
    """A file whose reads never ask for more than is left, whatever length a damaged pickle gives."""

    def __init__(self, file: Any, size: int) -> None:
        self.file, self.size, self.readline = file, size, file.readline

    def read(self, length: int) -> bytes:
        content: bytes = self.file.read(max(0, min(length, self.size - self.file.tell())))
        return content

    def tell(self) -> int:
        position: int = self.file.tell()
        return position


def read_legacy(path: Path) -> Any:
    """Read the format before PyTorch 1.6: pickles in a row, then the storages.

    Raises:
        CheckpointError: the file is damaged or names something other than tensors.
    """
    kinds: dict[str, str] = {}
    contents: dict[str, bytes] = {}

    def storage(pid: Any) -> Storage:
        kind, key = _parts(pid)
        if kinds.setdefault(key, kind) != kind:
            raise Damaged(f"storage {key[:80]} has two types")
        return Storage(kind, key, contents.__getitem__)

    with path.open("rb") as opened:
        file = _Bounded(opened, path.stat().st_size)
        if _run(file, path, _no_storage) != LEGACY_MAGIC:
            raise CheckpointError(f"{path} is a pickle but not a PyTorch checkpoint")
        if _run(file, path, _no_storage) != LEGACY_PROTOCOL:
            raise CheckpointError(f"{path} has an unknown version of PyTorch's legacy format")
        system = _run(file, path, _no_storage)
        if not isinstance(system, dict) or system.get("little_endian", sys.byteorder == "little") is not True:
            raise CheckpointError(f"{path} was written on a big-endian machine, which is not supported")
        content = _run(file, path, storage)
        keys = _run(file, path, _no_storage)
        if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
            raise CheckpointError(f"{path} is damaged: its list of storages is not one")
        for key in map(str, keys):
            if kinds.get(key) not in DTYPES:
                raise CheckpointError(f"{path} is damaged: storage {key[:80]} is not one that it described")
            length = int.from_bytes(file.read(8), "little") * np.dtype(DTYPES[kinds[key]][0]).itemsize
            contents[key] = file.read(length)
            if len(contents[key]) != length:
                raise CheckpointError(
                    f"{path} is cut off: storage {key[:80]} has {len(contents[key])} of {length} bytes"
                )
    if missing := kinds.keys() - contents.keys():
        raise CheckpointError(f"{path} is cut off: {len(missing)} storages are missing")
    return content
