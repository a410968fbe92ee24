"""PyTorch's two file formats written from NumPy arrays, without PyTorch: what the readers are tested with.

Format: torch/serialization.py, `_save` and `_legacy_save`; `torch.load` reads what is written here.
"""

import collections
import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
LEGACY_SYSTEM = {
    "protocol_version": LEGACY_PROTOCOL,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}

KINDS = {  # NumPy's name of a type: the prefix of torch's storage class
    "float32": "Float",
    "float64": "Double",
    "float16": "Half",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
}


@dataclass(frozen=True)
class Name:
    """A name that the pickle looks up when it is loaded; calling it gives the `Call` to store."""

    module: str
    name: str

    def __call__(self, *args: Any) -> "Call":
        return Call(self, args)


@dataclass(frozen=True, eq=False)
class Call:
    """A call that the pickle makes when it is loaded.

    Attributes:
        function: usually a `Name`.
        items: set on the result, as for a subclass of dict.
        new: make an instance of the class `function` without calling it.
    """

    function: Any
    args: tuple[Any, ...]
    items: dict[Any, Any] | None = None
    new: bool = False


@dataclass(frozen=True, eq=False)
class Built:
    """An object whose state the pickle sets when it is loaded."""

    obj: Any
    state: Any


@dataclass(eq=False)
class Storage:
    """Items of one type, shared by the tensors that view them; the writer gives it a key."""

    data: bytes
    kind: str
    count: int
    key: str = ""


class Writer(pickle._Pickler):
    """A pickler that stores `Name`, `Call`, `Built` and `Storage` as what they stand for."""

    dispatch = pickle._Pickler.dispatch.copy()

    def __init__(self, file: Any, protocol: int = 2, legacy: bool = False) -> None:
        super().__init__(file, protocol)
        self.legacy, self.storages = legacy, []

    def persistent_id(self, obj: Any) -> tuple[Any, ...] | None:
        if not isinstance(obj, Storage):
            return None
        if obj not in self.storages:
            obj.key = str(len(self.storages))
            self.storages.append(obj)
        pid = ("storage", Name("torch", f"{obj.kind}Storage"), obj.key, "cpu", obj.count)
        return (*pid, None) if self.legacy else pid

    def save_name(self, obj: Name) -> None:
        if self.proto >= 4:
            self.save(obj.module)
            self.save(obj.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        self.memoize(obj)

    def save_call(self, obj: Call) -> None:
        self.save(obj.function)
        self.save(obj.args)
        self.write(pickle.NEWOBJ if obj.new else pickle.REDUCE)
        self.memoize(obj)
        for key, value in (obj.items or {}).items():
            self.save(key)
            self.save(value)
            self.write(pickle.SETITEM)

    def save_built(self, obj: Built) -> None:
        self.save(obj.obj)
        self.save(obj.state)
        self.write(pickle.BUILD)

    dispatch[Name] = save_name
    dispatch[Call] = save_call
    dispatch[Built] = save_built


def storage(x: np.ndarray, kind: str = "") -> Storage:
    """The items of an array in C order; bfloat16 comes as uint16 and is named by `kind`."""
    return Storage(np.ascontiguousarray(x).tobytes(), kind or KINDS[x.dtype.name], x.size)


def view(items: Storage, offset: Any, size: Any, stride: Any, function: str = "_rebuild_tensor_v2") -> Call:
    """A strided view of a storage."""
    more = () if function == "_rebuild_tensor" else (False, collections.OrderedDict())
    return Name("torch._utils", function)(items, offset, size, stride, *more)


def tensor(x: Any, kind: str = "") -> Call:
    """A contiguous tensor with a storage of its own."""
    x = np.ascontiguousarray(x) if np.ndim(x) else np.asarray(x)
    return view(storage(x, kind), 0, x.shape, tuple(step // x.itemsize for step in x.strides))


def parameter(x: Any) -> Call:
    """An `nn.Parameter`."""
    return Name("torch._utils", "_rebuild_parameter")(tensor(x), True, collections.OrderedDict())


def bfloat16(x: np.ndarray) -> np.ndarray:
    """float32 cut to bfloat16, as uint16."""
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def state_dict(weights: dict[str, np.ndarray]) -> dict[str, Call]:
    return {name: tensor(x) for name, x in weights.items()}


def dumps(content: Any, protocol: int = 2) -> bytes:
    """A bare pickle."""
    return _pickle(content, protocol)[0]


def save_zip(path: Path, content: Any, protocol: int = 2, **members: bytes) -> Path:
    """Write the format of PyTorch 1.6 and newer.

    Args:
        content: plain data with `Call`, `Built` and `Name`; or bytes, a finished pickle.
        members: further members of the archive, or others instead of the usual ones (`byteorder`, `version`).
    """
    data, storages = _pickle(content, protocol)
    parts = {"data.pkl": data, "byteorder": b"little", "version": b"3\n"}
    parts |= {f"data/{item.key}": item.data for item in storages} | members
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, part in parts.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), part)
    return path


def save_legacy(path: Path, content: Any, protocol: int = 2, system: Any = None, keys: Any = None) -> Path:
    """Write the format before PyTorch 1.6.

    Args:
        content: plain data with `Call`, `Built` and `Name`; or bytes, a finished pickle.
        system: instead of the usual description of the machine.
        keys: instead of the list of the storages' keys.
    """
    data, storages = _pickle(content, protocol, legacy=True)
    head = [LEGACY_MAGIC, LEGACY_PROTOCOL, LEGACY_SYSTEM if system is None else system]
    parts = [dumps(item) for item in head]
    parts += [data, dumps([item.key for item in storages] if keys is None else keys)]
    for item in storages:
        parts += [item.count.to_bytes(8, "little"), item.data]
    path.write_bytes(b"".join(parts))
    return path


SAVERS = {"zip": save_zip, "legacy": save_legacy}


def _pickle(content: Any, protocol: int, legacy: bool = False) -> tuple[bytes, list[Storage]]:
    if isinstance(content, bytes):
        return content, []
    file = io.BytesIO()
    writer = Writer(file, protocol, legacy)
    writer.dump(content)
    return file.getvalue(), writer.storages
