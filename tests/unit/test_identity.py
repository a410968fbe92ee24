"""`identity` tells checkpoints apart."""

from dataclasses import replace

import mlx.core as mx
import speech_zoo
from speech_zoo_core.identity import identity, identity_before
from speech_zoo_core.layers import parameters


def test_one_identity_whatever_the_precision_of_computing() -> None:
    plain, half = (speech_zoo.load("campplus-zh-en", dtype=dtype) for dtype in ("float32", "float16"))
    assert identity(plain) == identity(half)


def test_another_weight_is_another_identity() -> None:
    model, other = speech_zoo.load("campplus-zh-en"), speech_zoo.load("campplus-zh-en")
    name, weight = next(iter(parameters(other).items()))
    other.load_weights([(name, weight + mx.array(0.25, weight.dtype))], strict=False)
    assert identity(model) != identity(other)


def test_another_resampler_or_channel_is_another_identity() -> None:
    model, other = (speech_zoo.load("campplus-zh-en") for _ in range(2))
    other.config = replace(other.config, front_end=replace(other.config.front_end, resampler="torchaudio"))
    assert identity(model) != identity(other)
    assert identity_before(model) == identity_before(other)
    assert identity_before(model) not in (identity(model), identity(other))
