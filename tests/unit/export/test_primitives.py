"""Every primitive of MLX that has a form in a graph, in ONNX Runtime against MLX, on random shapes."""

import mlx.core as mx
import numpy as np
import pytest
from export_sessions import assert_close, check, normal, results, run, session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from speech_zoo_core.device import while_tracing
from speech_zoo_core.recurrent import BiLSTM
from speech_zoo_export import ExportError, trace, whole
from speech_zoo_export.lower import HANDLERS

quick = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 2**16)

UNARY = {  # name of the primitive: function, and the interval it is tried on
    "Abs": (mx.abs, -3, 3),
    "ArcCos": (mx.arccos, -0.9, 0.9),
    "ArcCosh": (mx.arccosh, 1.1, 9),
    "ArcSin": (mx.arcsin, -0.9, 0.9),
    "ArcSinh": (mx.arcsinh, -3, 3),
    "ArcTan": (mx.arctan, -3, 3),
    "ArcTanh": (mx.arctanh, -0.9, 0.9),
    "Ceil": (mx.ceil, -3, 3),
    "Copy": (lambda x: x + 0, -3, 3),
    "Cos": (mx.cos, -9, 9),
    "Cosh": (mx.cosh, -3, 3),
    "Erf": (mx.erf, -3, 3),
    "Exp": (mx.exp, -5, 5),
    "Expm1": (mx.expm1, -3, 3),
    "Floor": (mx.floor, -3, 3),
    "Log": (lambda x: (mx.log(x), mx.log2(x), mx.log10(x)), 0.1, 9),
    "Log1p": (mx.log1p, -0.9, 9),
    "LogicalNot": (lambda x: mx.logical_not(x > 0), -3, 3),
    "Negative": (mx.negative, -3, 3),
    "Round": (mx.round, -3, 3),
    "Sigmoid": (mx.sigmoid, -9, 9),
    "Sign": (mx.sign, -3, 3),
    "Sin": (mx.sin, -9, 9),
    "Sinh": (mx.sinh, -3, 3),
    "Sqrt": (lambda x: (mx.sqrt(x), mx.rsqrt(x)), 0.1, 9),
    "Square": (mx.square, -3, 3),
    "StopGradient": (lambda x: mx.stop_gradient(x * 2), -3, 3),
    "Tan": (mx.tan, -1, 1),
    "Tanh": (mx.tanh, -3, 3),
}
BINARY = {
    "Add": mx.add,
    "ArcTan2": mx.arctan2,
    "Divide": mx.divide,
    "DivMod": lambda x, y: tuple(mx.divmod(x, y)),
    "Equal": lambda x, y: mx.equal(mx.round(x), mx.round(y)),
    "FloorDivide": mx.floor_divide,
    "Greater": mx.greater,
    "GreaterEqual": mx.greater_equal,
    "Less": mx.less,
    "LessEqual": mx.less_equal,
    "LogAddExp": mx.logaddexp,
    "LogicalAnd": lambda x, y: mx.logical_and(x > 0, y > 0),
    "LogicalOr": lambda x, y: mx.logical_or(x > 0, y > 0),
    "Maximum": mx.maximum,
    "Minimum": mx.minimum,
    "Multiply": mx.multiply,
    "NotEqual": lambda x, y: mx.not_equal(mx.round(x), mx.round(y)),
    "Power": lambda x, y: mx.power(mx.abs(x) + 0.1, y),
    "Remainder": mx.remainder,
    "Select": lambda x, y: mx.where(x > 0, x, y),
    "Subtract": mx.subtract,
}
REDUCTIONS = {
    "ArgReduce": lambda x, axis: (mx.argmax(x, axis=axis), mx.argmin(x, axis=axis, keepdims=True)),
    "LogSumExp": lambda x, axis: mx.logsumexp(x, axis=axis),
    "Reduce": lambda x, axis: (
        mx.sum(x, axis=axis),
        mx.prod(x, axis=axis, keepdims=True),
        mx.min(x, axis=axis),
        mx.max(x, axis=axis, keepdims=True),
        mx.all(x > -1, axis=axis),
        mx.any(x > 1, axis=axis),
        mx.sum(x > 0, axis=axis),
        mx.mean(x),
        mx.var(x, axis=axis, keepdims=True),
    ),
    "Scan": lambda x, axis: (
        mx.cumsum(x, axis=axis),
        mx.cumsum(x, axis=axis, reverse=True, inclusive=False),
    ),
    "Softmax": lambda x, axis: mx.softmax(x, axis=axis),
    "Sort": lambda x, axis: mx.sort(x, axis=axis),
    "ArgSort": lambda x, axis: mx.argsort(x, axis=axis),
}
TESTED_BELOW = set(
    "AddMM Arange AsStrided AsType BitwiseBinary Broadcast Concatenate Convolution ExpandDims FFT Flatten Full Gather "
    "GatherAxis Imag LSTM Matmul Pad QuantizedMatmul Real Reshape Slice SliceUpdate Split Squeeze "
    "Transpose Unflatten".split()
)


def test_each_primitive_is_tested() -> None:
    assert {*UNARY, *BINARY, *REDUCTIONS, *TESTED_BELOW} == set(HANDLERS)


@pytest.mark.parametrize("name", UNARY)
@quick
@given(shape=shapes, seed=seeds)
def test_unary(name: str, shape: tuple[int, ...], seed: int) -> None:
    fn, low, high = UNARY[name]
    check(fn, np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32))


@pytest.mark.parametrize("name", BINARY)
@quick
@given(shape=shapes, seed=seeds, ones=st.lists(st.booleans(), min_size=4, max_size=4), dropped=st.integers(0, 3))
def test_binary(name: str, shape: tuple[int, ...], seed: int, ones: list[bool], dropped: int) -> None:
    other = tuple(1 if one else size for size, one in zip(shape, ones, strict=False))[min(dropped, len(shape)) :]
    check(BINARY[name], normal(*shape, seed=seed), normal(*other, seed=seed + 1))


@pytest.mark.parametrize("name", REDUCTIONS)
@quick
@given(shape=shapes, seed=seeds, axis=st.integers(-4, 3))
def test_reductions(name: str, shape: tuple[int, ...], seed: int, axis: int) -> None:
    axis = max(-len(shape), min(axis, len(shape) - 1))
    check(lambda x: REDUCTIONS[name](x, axis), normal(*shape, seed=seed))


@pytest.mark.parametrize("to", [mx.float16, mx.float32, mx.int32, mx.int64, mx.bool_])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int32, np.int64, np.bool_])
def test_as_type(dtype: type, to: mx.Dtype) -> None:
    check(lambda x: x.astype(to), np.array([[0, 1, 2.6], [-3.2, 4, 0.2]]).astype(dtype))


@quick
@given(a=st.integers(-9, 9), b=st.integers(1, 9), shape=shapes)
def test_integers(a: int, b: int, shape: tuple[int, ...]) -> None:
    x = (np.arange(np.prod(shape)).reshape(shape) - 3).astype(np.int32)
    check(lambda x: (x * a + b, mx.abs(x) // b, x % b, mx.maximum(x, a), mx.sum(x), -x, x > a), x)
    check(lambda x: (x & b, x | b, x ^ b, (x > 0) & (x < 3), (x > 0) | (x < 3), (x > 0) ^ (x < 3)), x)


@quick
@given(shape=shapes, order=st.permutations(range(4)), seed=seeds)
def test_views(shape: tuple[int, ...], order: list[int], seed: int) -> None:
    perm = [axis for axis in order if axis < len(shape)]
    check(
        lambda x: (
            mx.transpose(x, perm),
            mx.transpose(x, perm).reshape(-1),
            mx.transpose(x * 2, perm).reshape(1, -1) + 1,
            mx.flatten(mx.expand_dims(x, 0), 0, 1),
            mx.squeeze(mx.expand_dims(x, 1), 1),
            mx.unflatten(x, 0, (1, -1)),
            mx.repeat(x, 3, axis=0),
            mx.tile(x, (2,) + (1,) * (len(shape) - 1)),
            mx.broadcast_to(x[None], (2, *shape)),
            mx.full(shape, 2.0) + x,
        ),
        normal(*shape, seed=seed),
    )


@quick
@given(size=st.integers(3, 9), start=st.integers(-9, 9), stop=st.integers(-9, 9), step=st.sampled_from([1, 2, -1, -2]))
def test_slices(size: int, start: int, stop: int, step: int) -> None:
    x = normal(2, size, 3)
    if len(range(size)[start:stop:step]):
        check(lambda x: x[:, start:stop:step], x)
    check(lambda x: (x[:, ::-1], x[:, -2], x[..., 1:], x[:, 1:][:, :-1], x[:, 1:3][:, ::-1], mx.roll(x, 1, axis=1)), x)
    check(lambda x: tuple(mx.split(x, [1, 2], axis=1)), x)


@quick
@given(size=st.integers(4, 9), start=st.integers(0, 2), count=st.integers(1, 2), seed=seeds)
def test_writes(size: int, start: int, count: int, seed: int) -> None:
    def write(x: mx.array, y: mx.array) -> tuple[mx.array, ...]:
        z = mx.array(x) * 1
        z[:, start : start + count] = y[:, :count]
        w = x * 1
        w[1, start:, 1] = 5.0
        filled = mx.zeros(x.shape)
        filled[:, start : start + count] = y[:, :count]
        return z, w, filled, x.at[:, start].add(y[:, 0]), x.at[:, start].maximum(0.0), z[:, start : start + count] * 2

    check(write, normal(2, size, 3, seed=seed), normal(2, 2, 3, seed=seed + 1))


@quick
@given(before=st.integers(0, 3), after=st.integers(0, 3), seed=seeds)
def test_pads(before: int, after: int, seed: int) -> None:
    widths = [(0, 0), (before, after), (1, 0)]
    x = normal(2, 5, 3, seed=seed)
    check(
        lambda x: (mx.pad(x, widths, constant_values=3), mx.pad(x, widths)[:, 1:4], mx.pad(x, widths, mode="edge")), x
    )


@quick
@given(parts=st.lists(st.integers(1, 4), min_size=1, max_size=4), axis=st.integers(-2, 1))
def test_concatenate(parts: list[int], axis: int) -> None:
    arrays = [normal(*((n, 3) if axis % 2 == 0 else (3, n)), seed=n) for n in parts]
    check(lambda *xs: (mx.concatenate(xs, axis=axis), mx.stack([xs[0], xs[0] + 1], axis=axis)), *arrays)


@quick
@given(seed=seeds, size=st.integers(2, 6))
def test_gathers(seed: int, size: int) -> None:
    x, at = normal(3, size, 4, seed=seed), np.random.default_rng(seed).integers(0, size, (2, 3)).astype(np.int32)
    fixed = mx.array([1, 0])
    check(lambda x, at: (x[:, at[0]], mx.take(x, at, axis=1), x[fixed], x[fixed, at[0, 0]], x[fixed, at[1, :2]]), x, at)
    check(
        lambda x, at: mx.take_along_axis(x, at[:, :1, None] * mx.ones((3, 1, 4), mx.int32)[:2, :1], axis=1), x[:2], at
    )


@quick
@given(batch=st.integers(1, 3), rows=st.integers(1, 5), inner=st.integers(1, 5), columns=st.integers(1, 5), seed=seeds)
def test_matrix_products(batch: int, rows: int, inner: int, columns: int, seed: int) -> None:
    x, y = normal(batch, rows, inner, seed=seed), normal(batch, inner, columns, seed=seed + 1)
    w, b = mx.array(normal(inner, columns, seed=seed + 2)), mx.array(normal(columns, seed=seed + 3))
    check(
        lambda x, y: (
            x @ y,
            x @ w + b,
            mx.addmm(b, x, w),
            mx.addmm(x @ y, x, w, alpha=2, beta=0.5),
            mx.maximum(x.reshape(-1, inner) @ w, 0).reshape(batch, rows, columns),
            x[0] @ y[0, :, 0],
            mx.einsum("bri,bic->brc", x, y),
            mx.inner(x[0, 0], x[0, 0]),
        ),
        x,
        y,
    )


@quick
@given(
    size=st.integers(6, 12),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    seed=seeds,
)
def test_convolutions(size: int, kernel: int, stride: int, padding: int, dilation: int, groups: int, seed: int) -> None:
    if dilation * (kernel - 1) + 1 > size + 2 * padding:
        kernel = 1
    x, w = normal(2, size, 4, seed=seed), mx.array(normal(8, kernel, 4 // groups, seed=seed + 1))
    check(lambda x: mx.conv1d(x, w, stride, padding, dilation, groups), x, limit=2e-5)
    image, w2 = normal(2, size, 7, 4, seed=seed), mx.array(normal(8, kernel, 3, 4 // groups, seed=seed + 2))
    check(lambda x: mx.conv2d(x, w2, (stride, 1), (padding, 1), (dilation, 1), groups), image, limit=2e-5)
    check(lambda x: mx.conv_general(x, w2, stride, [(0, 1), (2, 0)], groups=groups, flip=True), image, limit=2e-5)
    padding = min(padding, dilation * (kernel - 1))
    check(lambda x: mx.conv_transpose1d(x, w, stride, padding, dilation, 0, groups), x, limit=2e-5)
    wide = mx.array(normal(8, 3, 3, 4 // groups, seed=seed + 3))
    check(lambda x: mx.conv_transpose2d(x, wide, (stride, 2), (1, 0), groups=groups), image, limit=2e-5)


@quick
@given(size=st.integers(4, 40), axis=st.integers(0, 1), seed=seeds)
def test_fourier(size: int, axis: int, seed: int) -> None:
    x = normal(*((size, 3) if axis == 0 else (3, size)), seed=seed)
    check(lambda x: (mx.abs(mx.fft.rfft(x, axis=axis)), mx.square(mx.abs(mx.fft.rfft(x, axis=axis)))), x)
    check(lambda x: (mx.real(mx.fft.rfft(x, axis=axis)), mx.imag(mx.fft.rfft(x, n=64, axis=axis))), x)


@quick
@given(size=st.integers(20, 40), frame=st.integers(1, 9), shift=st.integers(1, 9), seed=seeds)
def test_strided(size: int, frame: int, shift: int, seed: int) -> None:
    count = (size - frame) // shift + 1
    check(lambda x: mx.as_strided(x, (count, frame), (shift, 1)), normal(size, seed=seed))
    check(lambda x: mx.as_strided(x, (2, 3, 2), (5, 1, 4), 2), normal(size, seed=seed))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64])
@quick
@given(rows=st.integers(1, 5), out=st.sampled_from([8, 24]), groups=st.integers(1, 3), seed=seeds, shift=st.booleans())
def test_quantized_products(bits: int, group: int, rows: int, out: int, groups: int, seed: int, shift: bool) -> None:
    weight = normal(out, group * groups, seed=seed)
    if shift:  # no group holds a zero: MLX's zero points are no codes
        weight = np.abs(weight) + 5
    parts = mx.quantize(mx.array(weight), group_size=group, bits=bits)
    mx.eval(*parts)
    x = normal(2, rows, group * groups, seed=seed + 1)
    check(lambda x: mx.quantized_matmul(x, *parts, transpose=True, group_size=group, bits=bits), x, limit=2e-5)


@quick
@given(batch=st.integers(1, 3), frames=st.integers(1, 6), size=st.integers(1, 5), hidden=st.integers(1, 5), seed=seeds)
def test_recurrences(batch: int, frames: int, size: int, hidden: int, seed: int) -> None:
    """Handed over whole, a bidirectional LSTM is one operation."""
    layer = BiLSTM(size, hidden)
    shapes = {"weight_ih": (2, 4 * hidden, size), "weight_hh": (2, 4 * hidden, hidden), "bias": (2, 4 * hidden)}
    for i, (name, shape) in enumerate(shapes.items()):
        layer[name] = mx.array(normal(*shape, seed=seed + i))
    mx.eval(layer.parameters())
    x = normal(batch, frames, size, seed=seed + 3)
    with while_tracing(whole):
        graph = trace(layer, mx.array(x))
    assert [node.op for node in graph.nodes].count("LSTM") == 1
    assert_close(run(session(graph), x), results(layer, x))


def test_ranges() -> None:
    x = normal(2, 5)
    check(
        lambda x: (mx.arange(5)[None] + x, mx.arange(1, 6, 0.5).reshape(2, 5) + x, mx.tril(x), mx.linspace(0, 1, 5)), x
    )


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (lambda x: mx.linalg.inv(x[:, :2, :2]), "primitive Inverse .*float32.2, 2, 2.*step"),
        (lambda x: mx.cumprod(x, axis=1), "Scan .*only sums"),
        (mx.fft.fft, "FFT .*real numbers"),
        (mx.fft.rfft, "complex numbers"),
        (lambda x: x.astype(mx.bfloat16) * 2, "bfloat16"),
        (lambda x: mx.left_shift(x.astype(mx.int32), 2), "bits cannot be shifted"),
        (mx.contiguous, "MLX cannot trace"),
    ],
)
def test_what_has_no_form_is_named(fn: object, says: str) -> None:
    with pytest.raises(ExportError, match=says):
        trace(fn, mx.zeros((2, 3, 4)))  # type: ignore[arg-type]
