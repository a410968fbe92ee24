"""Wav2Vec2 classifiers: what is read from a Hugging Face folder, tensors, windows, quantization."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import speech_zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from signals import waveforms
from speech_zoo_core.audio.front_end import WaveformFrontEnd
from speech_zoo_core.errors import AudioError, CheckpointError, ConfigError, InputError
from speech_zoo_core.layers import parameters
from speech_zoo_core.tasks.iso639 import all_languages
from speech_zoo_wav2vec2_cls import Model
from tiny_models import RATE, voice
from wav2vec2_files import POS_CONV, config, hf_folder, source_tensors


@pytest.fixture
def model(tmp_path: Path) -> Any:
    return speech_zoo.load(hf_folder(tmp_path / "model"))


# Tensors


@pytest.mark.parametrize("spelling", ["original", "old"])
def test_weight_norm_becomes_one_weight(spelling: str) -> None:
    source = {name: mx.array(value) for name, value in source_tensors(spelling).items()}
    own = Model(config())
    once = own.sanitize(source)
    assert {name: value.shape for name, value in once.items()} == {n: v.shape for n, v in parameters(own).items()}
    twice = own.sanitize(once)
    assert all(mx.array_equal(twice[name], value) for name, value in once.items())
    g, v = (source_tensors("old")[f"{POS_CONV}.{part}"] for part in ("weight_g", "weight_v"))
    expected = g * v / np.sqrt((v.astype(np.float64) ** 2).sum(axis=(0, 1), keepdims=True))
    assert np.allclose(np.array(once[f"{POS_CONV}.weight"]), np.moveaxis(expected, 1, -1), rtol=1e-6)


@pytest.mark.parametrize("prefix", ["", "wav2vec2.", "model.wav2vec2."])
def test_training_tensors_are_dropped_under_any_prefix(prefix: str) -> None:
    extra = ("masked_spec_embed", "quantizer.codevectors", "project_q.weight", "project_hid.bias")
    source = {name: mx.array(value) for name, value in source_tensors().items()}
    own = Model(config())
    assert (
        own.sanitize(source | {prefix + name: mx.zeros((3,)) for name in extra}).keys() == own.sanitize(source).keys()
    )


def test_a_square_convolution_is_turned_once(tmp_path: Path) -> None:
    """Eight channels and eight taps: PyTorch's and MLX's layout have the same shape."""
    own = config(conv_dim=[8, 8], conv_kernel=[10, 8], conv_stride=[5, 2], num_conv_pos_embeddings=8)
    built = Model(own)
    name = "wav2vec2.feature_extractor.conv_layers.1.conv.weight"
    shapes = {key: value.shape for key, value in parameters(built).items()}
    assert shapes[name] == (8, 8, 8)
    weights = {key: mx.array(np.random.default_rng(0).standard_normal(shape)) for key, shape in shapes.items()}
    first = "wav2vec2.feature_extractor.conv_layers.0.conv.weight"
    source = weights | {first: mx.moveaxis(weights[first], -1, 1), name: mx.moveaxis(weights[name], -1, 1)}
    for given_weights in (source, weights):
        sanitized = built.sanitize(given_weights)
        assert mx.array_equal(sanitized[name], weights[name].astype(sanitized[name].dtype))


def test_converting_again_changes_no_byte(tmp_path: Path) -> None:
    first = speech_zoo.convert(hf_folder(tmp_path / "hf"), tmp_path / "1")
    second = speech_zoo.convert(speech_zoo.convert(first, tmp_path / "2"), tmp_path / "3")
    for file in ("config.json", "model.safetensors"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    assert not [name for name in load_file(first / "model.safetensors") if "_g" in name or "original" in name]
    clip = voice(RATE)
    logits = [speech_zoo.load(folder).logits(clip, RATE) for folder in (tmp_path / "hf", first, second)]
    assert mx.array_equal(logits[0], logits[1])
    assert mx.array_equal(logits[0], logits[2])


@pytest.mark.parametrize("bits", [8, 4])
def test_what_is_quantized(bits: int, tmp_path: Path) -> None:
    folder = speech_zoo.convert(hf_folder(tmp_path / "hf"), tmp_path / "zoo", bits=bits)
    kinds = {name: value.dtype for name, value in load_file(folder / "model.safetensors").items()}
    packed = {name.removesuffix(".weight") for name, dtype in kinds.items() if dtype == np.uint32}
    assert any("attention.q_proj" in name for name in packed)
    assert any("intermediate_dense" in name for name in packed)
    assert not [name for name in packed if "conv" in name or name == "classifier"]
    speech_zoo.load(folder).predict(voice(RATE), sample_rate=RATE)


# Settings


def test_what_a_folder_says(model: Any) -> None:
    assert model.config.task == "language-identification"
    assert model.config.attention_mask
    assert model.labels == ["eng", "fra", "cmn"]
    assert {item.name for item in model.predict(voice(RATE), sample_rate=RATE)} == {
        "English",
        "French",
        "Mandarin Chinese",
    }
    assert model.min_frames == 400


def test_emotions_are_no_languages(tmp_path: Path) -> None:
    """The four labels of superb's emotions are ISO codes, too: of Neo, Hupla, Old English and Sandawe."""
    labels = ["neu", "hap", "ang"]
    assert not all_languages(["neu", "hap", "ang", "sad"])
    assert not all_languages(["eng", "fra", "_unknown_"])
    assert all_languages(["eng", "fra", "deu", "lat", "san", "epo", "spa", "ita", "cmn", "jpn", "rus", "swh"])
    folder = hf_folder(tmp_path / "er", id2label={str(i): label for i, label in enumerate(labels)}, label2id=...)
    model = speech_zoo.load(folder)
    assert model.config.task == "audio-classification"
    assert {item.name for item in model.predict(voice(RATE), sample_rate=RATE)} == set(labels)
    with pytest.raises(ConfigError, match="for audio-classification, not for language-identification"):
        model.predict(voice(RATE), sample_rate=RATE, languages=["eng"])


@pytest.mark.parametrize(
    ("preprocessor", "norm", "mask", "normalise"),
    [
        (None, "layer", True, True),
        (None, "group", False, True),
        ({}, "layer", False, True),
        ({"return_attention_mask": True, "do_normalize": False}, "layer", True, False),
    ],
)
def test_the_preprocessor(preprocessor: Any, norm: str, mask: bool, normalise: bool, tmp_path: Path) -> None:
    tensors = dict(source_tensors())
    if norm == "group":
        tensors = {
            k: v for k, v in tensors.items() if ".layer_norm." not in k or ".conv_layers." not in k or ".0." in k
        }
    folder = hf_folder(tmp_path / "hf", tensors, preprocessor, feat_extract_norm=norm)
    config = speech_zoo.load(folder).config
    assert (config.attention_mask, config.front_end.normalise) == (mask, normalise)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["Wav2Vec2ForCTC"]}, "holds a Wav2Vec2ForCTC, not a Wav2Vec2ForSequenceClassification"),
        ({"architectures": ["Wav2Vec2ForPreTraining"]}, "holds a Wav2Vec2ForPreTraining"),
        ({"architectures": 5}, "holds a 5, not a Wav2Vec2ForSequenceClassification"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"auto_map": {"AutoModel": "mine.Model"}}, "auto_map"),
        ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu' is not supported"),
        ({"problem_type": 5}, "problem_type"),
        ({"id2label": {"0": "eng", "1": "fra"}}, "names 2 labels, the classifier has 3 classes"),
        ({"id2label": {"0": "eng", "1": "fra", "3": "cmn"}}, "0 to 2"),
        ({"id2label": ["eng"]}, "id2label must map"),
        ({"feat_extract_norm": "batch"}, "feat_extract_norm"),
        ({"num_attention_heads": 3}, "multiple of num_attention_heads"),
        ({"conv_stride": [5, 2]}, "one entry for each layer"),
        ({"hidden_size": 0}, "positive"),
        ({"num_hidden_layers": 3}, "missing"),
        ({"use_weighted_layer_sum": True}, "layer_weights"),
        ({"add_adapter": True}, "adapter"),
        ({"adapter_attn_dim": 16}, "adapter_layer"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ],
)
def test_refused_settings(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "hf", **changes)
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        speech_zoo.load(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "preprocessor",
    [{"padding_side": "left"}, {"feature_size": 2}, {"do_normalize": "yes"}, {"return_attention_mask": 1}],
)
def test_refused_preprocessors(preprocessor: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="preprocessor_config"):
        speech_zoo.load(hf_folder(tmp_path / "hf", preprocessor=preprocessor))


PROCESSORS: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None, bool, bool]] = {
    # processor_config.json, preprocessor_config.json, then: whether it normalises, and masks
    "as transformers 5 writes it": (
        {"feature_extractor": {"do_normalize": False, "return_attention_mask": True}, "processor_class": "P"},
        None,
        False,
        True,
    ),
    "nested before the file of its own": (
        {"feature_extractor": {"do_normalize": False, "return_attention_mask": False}},
        {"do_normalize": True, "return_attention_mask": True},
        False,
        False,
    ),
    "nested in nothing": (
        {"feature_extractor": None},
        {"do_normalize": False, "return_attention_mask": True},
        False,
        True,
    ),
    "under another name": ({"audio_processor": {"do_normalize": False}}, None, False, False),
    "of a processor alone": ({"processor_class": "P"}, {"do_normalize": False}, False, False),
    "of a processor, and nothing else": ({"processor_class": "P"}, None, True, True),
    "with keys that nobody reads": ({"feature_extractor": {"do_normalize": False, "x": 1}}, None, False, False),
}


@pytest.mark.parametrize("case", PROCESSORS)
def test_the_processor(case: str, tmp_path: Path) -> None:
    processor, preprocessor, normalise, mask = PROCESSORS[case]
    folder = hf_folder(tmp_path / "hf", preprocessor=preprocessor)
    (folder / "processor_config.json").write_text(json.dumps(processor))
    config = speech_zoo.load(folder).config
    assert (config.front_end.normalise, config.attention_mask) == (normalise, mask)
    out = speech_zoo.convert(folder, tmp_path / "out")
    assert "processor_config.json" in speech_zoo.load(out).config.source["sha256"]


@pytest.mark.parametrize(
    "nested",
    [
        {"feature_extractor_type": "SeamlessM4TFeatureExtractor"},
        {"sampling_rate": "abc"},
        {"sampling_rate": 10**30},
        {"do_normalize": 1},
        {"feature_size": 2},
        5,
        [],
    ],
)
def test_refused_processors(nested: Any, tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "hf")
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": nested}))
    with pytest.raises(ConfigError):
        speech_zoo.load(folder)


def test_keys_that_nobody_reads(tmp_path: Path) -> None:
    """transformers keeps keys that it does not know, and computes the same."""
    plain = speech_zoo.load(hf_folder(tmp_path / "plain"))
    more = {"pooling_mode": "mean", "my_note": {"a": [1]}, "training_step": 5, "pruned_heads": {}, "auto_map": None}
    model = speech_zoo.load(hf_folder(tmp_path / "more", **more))
    x = voice(RATE)
    assert np.array_equal(np.array(model.logits((x, RATE))), np.array(plain.logits((x, RATE))))


def test_a_checkpoint_without_a_head(tmp_path: Path) -> None:
    tensors = {name: value for name, value in source_tensors().items() if not name.startswith(("proj", "class"))}
    with pytest.raises(CheckpointError, match=r"has no projector\.weight"):
        speech_zoo.load(hf_folder(tmp_path / "hf", tensors, architectures=...))


def test_tensors_without_a_config(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "hf")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"put its config\.json beside it"):
        speech_zoo.load(folder)


# Input


def test_the_receptive_field(model: Any) -> None:
    model.predict(voice(400), sample_rate=RATE, vad=False)
    with pytest.raises(AudioError, match=r"too short: 0\.025 s, wav2vec2_cls needs at least 0\.025 s"):
        model.predict(voice(399), sample_rate=RATE)
    with pytest.raises(InputError):
        model(mx.zeros((1, 399)))


def test_waveforms_and_features_give_the_same(model: Any) -> None:
    clip = voice(5000)
    expected = np.array(model.logits(clip, RATE))
    for given_input in (mx.array(clip), mx.array(clip)[None], model.features(clip, RATE)[None]):
        assert np.allclose(np.array(model(given_input))[0], expected, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(400, 6000), min_size=2, max_size=4))
def test_a_masked_batch_is_one_at_a_time(sizes: list[int]) -> None:
    model = _shared()
    clips = [voice(size, seed=i) for i, size in enumerate(sizes)]
    padded = mx.array(np.stack([np.pad(clip, (0, max(sizes) - len(clip))) for clip in clips]))
    together = np.array(model(padded, mx.array(sizes)))
    alone = np.stack([np.array(model.logits(clip, RATE, vad=False)) for clip in clips])
    assert np.abs(together - alone).max() <= 1e-5 * np.abs(alone).max()


@cache
def _shared() -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return speech_zoo.load(hf_folder(Path(folder) / "hf"))


# Long clips


def windowed(window: float, single_pass: float) -> Any:
    """The shared model with windows of another length."""
    model = type(_shared())(replace(_shared().config, window=window, single_pass=single_pass))
    model.load_weights(list(parameters(_shared()).items()))
    return model


def test_at_the_limit_a_clip_is_one_pass() -> None:
    model, clip = windowed(1.0, 2.0), voice(2 * RATE)
    assert mx.array_equal(model.logits(clip, RATE), _shared().logits(clip, RATE))
    assert not mx.array_equal(model.logits(voice(2 * RATE + 1), RATE), _shared().logits(voice(2 * RATE + 1), RATE))


def test_windows_are_weighted_by_their_speech() -> None:
    """Three windows: one full of speech, one half full, one silent."""
    model = windowed(1.0, 2.0)
    loud, half = voice(RATE, 1), voice(RATE, 2)
    half[RATE // 2 :] = 0
    clip = np.concatenate([loud, half, np.zeros(RATE, np.float32)])
    parts = [np.exp(np.array(model.log_probs(part, RATE), np.float64)) for part in (loud, half)]
    expected = (parts[0] * 2 + parts[1]) / 3
    probabilities = np.exp(np.array(model.log_probs(clip, RATE), np.float64))
    assert np.allclose(probabilities, expected, atol=0.02)
    assert np.isclose(probabilities.sum(), 1)
    batch = model.predict_batch([(clip, RATE), (loud, RATE)], top_k=3)
    assert [dict(row) for row in batch] == [dict(model.predict(part, 3, sample_rate=RATE)) for part in (clip, loud)]


def test_no_window_is_longer_than_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    model = windowed(1.0, 1.0)
    seen: list[int] = []
    inner = type(model.wav2vec2).__call__
    monkeypatch.setattr(
        type(model.wav2vec2), "__call__", lambda self, x, mask: seen.append(x.shape[1]) or inner(self, x, mask)
    )
    model.predict(voice(RATE * 7 // 2), sample_rate=RATE)
    assert len(seen) == 4
    assert max(seen) <= RATE
    assert max(seen) - min(seen) <= 1


@pytest.mark.parametrize("name", ["voice 03", "voice 07", "60 s"])
def test_the_waveform_is_normalised_as_in_float64(name: str) -> None:
    x = waveforms()[name].astype(np.float64)
    expected = (x - x.mean()) / np.sqrt(x.var() + 1e-7)
    normalised = np.array(WaveformFrontEnd()(mx.array(x.astype(np.float32))))[:, 0]
    assert np.abs(normalised - expected).max() < 2e-5  # of up to 15
