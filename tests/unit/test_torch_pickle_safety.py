"""A pickle is a program: whatever it calls is refused by name, and nothing of it runs."""

import copyreg
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files as tf
from speech_zoo_core.checkpoint import pickle_machine, read_checkpoint
from speech_zoo_core.errors import CheckpointError
from torch_files import SAVERS, Built, Call, Name

FORMATS = sorted(SAVERS)
MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)

# Calls that create the file `marker` if they run, and the name that the refusal must give.
LIVE: dict[str, Callable[[Path], Call]] = {
    "os.system": lambda marker: Name("os", "system")(f"touch {marker}"),
    "posix.system": lambda marker: Name("posix", "system")(f"touch {marker}"),
    "os.mkdir": lambda marker: Name("os", "mkdir")(str(marker)),
    "subprocess.check_call": lambda marker: Name("subprocess", "check_call")(["touch", str(marker)]),
    "subprocess.Popen": lambda marker: Name("subprocess", "Popen")(["touch", str(marker)]),
    "builtins.open": lambda marker: Name("builtins", "open")(str(marker), "w"),
    "builtins.eval": lambda marker: Name("builtins", "eval")(f"open({str(marker)!r}, 'w').close()"),
    "builtins.exec": lambda marker: Name("builtins", "exec")(f"open({str(marker)!r}, 'w').close()"),
    "builtins.map": lambda marker: Name("builtins", "list")(
        Name("builtins", "map")(Name("os", "mkdir"), [str(marker)])
    ),
    "functools.partial": lambda marker: Call(Name("functools", "partial")(Name("os", "mkdir"), str(marker)), ()),
    "operator.methodcaller": lambda marker: Call(
        Name("operator", "methodcaller")("mkdir"), (Name("pathlib", "Path")(str(marker)),)
    ),
}

# Names that no tensor needs; each is a known step of an attack, or would read more pickles.
NAMES = [
    "builtins.getattr",
    "builtins.setattr",
    "builtins.__import__",
    "builtins.compile",
    "builtins.globals",
    "builtins.vars",
    "builtins.type",
    "builtins.object",
    "builtins.input",
    "builtins.breakpoint",
    "builtins.bytearray",
    "__builtin__.eval",
    "__builtin__.file",
    "os.popen",
    "os.remove",
    "os.execv",
    "nt.system",
    "posix.fork",
    "shutil.rmtree",
    "sys.exit",
    "sys.modules",
    "pty.spawn",
    "runpy.run_path",
    "operator.attrgetter",
    "operator.itemgetter",
    "functools.reduce",
    "itertools.starmap",
    "types.FunctionType",
    "types.CodeType",
    "importlib.import_module",
    "importlib.reload",
    "imp.load_source",
    "pkgutil.resolve_name",
    "pydoc.locate",
    "code.interact",
    "pickle.loads",
    "pickle.load",
    "pickle._loads",
    "_pickle.loads",
    "marshal.loads",
    "joblib.load",
    "dill.loads",
    "cloudpickle.loads",
    "torch.load",
    "torch.storage._load_from_bytes",
    "torch.jit.load",
    "torch.hub.load",
    "torch.ops.load_library",
    "torch._utils._import_dotted_name",
    "torch.utils.cpp_extension.load",
    "torch.serialization.load",
    "numpy.load",
    "numpy.fromfile",
    "numpy.f2py.crackfortran.myeval",
    "numpy.testing._private.utils.runstring",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "collections.namedtuple",
    "codecs.open",
    "_codecs.decode",
    "io.open",
    "io.FileIO",
    "socket.create_connection",
    "urllib.request.urlopen",
    "webbrowser.open",
    "ctypes.CDLL",
    "asyncio.create_subprocess_shell",
    "logging.config.dictConfig",
    "timeit.timeit",
    "cProfile.run",
    "bdb.Bdb",
    "multiprocessing.Process",
    "threading.Thread",
    "speech_zoo_core.checkpoint.torch_pickle.Storage",
    "speech_zoo_core.checkpoint.torch_pickle.os",
    "pathlib.Path",
    "argparse.FileType",
    "typing.get_type_hints",
    "pytorch_lightningx.A",
    "torch.optimx.A",
]


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Does not exist, unless something ran."""
    return tmp_path / "ran"


@pytest.mark.parametrize("name", LIVE)
def test_the_calls_of_these_tests_are_live(marker: Path, name: str) -> None:
    made = pickle.loads(tf.dumps(LIVE[name](marker)))
    if isinstance(made, subprocess.Popen):
        made.wait()
    assert marker.exists()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", LIVE)
def test_a_call_is_refused_by_name(tmp_path: Path, marker: Path, form: str, protocol: int, name: str) -> None:
    content = {"a": tf.tensor(MATRIX), "b": LIVE[name](marker)}
    message = refusal(SAVERS[form](tmp_path / "model.pt", content, protocol=protocol))
    assert f"calls {name}, " in message
    assert "nothing was run" in message
    assert not marker.exists()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_tensor_needs(tmp_path: Path, form: str, name: str) -> None:
    content = {"a": tf.tensor(MATRIX), "b": Name(*name.rsplit(".", 1))("x")}
    message = refusal(SAVERS[form](tmp_path / "model.pt", content))
    assert f"calls {name}, " in message
    assert "nothing was run" in message


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_only_looked_up(tmp_path: Path, form: str, name: str) -> None:
    content = {"a": tf.tensor(MATRIX), "b": Name(*name.rsplit(".", 1))}
    assert name in refusal(SAVERS[form](tmp_path / "model.pt", content))


class Gadget:
    """What every tutorial on pickle attacks shows."""

    def __init__(self, call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


GADGETS: dict[str, Callable[[str], Any]] = {
    "system": lambda marker: (os.system, (f"touch {marker}",)),
    "eval": lambda marker: (eval, (f"open({marker!r}, 'w').close()",)),
    "getattr": lambda marker: (getattr, ("", "join")),
    "state": lambda marker: (dict, (), {"a": 1}, None, iter([("a", Gadget((os.mkdir, (marker,))))])),
    "list_items": lambda marker: (list, (), None, iter([Gadget((os.mkdir, (marker,)))])),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("gadget", GADGETS)
def test_a_reduce_gadget(tmp_path: Path, marker: Path, gadget: str, protocol: int) -> None:
    data = pickle.dumps({"a": Gadget(GADGETS[gadget](str(marker)))}, protocol)
    paths = [tf.save_zip(tmp_path / "model.pt", data)]
    if protocol >= 2:
        paths.append(tf.save_legacy(tmp_path / "model.bin", data))
        bare = tmp_path / "bare.bin"
        bare.write_bytes(data)
        paths.append(bare)
    for path in paths:
        assert "calls" in refusal(path)
    assert not marker.exists()


def nested(payload: Any, depth: int = 30) -> Any:
    for i in range(depth):
        payload = {"deep": payload} if i % 3 else [payload, (payload,)]
    return payload


PLACES: dict[str, Callable[[Any], Any]] = {
    "the whole file": lambda call: call,
    "a value": lambda call: {"a": call},
    "a key": lambda call: {call: 1},
    "a tuple in a list": lambda call: {"a": tf.tensor(MATRIX), "b": [1, (2, call)]},
    "a set": lambda call: {"a": Name("builtins", "set")([call])},
    "hyper-parameters": lambda call: {
        "state_dict": tf.state_dict({"a": MATRIX}),
        "hyper_parameters": {"a": nested(call)},
    },
    "a lightning record": lambda call: {
        "state_dict": tf.state_dict({"a": MATRIX}),
        "hyper_parameters": Call(Name("lightning.fabric.utilities.data", "AttributeDict"), (), items={"a": call}),
    },
    "the state of a record": lambda call: {
        "state_dict": tf.state_dict({"a": MATRIX}),
        "extra": Built(Call(Name("argparse", "Namespace"), (), new=True), {"a": call}),
    },
    "the arguments of a record": lambda call: {"a": Name("pyannote.core", "Segment")(call)},
    "a tensor's hooks": lambda call: {
        "a": Name("torch._utils", "_rebuild_tensor_v2")(tf.storage(MATRIX), 0, (3, 4), (4, 1), False, call)
    },
    "a tensor's size": lambda call: {"a": tf.view(tf.storage(MATRIX), 0, call, (1,))},
    "the function of a call": lambda call: {"a": Call(call, ())},
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("place", PLACES)
def test_a_call_anywhere_in_a_checkpoint(tmp_path: Path, marker: Path, form: str, place: str) -> None:
    call = Name("os", "mkdir")(str(marker))
    assert "os.mkdir" in refusal(SAVERS[form](tmp_path / "model.pt", PLACES[place](call)))
    assert not marker.exists()


@pytest.mark.parametrize("part", range(5))
def test_a_call_in_any_pickle_of_a_legacy_file(tmp_path: Path, marker: Path, part: int) -> None:
    call = Name("os", "mkdir")(str(marker))
    parts = [tf.LEGACY_MAGIC, tf.LEGACY_PROTOCOL, tf.LEGACY_SYSTEM, {}, []]
    parts[part] = call
    path = tmp_path / "model.bin"
    path.write_bytes(b"".join(map(tf.dumps, parts)))
    assert "os.mkdir" in refusal(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "dotted",
    [
        ("collections", "OrderedDict.__class__"),
        ("collections", "OrderedDict.__init__.__globals__"),
        ("collections", "abc.sys.modules"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch", "storage._load_from_bytes"),
        ("builtins", "dict.fromkeys"),
        ("builtins", "int.__class__"),
        ("builtins", "str.format"),
        ("numpy", "ndarray.tofile"),
        ("argparse", "Namespace.__init__.__globals__"),
        ("pathlib", "PosixPath.unlink"),
        ("os.path", "os.system"),
    ],
)
def test_dotted_names(tmp_path: Path, dotted: tuple[str, str]) -> None:
    path = tf.save_zip(tmp_path / "model.pt", {"a": Name(*dotted)("x")}, protocol=4)
    assert ".".join(dotted) in refusal(path)


def test_dotted_names_of_modules_whose_records_are_kept_reach_nothing(tmp_path: Path) -> None:
    content = {
        "state_dict": tf.state_dict({"a": MATRIX}),
        "extra": Name("pyannote.audio", "Model.__init__.__globals__")("x"),
    }
    extra = read_checkpoint(tf.save_zip(tmp_path / "model.pt", content, protocol=4)).extra["extra"]
    assert type(extra).__module__ == pickle_machine.__name__  # a stand-in of the reader's own, without content
    assert getattr(extra, "__dict__", {}) == {}


def test_records_that_are_kept_are_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pyannote"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    content = {"state_dict": tf.state_dict({"a": MATRIX}), "extra": Name("pyannote", "Anything")()}
    assert list(read_checkpoint(tf.save_zip(tmp_path / "model.pt", content)).tensors) == ["a"]
    assert getattr(sys.modules.get("pyannote"), "__file__", None) != str(package / "__init__.py")


@pytest.mark.parametrize("code", [b"\x82\xf0", b"\x83\xf0\0", b"\x84\xf0\0\0\0"])
@pytest.mark.parametrize("used_before", [False, True])
def test_extension_codes(tmp_path: Path, marker: Path, code: bytes, used_before: bool) -> None:
    """copyreg gives names a number; the C unpickler remembers what a number stood for, past `find_class`."""
    data = b"\x80\x02}X\x01\0\0\0a" + code + tf.dumps((str(marker),))[2:-1] + b"Rs."
    copyreg.add_extension("os", "mkdir", 240)
    try:
        if used_before:
            assert pickle.loads(b"\x80\x02" + code + b".") is os.mkdir
        message = refusal(tf.save_zip(tmp_path / "model.pt", data))
        assert "mkdir" in message or "EXT" in message
    finally:
        copyreg.remove_extension("os", "mkdir", 240)
        copyreg._extension_cache.pop(240, None)
    assert not marker.exists()


def test_extension_codes_that_nobody_registered(tmp_path: Path) -> None:
    assert "damaged pickle" in refusal(tf.save_zip(tmp_path / "model.pt", b"\x80\x02\x82\xf1)R."))


def test_a_key_nested_too_deep_to_hash_does_not_end_the_process(tmp_path: Path) -> None:
    """A tuple of a million levels; Python's own hash of it overflows the C stack."""
    path = tf.save_zip(tmp_path / "model.pt", b"\x80\x02}K\x01" + b"\x85" * 1_000_000 + b"K\x01s.")
    code = """
        import sys
        from pathlib import Path
        from speech_zoo_core.checkpoint import read_checkpoint
        from speech_zoo_core.errors import CheckpointError
        try:
            read_checkpoint(Path(sys.argv[1]))
        except CheckpointError:
            print("refused")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "refused\n")
