"""PyTorch's file formats, read as data.

A pickle is a small program for a stack machine that can name and call functions. Here it runs on a machine of our own
that has no way to call anything but the three functions below that describe tensors: a name is a pair of strings,
harmless records (Lightning, pyannote, NumPy scalars) become `Record`, and any other name is refused.

Format: torch/serialization.py, `_legacy_load` and `_load`; opcodes: pickletools.py.
"""

import io
import math
import pickletools
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ..errors import CheckpointError

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

# Records that appear beside the tensors and are never used.
RECORD_MODULES = ("pyannote.", "pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.", "torch.optim.")
RECORDS = {
    ("argparse", "Namespace"),
    ("torch", "device"),
    ("torch", "Size"),
    ("torch", "Tensor"),
    ("torch.nn.parameter", "Parameter"),
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
    *(
        (module, name)
        for module in ("builtins", "__builtin__")
        for name in ["set", "frozenset", "int", "float", "str", "list", "dict"]
    ),
}


class Damaged(Exception):
    """The program or a description in it makes no sense."""


class Record:
    """Stands for an object of a class that is not loaded."""


class Name(NamedTuple):
    """A function or class that a pickle names."""

    module: str
    name: str


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


FUNCTIONS: dict[Name, Callable[..., Any]] = {
    Name("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    Name("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    Name("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    Name("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
}
FROM_TYPE = Name("torch._tensor", "_rebuild_from_type_v2")


def _kind(name: Name) -> str:
    """What a name may be used for: "function", "dict", "record" or "value"; "" if it is refused."""
    if name in FUNCTIONS or name == FROM_TYPE:
        return "function"
    if name == ("collections", "OrderedDict"):
        return "dict"
    if f"{name.module}.".startswith(RECORD_MODULES):
        return "dict" if name.name == "AttributeDict" else "record"  # Lightning's hyper-parameters
    if name in RECORDS:
        return "size" if name == ("torch", "Size") else "record"
    storage = name.module in ("torch", "torch.cuda", "torch.storage") and name.name.endswith("Storage")
    return "value" if storage or (name.module == "torch" and name.name in TORCH_NAMES) else ""


class _Machine:
    """Runs one pickle from `file` to its STOP."""

    def __init__(self, path: Path, storage: Callable[[Any], Storage]) -> None:
        self.path, self.storage = path, storage
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: Any) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.arg is not None and opcode.name in PUSHED:
                self.stack.append(argument)
            elif opcode.name in CONSTANTS:
                self.stack.append(CONSTANTS[opcode.name]())
            elif (step := getattr(self, f"op_{opcode.name.lower()}", None)) is not None:
                step(argument)
            else:
                raise Damaged(f"opcode {opcode.name} has no place in a checkpoint")
        raise Damaged("it has no end")

    def refuse(self, name: Name) -> NoReturn:
        raise CheckpointError(
            f"{self.path} was refused: its pickle calls {name.module[:80]}.{name.name[:80]}, which is not needed to "
            "store tensors; nothing was run"
        )

    def make(self, name: Any, args: Any) -> Any:
        """What a call of `name` stands for."""
        if not isinstance(name, Name) or not isinstance(args, tuple):
            raise Damaged("it calls something that is not a name")
        kind = _kind(name)
        if kind == "function" and name == FROM_TYPE:
            if len(args) < 3 or args[0] not in FUNCTIONS:
                raise Damaged("a tensor subclass is rebuilt in an unknown way")
            return self.make(args[0], args[2])
        if kind == "function":
            return FUNCTIONS[name](*args)
        if kind == "size":
            return args[0] if args else ()
        return {} if kind == "dict" else Record()

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update((_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))
        elif not isinstance(target, Record):
            raise Damaged("items are set on something else than a mapping")

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Record):
            raise Damaged("items are added to something else than a list")

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Damaged("a name is not a string")
        reference = Name(module, name)
        if not _kind(reference):
            self.refuse(reference)
        self.stack.append(reference)

    def op_proto(self, _: Any) -> None: ...

    def op_frame(self, _: Any) -> None: ...

    def op_mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def op_pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def op_pop_mark(self, _: Any) -> None:
        self.pop_mark()

    def op_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def op_tuple(self, _: Any) -> None:
        items = tuple(self.pop_mark())
        self.stack.append(items)

    def op_tuple1(self, _: Any) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def op_tuple2(self, _: Any) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def op_tuple3(self, _: Any) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def op_list(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(items)

    op_frozenset = op_list

    def op_dict(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.fill(items)

    def op_append(self, _: Any) -> None:
        item = self.stack.pop()
        self.extend([item])

    def op_appends(self, _: Any) -> None:
        self.extend(self.pop_mark())

    op_additems = op_appends

    def op_setitem(self, _: Any) -> None:
        items = [self.stack[-2], self.stack[-1]]
        del self.stack[-2:]
        self.fill(items)

    def op_setitems(self, _: Any) -> None:
        self.fill(self.pop_mark())

    def op_put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    op_binput = op_long_binput = op_put

    def op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    op_binget = op_long_binget = op_get

    def op_global(self, argument: str) -> None:
        self.name(*argument.split(" ", 1))

    def op_stack_global(self, _: Any) -> None:
        name = self.stack.pop()
        self.name(self.stack.pop(), name)

    def op_reduce(self, _: Any) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.make(self.stack[-1], args)

    op_newobj = op_reduce

    def op_newobj_ex(self, _: Any) -> None:
        self.stack.pop()
        self.op_reduce(None)

    def op_inst(self, argument: str) -> None:
        args = tuple(self.pop_mark())
        self.op_global(argument)
        self.stack[-1] = self.make(self.stack[-1], args)

    def op_obj(self, _: Any) -> None:
        name, *args = self.pop_mark()
        self.stack.append(self.make(name, tuple(args)))

    def op_build(self, _: Any) -> None:
        self.stack.pop()  # an object's state, which nothing here has
        if not isinstance(self.stack[-1], (dict, Record)):
            raise Damaged("a state is set on something that has none")

    def op_binpersid(self, _: Any) -> None:
        self.stack[-1] = self.storage(self.stack[-1])


CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


def _key(key: Any) -> Any:
    """Keys that are not plain values are of no use, and hashing them may be costly."""
    return key if key is None or isinstance(key, (str, int, float, bytes)) else Record()


def _run(file: Any, path: Path, storage: Callable[[Any], Storage]) -> Any:
    try:
        return _Machine(path, storage).run(file)
    except CheckpointError:
        raise
    except (Damaged, ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError, AttributeError) as error:
        raise CheckpointError(f"{path} has a damaged pickle: {str(error)[:200] or type(error).__name__}") from error


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
