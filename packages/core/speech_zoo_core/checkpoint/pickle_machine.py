"""A machine for pickles that can call nothing.

A pickle is a small program for a stack machine that can name and call functions. This machine has no way to call
anything but the functions that it is given: a name is a pair of strings, harmless records (Lightning, pyannote, NumPy
scalars) become `Record`, and any other name is refused. Opcodes: pickletools.py.
"""

import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias

from ..errors import CheckpointError

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


Functions: TypeAlias = "Mapping[Name, Callable[..., Any]]"
Loader: TypeAlias = "Callable[[Any], Any]"


class _Machine:
    """Runs one pickle from `file` to its STOP."""

    def __init__(self, path: Path, functions: Functions, is_value: Callable[[Name], bool], load: Loader) -> None:
        self.path, self.functions, self.is_value, self.load = path, functions, is_value, load
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: Any) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name not in OPCODES:
                raise Damaged(f"opcode {opcode.name} has no place in a checkpoint")
            OPCODES[opcode.name](self, argument)
        raise Damaged("it has no end")

    def kind(self, name: Name) -> str:
        """What a name may be used for: "function", "dict", "record", "size" or "value"; "" if it is refused."""
        if name in self.functions:
            return "function"
        if name == ("collections", "OrderedDict"):
            return "dict"
        if f"{name.module}.".startswith(RECORD_MODULES):
            return "dict" if name.name == "AttributeDict" else "record"  # Lightning's hyper-parameters
        if name in RECORDS:
            return "size" if name == ("torch", "Size") else "record"
        return "value" if self.is_value(name) else ""

    def refuse(self, name: Name) -> NoReturn:
        raise CheckpointError(
            f"{self.path} was refused: its pickle calls {name.module[:80]}.{name.name[:80]}, which is not needed to "
            "store tensors; nothing was run"
        )

    def make(self, name: Any, args: Any) -> Any:
        """What a call of `name` stands for."""
        if not isinstance(name, Name) or not isinstance(args, tuple):
            raise Damaged("it calls something that is not a name")
        kind = self.kind(name)
        if kind == "function":
            return self.functions[name](*args)
        if kind == "size":
            return args[0] if args else ()
        return {} if kind == "dict" else Record()

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pack_mark(self, kind: Callable[[list[Any]], Any]) -> None:
        items = self.pop_mark()
        self.stack.append(kind(items))

    def fill(self, items: list[Any], new: bool = False) -> None:
        if new:
            self.stack.append({})
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
        if not self.kind(reference):
            self.refuse(reference)
        self.stack.append(reference)

    def pack(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def reduce(self, keywords: Any = None) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.make(self.stack[-1], args)

    def instance(self, argument: str) -> None:
        args = tuple(self.pop_mark())
        self.name(*argument.split(" ", 1))
        self.stack[-1] = self.make(self.stack[-1], args)

    def object(self) -> None:
        name, *args = self.pop_mark()
        self.stack.append(self.make(name, tuple(args)))

    def build(self) -> None:
        self.stack.pop()  # an object's state, which nothing here has
        if not isinstance(self.stack[-1], (dict, Record)):
            raise Damaged("a state is set on something that has none")


PUSHED = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
OPCODES: dict[str, Callable[[_Machine, Any], Any]] = {  # machine and argument
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, _: None),
    **dict.fromkeys(PUSHED, lambda m, x: m.stack.append(x)),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda m, _: m.stack.append([])),
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.stack.pop() if m.stack else m.pop_mark(),
    "POP_MARK": lambda m, _: m.pop_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "TUPLE": lambda m, _: m.pack_mark(tuple),
    "TUPLE1": lambda m, _: m.pack(1),
    "TUPLE2": lambda m, _: m.pack(2),
    "TUPLE3": lambda m, _: m.pack(3),
    **dict.fromkeys(("LIST", "FROZENSET"), lambda m, _: m.pack_mark(list)),
    "DICT": lambda m, _: m.fill(m.pop_mark(), new=True),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda m, _: m.extend(m.pop_mark())),
    "SETITEM": lambda m, _: m.fill([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.fill(m.pop_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, i: m.memo.update({i: m.stack[-1]})),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.stack[-1]}),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, i: m.stack.append(m.memo[i])),
    "GLOBAL": lambda m, names: m.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(m.stack.pop(-2), m.stack.pop()),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda m, _: m.reduce()),
    "NEWOBJ_EX": lambda m, _: m.reduce(keywords=m.stack.pop()),
    "INST": lambda m, names: m.instance(names),
    "OBJ": lambda m, _: m.object(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.stack.append(m.load(m.stack.pop())),
}


def _key(key: Any) -> Any:
    """Keys that are not plain values are of no use, and hashing them may be costly."""
    return key if key is None or isinstance(key, (str, int, float, bytes)) else Record()


def run(file: Any, path: Path, functions: Functions, is_value: Callable[[Name], bool], load: Loader) -> Any:
    """Run one pickle from `file` to its STOP.

    Args:
        path: what errors call the file.
        functions: what the pickle may call.
        is_value: whether a name may stand for itself.
        load: what a persistent id stands for.

    Raises:
        CheckpointError: it is damaged, or names what has no place in a checkpoint.
    """
    try:
        return _Machine(path, functions, is_value, load).run(file)
    except CheckpointError:
        raise
    except (Damaged, ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError, AttributeError) as error:
        raise CheckpointError(f"{path} has a damaged pickle: {str(error)[:200] or type(error).__name__}") from error
