"""Work in tiles gives what it gives in one go."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speech_zoo_core import tiles


def convolved(x: mx.array, stride: int = 1) -> mx.array:
    """Two positions to each side: (B, T, C) to (B, ceil(T / stride), C)."""
    weight = mx.array(np.random.default_rng(0).standard_normal((3, 5, 3)).astype(np.float32))
    return mx.conv1d(x, weight, stride=stride, padding=2)


@given(length=st.integers(1, 60), size=st.integers(1, 15), stride=st.sampled_from([1, 2]), spare=st.integers(0, 2))
@settings(max_examples=80, deadline=None)
def test_tiles_along_time(length: int, size: int, stride: int, spare: int) -> None:
    x = mx.array(np.random.default_rng(1).standard_normal((2, length, 3)).astype(np.float32))
    arguments = {"axis": 1, "size": size * stride, "halo": (2 + spare) * stride, "stride": stride}
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "cpu_layers", lambda: True)
        with tiles.with_cpu_layers():
            output = tiles.in_tiles(lambda part: calls.append(1) or convolved(part, stride), x, **arguments)
    assert len(calls) > 1 or length < 1.6 * size * stride
    assert mx.allclose(output, convolved(x, stride), atol=1e-5)


def test_several_inputs() -> None:
    x = mx.arange(40.0).reshape(1, 20, 2)
    with tiles.with_cpu_layers():
        output = tiles.in_tiles(lambda a, b: a * b, x, x + 1, axis=1, size=4)
    assert mx.array_equal(output, x * (x + 1))


def test_outside_it_stays_lazy_and_can_be_differentiated() -> None:
    calls = []
    gradient = mx.grad(lambda x: mx.sum(tiles.in_tiles(lambda part: calls.append(1) or part * part, x, axis=0, size=2)))
    assert gradient(mx.arange(8.0)).tolist() == [2.0 * i for i in range(8)]
    assert len(calls) == 1


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "on_cpu", lambda: True)
    assert tiles.cpu_layers()
    monkeypatch.setenv("SPEECH_ZOO_CPU_LAYERS", "0")
    assert not tiles.cpu_layers()
    with tiles.with_cpu_layers():
        assert not tiles.in_cpu_layers()


def test_it_ends_with_its_block() -> None:
    with pytest.raises(ZeroDivisionError), tiles.with_cpu_layers():
        raise ZeroDivisionError
    assert not tiles.in_cpu_layers()


def test_a_total_is_that_of_the_whole() -> None:
    x, y = (mx.random.normal((2, 105, 3), key=mx.random.key(i)) for i in (0, 1))

    def moment(a: mx.array, b: mx.array) -> mx.array:
        return mx.sum(a * b, axis=1)

    expected = moment(x, y)
    with tiles.with_cpu_layers():
        assert mx.allclose(tiles.total(moment, x, y, axis=1, size=10), expected, atol=1e-4)
    assert mx.array_equal(tiles.total(moment, x, y, axis=1, size=10), expected)
