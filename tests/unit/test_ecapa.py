"""ECAPA-TDNN: the forward pass against a plain float64 implementation, lengths, WeSpeaker's folders, the config."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch_files as tf
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from source_weights import source_weights, wespeaker_ecapa
from speech_zoo_core.audio.front_end import WESPEAKER
from speech_zoo_core.config import from_dict, to_dict
from speech_zoo_core.conversion import convert
from speech_zoo_core.errors import AudioError, CheckpointError, ConfigError, InputError, SpeechZooError
from speech_zoo_core.layers import parameters
from speech_zoo_core.loader import load
from speech_zoo_ecapa_tdnn import ModelConfig
from tiny_models import (
    CONFIGS,
    ECAPA,
    ECAPA_WESPEAKER,
    LID,
    PROXY,
    RATE,
    model_of,
    tiny_model,
    tiny_source,
    voice,
    wespeaker_folder,
    wespeaker_yaml,
)

ECAPAS = [name for name, config in CONFIGS.items() if config.model_type == "ecapa_tdnn"]
each_ecapa = pytest.mark.parametrize("name", ECAPAS)
PLAIN = CONFIGS["ecapa_wespeaker_plain"]


def features(config: Any, frames: int, seed: int = 0) -> mx.array:
    return mx.random.normal((frames, config.feat_dim), key=mx.random.key(seed))


# The forward pass, as speechbrain/lobes/models/ECAPA_TDNN.py and wespeaker/models/ecapa_tdnn.py write it


class Reference:
    """One clip in float64; frames are columns, as in PyTorch."""

    def __init__(self, config: Any, weights: dict[str, np.ndarray]) -> None:
        self.config, self.weights = config, {name: x.astype(np.float64) for name, x in weights.items()}

    def conv(self, x: np.ndarray, name: str, dilation: int = 1) -> np.ndarray:
        weight = self.weights[f"{name}.weight"]
        weight = weight if weight.ndim == 3 else weight[..., None]
        pad = weight.shape[-1] // 2 * dilation
        padded = np.pad(x, [(0, 0), (pad, pad)], mode="reflect" if self.config.padding == "reflect" else "constant")
        taps = [weight[:, :, k] @ padded[:, k * dilation :][:, : x.shape[1]] for k in range(weight.shape[-1])]
        return sum(taps) + self.weights[f"{name}.bias"][:, None]

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        gain, shift, mean, var = (
            self.weights[f"{name}.{part}"][:, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * gain + shift

    def tdnn(self, x: np.ndarray, name: str, dilation: int = 1) -> np.ndarray:
        x = np.maximum(self.conv(x, f"{name}.conv.conv", dilation), 0)
        return self.norm(x, f"{name}.norm.norm")

    def res2net(self, x: np.ndarray, name: str, dilation: int) -> np.ndarray:
        chunks = np.split(x, self.config.res2net_scale)
        out = [chunks.pop(0)] if self.config.res2net_skip == "first" else []
        previous: Any = 0
        for k in range(self.config.res2net_scale - 1):
            previous = self.tdnn(chunks[k] + previous, f"{name}.blocks.{k}", dilation)
            out.append(previous)
        return np.concatenate([*out, *chunks[self.config.res2net_scale - 1 :]])

    def block(self, x: np.ndarray, name: str, dilation: int) -> np.ndarray:
        hidden = self.res2net(self.tdnn(x, f"{name}.tdnn1"), f"{name}.res2net_block", dilation)
        hidden = self.tdnn(hidden, f"{name}.tdnn2")
        gate = np.maximum(self.conv(hidden.mean(axis=1, keepdims=True), f"{name}.se_block.conv1.conv"), 0)
        return x + hidden / (1 + np.exp(-self.conv(gate, f"{name}.se_block.conv2.conv")))

    def pool(self, x: np.ndarray) -> np.ndarray:
        raw = self.config.moments == "raw"
        context = [x]
        if self.config.global_context:
            var = x.var(axis=1, ddof=1 if raw else 0, keepdims=True)
            deviation = np.sqrt(var + 1e-7) if raw else np.sqrt(np.maximum(var, 1e-12))
            context += [np.broadcast_to(part, x.shape) for part in (x.mean(axis=1, keepdims=True), deviation)]
        joined = np.concatenate(context)
        hidden = (
            self.tdnn(joined, "asp.tdnn") if self.config.aggregation_norm else self.conv(joined, "asp.tdnn.conv.conv")
        )
        attention = self.conv(np.tanh(hidden), "asp.conv.conv")
        attention = np.exp(attention - attention.max(axis=1, keepdims=True))
        attention /= attention.sum(axis=1, keepdims=True)
        mean = (attention * x).sum(axis=1, keepdims=True)
        var = (attention * x**2).sum(axis=1, keepdims=True) - mean**2
        return np.concatenate([mean, np.sqrt(np.maximum(var, 1e-7 if raw else 1e-12))])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        config = self.config
        x = self.tdnn(x.T.astype(np.float64), "blocks.0", config.dilations[0])
        outputs = []
        for i, dilation in enumerate(config.dilations[1:-1], 1):
            x = self.block(x, f"blocks.{i}", dilation)
            outputs.append(x)
        joined = np.concatenate(outputs)
        if config.aggregation_norm:
            x = self.tdnn(joined, "mfa", config.dilations[-1])
        else:
            x = np.maximum(self.conv(joined, "mfa.conv.conv", config.dilations[-1]), 0)
        x = self.conv(self.norm(self.pool(x), "asp_bn.norm"), "fc.conv")
        if config.id2label is not None:
            x = self.norm(np.where(x > 0, x, 0.01 * x), "classifier.norm.norm")
            x = self.conv(x, "classifier.DNN.block_0.linear.w")
            x = self.norm(np.where(x > 0, x, 0.01 * x), "classifier.DNN.block_0.norm.norm")
            return self.conv(x, "classifier.out.w")[:, 0]
        return x[:, 0] if config.front_end else x[:, 0] / np.linalg.norm(x)


VARIANTS = {
    **{name: CONFIGS[name] for name in ECAPAS if CONFIGS[name].pooling_func == "ASTP"},
    "other kernels": replace(ECAPA, kernel_sizes=[3, 5, 3, 1, 3], dilations=[2, 1, 2, 7, 3]),
    "two blocks": replace(ECAPA, channels=[16, 16, 16, 10], kernel_sizes=[5, 3, 3, 1], dilations=[1, 2, 3, 1]),
    "no context": replace(ECAPA, global_context=False, res2net_scale=4),
    "wespeaker, other kernels": replace(ECAPA_WESPEAKER, kernel_sizes=[3, 5, 3, 1, 3], dilations=[2, 1, 2, 7, 3]),
    "wespeaker, centred": replace(ECAPA_WESPEAKER, moments="centred", res2net_skip="first"),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("frames", [0, 37])
def test_the_forward_pass(name: str, frames: int) -> None:
    """On the least number of frames, and on more."""
    config = VARIANTS[name]
    weights = source_weights(config, seed=3)
    model = model_of(config, weights)
    x = features(config, frames or model.min_frames)
    expected = Reference(config, weights)(np.array(x))
    assert np.allclose(np.array(model(x[None])[0]), expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_constant_features_have_a_deviation_of_the_floor() -> None:
    for config in (ECAPA, ECAPA_WESPEAKER):
        weights = source_weights(config)
        x = np.ones((20, 16), np.float32)
        output, expected = model_of(config, weights)(mx.array(x)[None])[0], Reference(config, weights)(x)
        assert np.allclose(np.array(output), expected, rtol=1e-2, atol=1e-2 * np.abs(expected).max())


# The shortest input


@pytest.mark.parametrize(
    ("config", "frames"),
    [
        (ECAPA, 5),
        (replace(ECAPA, kernel_sizes=[11, 3, 3, 3, 1]), 6),
        (replace(ECAPA, dilations=[1, 2, 3, 9, 1]), 10),
        (replace(ECAPA, kernel_sizes=[1, 1, 1, 1, 1]), 2),  # CMN leaves nothing of one frame
        (PROXY, 5),
        (ECAPA_WESPEAKER, 2),
        (PLAIN, 2),
    ],
    ids=["published", "a wide kernel", "a wide dilation", "one tap", "proxy", "wespeaker", "plain"],
)
def test_the_least_number_of_frames(config: Any, frames: int) -> None:
    model = model_of(config, source_weights(config))
    assert model.min_frames == frames
    assert bool(mx.isfinite(model(features(config, frames)[None])).all())
    for count in range(frames):
        with pytest.raises(InputError, match=rf"is not \(B, T, {config.feat_dim}\) with T of {frames} or more"):
            model(features(config, count)[None])


@pytest.mark.parametrize("name", ["ecapa_speechbrain", "ecapa_wespeaker", "ecapa_wespeaker_plain"])
def test_a_short_clip_names_the_seconds(name: str) -> None:
    model = tiny_model(name)
    shortest = round(model.config.front_end.seconds(model.min_frames) * RATE)
    assert shortest == {"ecapa_speechbrain": 640, "ecapa_wespeaker": 560, "ecapa_wespeaker_plain": 560}[name]
    with pytest.raises(AudioError) as caught:
        model.embed(voice(shortest - 1), RATE)
    seconds = f"{(shortest - 1) / RATE:.3f} s, ecapa_tdnn needs at least {shortest / RATE:.3f} s"
    assert str(caught.value) == f"the clip is too short: {seconds}"


@each_ecapa
@pytest.mark.parametrize("lengths", [[20, 0], [20, -1], [21, 20], [20, 2**31 - 1]])
def test_lengths_outside_the_batch(name: str, lengths: list[int]) -> None:
    x = mx.stack([features(CONFIGS[name], 20, seed) for seed in range(2)])
    with pytest.raises(InputError, match="must lie between"):
        tiny_model(name)(x, mx.array(lengths))
    with pytest.raises(InputError, match="must lie between"):
        tiny_model(name)(x, mx.array([20, tiny_model(name).min_frames - 1]))


# Relative lengths


@each_ecapa
def test_relative_lengths_of_one_change_nothing(name: str) -> None:
    x = mx.stack([features(CONFIGS[name], 30, seed) for seed in range(3)])
    model = tiny_model(name)
    assert mx.allclose(model(x, mx.ones(3)), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [ECAPA, LID, ECAPA_WESPEAKER], ids=["speaker", "language", "wespeaker"])
@given(lengths=st.lists(st.integers(4, 40), min_size=2, max_size=3))
@settings(max_examples=8, deadline=None)
def test_relative_lengths_choose_the_frames_that_count(config: Any, lengths: list[int]) -> None:
    """With convolutions of one tap nothing else is seen, so that they give what lengths in frames give."""
    config = replace(config, kernel_sizes=[1] * 5)
    model = model_of(config, source_weights(config))
    x = mx.stack([features(config, max(lengths), seed) for seed in range(len(lengths))])
    relative = mx.array([(n - 0.5) / max(lengths) for n in lengths])  # between two frames, where no rounding matters
    output, expected = model(x, relative), model(x, mx.array(lengths))
    assert mx.allclose(output, expected, rtol=1e-3, atol=1e-3 * float(mx.abs(expected).max()))


def test_relative_lengths_see_the_padding_and_lengths_in_frames_do_not() -> None:
    """As SpeechBrain's own batches: the last frames of a shorter clip look into the padding."""
    model = tiny_model("ecapa_speechbrain")
    batches = [
        mx.stack([features(ECAPA, 40), mx.pad(features(ECAPA, 20, 1), [(0, 20), (0, 0)], constant_values=value)])
        for value in (0.0, 5.0)
    ]
    relative, whole = mx.array([1.0, 0.5]), mx.array([40, 20])
    rows = [model(x, relative) for x in batches]
    assert mx.allclose(rows[0][0], rows[1][0], atol=1e-4)
    assert not mx.allclose(rows[0][1], rows[1][1], rtol=1e-2)
    assert mx.array_equal(model(batches[0], whole), model(batches[1], whole))


def test_relative_lengths_of_waveforms() -> None:
    """The mean that is subtracted is that of the frames which count."""
    for name in ("ecapa_speechbrain", "ecapa_lid"):
        model = tiny_model(name)
        clips = [voice(8000), voice(4800, 1)]
        padded = mx.array(np.stack([np.pad(clip, (0, 8000 - len(clip))) for clip in clips]))
        relative = mx.array([1.0, 0.6])
        # 51 frames, of which 0.6 are 30.6: the mask takes 31, and so does the mean.
        x = mx.stack([model.config.front_end(row, n) for row, n in zip(padded, (51, 31), strict=True)])
        output, expected = model(padded, relative), model(x, relative)
        assert mx.allclose(output, expected, rtol=1e-3, atol=1e-3 * float(mx.abs(expected).max()))
        assert mx.allclose(output[0], model(mx.array(clips[0]))[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "lengths", [[0.0, 1.0], [-0.5, 1.0], [1.5, 1.0], [float("nan"), 1.0], [1.0], [[1.0, 1.0]], 1.0, [1.0] * 3], ids=str
)
@pytest.mark.parametrize("form", ["features", "waveforms"])
def test_relative_lengths_that_cannot_be(form: str, lengths: Any) -> None:
    model = tiny_model("ecapa_speechbrain")
    x = mx.array(np.stack([voice(8000, seed) for seed in range(2)]))
    with pytest.raises(InputError, match="relative lengths must be 2 numbers above 0 and at most 1"):
        model(x if form == "waveforms" else model.waveform_features(x), mx.array(lengths))


@pytest.mark.parametrize("shape", [(1, 20, 15), (1, 16, 20), (1, 1, 20, 16), (1, 0, 16)])
def test_an_input_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"is not \(B, T, 16\)"):
        tiny_model("ecapa_speechbrain")(mx.zeros(shape))


# WeSpeaker's folders


def settings_of(config: Any = ECAPA_WESPEAKER, name: str = "ECAPA_TDNN_GLOB_c512", **changes: Any) -> dict[str, Any]:
    data = wespeaker_yaml(config, name)
    data["model_args"] |= changes
    return data


def refusal(path: Path, error: type[SpeechZooError] = ConfigError) -> str:
    with pytest.raises(error) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@pytest.mark.parametrize("config", [ECAPA_WESPEAKER, PLAIN], ids=["GLOB", "plain"])
def test_a_wespeaker_folder(tmp_path: Path, config: Any, prefix: str) -> None:
    name = "ECAPA_TDNN_GLOB_c512" if config.global_context else "ECAPA_TDNN_c512"
    weights = {prefix + key: x for key, x in wespeaker_ecapa(source_weights(config, projection=not prefix)).items()}
    path = wespeaker_folder(tmp_path / "source", config, weights, settings_of(config, name))
    model = load(path)
    assert model.config == config
    expected = parameters(model_of(config, source_weights(config)))
    assert all(mx.array_equal(x, expected[key]) for key, x in parameters(model).items())
    again = load(convert(path, tmp_path / "out"))
    assert again.config.source["form"] == f"WeSpeaker {name}"
    assert replace(again.config, source=None) == config


@pytest.mark.parametrize("config", [ECAPA_WESPEAKER, PLAIN], ids=["GLOB", "plain"])
def test_a_wespeaker_state_dict_alone_has_wespeakers_features(tmp_path: Path, config: Any) -> None:
    save_file(wespeaker_ecapa(source_weights(config)), tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors").config == config
    assert config.front_end == replace(WESPEAKER, n_mels=16)


@pytest.mark.parametrize("said", [True, None])
def test_the_last_batch_norm(tmp_path: Path, said: bool | None) -> None:
    """`emb_bn`, folded into the layer before it."""
    rng = np.random.default_rng(0)
    parts = {
        part: rng.uniform(0.5, 1.5, 8).astype(np.float32) for part in ("weight", "bias", "running_mean", "running_var")
    }
    weights = wespeaker_ecapa(tiny_source("ecapa_wespeaker")) | {f"bn2.{part}": x for part, x in parts.items()}
    weights["bn2.num_batches_tracked"] = np.array(1000)
    if said is None:
        path = tf.save_zip(tmp_path / "avg_model.pt", tf.state_dict(weights))
    else:
        path = wespeaker_folder(tmp_path, ECAPA_WESPEAKER, weights, settings_of(emb_bn=True))
    model, plain = load(path), tiny_model("ecapa_wespeaker")
    assert model.config == ECAPA_WESPEAKER
    x = mx.random.normal((2, 30, 16), key=mx.random.key(0))
    expected = (np.array(plain(x)) - parts["running_mean"]) / np.sqrt(parts["running_var"] + 1e-5)
    assert np.allclose(np.array(model(x)), expected * parts["weight"] + parts["bias"], rtol=1e-3, atol=1e-3)


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "channels by its name": (settings_of(name="ECAPA_TDNN_GLOB_c1024", channels=1024), "channels"),
    "channels": (settings_of(channels=512), "channels"),
    "context by its name": (settings_of(name="ECAPA_TDNN_c512"), "global_context_att"),
    "context": (settings_of(global_context_att=False), "global_context_att"),
    "features": (settings_of(feat_dim=80), "feat_dim"),
    "embedding": (settings_of(embed_dim=192), "embed_dim"),
    "embedding as text": (settings_of(embed_dim="8"), "embed_dim"),
    "pooling": (settings_of(pooling_func="TSTP"), "pooling_func"),
    "pooling left empty": (settings_of(pooling_func=None), "pooling_func"),
    "a last norm": (settings_of(emb_bn=True), "emb_bn"),
    "an unknown setting": (settings_of(scale=8), "scale"),
    "another model": (settings_of(name="ECAPA_TDNN_GLOB_c2048"), "ECAPA_TDNN_GLOB_c2048"),
    "another family": (settings_of(name="ResNet34"), "ResNet34"),
    "no channels": (
        {key: value for key, value in settings_of().items() if key != "model_args"} | {"model_args": {"feat_dim": 16}},
        "channels",  # the name says 512
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_wespeaker_settings_that_contradict_the_tensors(tmp_path: Path, case: str) -> None:
    data, named = CONTRADICTIONS[case]
    path = wespeaker_folder(tmp_path / "source", ECAPA_WESPEAKER, settings=yaml.safe_dump(data))
    message = refusal(path)
    assert named in message
    assert "config.yaml" in message
    with pytest.raises(ConfigError):
        convert(path, tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("name", ["ResNet34", "CAMPPlus"])
def test_settings_of_an_ecapa_beside_another_family(tmp_path: Path, name: str) -> None:
    config = {"ResNet34": CONFIGS["basic"], "CAMPPlus": CONFIGS["campplus"]}[name]
    path = wespeaker_folder(tmp_path, config, settings=yaml.safe_dump(settings_of()))
    assert "ECAPA_TDNN_GLOB_c512" in refusal(path)


@pytest.mark.parametrize("width", [1, 3, 4])
def test_another_pooling_is_told_by_its_width(tmp_path: Path, width: int) -> None:
    """TAP gives the means alone, for one."""
    weights = wespeaker_ecapa(tiny_source("ecapa_wespeaker"))
    weights["linear.weight"] = np.ones((8, width * 48), np.float32)
    assert f"linear takes {width * 48} values, which ASTP of 48 channels does not give" in refusal(
        wespeaker_folder(tmp_path, ECAPA_WESPEAKER, weights), CheckpointError
    )


@pytest.mark.parametrize(
    "key",
    [
        "layer1.conv.weight",
        "layer1.bn.running_var",
        "layer2.se_res2block.1.convs.0.weight",
        "layer3.se_res2block.1.bns.6.bias",
        "layer4.se_res2block.3.linear1.weight",
        "conv.weight",
        "pool.linear1.weight",
        "pool.linear2.bias",
        "bn.running_mean",
        "linear.weight",
        "linear.bias",
    ],
)
@pytest.mark.parametrize("shape", [None, (), (3, 3, 3)], ids=str)
def test_a_wespeaker_tensor_that_is_missing_or_of_another_shape(
    tmp_path: Path, key: str, shape: tuple[int, ...] | None
) -> None:
    weights = wespeaker_ecapa(tiny_source("ecapa_wespeaker"))
    del weights[key]
    if shape is not None:
        weights[key] = np.ones(shape, np.float32)
    save_file(weights, tmp_path / "model.safetensors")
    refusal(tmp_path / "model.safetensors", SpeechZooError)


@pytest.mark.parametrize(
    "key", ["layer5.conv.weight", "spk.weight", "layer2.se_res2block.4.weight", "bn3.running_var", "conv1.weight"]
)
def test_a_wespeaker_tensor_left_over_is_named(tmp_path: Path, key: str) -> None:
    save_file(
        wespeaker_ecapa(tiny_source("ecapa_wespeaker")) | {key: np.ones(3, np.float32)}, tmp_path / "model.safetensors"
    )
    message = refusal(tmp_path / "model.safetensors", SpeechZooError)
    assert key.rpartition(".")[0].rpartition(".")[2] in message


# The config


@each_ecapa
def test_a_config_survives_the_round_trip(name: str) -> None:
    plain = to_dict(CONFIGS[name])
    assert from_dict(ModelConfig, plain) == CONFIGS[name]
    assert None not in plain.values()


IMPOSSIBLE: dict[str, tuple[Any, dict[str, Any], str]] = {
    "channels that differ": (ECAPA, {"channels": [32, 16, 32, 32, 48]}, "channels"),
    "channels that do not divide": (ECAPA, {"channels": [30, 30, 30, 30, 48]}, "res2net_scale"),
    "one chunk": (ECAPA, {"res2net_scale": 1}, "res2net_scale"),
    "two layers": (ECAPA, {"channels": [32, 32], "kernel_sizes": [5, 1], "dilations": [1, 1]}, "at least 3 layers"),
    "no layers": (ECAPA, {"channels": [], "kernel_sizes": [], "dilations": []}, "at least 3 layers"),
    "fewer kernels": (ECAPA, {"kernel_sizes": [5, 3, 3, 1]}, "kernel_sizes"),
    "fewer dilations": (ECAPA, {"dilations": [1, 2, 3, 1]}, "dilations"),
    "an even kernel": (ECAPA, {"kernel_sizes": [5, 3, 4, 3, 1]}, "kernel_sizes odd"),
    "no kernel": (ECAPA, {"kernel_sizes": [5, 3, -1, 3, 1]}, "must be positive"),
    "no dilation": (ECAPA, {"dilations": [1, 0, 3, 4, 1]}, "must be positive"),
    "no channels": (ECAPA, {"channels": [0, 0, 0, 0, 48]}, "must be positive"),
    "no attention": (ECAPA, {"attention_channels": 0}, "must be positive"),
    "no squeeze": (ECAPA, {"se_channels": 0}, "must be positive"),
    "no embedding": (ECAPA, {"embed_dim": 0}, "embed_dim must be positive"),
    "no features": (PROXY, {"feat_dim": 0}, "must be positive"),
    "other features": (ECAPA, {"feat_dim": 80}, "feat_dim 80 must equal front_end.n_mels 16"),
    "another padding": (ECAPA, {"padding": "same"}, "padding"),
    "another chunk": (ECAPA, {"res2net_skip": "middle"}, "res2net_skip"),
    "other moments": (ECAPA, {"moments": "biased"}, "moments"),
    "another task": (ECAPA, {"task": "diarization"}, "task"),
    "the task alone": (ECAPA, {"task": "language-identification"}, "id2label belongs to"),
    "labels alone": (ECAPA, {"id2label": {"0": "en"}}, "id2label belongs to"),
    "a classifier alone": (ECAPA, {"classifier_neurons": 12}, "classifier_neurons belongs to"),
    "a classifier without labels": (LID, {"id2label": None}, "id2label belongs to"),
    "a classifier without a width": (LID, {"classifier_neurons": None}, "classifier_neurons belongs to"),
    "cosines with a hidden layer": (LID, {"classifier": "cosine"}, "classifier_neurons belongs to"),
    "a classifier of no width": (LID, {"classifier_neurons": 0}, "positive classifier_neurons"),
    "languages of no audio": (LID, {"front_end": None}, "front_end"),
    "a flag as a number": (ECAPA, {"global_context": 1}, "global_context"),
    "a number as a flag": (ECAPA, {"res2net_scale": True}, "res2net_scale"),
    "numbers as text": (ECAPA, {"channels": ["32"] * 4 + ["48"]}, "channels"),
    "an unknown key": (ECAPA, {"dropout": 0.1}, "dropout"),
    "a threshold that is no cosine": (ECAPA, {"threshold": 2}, "threshold"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_config_that_cannot_be(case: str) -> None:
    config, changes, named = IMPOSSIBLE[case]
    data = {key: value for key, value in (to_dict(config) | changes).items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        from_dict(ModelConfig, data, "the/config.json")
    assert str(caught.value).startswith("the/config.json")
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ecapa_speechbrain", {"padding": "zeros"}),
        ("ecapa_speechbrain", {"res2net_skip": "last"}),
        ("ecapa_speechbrain", {"dilations": [1, 2, 3, 5, 1]}),
        ("ecapa_wespeaker", {"moments": "centred"}),
        ("ecapa_wespeaker", {"padding": "reflect"}),
    ],
    ids=str,
)
def test_what_no_tensor_tells_is_read_from_the_config(name: str, change: dict[str, Any]) -> None:
    weights = tiny_source(name)
    other = model_of(replace(CONFIGS[name], **change), weights)
    x = mx.random.normal((1, 8, 16), key=mx.random.key(0))
    assert not mx.array_equal(other(x), tiny_model(name)(x))
