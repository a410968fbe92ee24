"""One graph for every length and every batch: formulas of sizes, found and checked."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from export_sessions import BATCH, check, normal, run, session
from hypothesis import given, settings
from hypothesis import strategies as st
from speech_zoo_export import Axis, ExportError, trace
from speech_zoo_export.formulas import Formulas
from speech_zoo_export.lengths import Length, floors, formula_of

TIME = Axis("time", 20, 3000)
CHANNELS = 3


def at(*sizes: tuple[int, int]) -> list[list[np.ndarray]]:
    return [[normal(batch, length, CHANNELS, seed=length)] for batch, length in sizes]


def frames(size: int, segment: int) -> int:
    return math.ceil(size / segment)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    k=st.integers(1, 100),
    add=st.integers(0, 400),
    by=st.integers(2, 400),
    start=st.integers(-5, 5),
    sizes=st.lists(st.integers(20, 9000), min_size=6, max_size=12, unique=True),
)
def test_floors_hold_the_formula(k: int, add: int, by: int, start: int, sizes: list[int]) -> None:
    values = [k * ((size + add) // by) + start for size in sizes]
    rows = floors(sizes, values)
    for row in rows:
        formula = formula_of(row, "n")
        assert [formula.at({"n": size}) for size in sizes] == values
    steps = {value // k for value in values}
    if len(steps) > 2 and math.gcd(*(value - values[0] for value in values)) in (k, 2 * k, 3 * k, 4 * k):
        wanted = [(k, add % by, by)]
        assert any((row[0], row[1], row[2]) == wanted[0] for row in rows.tolist())


def test_strides_paddings_and_segments() -> None:
    weight = mx.array(normal(4, 5, CHANNELS))

    def fn(x: mx.array) -> mx.array:
        x = mx.conv1d(x, weight, stride=2, padding=2)
        batch, length, channels = x.shape
        count = frames(length, 100)
        padded = mx.pad(x, [(0, 0), (0, count * 100 - length), (0, 0)])
        sums = mx.sum(padded.reshape(batch, count, 100, channels), axis=2)
        means = sums / mx.minimum(length - 100 * mx.arange(count), 100)[None, :, None]
        return x * mx.repeat(means, 100, axis=1)[:, :length] - mx.mean(x, axis=1, keepdims=True)

    sizes = [
        (1, 20),
        (1, 198),
        (1, 199),
        (1, 200),
        (1, 201),
        (2, 400),
        (2, 401),
        (3, 1999),
        (1, 2000),
        (1, 2001),
        (5, 37),
    ]
    graph = check(fn, *at((1, 50))[0], axes=[{0: BATCH, 1: TIME}], others=at(*sizes))
    formulas = Formulas(graph)
    lengths = {
        formulas.find(size).at({"time": 401, "batch": 1}) for size in graph.outputs[0].shape if isinstance(size, Length)
    }
    assert lengths == {1, 201}


@settings(deadline=None, derandomize=True, max_examples=6)
@given(kernel=st.integers(1, 5), stride=st.integers(1, 7), second=st.integers(1, 5), shift=st.integers(1, 160))
def test_random_strides(kernel: int, stride: int, second: int, shift: int) -> None:
    one, two = mx.array(normal(4, kernel, CHANNELS)), mx.array(normal(2, 2, 4))

    def fn(x: mx.array) -> tuple[mx.array, mx.array]:
        y = mx.conv1d(mx.conv1d(x, one, stride), two, second)
        return y, x[:, : x.shape[1] // shift * shift].reshape(len(x), -1, shift, CHANNELS)

    others = at(*((2, size) for size in (171, 160 * 3, shift * 11 + 160, shift * 11 + 159, 1234)))
    check(fn, *at((1, 400))[0], axes=[{0: BATCH, 1: Axis("time", 165, 3000)}], others=others, limit=2e-5)


def test_constants_that_differ() -> None:
    def fn(x: mx.array) -> mx.array:
        size = x.shape[1]
        return x * mx.array([[[1.0 / size]]]) + mx.array([size, 2 * size + 1, 7]) + mx.var(x, axis=1, ddof=1)[:, None]

    check(fn, *at((1, 50))[0], axes=[{0: BATCH, 1: TIME}], others=at((1, 21), (3, 777)))


def test_reversed_and_mirrored() -> None:
    def fn(x: mx.array) -> mx.array:
        mirrored = mx.concatenate([x[:, 1:4][:, ::-1], x, x[:, -4:-1][:, ::-1]], axis=1)
        return mirrored[:, ::-1] + mirrored[:, -1:] + mirrored[:, x.shape[1] // 2 :][:, :1]

    graph = check(fn, *at((1, 50))[0], axes=[{0: BATCH, 1: TIME}], others=at((1, 21), (3, 777)))
    assert [node.attrs["mode"] for node in graph.nodes if node.op == "Pad"] == ["reflect"]


def test_one_input_of_a_batch_beside_another() -> None:
    def fn(x: mx.array, lengths: mx.array) -> mx.array:
        mask = (mx.arange(x.shape[1])[None] < lengths[:, None])[..., None]
        return mx.sum(mx.where(mask, x, 0), axis=1) / lengths[:, None]

    def inputs(batch: int, size: int) -> list[np.ndarray]:
        return [normal(batch, size, CHANNELS), np.arange(size - batch, size, dtype=np.int32) + 1]

    others = [inputs(1, 20), inputs(4, 300)]
    check(fn, *inputs(2, 50), axes=[{0: BATCH, 1: TIME}, {0: BATCH}], others=others)


def test_names_stand_at_inputs_and_outputs() -> None:
    graph = trace(
        lambda x: (nn.relu(x), mx.sum(x, axis=1), x[:, ::2]), mx.zeros((1, 50, 3)), axes=[{0: BATCH, 1: TIME}]
    )
    ready = session(graph)
    assert ready.get_inputs()[0].shape == ["batch", "time", 3]
    assert [value.shape[:2] for value in ready.get_outputs()] == [["batch", "time"], ["batch", 3], ["batch", None]]


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (lambda x: x[:, : int(x.shape[1] ** 0.5)] * 1, "a size has no formula: .*time"),
        (lambda x: mx.exp(x) if x.shape[1] % 2 else mx.sin(x), "other steps at other sizes: .*(Exp|Sin)"),
        (lambda x: x * (x.shape[1] + 0.25), "constant differs with the sizes"),
        (lambda x: x + mx.array(np.ones((x.shape[1], 3), np.float32)), "constant array of shape .* differs"),
    ],
)
def test_what_has_no_formula_is_an_error(fn: object, says: str) -> None:
    with pytest.raises(ExportError, match=says):
        session(trace(fn, mx.zeros((1, 50, 3)), axes=[{0: BATCH, 1: TIME}]))  # type: ignore[arg-type]


def test_two_lengths_are_an_error() -> None:
    axes = [{0: Axis("rows", 2, 9)}, {0: Axis("columns", 2, 9)}]
    with pytest.raises(ExportError, match="rows, columns vary; one may"):
        trace(lambda x, y: x[:, None] * y[None], mx.zeros((3,)), mx.zeros((4,)), axes=axes)
    with pytest.raises(ValueError, match="sizes of axis time from 0"):
        Axis("time", 0, 3)


def test_without_axes_one_size_is_served() -> None:
    ready = session(trace(lambda x: mx.mean(x, axis=0), mx.zeros((4, 3))))
    assert ready.get_inputs()[0].shape == [4, 3]
    assert np.allclose(run(ready, normal(4, 3))[0], normal(4, 3).mean(axis=0), atol=1e-6)
