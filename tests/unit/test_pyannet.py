"""PyanNet: conversion, recognition, batches and lengths; the LSTM's two ways; powersets."""

import pickle
from itertools import combinations
from pathlib import Path
from typing import Any

import speech_zoo  # isort: skip  # before MLX, whose TF32 it turns off
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from pyannet_files import BANK, SMALL, lightning, source_tensors
from signals import waveforms
from speech_zoo_core.errors import AudioError, CheckpointError, ConfigError, InputError
from speech_zoo_core.layers import parameters
from speech_zoo_core.recurrent import BiLSTM
from speech_zoo_core.tasks.segmentation import powerset
from tiny_models import to_mx, voice

BUNDLED = "pyannote-segmentation-3.0"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return speech_zoo.load(lightning(tmp_path_factory.mktemp("pyannet") / "pytorch_model.bin"))


@pytest.fixture(scope="module")
def bundled() -> Any:
    return speech_zoo.load(BUNDLED)


# Checkpoints


def test_the_config_comes_from_the_tensors(small: Any) -> None:
    assert (small.config.model_type, small.config.task) == ("pyannet", "speaker-segmentation")
    assert {key: getattr(small.config, key) for key in SMALL} == SMALL
    assert (small.config.max_speakers, small.config.max_overlap, small.config.duration) == (3, 2, 10.0)


def test_sanitize_is_a_fixed_point(small: Any) -> None:
    once = small.sanitize(to_mx(source_tensors()))
    assert {key: x.shape for key, x in once.items()} == {key: x.shape for key, x in parameters(small).items()}
    twice = small.sanitize(once)
    assert set(twice) == set(once)
    assert all(mx.array_equal(twice[key], x) for key, x in once.items())


def test_a_conversion_gives_the_same(small: Any, tmp_path: Path) -> None:
    folder = speech_zoo.convert(lightning(tmp_path / "pytorch_model.bin"), tmp_path / "out")
    again = speech_zoo.load(folder)
    x = mx.array(voice(20000))
    assert mx.array_equal(again(x), small(x))
    eight = speech_zoo.convert(folder, tmp_path / "half", dtype="float16")
    half = speech_zoo.load(eight, dtype="float16")
    assert half(x).dtype == mx.float32  # computed in float32, whatever the weights are stored in
    assert mx.abs(half(x) - small(x)).max() < 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lstm": {"bidirectional": False}}, "lstm: bidirectional = False is not supported"),
        ({"lstm": {"monolithic": False}}, "monolithic = False"),
        ({"lstm": {"num_layers": 3}}, "num_layers = 3 is not supported"),
        ({"linear": {"num_layers": 2}}, "num_layers = 2 is not supported"),
        ({"sincnet": {"stride": "ten"}}, "stride must be a whole number, not 'ten'"),
        ({"sincnet": {"stride": 0}}, "no PyanNet"),
        ({"sample_rate": 8000}, "sample_rate = 8000 is not supported"),
        ({"num_channels": 2}, "num_channels = 2"),
    ],
)
def test_settings_are_honoured_or_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        speech_zoo.load(lightning(tmp_path / "pytorch_model.bin", **changes))


def test_another_stride(tmp_path: Path) -> None:
    model = speech_zoo.load(lightning(tmp_path / "pytorch_model.bin", sincnet={"stride": 5}))
    assert model.frame_step == 135
    assert model(mx.array(voice(8000))).shape[1] == model.num_frames(8000)


def test_classes_that_are_no_powerset(tmp_path: Path) -> None:
    """pyannote's earlier models have one class for each speaker."""
    tensors = source_tensors()
    for part in ("weight", "bias"):
        tensors[f"classifier.{part}"] = tensors[f"classifier.{part}"][:4]
    with pytest.raises(CheckpointError, match="4 classes is not supported"):
        speech_zoo.load(lightning(tmp_path / "pytorch_model.bin", tensors))


@pytest.mark.parametrize("name", [BANK + "n_", "lstm.bias_hh_l1_reverse", "linear.0.bias"])
def test_a_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    tensors = source_tensors()
    del tensors[name]
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        speech_zoo.load(lightning(tmp_path / "pytorch_model.bin", tensors))


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 0},
        {"duration": 0.0},
        {"max_overlap": 4},
        {"front_end": {"kind": "waveform", "sample_rate": 8000, "normalise": False}},
        {"front_end": {"kind": "waveform", "sample_rate": 16000, "normalise": True}},
    ],
)
def test_a_bad_config(change: dict[str, Any], small: Any) -> None:
    from speech_zoo_core.config import from_dict, to_dict

    with pytest.raises(ConfigError):
        from_dict(type(small.config), to_dict(small.config) | change)


# Output


def test_batches_equal_one_at_a_time(small: Any) -> None:
    x = mx.array(np.stack([voice(24000, seed) for seed in range(3)]))
    together = small(x)
    for i in range(3):
        assert np.allclose(small(x[i]), together[i : i + 1], atol=1e-5)


def test_log_probabilities_sum_to_one(small: Any) -> None:
    y = small.log_probs((voice(24000), 16000))
    assert y.shape == (small.num_frames(24000), 7)
    assert np.allclose(np.exp(np.array(y)).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("size", [991, 992, 1260, 1261, 16000, 160000])
def test_the_number_of_frames(size: int, small: Any) -> None:
    assert small(mx.array(voice(size))).shape == (1, small.num_frames(size), 7)


def test_ten_seconds_have_589_frames(bundled: Any) -> None:
    assert (bundled.num_frames(160000), bundled.frame_step, bundled.frame_size) == (589, 270, 991)


def test_too_short(small: Any) -> None:
    with pytest.raises(AudioError, match=r"too short: 0\.062 s"):
        small.log_probs((voice(990), 16000))
    with pytest.raises(InputError, match="at least 991 frames"):
        small(mx.array(voice(990)))


def test_silence_is_nobody(bundled: Any) -> None:
    assert not bundled.speakers(bundled.log_probs((np.zeros(48000, np.float32), 16000))).any()


def test_a_reader_is_one_speaker(bundled: Any) -> None:
    for name in ("voice 02", "voice 05"):
        window = np.pad(waveforms()[name], (0, 160000 - waveforms()[name].size))
        active = bundled.speakers(bundled.log_probs((window, 16000)))
        assert 0.3 < active.any(axis=1).mean() < 0.7
        assert active.sum(axis=0).max() > 0.95 * active.any(axis=1).sum()


def test_two_at_once_are_two(bundled: Any) -> None:
    a, b = (waveforms()[name][16000:64000] for name in ("voice 02", "voice 07"))
    active = bundled.speakers(bundled.log_probs(((a + b) / 2, 16000)))
    assert (active.sum(axis=1) == 2).mean() > 0.4


def test_it_can_be_differentiated(small: Any) -> None:
    gradient = mx.grad(lambda x: small(x).sum())(mx.array(voice(4000)))
    assert float(mx.abs(gradient).max()) > 0


def test_methods_of_other_tasks_are_named(small: Any) -> None:
    with pytest.raises(AttributeError, match="for speaker-segmentation, not for speaker-embedding"):
        small.embed("a.wav")
    assert pickle.loads(pickle.dumps(small)).config == small.config


# The LSTM and powersets


def lstm(seed: int, size: int = 5, hidden: int = 7) -> BiLSTM:
    layer = BiLSTM(size, hidden)
    keys = mx.random.split(mx.random.key(seed), 3)
    names = ("weight_ih", "weight_hh", "bias")
    for key, name in zip(keys, names, strict=True):
        layer[name] = mx.random.normal(layer[name].shape, key=key) * 0.5
    return layer


@pytest.mark.parametrize("batch", [1, 3])
def test_both_ways_equal_mlx(batch: int) -> None:
    layer = lstm(1)
    x = mx.random.normal((batch, 40, 5), key=mx.random.key(2)) * 3
    expected = []
    for way in range(2):
        plain = nn.LSTM(5, 7)
        plain.Wx, plain.Wh, plain.bias = layer.weight_ih[way], layer.weight_hh[way], layer.bias[way]
        states = plain(x[:, :: -1 if way else 1])[0]
        expected.append(states[:, :: -1 if way else 1])
    both = mx.concatenate(expected, axis=-1)
    assert np.allclose(layer(x), both, atol=1e-6)


def test_cells_do_not_leak() -> None:
    """With a forget gate that stays open, what a cell holds after 20000 steps is what was put into it."""
    layer = lstm(1, size=1, hidden=1)
    layer.weight_hh = mx.zeros_like(layer.weight_hh)
    layer.weight_ih = mx.zeros_like(layer.weight_ih)
    layer.weight_ih[:, 2] = 1.0  # the input goes into the cell
    layer.bias = mx.broadcast_to(mx.array([30.0, 8.0, 0.0, 30.0]), (2, 4))  # sigmoid(8) = 0.99966
    x = np.zeros((1, 3000, 1), np.float32)
    x[0, 0] = 1.0
    state = np.array(layer(mx.array(x)))[0, -1, 0]
    exact = np.tanh(np.tanh(1.0) * (1 / (1 + np.exp(-8.0))) ** 2999)
    assert abs(state - exact) < 2e-5


def test_powersets() -> None:
    assert powerset(3, 2) == [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    assert len(powerset(4, 3)) == 1 + 4 + 6 + 4


def test_speakers_of_sets(small: Any) -> None:
    sets = [()] + [c for n in (1, 2) for c in combinations(range(3), n)]
    scores = np.log(np.eye(7) * 0.9 + 0.01)[None]
    assert [tuple(np.flatnonzero(row)) for row in small.speakers(scores)[0]] == sets


def test_a_conversion_by_name_is_checked(tmp_path: Path) -> None:
    """By the hash of the published file, before anything is written."""
    with pytest.raises(CheckpointError, match="has SHA-256"):
        speech_zoo.convert(lightning(tmp_path / "pytorch_model.bin"), tmp_path / "out", name=BUNDLED)
    assert not (tmp_path / "out").exists()
