"""The speaker proxy: sums of codebook embeddings, its losses against NumPy, gradients, and its checkpoint."""

import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch_files as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from source_weights import source_weights
from speech_zoo_core.conversion import convert
from speech_zoo_core.errors import CheckpointError, ConfigError, InputError, SpeechZooError
from speech_zoo_core.layers import parameters
from speech_zoo_core.loader import load
from speech_zoo_ecapa_tdnn import Model, contrastive_loss, proxy_config, rvq_sum, separation
from tiny_models import PROXY, RATE, proxy_file, tiny_model, tiny_source, to_mx, voice

# Sums of codebook embeddings


@given(data=st.data(), batch=st.integers(1, 3), frames=st.integers(1, 6), dim=st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_the_sum_of_codebook_embeddings(data: st.DataObject, batch: int, frames: int, dim: int) -> None:
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    dtype = data.draw(st.sampled_from(["int32", "int64", "uint8", "int16"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    tables = [rng.standard_normal((size, dim)).astype(np.float32) for size in sizes]
    tokens = np.stack([rng.integers(0, size, (batch, frames)) for size in sizes], axis=-1).astype(dtype)
    total = rvq_sum(mx.array(tokens), [mx.array(table) for table in tables])
    expected = sum(table[tokens[..., i]] for i, table in enumerate(tables))
    assert total.shape == (batch, frames, dim)
    assert total.dtype == mx.float32
    assert np.allclose(np.array(total), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
def test_tables_in_one_array(dtype: mx.Dtype) -> None:
    tables = mx.random.normal((4, 8, 3), key=mx.random.key(0)).astype(dtype)
    tokens = mx.random.randint(0, 8, (2, 5, 4), key=mx.random.key(1))
    total = rvq_sum(tokens, tables)
    assert total.dtype == dtype
    assert mx.array_equal(total, rvq_sum(tokens, list(tables)))


TABLES = [mx.ones((5, 3)), mx.ones((4, 3))]


@given(frame=st.integers(0, 5), book=st.integers(0, 1), over=st.integers(0, 1000), below=st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_token_outside_its_codebook_is_named(frame: int, book: int, over: int, below: bool) -> None:
    tokens = np.random.default_rng(0).integers(0, 4, (2, 6, 2))
    token = -1 - over if below else len(TABLES[book]) + over
    tokens[1, frame, book] = token
    with pytest.raises(InputError) as caught:
        rvq_sum(mx.array(tokens), TABLES)
    assert str(caught.value) == f"token {token} lies outside codebook {book}, which has {len(TABLES[book])} entries"


@pytest.mark.parametrize("token", [2**31 - 1, -(2**31), 2**40, -(2**40)])
def test_a_token_that_would_wrap_around(token: int) -> None:
    tokens = np.zeros((1, 3, 2), np.int64)
    tokens[0, 1, 1] = token
    with pytest.raises(InputError, match=f"token {token} lies outside codebook 1"):
        rvq_sum(mx.array(tokens, mx.int64), TABLES)


@pytest.mark.parametrize(
    "tokens",
    [mx.zeros((1, 3, 2)), mx.zeros((1, 3, 2), mx.float16), mx.zeros((1, 3, 2), mx.bool_), mx.zeros((3, 2), mx.int32)],
    ids=str,
)
def test_tokens_of_another_type_or_rank(tokens: mx.array) -> None:
    with pytest.raises(InputError, match=r"tokens must be integers \(B, T, Q\)"):
        rvq_sum(tokens, TABLES)


@pytest.mark.parametrize("books", [1, 3, 16])
def test_another_number_of_codebooks(books: int) -> None:
    with pytest.raises(InputError, match=f"go with {books} codebooks, 2 are given"):
        rvq_sum(mx.zeros((1, 3, books), mx.int32), TABLES)


@pytest.mark.parametrize("shape", [(0, 3, 2), (1, 0, 2)])
def test_no_tokens(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="empty"):
        rvq_sum(mx.zeros(shape, mx.int32), TABLES)


@pytest.mark.parametrize(
    "shapes", [[(5, 3), (4, 1)], [(5, 3), (4, 2)], [(5, 1), (4, 3)], [(5,), (4,)], [(5, 3, 2), (4, 3, 2)]], ids=str
)
def test_codebooks_of_other_shapes(shapes: list[tuple[int, ...]]) -> None:
    """Some of them would be stretched to fit."""
    with pytest.raises(InputError, match="codebook"):
        rvq_sum(mx.zeros((1, 3, 2), mx.int32), [mx.ones(shape) for shape in shapes])


def test_no_codebooks() -> None:
    with pytest.raises(InputError):
        rvq_sum(mx.zeros((1, 3, 0), mx.int32), [])


# The model


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e-5])
def test_embeddings_have_unit_length(dtype: mx.Dtype, scale: float) -> None:
    """However long they were: float16 ends at 65504 and at 6e-8."""
    weights = dict(tiny_source("speaker_proxy"))
    for part in ("weight", "bias"):
        weights[f"fc.conv.{part}"] = weights[f"fc.conv.{part}"] * np.float32(scale)
    model = Model(PROXY)
    model.load_weights(list(model.sanitize(to_mx(weights)).items()))
    model.set_dtype(dtype)
    x = mx.random.normal((3, 20, 24), key=mx.random.key(0))
    embeddings = model(x)
    assert embeddings.dtype == dtype
    assert np.allclose(np.linalg.norm(np.array(embeddings.astype(mx.float32)), axis=1), 1, atol=0.01)
    assert mx.allclose(
        embeddings.astype(mx.float32), tiny_model("speaker_proxy")(x), atol=0.06 if dtype != mx.float32 else 1e-4
    )


def test_it_takes_no_audio() -> None:
    proxy = tiny_model("speaker_proxy")
    for call in (
        lambda: proxy.embed(voice(RATE), RATE),
        lambda: proxy.embed("a.wav"),
        lambda: proxy.embed_batch([voice(RATE)], RATE),
        lambda: proxy.verify(voice(RATE), voice(RATE), RATE, threshold=0.5),
        lambda: proxy(mx.array(voice(RATE))),
        lambda: proxy(mx.array(voice(RATE))[None]),
        lambda: proxy(mx.array(voice(RATE))[None], mx.array([1.0])),
    ):
        with pytest.raises(ConfigError, match="takes no audio; call the model with its features"):
            call()


@pytest.mark.parametrize("shape", [(1, 4, 24), (1, 20, 23), (1, 24, 20), (1, 0, 24), (1, 1, 20, 24)])
def test_an_input_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"is not \(B, T, 24\) with T of 5 or more"):
        tiny_model("speaker_proxy")(mx.zeros(shape))


def test_the_published_size() -> None:
    """The card says about 4.6 million parameters; a BatchNorm has two for each channel."""
    config = proxy_config()
    assert (config.feat_dim, config.embed_dim, config.channels[0], len(config.channels) - 2) == (2048, 192, 512, 3)
    shapes = {name: x.size for name, x in source_weights(config).items()}
    trained = sum(size for name, size in shapes.items() if "running" not in name and "num_batches" not in name)
    folded = sum(x.size for x in parameters(Model(config)).values())
    for count in (trained, folded):
        assert count == pytest.approx(4.6e6, rel=0.02)


@pytest.mark.parametrize("options", [{"num_blocks": 2}, {"num_blocks": 5}, {"channels": 48}, {"res2net_scale": 4}])
def test_other_sizes(options: dict[str, Any]) -> None:
    config = proxy_config(**{"input_dim": 12, "embed_dim": 7, "channels": 16} | options)
    embeddings = Model(config)(mx.random.normal((2, 20, 12), key=mx.random.key(0)))
    assert embeddings.shape == (2, 7)
    assert np.allclose(np.linalg.norm(np.array(embeddings), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"num_blocks": 0}, {"channels": 20}, {"channels": 0}, {"input_dim": -1}, {"embed_dim": 0}]
)
def test_sizes_that_cannot_be(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        proxy_config(**{"input_dim": 12, "embed_dim": 7, "channels": 16} | options)


# Gradients


def cosine_loss(x: mx.array, target: mx.array, lengths: mx.array | None = None) -> mx.array:
    return 1 - mx.mean(mx.sum(tiny_model("speaker_proxy")(x, lengths) * target, axis=-1))


def unit(x: mx.array) -> mx.array:
    return x / mx.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("lengths", [None, [20, 11]])
@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_matches_finite_differences(seed: int, lengths: list[int] | None) -> None:
    keys = [mx.random.key(10 * seed + i) for i in range(3)]
    ends = None if lengths is None else mx.array(lengths)
    x = mx.random.normal((2, 20, 24), key=keys[0])
    target = unit(mx.random.normal((2, 8), key=keys[1]))
    gradient = mx.grad(lambda x: cosine_loss(x, target, ends))(x)
    size = float(mx.linalg.norm(gradient))
    assert size > 1e-3
    random = [mx.random.normal(x.shape, key=key) for key in mx.random.split(keys[2], 4)]
    # Steps short enough not to pass the kinks of the ReLUs, long enough for float32.
    directions = [(0.001, gradient / size), *((0.005, each / mx.linalg.norm(each)) for each in random)]
    for step, direction in directions:
        forth, back = (float(cosine_loss(x + sign * step * direction, target, ends)) for sign in (1, -1))
        slope = float(mx.sum(gradient * direction))
        assert (forth - back) / (2 * step) == pytest.approx(slope, rel=0.03, abs=2e-3 * size)


def test_no_gradient_leaves_the_clip() -> None:
    x = mx.random.normal((2, 20, 24), key=mx.random.key(0))
    target = unit(mx.random.normal((2, 8), key=mx.random.key(1)))
    gradient = mx.grad(lambda x: cosine_loss(x, target, mx.array([20, 11])))(x)
    assert bool(mx.isfinite(gradient).all())
    assert float(mx.abs(gradient[1, 11:]).max()) == 0
    assert float(mx.abs(gradient[1, :11]).max()) > 0


def test_gradients_reach_the_codebooks_and_every_parameter() -> None:
    tables = mx.random.normal((16, 8, 24), key=mx.random.key(0))
    tokens = mx.random.randint(0, 8, (2, 20, 16), key=mx.random.key(1))
    gradient = mx.grad(
        lambda tables: contrastive_loss(tiny_model("speaker_proxy")(rvq_sum(tokens, tables)), mx.array([0, 1]))
    )(tables)
    assert gradient.shape == tables.shape
    assert bool(mx.isfinite(gradient).all())
    assert float(mx.abs(gradient).max()) > 0
    model = Model(PROXY)
    model.load_weights(list(parameters(tiny_model("speaker_proxy")).items()))
    target = unit(mx.random.normal((2, 8), key=mx.random.key(2)))

    def loss(values: dict[str, mx.array]) -> mx.array:
        model.load_weights(list(values.items()))
        return 1 - mx.mean(mx.sum(model(rvq_sum(tokens, tables)) * target, axis=-1))

    for name, gradient in mx.grad(loss)(parameters(model)).items():
        assert bool(mx.isfinite(gradient).all()), name
        # A softmax over time is the same whatever is added to all its frames.
        assert name == "asp.conv.bias" or float(mx.abs(gradient).max()) > 0, name


def test_the_gradient_of_a_constant_input_is_finite() -> None:
    """All frames alike: no deviation, where a square root has no slope."""
    frame = mx.random.normal((1, 1, 24), key=mx.random.key(0))
    for x in (mx.broadcast_to(frame, (1, 20, 24)), mx.zeros((1, 20, 24))):
        gradient = mx.grad(lambda x: cosine_loss(x, unit(mx.ones((1, 8)))))(x)
        assert bool(mx.isfinite(gradient).all())


# Losses


def pairs(embeddings: np.ndarray, speakers: list[int]) -> tuple[list[float], list[float]]:
    """The cosines of pairs of one speaker, and of two."""
    same, different = [], []
    for i, a in enumerate(embeddings):
        for j, b in enumerate(embeddings):
            if i != j:
                (same if speakers[i] == speakers[j] else different).append(float(a @ b))
    return same, different


@given(
    speakers=st.lists(st.integers(0, 3), min_size=2, max_size=8),
    repel=st.floats(0, 10),
    margin=st.floats(-0.5, 0.5),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_the_contrastive_loss(speakers: list[int], repel: float, margin: float, seed: int) -> None:
    x = np.array(unit(mx.array(np.random.default_rng(seed).standard_normal((len(speakers), 5)).astype(np.float32))))
    same, different = pairs(x.astype(np.float64), speakers)
    expected = np.mean([(1 - cosine) ** 2 for cosine in same]) if same else 0
    if different:
        expected += repel * np.mean([max(cosine - margin, 0) ** 2 for cosine in different])
    loss = contrastive_loss(mx.array(x), mx.array(speakers), repel=repel, margin=margin)
    assert loss.shape == ()
    assert float(loss) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_defaults_of_the_loss() -> None:
    x = unit(mx.random.normal((6, 5), key=mx.random.key(0)))
    speakers = mx.array([0, 0, 1, 1, 2, 2])
    assert float(contrastive_loss(x, speakers)) == float(contrastive_loss(x, speakers, repel=5.0, margin=0.0))


def test_the_loss_is_least_for_speakers_apart() -> None:
    speakers = mx.array([0, 0, 1, 1])
    apart = mx.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert float(contrastive_loss(apart, speakers)) == 0
    assert float(contrastive_loss(mx.ones((4, 2)) / 2**0.5, speakers)) == pytest.approx(5)
    assert float(separation(apart, speakers)) == 1


def test_one_clip_alone_costs_nothing() -> None:
    assert float(contrastive_loss(mx.array([[1.0, 0]]), mx.array([0]))) == 0


@pytest.mark.parametrize("speakers", [[0], [0, 1, 2], [0] * 5, [[0, 0, 1, 1]], 0], ids=str)
@pytest.mark.parametrize("function", [contrastive_loss, separation])
def test_speakers_that_are_not_one_for_each_clip(function: Any, speakers: Any) -> None:
    with pytest.raises(InputError, match="speakers"):
        function(unit(mx.random.normal((4, 3), key=mx.random.key(0))), mx.array(speakers))


@given(speakers=st.lists(st.integers(0, 3), min_size=2, max_size=8), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_the_separation(speakers: list[int], seed: int) -> None:
    x = np.array(unit(mx.array(np.random.default_rng(seed).standard_normal((len(speakers), 5)).astype(np.float32))))
    same, different = pairs(x.astype(np.float64), speakers)
    assume(same and different)
    assert float(separation(mx.array(x), mx.array(speakers))) == pytest.approx(
        np.mean(same) - np.mean(different), abs=1e-5
    )


@pytest.mark.parametrize("speakers", [[0, 0, 0], [0, 1, 2], [0]])
def test_a_separation_that_is_not_defined(speakers: list[int]) -> None:
    with pytest.raises(InputError, match="separation needs two speakers, and two clips of one of them"):
        separation(unit(mx.ones((len(speakers), 3))), mx.array(speakers))


# The checkpoint

WRAPPING = re.compile(r"\.(?:conv|norm)(?=\.[a-z_]+$)")
PLAIN = {WRAPPING.sub("", name): x for name, x in tiny_source("speaker_proxy").items()}


def refusal(path: Path, error: type[SpeechZooError] = CheckpointError) -> str:
    with pytest.raises(error) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@pytest.mark.parametrize("weights", [tiny_source("speaker_proxy"), PLAIN], ids=["wrapped", "plain"])
def test_a_checkpoint(tmp_path: Path, weights: dict[str, np.ndarray], prefix: str) -> None:
    """Under SpeechBrain's names, or under those without its wrapping."""
    path = proxy_file(tmp_path / "speaker_proxy_10k_best.pt", {prefix + name: x for name, x in weights.items()})
    model = load(path)
    assert model.config == PROXY
    expected = parameters(tiny_model("speaker_proxy"))
    assert all(mx.array_equal(x, expected[name]) for name, x in parameters(model).items())


def test_a_checkpoint_in_the_legacy_format(tmp_path: Path) -> None:
    settings = {"input_dim": 24, "embed_dim": 8, "channels": 16, "num_blocks": 3}
    content = {"model_state_dict": tf.state_dict(PLAIN), "config": settings, "epoch": 140}
    assert load(tf.save_legacy(tmp_path / "proxy.pt", content)).config == PROXY


@pytest.mark.parametrize(
    "more",
    [{"dropout": 0.1}, {"kernel_sizes": [1, 3, 3, 3, 1]}, {"kernel_sizes": (1, 3, 3, 3, 1)}, {"res2net_scale": 8}],
)
def test_more_settings_that_fit(tmp_path: Path, more: dict[str, Any]) -> None:
    assert load(proxy_file(tmp_path / "proxy.pt", **more)).config == PROXY


@pytest.mark.parametrize("width", [5, 3])
def test_widths_that_differ_are_followed(tmp_path: Path, width: int) -> None:
    """The card does not tell the first convolution's taps."""
    weights = PLAIN | {"blocks.0.conv.weight": np.ones((16, 24, width), np.float32)}
    assert load(proxy_file(tmp_path / "proxy.pt", weights)).config.kernel_sizes == [width, 3, 3, 3, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"input_dim": 2048},
        {"embed_dim": 192},
        {"channels": 512},
        {"num_blocks": 4},
        {"kernel_sizes": [5, 3, 3, 3, 1]},
        {"channels": "16"},
        {"channels": [16] * 5},
        {"temperature": 0.1},
        {"embed_dim": float("nan")},
    ],
    ids=str,
)
def test_settings_that_contradict_the_tensors_or_are_unknown(tmp_path: Path, changes: dict[str, Any]) -> None:
    message = refusal(proxy_file(tmp_path / "proxy.pt", **changes), ConfigError)
    assert next(iter(changes)) in message
    assert "proxy.pt" in message
    with pytest.raises(ConfigError):
        convert(tmp_path / "proxy.pt", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["proxy.pt"]


def test_other_names_are_listed(tmp_path: Path) -> None:
    names = {"blocks.": "layers.", "mfa.": "aggregate.", "fc.": "head."}
    weights = {}
    for name, x in PLAIN.items():
        old = next((old for old in names if name.startswith(old)), "")
        weights[names.get(old, "") + name.removeprefix(old)] = x
    message = refusal(proxy_file(tmp_path / "proxy.pt", weights))
    assert "under other names than SpeechBrain's" in message
    assert "it lacks blocks.0.conv.weight" in message
    assert all(name in message for name in weights)


@pytest.mark.parametrize("key", ["fc.weight", "mfa.conv.weight", "asp.tdnn.conv.weight", "blocks.1.tdnn1.conv.weight"])
def test_a_name_that_is_missing(tmp_path: Path, key: str) -> None:
    assert key in refusal(proxy_file(tmp_path / "proxy.pt", {name: x for name, x in PLAIN.items() if name != key}))


@pytest.mark.parametrize("key", ["extra.weight", "blocks.1.tdnn3.conv.weight", "running_var"])
def test_a_name_left_over(tmp_path: Path, key: str) -> None:
    assert key.rpartition(".")[0] in refusal(proxy_file(tmp_path / "proxy.pt", PLAIN | {key: np.ones(3, np.float32)}))


@pytest.mark.parametrize(
    "key", ["fc.weight", "fc.bias", "blocks.1.se_block.conv1.weight", "mfa.conv.weight", "asp_bn.weight"]
)
@pytest.mark.parametrize("shape", [(), (8, 0, 1)], ids=str)
def test_a_tensor_of_an_impossible_shape(tmp_path: Path, key: str, shape: tuple[int, ...]) -> None:
    refusal(proxy_file(tmp_path / "proxy.pt", PLAIN | {key: np.ones(shape, np.float32)}), SpeechZooError)


def test_without_its_settings(tmp_path: Path) -> None:
    """Nothing tells the input, so it is taken for SpeechBrain's and refused."""
    for more in ({}, {"config": {"input_dim": 24}}, {"config": 5}, {"config": None}):
        content = {"model_state_dict": tf.state_dict(tiny_source("speaker_proxy")), **more}
        refusal(tf.save_zip(tmp_path / "proxy.pt", content))


def test_settings_that_call_are_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    message = refusal(proxy_file(tmp_path / "proxy.pt", channels=tf.Name("os", "mkdir")(str(marker))))
    assert "os.mkdir" in message
    assert not marker.exists()
