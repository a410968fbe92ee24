"""Small files that ask for much memory or time, and files that go while they are read: refused, in no time."""

import json
import re
import resource
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch_files as tf
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from source_weights import source_weights
from speech_zoo_core.checkpoint import read_checkpoint
from speech_zoo_core.checkpoint.reader import in_memory
from speech_zoo_core.conversion import convert
from speech_zoo_core.errors import CheckpointError, ConfigError, SpeechZooError, shown
from speech_zoo_core.loader import load
from tiny_models import ECAPA, LID, RESNET, TINY, proxy_file, speechbrain_folder, wespeaker_folder, wespeaker_yaml
from wav2vec2_files import hf_folder

SECONDS = 5.0  # of the processor
GROWTH = 300_000  # KB that the process may grow by


@pytest.fixture(autouse=True)
def cheap() -> Iterator[None]:
    """Every test here is quick and small."""
    start, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < GROWTH


def refusal(call: Callable[[], Any], error: type[SpeechZooError] = CheckpointError) -> str:
    with pytest.raises(error) as caught:
        call()
    assert len(str(caught.value)) < 1000
    return str(caught.value)


# safetensors


def header_only(path: Path, entries: dict[str, Any] | str, data: bytes = b"") -> Path:
    text = (entries if isinstance(entries, str) else json.dumps(entries)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape: Any, first: Any = 0, last: Any = 4, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


@pytest.mark.parametrize(
    "shape",
    [[1] * 200, [1] * 64, [1] * 17, [-1], [-1, -1], [2**31, 0], [2**63, 0], [10**400], [1.0], [True], ["1"], 1, None],
    ids=lambda shape: shown(shape)[:20],
)
@pytest.mark.parametrize("dtype", ["F32", "F64"])
def test_a_shape_that_no_tensor_has(tmp_path: Path, shape: Any, dtype: str) -> None:
    last = 8 if dtype == "F64" else 4
    path = header_only(tmp_path / "model.safetensors", {"a": entry(shape, 0, last, dtype)}, bytes(8))
    assert "damaged safetensors header" in refusal(lambda: read_checkpoint(path))


@pytest.mark.parametrize("offsets", [(4, 8), (-4, 0), (0, 8), (0, 3), (0, 10**30), (0.0, 4), ("0", 4), (False, 4)])
def test_offsets_that_do_not_fit(tmp_path: Path, offsets: tuple[Any, Any]) -> None:
    path = header_only(tmp_path / "model.safetensors", {"a": entry([1], *offsets)}, bytes(4))
    assert "safetensors" in refusal(lambda: read_checkpoint(path))


def test_tensors_that_share_their_bytes(tmp_path: Path) -> None:
    entries = {f"t{i}": entry([1000, 1000], 0, 4_000_000) for i in range(1000)}
    path = header_only(tmp_path / "model.safetensors", entries, bytes(4_000_000))
    assert "overlaps another tensor" in refusal(lambda: read_checkpoint(path))


def test_a_name_that_stands_twice(tmp_path: Path) -> None:
    text = f'{{"a": {json.dumps(entry([1] * 64))}, "a": {json.dumps(entry([1]))}}}'
    path = header_only(tmp_path / "model.safetensors", text, bytes(4))
    assert "stands twice" in refusal(lambda: read_checkpoint(path))


def test_f64_beside_other_types(tmp_path: Path) -> None:
    parts = [np.arange(3, dtype="<f8"), tf.bfloat16(np.array([1.5, -2], np.float32)), np.array([7], "<i4")]
    first, entries, data = 0, {}, b""
    for name, kind, x in zip("abc", ("F64", "BF16", "I32"), parts, strict=True):
        entries[name] = entry(list(x.shape), first, first + x.nbytes, kind)
        first, data = first + x.nbytes, data + x.tobytes()
    tensors = read_checkpoint(header_only(tmp_path / "model.safetensors", entries, data)).tensors
    assert [tensors[name].tolist() for name in "abc"] == [[0, 1, 2], [1.5, -2], [7]]
    assert [tensors[name].dtype for name in "abc"] == [mx.float32, mx.bfloat16, mx.int32]


# Files that go while they are read


@pytest.mark.parametrize("bytes_left", [0, 2000, 0.5, 0.99])
def test_a_file_that_is_cut_after_its_header_was_read(tmp_path: Path, bytes_left: float) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones(2_000_000, np.float32), "b": np.ones(20_000, np.int32)}, path)
    tensors = read_checkpoint(path).tensors
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(int(bytes_left * size) if isinstance(bytes_left, float) else bytes_left)
    assert "cannot be read from its file" in refusal(lambda: [in_memory(name, x) for name, x in tensors.items()])


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 3)


def converted_folder(folder: Path, **options: Any) -> Path:
    return convert(wespeaker_folder(folder / "origin", RESNET), folder / "converted", **options)


def source_folder(folder: Path) -> Path:
    """As safetensors, which are read lazily."""
    wespeaker_folder(folder, RESNET)
    tensors = read_checkpoint(folder / "avg_model.pt").tensors
    (folder / "avg_model.pt").unlink()
    save_file({name: np.array(x) for name, x in tensors.items()}, folder / "model.safetensors")
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "a source": source_folder,
    "a conversion": converted_folder,
    "float16": lambda folder: converted_folder(folder, dtype="float16"),
    "wav2vec2": hf_folder,
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("call", ["load", "convert"])
def test_nothing_is_made_of_a_file_that_is_cut_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: str
) -> None:
    folder = FOLDERS[name](tmp_path / "made")
    path = folder / "model.safetensors"
    read = mx.load

    def cut_after(*args: Any, **options: Any) -> Any:
        content = read(*args, **options)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
        return content

    monkeypatch.setattr(mx, "load", cut_after)
    run = {"load": lambda: load(folder), "convert": lambda: convert(folder, tmp_path / "out")}[call]
    assert "cannot be read from its file" in refusal(run)
    assert not (tmp_path / "out").exists()


# Other forms


@pytest.mark.parametrize("save", tf.SAVERS.values(), ids=list(tf.SAVERS))
@pytest.mark.parametrize("stride", [1, 0])
def test_a_storage_that_many_tensors_share(tmp_path: Path, save: Any, stride: int) -> None:
    items = tf.storage(np.ones(350_000 if stride else 1, np.float32))
    size = (350_000,) if stride else (2**20, 2**10)
    content = {f"t{i}": tf.view(items, 0, size, (1,) if stride else (0, 0)) for i in range(2000 if stride else 1)}
    assert "would become" in refusal(lambda: read_checkpoint(save(tmp_path / "model.pt", content)))


@pytest.mark.parametrize("save", tf.SAVERS.values(), ids=list(tf.SAVERS))
def test_a_storage_is_read_once_for_all_its_tensors(tmp_path: Path, save: Any) -> None:
    x = np.arange(2_000_000, dtype=np.float32)
    items = tf.storage(x)
    path = save(tmp_path / "model.pt", {f"t{i}": tf.view(items, i * 500, (500,), (1,)) for i in range(4000)})
    tensors = read_checkpoint(path).tensors
    assert list(tensors) == [f"t{i}" for i in range(4000)]
    assert np.array_equal(np.array(tensors["t3999"]), x[-500:])


def test_weights_that_are_tied(tmp_path: Path) -> None:
    items = tf.storage(np.ones((2000, 2000), np.float32))
    content = {name: tf.view(items, 0, (2000, 2000), (2000, 1)) for name in "abc"}
    assert len(read_checkpoint(tf.save_zip(tmp_path / "model.pt", content)).tensors) == 3


def test_a_compressed_file_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (400_000_000,)})
        for _ in range(100):
            file.write(bytes(4_000_000))
    assert "would become" in refusal(lambda: read_checkpoint(path))


def test_an_array_that_claims_to_be_huge(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "weights.npz", "w") as archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**10,)})
    assert "cannot be read" in refusal(lambda: read_checkpoint(tmp_path / "weights.npz"))


def doubled(depth: int) -> bytes:
    """A pickle of a tuple of two tuples of two tuples…, each of which is stored once."""
    return b"K\x01" + b"2\x86" * depth


@pytest.mark.parametrize("place", ["a proxy's config", "hyper-parameters"])
@pytest.mark.parametrize("value", ["a tower of tuples", "a number of 100,000 digits", "a long text"])
def test_a_value_that_takes_long_to_show(tmp_path: Path, place: str, value: str) -> None:
    mark = "replace me"
    parts = {
        "a tower of tuples": doubled(60),
        "a number of 100,000 digits": b"\x8b" + struct.pack("<i", 50_000) + b"\x7f" * 50_000,
        "a long text": b"X" + struct.pack("<I", 3_000_000) + b"x" * 3_000_000,
    }
    if place == "a proxy's config":
        path = proxy_file(tmp_path / "proxy.pt", embed_dim=mark)
    else:
        content = {"state_dict": tf.state_dict(source_weights(RESNET)), "hyper_parameters": {"sample_rate": mark}}
        path = tf.save_zip(tmp_path / "model.pt", content)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in members.items():
            quoted = b"X" + struct.pack("<I", len(mark)) + mark.encode()
            archive.writestr(name, part.replace(quoted, parts[value]) if name.endswith("data.pkl") else part)
    assert re.search("embed_dim|sample_rate", refusal(lambda: load(path), ConfigError))


# ONNX


def graph_file(path: Path, nodes: list[Any], tensors: list[Any]) -> Path:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], tensors)
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


@pytest.mark.parametrize("op", ["Identity", "Relu", "Cast", "Transpose", "Add"])
@pytest.mark.parametrize("length", [1, 3])
def test_a_graph_with_a_circle(tmp_path: Path, op: str, length: int) -> None:
    weight = numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["v0"])]
    ring = [f"r{i}" for i in range(length)]
    for i, name in enumerate(ring):
        nodes.append(helper.make_node(op, [ring[i - 1], *(["v0"] if op == "Add" else [])], [name]))
    nodes.append(helper.make_node("Relu", ["r0"], ["y"]))
    path = graph_file(tmp_path / "model.onnx", nodes, [weight])
    assert "not in the order of computation" in refusal(lambda: load(path))


def test_a_value_that_two_nodes_give(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Relu", ["y"], ["y"])]
    assert "order of computation" in refusal(lambda: load(graph_file(tmp_path / "model.onnx", nodes, [])))


def outside(name: str, location: str, size: int, offset: int = 0) -> Any:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[size], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", 4 * size)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def test_tensors_in_a_file_beside(tmp_path: Path) -> None:
    data = np.arange(10, dtype="<f4")
    (tmp_path / "blob").write_bytes(data.tobytes())
    (tmp_path / "model.onnx.data").symlink_to("blob")  # as in the Hub's cache
    tensors = [outside("a", "model.onnx.data", 4), outside("b", "model.onnx.data", 6, 16)]
    nodes = [helper.make_node("Add", ["x", "a"], ["y"])]
    checkpoint = read_checkpoint(graph_file(tmp_path / "model.onnx", nodes, tensors))
    assert checkpoint.graph is not None
    assert checkpoint.graph.constants["b"].tolist() == data[4:].tolist()
    assert checkpoint.shards == [tmp_path / "model.onnx.data"]


@pytest.mark.parametrize("location", ["", ".", "..", "../blob", "/etc/passwd", "none", "sub/blob"])
def test_tensors_in_a_file_that_is_not_beside(tmp_path: Path, location: str) -> None:
    (tmp_path / "sub").mkdir()
    for path in (tmp_path / "blob", tmp_path / "sub/blob"):
        path.write_bytes(bytes(16))
    nodes = [helper.make_node("Add", ["x", "a"], ["y"])]
    path = graph_file(tmp_path / "sub/model.onnx", nodes, [outside("a", location, 4)])
    if location == "sub/blob":
        path = graph_file(tmp_path / "model.onnx", nodes, [outside("a", location, 4)])
    assert "not beside it" in refusal(lambda: read_checkpoint(path))


def test_tensors_that_share_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(bytes(4_000_000))
    tensors = [outside(f"a{i}", "blob", 1_000_000) for i in range(1000)]
    nodes = [helper.make_node("Add", ["x", "a0"], ["y"])]
    path = graph_file(tmp_path / "model.onnx", nodes, tensors)
    assert "names more of it than it has" in refusal(lambda: read_checkpoint(path))


# Settings


def numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in plain data the numbers stand."""
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(item, (*path, key))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path


@pytest.mark.parametrize("huge", [10**7, 10**9, 10**12, 10**100, 1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("name", [*TINY, "lid", "wav2vec2"])
def test_a_config_with_a_huge_number(tmp_path: Path, name: str, huge: float) -> None:
    """Each number of a converted config in turn."""
    if name == "wav2vec2":
        source = hf_folder(tmp_path / "source")
    elif name == "lid":
        source = speechbrain_folder(tmp_path / "source", LID)
    else:
        source = wespeaker_folder(tmp_path / "source", TINY[name])
    config = convert(source, tmp_path / "out") / "config.json"
    original = json.loads(config.read_text())
    original.pop("source")
    harmless = {"scale", "layer_norm_eps", "single_pass", "window"}
    for path in numbers(original):
        changed = json.loads(json.dumps(original))
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = type(place[path[-1]])(huge) if huge in (10**7, 10**9) else huge
        config.write_text(json.dumps(changed))
        try:
            load(tmp_path / "out")
        except SpeechZooError as error:
            assert len(str(error)) < 500
        else:
            assert {*path} & harmless or path[-1] in UNUSED, path


UNUSED = {"output_hidden_size", "adapter_kernel_size", "adapter_stride", "num_adapter_layers", "num_attention_heads"}


@pytest.mark.parametrize("count", [10**7, 10**12, 10**100])
def test_a_source_that_claims_a_huge_number_of_labels(tmp_path: Path, count: int) -> None:
    folder = hf_folder(tmp_path / "source", id2label=..., label2id=..., num_labels=count)
    assert "classes" in refusal(lambda: load(folder), ConfigError)


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "num_conv_pos_embeddings", "classifier_proj_size"])
@pytest.mark.parametrize("huge", [10**7, 10**12])
def test_a_source_that_claims_a_huge_size(tmp_path: Path, key: str, huge: int) -> None:
    refusal(lambda: load(hf_folder(tmp_path / "source", **{key: huge})), ConfigError)


@pytest.mark.parametrize("name", ["config.yaml", "hyperparams.yaml"])
@pytest.mark.parametrize("text", ["- a\n" * 1_250_000, "[" * 5_000_000, "a: &a [1]\n" * 500_000, "#" * 5_000_000])
def test_five_megabytes_of_yaml(tmp_path: Path, name: str, text: str) -> None:
    if name == "config.yaml":
        folder = wespeaker_folder(tmp_path / "source", RESNET)
    else:
        folder = speechbrain_folder(tmp_path / "source", ECAPA)
    (folder / name).write_text(text)
    assert "too large for a file of settings" in refusal(lambda: load(folder), ConfigError)


def test_settings_of_the_size_that_people_write(tmp_path: Path) -> None:
    settings = wespeaker_yaml(RESNET, "ResNet34") | {"notes": ["x" * 60] * 800}
    assert load(wespeaker_folder(tmp_path / "source", RESNET, settings=settings)).config.embed_dim == 8


def test_a_file_of_labels_of_many_megabytes(tmp_path: Path) -> None:
    folder = speechbrain_folder(tmp_path / "source", LID)
    (folder / "label_encoder.txt").write_text("'a' => 0\n" * 2_000_000)
    assert "too large" in refusal(lambda: load(folder), ConfigError)


def test_messages_are_short_and_cannot_move_the_cursor() -> None:
    assert str(SpeechZooError("a\x1b[2Jb\u202ec\ud800\nd")) == r"a\x1b[2Jb\u202ec\ud800 d"
    assert len(str(SpeechZooError("x" * 10**6))) < 11_000
    assert shown("x" * 10**6).startswith("'xxx")
    assert len(shown(["x" * 100] * 1000)) < 1200
