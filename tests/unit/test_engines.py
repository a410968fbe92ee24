"""The engines: which one computes, that it gives what MLX gives, and what is kept of the graphs."""

import copy
import logging
import pickle
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import small_models
import speech_zoo
from pyannet_files import lightning
from source_weights import source_weights
from speech_zoo.engines import choice, graphs, ort
from speech_zoo.engines.ort import OnnxRuntime
from speech_zoo.settings import DEFAULT_MODEL
from speech_zoo_core import device
from speech_zoo_core.errors import ConfigError, InputError
from speech_zoo_core.extras import how_to_install
from speech_zoo_core.layers import parameters, quantize
from tiny_models import CONFIGS, RATE, model_of, tiny_model, tiny_source, voice
from wav2vec2_files import VARIANTS, hf_folder, source_tensors

LIMIT = 1e-5  # of the largest number


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without graphs."""
    monkeypatch.setenv("SPEECH_ZOO_CACHE", str(tmp_path / "home"))
    return tmp_path / "home" / "graphs"


def on_onnxruntime(model: Any, threads: int = 1) -> Any:
    """Another model with the same weights, computed by onnxruntime."""
    model = copy.deepcopy(model)
    model.engine = OnnxRuntime(threads, strict=True)
    return model


def close(found: mx.array, expected: mx.array, limit: float = LIMIT) -> bool:
    a, b = np.array(found), np.array(expected)
    return a.shape == b.shape and a.dtype == b.dtype and bool(np.abs(a - b).max() <= limit * np.abs(b).max())


def frames(model: Any, *shape: int) -> mx.array:
    return mx.random.normal((*shape, model.feature_width), key=mx.random.key(shape[-1]))


# What is computed


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.usefixtures("shallow_campplus")
def test_families(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph for all lengths and batches; padded batches give what each clip gives alone."""
    made: list[Any] = []
    trace = graphs.traced
    monkeypatch.setattr(graphs, "traced", lambda *given: made.append(trace(*given)) or made[-1])
    plain = model_of(CONFIGS[name], source_weights(CONFIGS[name]))
    model = on_onnxruntime(plain)
    for batch, length in ((1, 20), (1, 120), (1, 199), (1, 200), (2, 201), (3, 57), (1, 400), (1, 1001)):
        x = frames(plain, batch, length)
        assert close(model(x), plain(x), 1e-5), (batch, length)
    x, lengths = frames(plain, 2, 80), mx.array([80, 41])
    assert close(model(x, lengths), plain(x, lengths), 5e-5)
    assert len(made) == len(list(home.iterdir())) == 1
    if CONFIGS[name].model_type != "redimnet":  # whose maps turn into sequences and back, and which attends
        attentive = name in ("basic_astp", "simam")  # on the frames of an image
        ops = [node.op for node in made[0].nodes]
        assert ops.count("Transpose") == (4 if attentive else 1)  # the input's


def test_clips_of_one_length_are_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = on_onnxruntime(tiny_model("basic"))
    shapes: list[tuple[int, ...]] = []
    compute = ort.Graph.__call__
    monkeypatch.setattr(ort.Graph, "__call__", lambda self, x: shapes.append(x.shape) or compute(self, x))
    clips = [voice(size, seed) for seed, size in enumerate([RATE * 3] * 3 + [RATE * 2] + [RATE * 3] * 4)]
    batch = model.embed_batch(clips, RATE)
    assert sorted(shape[0] for shape in shapes) == [1, 1, 2, 4]  # at most 20 s, by powers of two
    for clip, row in zip(clips, batch, strict=True):
        assert close(row, model.embed(clip, RATE))


@pytest.mark.parametrize(
    ("version", "option"),
    [("1.25.1", ("session.intra_op.allow_spinning", "0")), ("1.26.0", ("session.intra_op.spin_duration_us", "100"))],
)
def test_idle_threads_soon_sleep(version: str, option: tuple[str, str]) -> None:
    assert ort._idle(version) == option


def test_the_memory_of_a_long_clip_is_given_back() -> None:
    asked: list[str | None] = []

    class Session:
        def run(self, outputs: None, inputs: Any, options: Any) -> Any:
            asked.append(options and options.get_run_config_entry("memory.enable_memory_arena_shrinkage"))
            return [inputs["x0"]]

    for seconds in (10, 90):
        ort.Graph(Session())(np.zeros((1, seconds * 100, 80), np.float32))
    assert asked == [None, "cpu:0"]


def test_clips_that_are_longer_or_shorter_than_what_was_traced() -> None:
    plain = tiny_model("basic")
    model = on_onnxruntime(plain)
    for length in (plain.min_frames, graphs.LONGEST + 1234):
        x = frames(plain, 1, length)
        assert close(model(x), plain(x), 2e-5)


@pytest.mark.parametrize("variant", [0, len(VARIANTS) - 1])
def test_wav2vec2(variant: int, tmp_path: Path) -> None:
    settings = list(VARIANTS.values())[variant]
    folder = hf_folder(tmp_path / "model", source_tensors(**settings), **settings)
    plain, model = (speech_zoo.load(folder, engine=engine) for engine in ("mlx", "onnxruntime"))
    for batch, length in ((1, plain.min_frames), (2, 7999), (1, 250_000)):
        x = frames(plain, batch, length)
        assert close(model(x), plain(x))
    clips = [(voice(9000, 0), RATE), (voice(12345, 1), RATE)]
    for a, b in zip(model.predict_batch(clips), plain.predict_batch(clips), strict=True):
        assert [row.label for row in a] == [row.label for row in b]
        assert np.allclose([row.logit for row in a], [row.logit for row in b], atol=1e-4)


def test_pyannet_has_a_graph_for_each_length(home: Path, tmp_path: Path) -> None:
    plain = speech_zoo.load(lightning(tmp_path / "pytorch_model.bin"), engine="mlx")
    model = on_onnxruntime(plain)
    for batch, samples in ((1, 16000), (3, 16000), (2, 9000)):
        x = mx.array(np.stack([voice(samples, seed) for seed in range(batch)]))
        assert close(model(x), plain(x))
    assert len(list(home.iterdir())) == 2


def test_pyannet_in_half_precision(home: Path, tmp_path: Path) -> None:
    """It computes in float32 all the same."""
    plain = speech_zoo.load(lightning(tmp_path / "pytorch_model.bin"), engine="mlx", dtype="float16")
    x = mx.array(voice(16000, 0))[None]
    assert close(on_onnxruntime(plain)(x), plain(x))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision(dtype: mx.Dtype) -> None:
    plain = model_of(CONFIGS["basic"], tiny_source("basic"))
    plain.set_dtype(dtype)
    model, x = on_onnxruntime(plain), frames(plain, 1, 100)
    if dtype == mx.bfloat16:
        with pytest.raises(ConfigError, match="onnxruntime cannot run this resnet34, use --engine mlx: bfloat16"):
            model(x)
    else:
        assert close(model(x).astype(mx.float32), plain(x).astype(mx.float32), 1e-2)


def test_quantized() -> None:
    plain = copy.deepcopy(tiny_model("ecapa_speechbrain"))
    quantize(plain, 8)
    model, x = on_onnxruntime(plain), frames(plain, 2, 90)
    assert close(model(x), plain(x), 1e-4)


def test_methods(tmp_path: Path) -> None:
    plain = tiny_model("basic")
    model = on_onnxruntime(plain)
    clips = [(voice(RATE, seed), RATE) for seed in range(3)] + [(voice(2 * RATE, 3), RATE)]
    together = model.embed_batch(clips)
    assert close(together, plain.embed_batch(clips))
    assert all(mx.array_equal(row, model.embed(clip)) for row, clip in zip(together, clips, strict=True))
    assert model.verify(*clips[:2]).score == pytest.approx(plain.verify(*clips[:2]).score, abs=1e-5)


def test_errors_are_the_same() -> None:
    plain = tiny_model("ecapa_speechbrain")
    model = on_onnxruntime(plain)
    for x, lengths in ((mx.zeros((1, 2, 16)), None), (mx.zeros((1, 50, 3)), None), (mx.zeros((1, 50, 16)), [51])):
        messages = []
        for each in (plain, model):
            with pytest.raises(InputError) as error:
                each(x, None if lengths is None else mx.array(lengths))
            messages.append(str(error.value))
        assert messages[0] == messages[1]


# When MLX computes all the same


def test_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny_model("speaker_proxy")
    model, x = on_onnxruntime(plain), frames(plain, 1, 40)
    model(x)
    found, expected = (mx.grad(lambda x, of=each: of(x).sum())(x) for each in (model, plain))
    assert close(found, expected, 1e-4)
    assert close(mx.vmap(model)(x[None]), plain(x)[None], 1e-4)
    _, grads = nn.value_and_grad(model, lambda m, x: m(x).sum())(model, x)
    assert float(mx.abs(grads["fc"]["weight"]).max()) > 0


def test_new_weights_are_used() -> None:
    model = on_onnxruntime(tiny_model("basic"))
    x = frames(model, 1, 50)
    before = model(x)
    model.seg_1.bias = model.seg_1.bias + 1
    assert close(model(x), before + 1)
    model.seg_1.bias[:] = model.seg_1.bias + 1  # in place
    assert close(model(x), before + 2)


# Which engine computes


def test_names() -> None:
    for engine in ("tensorrt", "", None):
        with pytest.raises(ConfigError, match=r"unknown engine .*; use auto, mlx, onnxruntime, coreml"):
            choice.chosen(engine)  # type: ignore[arg-type]
    for threads in (0, -1, True, 1.5, "2"):
        with pytest.raises(ConfigError, match="threads is a whole number from 1 on"):
            choice.chosen("onnxruntime", threads)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="threads go with the engine onnxruntime, not with mlx"):
        choice.chosen("mlx", 2)


def test_automatic(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choice.chosen("mlx") is None
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    assert choice.chosen() is None
    monkeypatch.setattr(device, "on_cpu", lambda: True)
    engine = choice.chosen()
    assert isinstance(engine, OnnxRuntime) and engine.threads == choice.cores() and not engine.strict
    assert isinstance(choice.chosen("auto", 3), OnnxRuntime)


@pytest.mark.parametrize("missing", ["onnxruntime", "onnx"])
def test_what_is_not_installed(missing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(device, "on_cpu", lambda: True)
    monkeypatch.setattr(choice, "_installed", lambda name: name != missing)
    choice._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "speech_zoo"):
        assert choice.chosen() is None and choice.chosen() is None
    assert [record.message for record in caplog.records] == [
        "warning: models are computed by MLX here, which is slow on a CPU, as "
        f"{missing} is not installed: {how_to_install('cpu')}"
    ]
    with pytest.raises(ConfigError, match=f"the engine onnxruntime needs {missing}: pip install"):
        choice.chosen("onnxruntime")


def test_core_ml_is_for_macs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ConfigError, match="runs on a Mac only"):
        choice.chosen("coreml")
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(choice, "_installed", lambda name: False)
    with pytest.raises(ConfigError, match="needs coremltools: pip install 'coremltools>=8'"):
        choice.chosen("coreml")


def test_a_model_without_a_graph(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Automatically it is left to MLX, with one line; whoever asked for onnxruntime is told."""
    plain = model_of(CONFIGS["basic"], tiny_source("basic"))
    plain.set_dtype(mx.bfloat16)
    monkeypatch.setattr(small_models, "largest", 0)
    model, x = copy.deepcopy(plain), frames(plain, 1, 60)
    model.engine = OnnxRuntime(1, strict=False)
    with caplog.at_level(logging.WARNING, "speech_zoo"):
        assert mx.array_equal(model(x), plain(x)) and mx.array_equal(model(x), plain(x))
    (record,) = caplog.records
    assert record.message.startswith("warning: MLX computes this resnet34, as onnxruntime cannot: bfloat16")


def test_a_graph_that_onnxruntime_refuses(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny_model("basic")
    monkeypatch.setattr(graphs, "to_keep", lambda *_: (b"no graph", {}))
    with pytest.raises(ConfigError, match=r"cannot run this resnet34, use --engine mlx: .*INVALID_PROTOBUF"):
        on_onnxruntime(plain)(frames(plain, 1, 60))


# What is kept


def test_kept_graphs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced once for all processes; anew for other weights, another config, a file that is damaged or another's."""
    plain, traced = tiny_model("basic"), []
    trace = graphs.traced
    monkeypatch.setattr(graphs, "traced", lambda *given: traced.append(1) or trace(*given))
    x = frames(plain, 1, 50)
    expected = on_onnxruntime(plain)(x)
    assert mx.array_equal(on_onnxruntime(plain)(x), expected) and len(traced) == 1
    (file,) = home.iterdir()
    whole = file.read_bytes()
    other = tiny_model("bottleneck")
    on_onnxruntime(other)(frames(other, 1, 50))
    (foreign,) = (path for path in home.iterdir() if path != file)
    for content in (whole[: len(whole) // 2], b"", b"\xff" * 100, foreign.read_bytes()):
        file.write_bytes(content)
        count = len(traced)
        assert mx.array_equal(on_onnxruntime(plain)(x), expected) and len(traced) == count + 1
        assert mx.array_equal(on_onnxruntime(plain)(x), expected) and len(traced) == count + 1
    changed = copy.deepcopy(plain)
    changed.seg_1.bias = changed.seg_1.bias + 1
    assert close(on_onnxruntime(changed)(x), expected + 1)
    assert len(list(home.iterdir())) == 3


def test_the_default_model_need_not_be_traced(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this fails, `nox -s graphs` writes its graph anew. Another's weights get a graph of their own."""
    plain, traced = speech_zoo.load(DEFAULT_MODEL, dtype="float32", engine="mlx"), []
    trace = graphs.traced
    monkeypatch.setattr(graphs, "traced", lambda *given: traced.append(1) or trace(*given))
    x = frames(plain, 2, 150)
    assert close(on_onnxruntime(plain)(x), plain(x)) and close(on_onnxruntime(plain)(x), plain(x))
    assert not traced and len(list(home.iterdir())) == 1
    changed = copy.deepcopy(plain)
    dense = changed.xvector["dense"]["linear"]
    dense.bias = dense.bias + 1
    assert close(on_onnxruntime(changed)(x), plain(x) + 1) and len(traced) == 1


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_weights_of_a_large_model_are_not_copied(
    bits: int | None, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = speech_zoo.load(hf_folder(tmp_path / "model"), engine="mlx")
    if bits is not None:
        quantize(plain, bits, 32)
    monkeypatch.setattr(graphs, "LARGEST", 0)
    monkeypatch.setattr("speech_zoo_export.onnx.WEIGHT_BYTES", 0)
    model = on_onnxruntime(plain)
    for x in (frames(plain, 1, 5000), frames(plain, 2, 9000)):
        assert close(model(x), plain(x), 2e-5 if bits is None else 1e-3)
    graph = model.engine._sessions[None]
    own = [np.array(value, copy=False) for value in parameters(model).values()]
    assert len(graph.weights) > 5
    assert all(any(np.shares_memory(weight, array) for array in own) for weight in graph.weights.values())
    assert not home.exists()


def test_old_graphs_go(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_KEPT", 1)
    for name in ("basic", "bottleneck"):
        model = on_onnxruntime(tiny_model(name))
        model(frames(model, 1, 50))
    assert [path.name.startswith("resnet34-") for path in home.iterdir()] == [True]


def test_nothing_is_kept_where_nothing_can_be_written(home: Path) -> None:
    home.parent.parent.mkdir(exist_ok=True)
    home.parent.write_text("a file")
    plain = tiny_model("basic")
    x = frames(plain, 1, 50)
    assert close(on_onnxruntime(plain)(x), plain(x))


# Threads and copies


def test_many_threads_at_once() -> None:
    model = on_onnxruntime(tiny_model("basic"))
    inputs = [np.array(frames(model, 1, 40 + i)) for i in range(8)]
    expected = [np.array(tiny_model("basic")(mx.array(x))) for x in inputs]
    found: dict[int, Any] = {}

    def work(i: int) -> None:
        found[i] = np.array(model(mx.array(inputs[i])))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.allclose(found[i], expected[i], atol=1e-4) for i in range(8))


def test_copies() -> None:
    model = on_onnxruntime(tiny_model("basic"), threads=2)
    x = frames(model, 1, 50)
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.engine.name == "onnxruntime" and other.engine.threads == 2
        assert mx.array_equal(other(x), expected)


@pytest.mark.usefixtures("on_a_gpu")
def test_on_a_gpu_the_engine_takes_clips_of_one_length() -> None:
    plain = tiny_model("basic")
    clips = [(voice(size, 0), RATE) for size in (9000, 16000, 9000)]
    assert close(on_onnxruntime(plain).embed_batch(clips), mx.stack([plain.embed(clip) for clip in clips]))


# Core ML


def test_core_ml(core_ml_here: Any) -> None:
    plain = tiny_model("basic")
    model = copy.deepcopy(plain)
    model.engine = core_ml_here
    for length in (50, 70, 50):
        x = frames(plain, 1, length)
        a, b = np.array(model(x))[0], np.array(plain(x))[0]
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= 0.9999


def test_core_ml_computes_in_float32_what_float16_cannot_hold(core_ml_here: Any, tmp_path: Path) -> None:
    plain = speech_zoo.load(lightning(tmp_path / "pytorch_model.bin"), engine="mlx")
    model = copy.deepcopy(plain)
    model.engine = core_ml_here
    x = mx.array(voice(80000, 1))[None, :, None]
    assert close(model(x), plain(x), 1e-4)
