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
            if opcode.arg is not None and opcode.name in PUSHED:
                self.stack.append(argument)
            elif opcode.name in CONSTANTS:
                self.stack.append(CONSTANTS[opcode.name]())
            elif (step := getattr(self, f"op_{opcode.name.lower()}", None)) is not None:
                step(argument)
            else:
                raise Damaged(f"opcode {opcode.name} has no place in a checkpoint")
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
        if not self.kind(reference):
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
        self.stack[-1] = self.load(self.stack[-1])


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
