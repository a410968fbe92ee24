"""The polynomials against float64 and against MLX."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from speech_zoo_core import functions, tiles


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "cpu_layers", lambda: True)


def test_gelu() -> None:
    x = np.concatenate([np.linspace(-12, 12, 100001), [-1e30, -3e4, 0, 3e4, 1e30]]).astype(np.float32)
    exact = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.astype(np.float64)])
    with tiles.with_cpu_layers():
        result = np.array(functions.gelu(mx.array(x)), np.float64)
    assert np.abs(result - exact)[np.abs(x) < 100].max() < 1.5e-6
    assert np.allclose(result, exact, rtol=1e-6, atol=1.5e-6)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_gelu_in_half_precision_is_that_of_mlx(dtype: mx.Dtype) -> None:
    x = mx.linspace(-5, 5, 101).astype(dtype)
    expected = nn.gelu(x)
    with tiles.with_cpu_layers():
        result = functions.gelu(x)
    assert result.dtype == dtype
    assert mx.array_equal(result, expected)


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("scale", [0.1, 30.0])
def test_attention(heads: int, scale: float) -> None:
    """Scores of up to hundreds, where most weights vanish."""
    rng = np.random.default_rng(0)
    q, k, v = (mx.array(rng.standard_normal((2, heads, 50, 8)).astype(np.float32)) for _ in range(3))
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)
    with tiles.with_cpu_layers():
        result = functions.attention(q, k, v, scale, None)
    assert mx.allclose(result, expected, rtol=1e-4, atol=2e-5)


def test_exp() -> None:
    x = -mx.abs(mx.array(np.random.default_rng(0).standard_normal((2, 400, 5)).astype(np.float32))) * 20
    with tiles.with_cpu_layers():
        result = functions.exp(x)
    assert mx.allclose(result, mx.exp(x), rtol=1e-5, atol=1e-30)
