"""What the model packages share: BatchNorm folding, layout, strict loading, quantization, masks."""

import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speech_zoo_core.checkpoint.weights import (
    Arrays,
    fold_batch_norm,
    fold_into_next,
    pop_batch_norm,
    scale_shift_of,
    to_mlx_layout,
    to_numpy,
)
from speech_zoo_core.errors import CheckpointError, ConfigError
from speech_zoo_core.layers import load_strict, parameters, quantize, time_mask

EPSILON = 1e-5


def norm(rng: np.random.Generator, channels: int, affine: bool = True) -> Arrays:
    """The tensors of a BatchNorm called bn."""
    parts = {"running_mean": rng.standard_normal(channels), "running_var": rng.uniform(0.1, 2, channels)}
    if affine:
        parts |= {"weight": rng.standard_normal(channels), "bias": rng.standard_normal(channels)}
    return {f"bn.{name}": x.astype(np.float32) for name, x in parts.items()}


def apply_layer(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | float) -> np.ndarray:
    """A layer on patches as large as its kernel: (n, *weight.shape[1:]) to (n, out)."""
    return np.einsum("nk,ok->no", x.reshape(len(x), -1), weight.reshape(len(weight), -1)) + bias


def apply_norm(x: np.ndarray, weights: Arrays) -> np.ndarray:
    """BatchNorm at inference, as its definition says it: (n, channels)."""
    x = (x - weights["bn.running_mean"]) / np.sqrt(weights["bn.running_var"] + EPSILON)
    return x * weights.get("bn.weight", 1) + weights.get("bn.bias", 0)


@given(
    out=st.integers(1, 6),
    inner=st.lists(st.integers(1, 4), min_size=1, max_size=3),  # linear, 1-D and 2-D convolution
    bias=st.booleans(),
    affine=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80, deadline=None)
def test_a_folded_layer_gives_what_layer_and_norm_give(
    out: int, inner: list[int], bias: bool, affine: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((out, *inner)).astype(np.float32)
    layer = {"conv.weight": weight} | ({"conv.bias": rng.standard_normal(out).astype(np.float32)} if bias else {})
    weights = layer | norm(rng, out, affine)
    folded = dict(weights)
    fold_batch_norm(folded, "conv", "bn", affine)
    assert set(folded) == {"conv.weight", "conv.bias"}
    assert folded["conv.weight"].shape == weight.shape
    assert {x.dtype.name for x in folded.values()} == {"float32"}
    x = rng.standard_normal((5, *inner))
    expected = apply_norm(apply_layer(x, weight, layer.get("conv.bias", 0)), weights)
    assert np.allclose(apply_layer(x, folded["conv.weight"], folded["conv.bias"]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_as_scale_and_shift(affine: bool) -> None:
    rng = np.random.default_rng(0)
    weights = norm(rng, 4, affine)
    rest = {**weights, "other.weight": np.ones(2)}
    scale, shift = pop_batch_norm(rest, "bn", affine)
    assert set(rest) == {"other.weight"}
    assert scale.dtype == shift.dtype == np.float64
    x = rng.standard_normal((7, 4))
    assert np.allclose(x * scale + shift, apply_norm(x, weights), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_that_lacks_a_part(affine: bool) -> None:
    for name in norm(np.random.default_rng(0), 3, affine):
        weights = norm(np.random.default_rng(0), 3, affine)
        del weights[name]
        with pytest.raises(CheckpointError, match=f"lacks {re.escape(name)}"):
            pop_batch_norm(weights, "bn", affine)


def test_a_norm_without_its_layer() -> None:
    with pytest.raises(CheckpointError, match=r"lacks conv\.weight"):
        fold_batch_norm(norm(np.random.default_rng(0), 3), "conv", "bn")


def test_a_norm_of_another_width_than_its_layer() -> None:
    weights = norm(np.random.default_rng(0), 3) | {"conv.weight": np.ones((4, 2, 3, 3), np.float32)}
    with pytest.raises(CheckpointError, match=r"bn has 3 channels, conv has .*4"):
        fold_batch_norm(weights, "conv", "bn")


@pytest.mark.parametrize("part", ["running_mean", "running_var", "weight", "bias"])
@pytest.mark.parametrize("shape", [(), (2,), (1, 3), (3, 1)])
def test_a_part_of_a_norm_in_a_wrong_shape(part: str, shape: tuple[int, ...]) -> None:
    weights = norm(np.random.default_rng(0), 3) | {"conv.weight": np.ones((3, 2), np.float32)}
    weights[f"bn.{part}"] = np.ones(shape, np.float32)
    with pytest.raises(CheckpointError, match="bn"):
        fold_batch_norm(weights, "conv", "bn")


@pytest.mark.parametrize("shape", [(), (2,), (1, 3), (3, 1)])
def test_a_bias_in_a_wrong_shape(shape: tuple[int, ...]) -> None:
    weights = norm(np.random.default_rng(0), 3) | {"conv.weight": np.ones((3, 2), np.float32)}
    weights["conv.bias"] = np.ones(shape, np.float32)
    with pytest.raises(CheckpointError, match="conv"):
        fold_batch_norm(weights, "conv", "bn")


@given(out=st.integers(1, 6), channels=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_norm_before_its_layer(out: int, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight, bias = rng.standard_normal((out, channels)), rng.standard_normal(out)
    layer = {"linear.weight": weight.astype(np.float32), "linear.bias": bias.astype(np.float32)}
    weights = layer | norm(rng, channels, affine=False)
    folded = dict(weights)
    fold_into_next(folded, "bn", "linear", affine=False)
    assert set(folded) == {"linear.weight", "linear.bias"}
    assert {x.dtype.name for x in folded.values()} == {"float32"}
    x = rng.standard_normal((5, channels))
    expected = apply_layer(apply_norm(x, weights), layer["linear.weight"], layer["linear.bias"])
    assert np.allclose(apply_layer(x, *folded.values()), expected, rtol=1e-4, atol=1e-4)


@given(channels=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_norm_that_stays(channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = norm(rng, channels)
    left = dict(weights)
    scale_shift_of(left, "bn")
    assert set(left) == {"bn.weight", "bn.bias"}
    assert {x.dtype.name for x in left.values()} == {"float32"}
    x = rng.standard_normal((5, channels))
    assert np.allclose(x * left["bn.weight"] + left["bn.bias"], apply_norm(x, weights), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("taps", [(), (1,), (1, 1)])
def test_a_norm_before_a_pointwise_layer(affine: bool, taps: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    weights = norm(rng, 3, affine) | {"conv.weight": rng.standard_normal((4, 3, *taps)).astype(np.float32)}
    weights["conv.bias"] = rng.standard_normal(4).astype(np.float32)
    folded = dict(weights)
    fold_into_next(folded, "bn", "conv", affine)
    x = rng.standard_normal((5, 3))
    expected = apply_layer(apply_norm(x, weights), weights["conv.weight"], weights["conv.bias"])
    assert np.allclose(apply_layer(x, folded["conv.weight"], folded["conv.bias"]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 2), (4,), (), (4, 3, 3)])
def test_a_layer_after_a_norm_whose_weight_does_not_fit(shape: tuple[int, ...]) -> None:
    layer = {"linear.weight": np.ones(shape, np.float32), "linear.bias": np.ones(4, np.float32)}
    weights = norm(np.random.default_rng(0), 3) | layer
    with pytest.raises(CheckpointError, match="linear"):
        fold_into_next(weights, "bn", "linear")


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5,), (1, 4), (4, 1), (4, 4)])
def test_a_layer_after_a_norm_whose_bias_does_not_fit(shape: tuple[int, ...]) -> None:
    """NumPy would stretch some of them to the right shape."""
    weights = norm(np.random.default_rng(0), 3) | {"linear.weight": np.ones((4, 3), np.float32)}
    with pytest.raises(CheckpointError, match="linear"):
        fold_into_next(weights | {"linear.bias": np.ones(shape, np.float32)}, "bn", "linear")


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_layer_after_a_norm_that_lacks_a_part(part: str) -> None:
    layer = {"linear.weight": np.ones((4, 3), np.float32), "linear.bias": np.ones(4, np.float32)}
    del layer[f"linear.{part}"]
    with pytest.raises(CheckpointError, match=rf"lacks linear\.{part}"):
        fold_into_next(norm(np.random.default_rng(0), 3) | layer, "bn", "linear")


# Layout


class Layers(nn.Module):
    """One layer of each kind; the square ones have a shape that axis order does not change."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1d = nn.Conv1d(4, 6, 3)
        self.square1d = nn.Conv1d(3, 6, 3)
        self.conv2d = nn.Conv2d(4, 6, (3, 5))
        self.square2d = nn.Conv2d(3, 6, 3)
        self.pointwise = nn.Linear(4, 6)
        self.norm = {"weight": mx.ones(6)}


SOURCE = {  # the shapes that PyTorch has for them
    "conv1d.weight": (6, 4, 3),
    "square1d.weight": (6, 3, 3),
    "conv2d.weight": (6, 4, 3, 5),
    "square2d.weight": (6, 3, 3, 3),
    "pointwise.weight": (6, 4, 1),
    "norm.weight": (6,),
}


def source() -> Arrays:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SOURCE.items()}


def test_source_tensors_take_the_layout_of_the_model() -> None:
    weights, shapes = source(), parameters(Layers())
    fitted = to_mlx_layout(weights, Layers(), source_layout=True)
    for name, x in weights.items():
        expected = x[..., 0] if name == "pointwise.weight" else np.moveaxis(x, 1, -1) if x.ndim > 2 else x
        assert fitted[name].shape == shapes[name].shape
        assert np.array_equal(np.array(fitted[name]), expected), name


def test_converted_tensors_stay_as_they_are() -> None:
    once = to_mlx_layout(source(), Layers(), source_layout=True)
    again = to_mlx_layout(to_numpy(once), Layers(), source_layout=False)
    assert all(mx.array_equal(again[name], x) for name, x in once.items())


@pytest.mark.parametrize("name", ["square1d.weight", "square2d.weight"])
def test_only_where_both_orders_fit_does_the_origin_decide(name: str) -> None:
    x = source()[name]
    assert np.array_equal(to_mlx_layout({name: x}, Layers(), source_layout=False)[name], x)
    assert np.array_equal(to_mlx_layout({name: x}, Layers(), source_layout=True)[name], np.moveaxis(x, 1, -1))


@pytest.mark.parametrize("source_layout", [True, False])
def test_where_one_order_fits_the_shape_decides(source_layout: bool) -> None:
    x = source()["conv2d.weight"]
    for tensor in (x, np.moveaxis(x, 1, -1)):
        fitted = to_mlx_layout({"conv2d.weight": tensor}, Layers(), source_layout)["conv2d.weight"]
        assert np.array_equal(fitted, np.moveaxis(x, 1, -1))


@pytest.mark.parametrize("source_layout", [True, False])
def test_a_1x1_convolution_becomes_a_linear_layer(source_layout: bool) -> None:
    rng = np.random.default_rng(0)
    for shape in [(6, 4), (6, 4, 1), (6, 4, 1, 1)]:
        x = rng.standard_normal(shape).astype(np.float32)
        fitted = to_mlx_layout({"pointwise.weight": x}, Layers(), source_layout)["pointwise.weight"]
        assert np.array_equal(fitted, x.reshape(6, 4))


@pytest.mark.parametrize("shape", [(6, 4, 2), (5, 4, 1), (6, 4, 3, 1), (6,)])
def test_what_fits_in_no_order_is_left_for_the_strict_loader(shape: tuple[int, ...]) -> None:
    weights = {"pointwise.weight": np.ones(shape, np.float32), "unknown": np.ones((2, 3, 4), np.float32)}
    fitted = to_mlx_layout(weights, Layers(), source_layout=True)
    assert fitted["pointwise.weight"].shape == shape
    assert fitted["unknown"].shape == (2, 3, 4)


def test_numpy_has_no_bfloat16() -> None:
    weights = {"a": mx.ones(3, mx.bfloat16), "b": mx.ones(3, mx.float16), "c": mx.array([1])}
    assert {name: x.dtype.name for name, x in to_numpy(weights).items()} == {
        "a": "float32",
        "b": "float16",
        "c": "int32",
    }


# Strict loading


def linear() -> tuple[nn.Module, dict[str, mx.array]]:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(10)))
    return model, {name: mx.random.normal(x.shape) for name, x in parameters(model).items()}


def refusal(model: nn.Module, weights: dict[str, mx.array]) -> str:
    before = parameters(model)
    with pytest.raises(CheckpointError) as caught:
        load_strict(model, weights, "here.safetensors")
    assert all(mx.array_equal(x, before[name]) for name, x in parameters(model).items())  # nothing was loaded
    assert str(caught.value).startswith("here.safetensors does not fit the model: ")
    return str(caught.value)


def test_weights_that_fit() -> None:
    model, weights = linear()
    load_strict(model, weights, "here")
    assert all(mx.array_equal(x, weights[name]) for name, x in parameters(model).items())


def test_a_missing_tensor() -> None:
    model, weights = linear()
    del weights["layers.3.bias"]
    assert refusal(model, weights).endswith(": 1 missing: layers.3.bias")


def test_an_extra_tensor() -> None:
    model, weights = linear()
    assert refusal(model, weights | {"layers.3.gain": mx.ones(4)}).endswith(": 1 unexpected: layers.3.gain")


@pytest.mark.parametrize("shape", [(4,), (4, 5), (5, 4), (2, 8), (1, 4, 4), ()])
def test_a_tensor_of_another_shape(shape: tuple[int, ...]) -> None:
    model, weights = linear()
    message = refusal(model, weights | {"layers.3.weight": mx.zeros(shape)})
    assert message.endswith(f": 1 of another shape: layers.3.weight {shape} instead of (4, 4)")


def test_every_problem_at_once() -> None:
    model, weights = linear()
    del weights["layers.0.bias"]
    message = refusal(model, weights | {"new": mx.ones(1), "layers.1.bias": mx.ones(5)})
    assert "1 missing: layers.0.bias; 1 unexpected: new; 1 of another shape: layers.1.bias (5,)" in message


def test_many_problems_are_counted() -> None:
    model, _ = linear()
    assert "20 missing: " in refusal(model, {})
    assert refusal(model, {}).endswith(" and 15 more")


# Quantization


class Mixed(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv = nn.Conv1d(64, 64, 3)
        self.wide = nn.Linear(width, 8)
        self.narrow = nn.Linear(40, 8)


@pytest.mark.parametrize("bits", [4, 8])
def test_linear_layers_whose_width_fits_are_quantized(bits: int) -> None:
    model = Mixed()
    expected = model.wide(mx.ones((1, 64)))
    quantize(model, bits)
    assert isinstance(model.wide, nn.QuantizedLinear)
    assert (model.wide.bits, model.wide.group_size) == (bits, 32)
    assert isinstance(model.narrow, nn.Linear)  # 40 is no multiple of 32
    assert isinstance(model.conv, nn.Conv1d)
    assert mx.allclose(model.wide(mx.ones((1, 64))), expected, atol={8: 0.05, 4: 0.5}[bits])


@pytest.mark.parametrize(("bits", "group_size"), [(3, 32), (16, 32), (0, 32), (-8, 32), (8, 16), (8, 0), (8, 33)])
def test_an_unknown_quantization(bits: int, group_size: int) -> None:
    with pytest.raises(ConfigError, match="use 8 or 4 bits"):
        quantize(Mixed(), bits, group_size)


def test_nothing_to_quantize() -> None:
    with pytest.raises(ConfigError, match="no linear layer to quantize"):
        quantize(Mixed(width=40), 8)


# Masks


@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5), size=st.integers(1, 12))
@settings(deadline=None)
def test_a_mask_counts_each_clip(lengths: list[int], size: int) -> None:
    mask = np.array(time_mask(mx.array(lengths), size, mx.float16))
    assert mask.dtype == np.float16
    assert mask.shape == (len(lengths), size)
    assert set(np.unique(mask)) <= {0, 1}
    assert mask.sum(axis=1).tolist() == [min(n, size) for n in lengths]
    assert (np.diff(mask, axis=1) <= 0).all()  # the ones come first
