"""PyTorch's file formats, read as data.

A pickle is a small program that names functions to call. Here every name is looked up in a table of our own: the few
that rebuild tensors go to functions of this module, harmless records (Lightning, pyannote, NumPy scalars) become
`Inert`, and any other name is refused before anything is called.

Format: torch/serialization.py, `_legacy_load` and `_load`.
"""

import collections
import io
import pickle
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import CheckpointError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

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

# Records that appear beside the tensors and are never used: kept as data without behaviour.
INERT_MODULES = ("pyannote.", "pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.", "torch.optim.")
INERT = {
    ("argparse", "Namespace"),
    ("torch", "device"),
    ("torch.torch_version", "TorchVersion"),
    ("torch.serialization", "_get_layout"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
    ("collections", "defaultdict"),
    ("collections", "Counter"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("pathlib", "WindowsPath"),
    ("typing", "Any"),
}
PLAIN = {"set": set, "frozenset": frozenset, "int": int, "float": float, "str": str, "list": list, "dict": dict}


class Inert:
    """Stands for an object of a class that is not loaded: takes everything, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Part of the pickle protocol for list subclasses."""


@dataclass(frozen=True)
class StorageType:
    """A key of `DTYPES`, or "" for bytes without a type."""

    name: str


class Storage:
    """A run of items in the file, read when first needed."""

    def __init__(self, dtype: str, read: Callable[[], bytes]) -> None:
        self.dtype, self._read = dtype, read

    def bytes(self) -> bytes:
        return self._read()


class TensorRef:
    """A strided view of a storage."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: str = "") -> None:
        numbers = [offset, *size, *stride]
        if not isinstance(storage, Storage) or not all(type(number) is int and number >= 0 for number in numbers):
            raise pickle.UnpicklingError("a tensor is described wrongly")
        if len(size) != len(stride):
            raise pickle.UnpicklingError("a tensor's size and stride differ in length")
        self.storage, self.offset, self.size, self.stride = storage, offset, tuple(size), tuple(stride)
        self.dtype_key = dtype or storage.dtype

    @property
    def dtype(self) -> str:
        """The type's name; bfloat16 items are given as uint16 by `numpy`."""
        return DTYPES[self.dtype_key][1]

    def numpy(self) -> "np.ndarray[Any, Any]":
        """A contiguous copy.

        Raises:
            CheckpointError: the file is shorter than the tensor, or the type is unsupported.
        """
        if self.dtype_key not in DTYPES:
            raise CheckpointError(f"tensors of type {self.dtype_key or 'untyped'} are not supported")
        items = np.dtype(DTYPES[self.dtype_key][0])
        if 0 in self.size:
            return np.zeros(self.size, items)
        data = np.frombuffer(self.storage.bytes(), items)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if last >= data.size:
            raise CheckpointError("a tensor reaches beyond its data: the file is damaged")
        strides = [step * items.itemsize for step in self.stride]
        view = np.lib.stride_tricks.as_strided(data[self.offset :], self.size, strides, writeable=False)
        return view.copy()


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TensorRef:
    return TensorRef(storage, offset, size, stride)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> TensorRef:
    return TensorRef(storage, offset, size, stride, dtype.name if isinstance(dtype, StorageType) else "?")


def _rebuild_parameter(data: Any, *rest: Any) -> Any:
    return data


def _rebuild_from_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
    if function not in (_rebuild_tensor, _rebuild_tensor_v3):
        raise pickle.UnpicklingError("a tensor subclass is rebuilt in an unknown way")
    return function(*args)


REBUILD: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch.nn.parameter", "Parameter"): Inert,
    ("torch", "Tensor"): Inert,
    ("torch", "Size"): tuple,
    ("torch.storage", "UntypedStorage"): StorageType(""),
    ("torch", "UntypedStorage"): StorageType(""),
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path, storage: Callable[[tuple[Any, ...]], Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self.path, self.storage = path, storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in REBUILD:
            return REBUILD[module, name]
        if module in ("torch", "torch.cuda") and name.endswith("Storage"):
            return StorageType(name.removesuffix("Storage"))
        if module == "torch" and name in TORCH_NAMES:
            return StorageType(TORCH_NAMES[name])
        if module in ("builtins", "__builtin__") and name in PLAIN:
            return PLAIN[name]
        if f"{module}.".startswith(INERT_MODULES) and name == "AttributeDict":  # Lightning's hyper-parameters
            return collections.OrderedDict
        if (module, name) in INERT or f"{module}.".startswith(INERT_MODULES):
            return type(name, (Inert,), {})
        raise CheckpointError(
            f"{self.path} was refused: its pickle calls {module}.{name}, which is not needed to store tensors; "
            "nothing was run"
        )

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], StorageType):
            raise pickle.UnpicklingError("a storage is described wrongly")
        return self.storage(pid)


def _load(file: BinaryIO, path: Path, storage: Callable[[tuple[Any, ...]], Storage]) -> Any:
    try:
        return _Unpickler(file, path, storage).load()
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise CheckpointError(f"{path} has a damaged pickle: {error or type(error).__name__}") from error


def _no_storage(pid: tuple[Any, ...]) -> Storage:
    raise pickle.UnpicklingError("a storage stands where none belongs")


def read_zip(path: Path) -> Any:
    """Read the format of PyTorch 1.6 and newer; tensors come as `TensorRef`.

    Raises:
        CheckpointError: the file is damaged, is TorchScript, or names something other than tensors.
    """
    try:
        archive = zipfile.ZipFile(path)
        names = {name.split("/", 1)[-1]: name for name in archive.namelist()}
        if "constants.pkl" in names:
            raise CheckpointError(f"{path} is a TorchScript archive; a state dict is needed (torch.save of it)")
        if "data.pkl" not in names:
            raise CheckpointError(f"{path} is a zip file but not a PyTorch checkpoint")
        if "byteorder" in names and archive.read(names["byteorder"]) != b"little":
            raise CheckpointError(f"{path} was written on a big-endian machine, which is not supported")
        content = io.BytesIO(archive.read(names["data.pkl"]))
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is damaged or cut off: {error}") from error

    def storage(pid: tuple[Any, ...]) -> Storage:
        _, kind, key = pid[:3]

        def read() -> bytes:
            try:
                return archive.read(names[f"data/{key}"])
            except (KeyError, zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
                raise CheckpointError(f"{path} is damaged or cut off: {error}") from error

        return Storage(kind.name, read)

    return _load(content, path, storage)


def read_legacy(path: Path) -> Any:
    """Read the format before PyTorch 1.6: pickles in a row, then the storages.

    Raises:
        CheckpointError: the file is damaged or names something other than tensors.
    """
    storages: dict[str, Storage] = {}
    contents: dict[str, bytes] = {}

    def storage(pid: tuple[Any, ...]) -> Storage:
        _, kind, key = pid[:3]
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("storages that are views of others are not supported")
        return storages.setdefault(key, Storage(kind.name, lambda: contents[key]))

    with path.open("rb") as file:
        magic = _load(file, path, _no_storage)
        if magic != LEGACY_MAGIC:
            raise CheckpointError(f"{path} is a pickle but not a PyTorch checkpoint")
        if _load(file, path, _no_storage) != LEGACY_PROTOCOL:
            raise CheckpointError(f"{path} has an unknown version of PyTorch's legacy format")
        system = _load(file, path, _no_storage)
        if not isinstance(system, dict) or not system.get("little_endian", sys.byteorder == "little"):
            raise CheckpointError(f"{path} was written on a big-endian machine, which is not supported")
        content = _load(file, path, storage)
        keys = _load(file, path, _no_storage)
        for key in keys if isinstance(keys, list) else []:
            count = int.from_bytes(file.read(8), "little")
            if key not in storages or storages[key].dtype not in DTYPES:
                raise CheckpointError(f"{path} is damaged: storage {key!r} is not one that it described")
            length = count * np.dtype(DTYPES[storages[key].dtype][0]).itemsize
            contents[key] = file.read(length)
            if len(contents[key]) != length:
                raise CheckpointError(f"{path} is cut off: storage {key} has {len(contents[key])} of {length} bytes")
    if missing := storages.keys() - contents.keys():
        raise CheckpointError(f"{path} is cut off: {len(missing)} storages are missing")
    return content
