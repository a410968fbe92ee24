"""Every family and variant on seeded random weights: shapes, minimum length, padding, precision."""

import re
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speech_zoo_core.errors import AudioError, CheckpointError, InputError
from speech_zoo_core.layers import parameters
from tiny_models import AUDIO, CONFIGS, RATE, SPEAKERS, model_of, noise, tiny_model, tiny_source, to_mx, voice

each_model = pytest.mark.parametrize("name", CONFIGS)
each_family = pytest.mark.parametrize(
    "name",
    [
        "basic",
        "bottleneck",
        "simam",
        "res2net",
        "inverted",
        "campplus",
        "ecapa_speechbrain",
        "ecapa_wespeaker",
        "eres2net",
        "eres2netv2",
        "xvector",
        "se_resnet",
        "redimnet",
        "redimnet_fwse",
        "redimnet2",
        "redimnet2_image",
    ],
)
CHECKED = ("ecapa_tdnn", "xvector", "se_resnet", "redimnet")  # that refuse a shape by themselves
each_with_audio = pytest.mark.parametrize("name", AUDIO)
each_speaker_model = pytest.mark.parametrize("name", SPEAKERS)


def features(model: Any, frames: int, seed: int = 0) -> mx.array:
    return mx.random.normal((frames, model.config.feat_dim), key=mx.random.key(seed))


def cosine(a: mx.array, b: mx.array) -> float:
    a, b = (np.asarray(x.astype(mx.float32), np.float64).ravel() for x in (a, b))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


# Conversion of the tensors


@each_model
def test_sanitize_is_a_fixed_point(name: str) -> None:
    model = tiny_model(name)
    once = model.sanitize(to_mx(tiny_source(name)))
    assert {key: x.shape for key, x in once.items()} == {key: x.shape for key, x in parameters(model).items()}
    twice = model.sanitize(once)
    assert set(twice) == set(once)
    for key, x in once.items():
        assert mx.array_equal(twice[key], x), key


@each_model
def test_no_batch_norm_statistics_are_left(name: str) -> None:
    assert not [key for key in parameters(tiny_model(name)) if "running" in key or "num_batches" in key]


@each_model
def test_the_training_loss_and_counters_are_dropped(name: str) -> None:
    source = dict(tiny_source(name))
    counters = [key for key in source if key.endswith("num_batches_tracked")]
    assert counters
    for key in counters:
        del source[key]
    source |= {"projection.weight": np.ones((5, 8), np.float32), "projection.bias": np.ones(5, np.float32)}
    model, expected = model_of(CONFIGS[name], source), parameters(tiny_model(name))
    assert all(mx.array_equal(x, expected[key]) for key, x in parameters(model).items())


def test_square_convolutions_are_turned_once() -> None:
    """(3, 3, 3, 3) fits the model in both orders."""
    source = tiny_source("square")
    weight, variance, gain = (source[f"layer1.0.{key}"] for key in ("conv1.weight", "bn1.running_var", "bn1.weight"))
    folded = weight * (gain / np.sqrt(variance + 1e-5))[:, None, None, None]
    turned = parameters(tiny_model("square"))["layer1.0.conv1.weight"]
    assert turned.shape == (3, 3, 3, 3)
    assert np.allclose(np.array(turned), np.moveaxis(folded, 1, -1), rtol=1e-5)


def test_square_convolutions_of_one_axis_are_turned_once() -> None:
    """(3, 3, 3) fits the model in both orders."""
    name = "blocks.1.res2net_block.blocks.0.conv"
    weight = parameters(tiny_model("ecapa_square"))[f"{name}.weight"]
    assert weight.shape == (3, 3, 3)
    assert np.array_equal(np.array(weight), np.moveaxis(tiny_source("ecapa_square")[f"{name}.conv.weight"], 1, -1))


@each_model
def test_bfloat16_sources_give_float32_weights(name: str) -> None:
    source = {key: x.astype(mx.bfloat16) if x.dtype == mx.float32 else x for key, x in to_mx(tiny_source(name)).items()}
    converted = tiny_model(name).sanitize(source)
    assert {x.dtype for x in converted.values()} == {mx.float32}
    expected = parameters(tiny_model(name))
    assert all(mx.allclose(x, expected[key], rtol=0.05, atol=0.05) for key, x in converted.items())


# What is missing, extra or of another shape


def representatives(name: str) -> list[str]:
    """One tensor of each kind: names that differ in their numbers alone are of one kind."""
    kinds: dict[str, str] = {}
    for key in tiny_source(name):
        kinds.setdefault(re.sub(r"\d+", "#", key), key)
    return [key for key in kinds.values() if not key.endswith("num_batches_tracked")]


TENSORS = [
    (name, key) for name in ("two_emb_layer", "campplus", "ecapa_lid", "eres2net") for key in representatives(name)
]
# SpeechBrain wraps every layer once more: blocks.0.conv.conv.weight, out.w.weight.
WRAPPING = re.compile(r"(?<=\.)(?:conv|norm|w)\.(?=[a-z_]+$)")


def plain(name: str, key: str) -> str:
    """A tensor's name as messages have it: without SpeechBrain's wrapping."""
    return WRAPPING.sub("", key) if name.startswith("ecapa") else key


def refusal(name: str, source: dict[str, np.ndarray]) -> str:
    with pytest.raises(CheckpointError) as caught:
        model_of(CONFIGS[name], source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "key"), TENSORS)
def test_a_missing_tensor_is_named(name: str, key: str) -> None:
    source = dict(tiny_source(name))
    del source[key]
    layer, _, part = plain(name, key).rpartition(".")
    message = refusal(name, source)
    assert f"{layer}.{part}" in message or (
        part == "running_var" and layer in message
    )  # without it, the rest of a norm is left over


@pytest.mark.parametrize(("name", "key"), TENSORS)
@pytest.mark.parametrize("change", ["longer", "scalar"])
def test_a_tensor_of_another_shape_is_named(name: str, key: str, change: str) -> None:
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "longer": lambda x: np.concatenate([x, x[:1]]),
        "scalar": lambda x: x.ravel()[0].reshape(()),
    }
    source = dict(tiny_source(name))
    source[key] = changes[change](source[key])
    layer = plain(name, key).rpartition(".")[0]
    assert layer.removesuffix(".1").removesuffix(".0") in refusal(name, source)


@pytest.mark.parametrize("name", ["two_emb_layer", "campplus", "ecapa_lid", "ecapa_wespeaker", "eres2net"])
@pytest.mark.parametrize(
    "key", ["surprise.weight", "surprise.running_var", "head.surprise", "xvector", "layer9.0.bn1.weight"]
)
def test_an_extra_tensor_is_named(name: str, key: str) -> None:
    assert key.rpartition(".")[0] in refusal(name, tiny_source(name) | {key: np.ones(3, np.float32)})


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("basic", "layer1.0.bn1"),
        ("basic", "bn1"),
        ("campplus", "head.bn1"),
        ("ecapa_speechbrain", "asp_bn.norm"),
        ("ecapa_speechbrain", "asp.tdnn.norm.norm"),
        ("ecapa_lid", "classifier.norm.norm"),
        ("ecapa_lid", "classifier.DNN.block_0.norm.norm"),
    ],
)
def test_a_norm_without_weight_and_bias_is_refused(name: str, norm: str) -> None:
    """Only the last norm of each family is without them; elsewhere they were lost."""
    source = {key: x for key, x in tiny_source(name).items() if key not in (f"{norm}.weight", f"{norm}.bias")}
    assert norm.removesuffix(".norm") in refusal(name, source)


# Output


@each_model
@pytest.mark.parametrize("batch", [1, 3])
def test_the_shape_of_the_output(name: str, batch: int) -> None:
    model = tiny_model(name)
    embeddings = model(mx.stack([features(model, 57, seed) for seed in range(batch)]))
    assert embeddings.shape == (batch, len(getattr(model.config, "id2label", None) or range(model.config.embed_dim)))
    assert embeddings.dtype == mx.float32
    assert bool(mx.isfinite(embeddings).all())
    if batch > 1:
        assert cosine(embeddings[0], embeddings[1]) < 0.99999  # the input matters


@each_with_audio
def test_waveforms_in_place_of_features(name: str) -> None:
    model = tiny_model(name)
    clips = mx.array(np.stack([voice(8000, seed) for seed in range(2)]))
    expected = mx.concatenate([model(model.config.front_end(clip)[None]) for clip in clips])
    assert mx.allclose(model(clips), expected, rtol=1e-4, atol=1e-4)
    assert mx.allclose(model(clips[0]), expected[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in AUDIO if name != "campplus_3dspeaker"])
@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_waveforms_that_were_padded_give_what_each_gives_alone(name: str, data: st.DataObject) -> None:
    """The mean that is subtracted is that of the clip's own frames."""
    model = tiny_model(name)
    front_end = model.config.front_end
    shortest = round(front_end.seconds(model.min_frames) * RATE)
    sizes = data.draw(st.lists(st.integers(shortest, 16_000), min_size=2, max_size=3))
    clips = [voice(n, seed) for seed, n in enumerate(sizes)]
    padded = mx.array(np.stack([np.pad(clip, (0, max(sizes) + 800 - len(clip))) for clip in clips]))
    lengths = mx.array([front_end.num_frames(n) for n in sizes])
    for clip, row in zip(clips, model(padded, lengths), strict=True):
        alone = model(mx.array(clip))[0]
        assert mx.allclose(row, alone, rtol=1e-3, atol=1e-3 * float(mx.abs(alone).max()))
        assert cosine(row, alone) > 0.999999


@each_family
@pytest.mark.parametrize(
    "lengths",
    [[30], [30, 30, 30], 30, [[30, 30]], [30, 0], [30, -5], [30, 9999], [True, True], [float("nan"), 0.5], [0.5, 1.5]],
    ids=str,
)
@pytest.mark.parametrize("form", ["features", "waveforms"])
def test_lengths_that_fit_no_batch_are_refused(name: str, form: str, lengths: Any) -> None:
    model = tiny_model(name)
    clips = mx.array(np.stack([voice(8000, seed) for seed in range(2)]))
    x = clips if form == "waveforms" else model.waveform_features(clips)
    with pytest.raises(InputError, match="lengths"):
        model(x, mx.array(lengths))


@each_with_audio
def test_waveforms_shorter_than_a_frame_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="too short"):
        tiny_model(name)(mx.array(voice(200))[None])


@each_model
def test_the_model_is_in_inference_mode(name: str) -> None:
    assert not tiny_model(name).training


# The shortest clip


@each_model
def test_the_least_number_of_frames_is_enough(name: str) -> None:
    model = tiny_model(name)
    assert bool(mx.isfinite(model(features(model, model.min_frames)[None])).all())


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, config in CONFIGS.items()
        if config.model_type not in CHECKED and config.pooling_func in ("TSTP", "TSDP")
    ],
)
def test_one_frame_less_has_no_variance(name: str) -> None:
    """So `min_frames` asks for no more than is needed."""
    model = tiny_model(name)
    assert not bool(mx.isfinite(model(features(model, model.min_frames - 1)[None])).all())


@each_speaker_model
@pytest.mark.usefixtures("all_is_speech")
def test_a_clip_that_is_too_short_says_how_long_is_needed(name: str) -> None:
    model = tiny_model(name)
    shortest = round(model.config.front_end.seconds(model.min_frames) * RATE)
    vector = model.embed(voice(shortest), RATE)
    assert bool(mx.isfinite(vector).all())
    with pytest.raises(AudioError) as caught:
        model.embed(voice(shortest - 1), RATE)
    assert f"needs at least {shortest / RATE:.3f} s" in str(caught.value)
    assert "the clip is too short" in str(caught.value)
    with pytest.raises(AudioError, match="needs at least"):
        model.embed_batch([voice(8000), voice(160)], RATE)


@each_speaker_model
@pytest.mark.usefixtures("all_is_speech")
def test_the_shortest_clips_still_differ(name: str) -> None:
    """Less is no clip to embed: of a single frame, the subtraction of its mean leaves nothing."""
    model = tiny_model(name)
    shortest = round(model.config.front_end.seconds(model.min_frames) * RATE)
    assert cosine(model.embed(voice(shortest), RATE), model.embed(voice(shortest, 1), RATE)) < 0.999


@each_speaker_model
@pytest.mark.parametrize(
    "signal", [np.zeros(RATE), np.full(RATE, 0.25), noise(RATE) * 1e-4], ids=["zero", "dc", "faint"]
)
def test_a_silent_clip_is_refused(name: str, signal: np.ndarray) -> None:
    with pytest.raises(AudioError, match="holds no speech"):
        tiny_model(name).embed(signal.astype(np.float32), RATE)
    with pytest.raises(AudioError, match="holds no speech"):
        tiny_model(name).embed_batch([voice(RATE), signal.astype(np.float32)], RATE)


# Padding


@pytest.mark.parametrize(
    "name",
    [
        "basic",
        "basic_astp",
        "basic_tap",
        "basic_tsdp",
        "basic_mhastp",
        "basic_mqmhastp",
        "bottleneck",
        "simam",
        "res2net",
        "inverted",
        "two_emb_layer",
        "campplus",
        "ecapa_mhastp",
        "ecapa_speechbrain",
        "ecapa_lid",
        "ecapa_wespeaker",
        "ecapa_wespeaker_plain",
        "eres2net",
        "eres2net_two_emb_layer",
        "eres2netv2",
        "xvector",
        "se_resnet",
        "redimnet",
        "redimnet_resnet",
        "redimnet_fwse",
        "redimnet2",
        "redimnet2_image",
        "redimnet2_plain",
        "speaker_proxy",
    ],
)
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_padding_does_not_leak(name: str, data: st.DataObject) -> None:
    model = tiny_model(name)
    lengths = data.draw(st.lists(st.integers(model.min_frames, 230), min_size=2, max_size=3))
    more = data.draw(st.integers(0, 120))
    clips = [features(model, n, seed) for seed, n in enumerate(lengths)]
    padded = mx.stack([mx.pad(clip, [(0, max(lengths) + more - len(clip)), (0, 0)]) for clip in clips])
    together = model(padded, mx.array(lengths))
    for clip, row in zip(clips, together, strict=True):
        alone = model(clip[None])[0]
        assert mx.allclose(row, alone, rtol=1e-3, atol=1e-3 * float(mx.abs(alone).max()))
        assert cosine(row, alone) > 0.999999


@each_family
def test_what_stands_in_the_padding_does_not_matter(name: str) -> None:
    model = tiny_model(name)
    clip = features(model, 60)
    zeros, noise = (mx.pad(clip, [(0, 40), (0, 0)], constant_values=value)[None] for value in (0.0, 7.0))
    assert mx.array_equal(model(zeros, mx.array([60])), model(noise, mx.array([60])))


@each_family
def test_lengths_that_fill_the_batch_change_nothing(name: str) -> None:
    model = tiny_model(name)
    x = mx.stack([features(model, 50, seed) for seed in range(2)])
    assert mx.allclose(model(x, mx.array([50, 50])), model(x), rtol=1e-4, atol=1e-5)


def test_a_segment_of_padding_alone_does_not_leak() -> None:
    """CAM++ takes the mean of every 100 frames after its stride of 2; here two such segments hold nothing."""
    model = tiny_model("campplus")
    clip = features(model, 150)
    padded = mx.pad(clip, [(0, 450), (0, 0)])
    assert mx.allclose(model(padded[None], mx.array([150])), model(clip[None]), rtol=1e-3, atol=1e-4)


# Precision


@each_family
@pytest.mark.parametrize(("dtype", "least"), [(mx.float16, 0.999), (mx.bfloat16, 0.98)])
def test_half_precision(name: str, dtype: mx.Dtype, least: float) -> None:
    clip = voice(RATE // 2)
    model = model_of(CONFIGS[name], tiny_source(name))
    model.set_dtype(dtype)
    assert model(features(model, 50)[None]).dtype == dtype
    vector = model.embed(clip, RATE)
    assert vector.dtype == mx.float32
    assert cosine(vector, tiny_model(name).embed(clip, RATE)) > least
