"""The convolutions for the CPU against a direct sum over their taps, and MLX's own against the same."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from speech_zoo_core import conv

each_way = pytest.mark.parametrize("on_cpu", [True, False])
SIZES = st.integers(1, 5)


def random(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def direct(
    x: np.ndarray, layer: nn.Module, stride: tuple[int, ...], padding: tuple[int, ...], dilation: int
) -> np.ndarray:
    """The definition in float64: (B, *space, C) to (B, *space', O)."""
    weight = np.array(layer.weight, np.float64)
    kernel = weight.shape[1:-1]
    x = np.pad(x.astype(np.float64), [(0, 0), *((p, p) for p in padding), (0, 0)])
    out = [(n - (k - 1) * dilation - 1) // s + 1 for n, k, s in zip(x.shape[1:-1], kernel, stride, strict=True)]
    y = np.zeros((len(x), *out, len(weight)))
    for tap in np.ndindex(*kernel):
        window = tuple(
            slice(t * dilation, t * dilation + (n - 1) * s + 1, s) for t, n, s in zip(tap, out, stride, strict=True)
        )
        y += x[(slice(None), *window)] @ weight[(slice(None), *tap)].T
    return y + (np.array(layer.bias) if "bias" in layer else 0)


def compare(layer: nn.Module, x: np.ndarray, on_cpu: bool, *definition: object, within: float = 1e-5) -> None:
    layer.update({"weight": mx.array(random(*layer.weight.shape, seed=1))})
    if "bias" in layer:
        layer.update({"bias": mx.array(random(*layer.bias.shape, seed=2))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "cpu_layers", lambda: on_cpu)
        output = layer(mx.array(x))
    expected = direct(x, layer, *definition)
    assert output.shape == expected.shape
    assert np.abs(np.array(output) - expected).max(initial=0) < within * max(10, np.abs(expected).max(initial=0))


@each_way
@given(
    batch=st.integers(1, 3),
    image=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.tuples(SIZES, SIZES),
    kernel=st.tuples(SIZES, SIZES),
    stride=st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 2)]),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    bias=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_2d(
    on_cpu: bool,
    batch: int,
    image: tuple[int, int],
    channels: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    bias: bool,
) -> None:
    assume(all(n + 2 * p >= k for n, p, k in zip(image, padding, kernel, strict=True)))
    layer = conv.Conv2d(*channels, kernel, stride, padding, bias=bias)
    compare(layer, random(batch, *image, channels[0], seed=0), on_cpu, stride, padding, 1)


@each_way
@given(
    batch=st.integers(1, 3),
    frames=st.integers(1, 20),
    channels=st.tuples(SIZES, SIZES),
    kernel=SIZES,
    stride=st.sampled_from([1, 1, 2]),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 3),
    bias=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_1d(
    on_cpu: bool,
    batch: int,
    frames: int,
    channels: tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    bias: bool,
) -> None:
    assume(frames + 2 * padding > (kernel - 1) * dilation)
    layer = conv.Conv1d(*channels, kernel, stride, padding, dilation, bias=bias)
    compare(layer, random(batch, frames, channels[0], seed=0), on_cpu, (stride,), (padding,), dilation)


@each_way
def test_2d_with_dilation(on_cpu: bool) -> None:
    compare(conv.Conv2d(3, 4, 3, dilation=2), random(2, 9, 8, 3, seed=0), on_cpu, (1, 1), (0, 0), 2)


@each_way
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_stays(monkeypatch: pytest.MonkeyPatch, on_cpu: bool, dtype: mx.Dtype) -> None:
    monkeypatch.setattr(conv, "cpu_layers", lambda: on_cpu)
    for layer, shape in ((conv.Conv1d(3, 4, 3), (1, 9, 3)), (conv.Conv2d(3, 4, 3), (1, 9, 9, 3))):
        layer.set_dtype(dtype)
        assert layer(mx.ones(shape, dtype)).dtype == dtype


def test_they_are_layers_of_mlx() -> None:
    """So that quantization and loading treat them as such."""
    assert issubclass(conv.Conv1d, nn.Conv1d)
    assert issubclass(conv.Conv2d, nn.Conv2d)


@given(
    frames=st.integers(20, 40),
    width=st.sampled_from([(4, 8), (16, 4), (32, 32)]),
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.integers(1, 19),
    stride=st.integers(1, 3),
    padding=st.integers(0, 9),
    bias=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_1d_in_groups_and_with_strides(
    frames: int, width: tuple[int, int], groups: int, kernel: int, stride: int, padding: int, bias: bool
) -> None:
    """Against MLX's own; kernels below and above the taps of one product, few and many channels."""
    layer = conv.Conv1d(width[0], width[1], kernel, stride, padding, groups=groups, bias=bias)
    x = mx.array(random(2, frames, width[0], seed=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "cpu_layers", lambda: False)
        expected = layer(x)
        patch.setattr(conv, "cpu_layers", lambda: True)
        output = layer(x)
    assert output.shape == expected.shape
    assert np.allclose(np.array(output), np.array(expected), rtol=1e-4, atol=1e-5)


@given(
    batch=st.integers(1, 2),
    image=st.tuples(st.integers(1, 19), st.integers(1, 9)),
    channels=st.tuples(st.sampled_from([64, 72]), st.sampled_from([64, 65])),
    padding=st.sampled_from([0, 1, 2]),
    bias=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_winograd(batch: int, image: tuple[int, int], channels: tuple[int, int], padding: int, bias: bool) -> None:
    """Heights that fill their last tile and heights that don't."""
    assume(min(image) + 2 * padding >= 3)
    layer = conv.Conv2d(*channels, 3, 1, padding, bias=bias)
    x = random(batch, *image, channels[0], seed=0)
    with pytest.MonkeyPatch.context() as patch:
        used = []
        real = conv.Conv2d._winograd
        patch.setattr(conv.Conv2d, "_winograd", lambda *arguments: used.append(1) or real(*arguments))
        compare(layer, x, True, (1, 1), (padding, padding), 1, within=5e-5)  # the transforms cost a digit
    assert used


LAYERS = [conv.Conv2d(64, 64, 3, 1, 1), conv.Conv2d(4, 4, 3), conv.Conv1d(4, 4, 3), conv.Conv1d(4, 4, 3, groups=2)]


def some_input(layer: nn.Module) -> mx.array:
    return mx.array(random(1, *(9,) * (layer.weight.ndim - 2), 64 if len(layer.weight) == 64 else 4, seed=0))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_new_weight_is_used(monkeypatch: pytest.MonkeyPatch, layer: nn.Module) -> None:
    monkeypatch.setattr(conv, "cpu_layers", lambda: True)
    x = some_input(layer)
    layer.eval()
    before = layer(x) - layer.bias
    layer.update({"weight": 2 * layer.weight})
    assert mx.allclose(layer(x) - layer.bias, 2 * before, rtol=1e-4, atol=1e-5)
    assert set(layer.parameters()) == {"weight", "bias"}
    layer.weight *= 2  # the same object with other values
    assert mx.allclose(layer(x) - layer.bias, 4 * before, rtol=1e-4, atol=1e-5)
    layer.weight[:] = 0
    assert mx.allclose(layer(x), mx.broadcast_to(layer.bias, before.shape), atol=1e-6)


@pytest.mark.parametrize("layer", LAYERS[:-1])
@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_of_the_weight(monkeypatch: pytest.MonkeyPatch, layer: nn.Module, training: bool) -> None:
    """As with MLX's own convolution."""
    x = some_input(layer)
    layer.train(training)
    gradients = []
    for fast in (True, False):
        monkeypatch.setattr(conv, "cpu_layers", lambda fast=fast: fast)
        gradients.append(nn.value_and_grad(layer, lambda: mx.sum(mx.square(layer(x))))()[1]["weight"])
    assert mx.allclose(*gradients, rtol=1e-3, atol=1e-2)


def test_another_precision_of_the_input_takes_another_order() -> None:
    layer = conv.Conv2d(64, 64, 3, padding=1)
    layer.eval()
    x = mx.random.normal((1, 6, 7, 64), key=mx.random.key(0))
    full, half = layer(x), layer(x.astype(mx.float16))
    assert mx.allclose(full, half, atol=1e-2)
