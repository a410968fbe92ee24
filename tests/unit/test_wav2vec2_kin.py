"""HuBERT, UniSpeech-SAT, WavLM, data2vec and x-vectors: what is read, tensors, batches, traced graphs."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import speech_zoo
from safetensors.numpy import load_file, save_file
from speech_zoo_core import TaskError
from speech_zoo_core.errors import AudioError, CheckpointError, ConfigError
from speech_zoo_core.layers import parameters
from speech_zoo_wav2vec2_cls import Model
from tiny_models import RATE, to_mx, voice
from wav2vec2_files import config, hf_folder, source_tensors
from wav2vec2_kin_files import KIN, X_VECTORS, kin_folder

FORMS = [*((kind, False) for kind in KIN), *((kind, True) for kind in X_VECTORS)]
THRESHOLDS = {"wav2vec2": 0.7, "unispeech-sat": 0.89, "wavlm": 0.86}
every_form = pytest.mark.parametrize(("kind", "x_vector"), FORMS, ids=str)


@every_form
def test_what_a_folder_says(kind: str, x_vector: bool, tmp_path: Path) -> None:
    model = speech_zoo.load(kin_folder(tmp_path / "hf", kind, x_vector))
    assert model.config.task == ("speaker-embedding" if x_vector else "language-identification")
    assert (model.config.num_buckets is not None) == (kind == "wavlm")
    assert (model.config.conv_pos_kernel_size is not None) == (kind == "data2vec-audio")
    assert model.config.threshold == (THRESHOLDS[kind] if x_vector else None)


@every_form
def test_converting_again_changes_no_byte(kind: str, x_vector: bool, tmp_path: Path) -> None:
    source = kin_folder(tmp_path / "hf", kind, x_vector)
    first = speech_zoo.convert(source, tmp_path / "1")
    second = speech_zoo.convert(first, tmp_path / "2")
    for file in ("config.json", "model.safetensors"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    x = mx.array(voice(9000))
    outputs = [speech_zoo.load(folder)(x) for folder in (source, first, second)]
    assert mx.array_equal(outputs[0], outputs[1])
    assert mx.array_equal(outputs[0], outputs[2])


@every_form
def test_a_batch_is_one_at_a_time(kind: str, x_vector: bool, tmp_path: Path) -> None:
    model = speech_zoo.load(kin_folder(tmp_path / "hf", kind, x_vector))
    sizes = (9000, 7001, 12345)
    features = [np.array(model.features(voice(size, i), RATE, vad=False)) for i, size in enumerate(sizes)]
    padded = np.stack([np.pad(x, ((0, max(sizes) - len(x)), (0, 0)), constant_values=0.7) for x in features])
    together = np.array(model(mx.array(padded), mx.array(sizes)))
    alone = np.stack([np.array(model(mx.array(x)[None])[0]) for x in features])
    assert np.abs(together - alone).max() <= 1e-5 * np.abs(alone).max()


@every_form
def test_one_graph_serves_every_length(kind: str, x_vector: bool, tmp_path: Path) -> None:
    folder = kin_folder(tmp_path / "hf", kind, x_vector)
    plain, traced = speech_zoo.load(folder, engine="mlx"), speech_zoo.load(folder, engine="onnxruntime")
    assert traced.one_graph
    for size in (7000, 16000, 40123):
        x = mx.array(voice(size))
        ours, other = np.array(plain(x)), np.array(traced(x))
        assert np.abs(ours - other).max() <= 1e-5 * np.abs(ours).max()


@pytest.mark.parametrize("bits", [8, 4])
@every_form
def test_quantized(kind: str, x_vector: bool, bits: int, tmp_path: Path) -> None:
    """WavLM's gates, of two rows, stay in floating point; so does the classifier."""
    folder = speech_zoo.convert(kin_folder(tmp_path / "hf", kind, x_vector), tmp_path / "zoo", bits=bits)
    kinds = {name: value.dtype for name, value in load_file(folder / "model.safetensors").items()}
    packed = {name.removesuffix(".weight") for name, dtype in kinds.items() if dtype == np.uint32}
    assert any("attention.q_proj" in name for name in packed)
    assert not [name for name in packed if "gru_rel_pos" in name or "conv" in name or name == "classifier"]
    assert np.isfinite(np.array(speech_zoo.load(folder)(mx.array(voice(9000))))).all()


def test_converted_checkpoints_of_before(tmp_path: Path) -> None:
    """Without the settings of the kin, which came later."""
    folder = speech_zoo.convert(hf_folder(tmp_path / "hf"), tmp_path / "zoo")
    settings = json.loads((folder / "config.json").read_text())
    later = {"threshold", "threshold_seconds", "conv_pos_batch_norm", "conv_pos_kernel_size", "feat_proj_layer_norm"}
    later |= {"num_buckets", "max_bucket_distance", "embed_dim", "tdnn_dim", "tdnn_kernel", "tdnn_dilation"}
    kept = {key: value for key, value in settings.items() if key not in later}
    (folder / "config.json").write_text(json.dumps(kept))
    x = mx.array(voice(9000))
    assert mx.array_equal(speech_zoo.load(folder)(x), speech_zoo.load(tmp_path / "hf")(x))


def test_an_x_vector_is_an_embedding(tmp_path: Path) -> None:
    model = speech_zoo.load(kin_folder(tmp_path / "hf", "wavlm", x_vector=True))
    vector = model.embed(voice(RATE), sample_rate=RATE)
    assert vector.shape == (model.config.embed_dim,) == (6,)
    assert abs(float(mx.linalg.norm(vector)) - 1) < 1e-6
    assert model.verify(voice(RATE), voice(RATE), RATE).same_speaker
    rows = model.embed_batch([voice(RATE), voice(2 * RATE)], RATE)
    assert np.allclose(np.array(rows[0]), np.array(vector), atol=1e-6)
    with pytest.raises(TaskError, match="this model is for speaker-embedding, not for language-identification"):
        model.predict(voice(RATE), sample_rate=RATE)
    assert "predict" not in dir(model)


def test_the_receptive_field_of_an_x_vector(tmp_path: Path) -> None:
    """Two frames after the TDNN, which takes 7 and 4 off: 13 of the encoder."""
    model = speech_zoo.load(kin_folder(tmp_path / "hf", "wav2vec2", x_vector=True))
    assert model.min_frames == 400 + 12 * 320
    assert np.isfinite(np.array(model.embed(voice(model.min_frames), sample_rate=RATE, vad=False))).all()
    with pytest.raises(AudioError, match="too short"):
        model.embed(voice(model.min_frames - 1), sample_rate=RATE, vad=False)


def test_the_buckets_of_wavlm() -> None:
    """160 buckets a side of 800 frames: 80 for a distance each, 80 for a logarithm each; transformers' rule."""
    model = Model(config(num_buckets=320, hidden_size=32, num_attention_heads=2))
    bias = model.wav2vec2.encoder.rel_attn_embed
    bias.weight = mx.arange(640).reshape(320, 2) // 2
    found = np.array(bias(1000))[0].astype(int)
    assert np.array_equal(found, np.array(bias(1000))[1])
    assert found[500, 500] == 0
    assert [found[500 - d, 500] - 160 for d in (1, 79, 80, 81, 100, 400)] == [1, 79, 80, 80, 87, 135]
    assert [found[999, 999 - d] for d in (1, 79, 80, 799, 800, 999)] == [1, 79, 80, 159, 159, 159]


def test_settings_that_others_read_are_ignored(tmp_path: Path) -> None:
    """transformers keeps keys that a model does not read."""
    strange = {"num_buckets": 20, "conv_pos_kernel_size": 3, "conv_pos_batch_norm": True, "feat_proj_layer_norm": False}
    x = mx.array(voice(9000))
    plain = speech_zoo.load(hf_folder(tmp_path / "plain"))
    assert mx.array_equal(plain(x), speech_zoo.load(hf_folder(tmp_path / "strange", **strange))(x))
    folder = kin_folder(tmp_path / "hf", "data2vec-audio", feat_extract_norm="group", adapter_attn_dim=4)
    assert speech_zoo.load(folder).config.feat_extract_norm == "layer"


def test_the_defaults_of_the_others(tmp_path: Path) -> None:
    wavlm = kin_folder(tmp_path / "wavlm", "wavlm", num_buckets=..., max_bucket_distance=...)
    with pytest.raises(CheckpointError, match=r"rel_attn_embed\.weight \(16, 2\) instead of \(320, 2\)"):
        speech_zoo.load(wavlm)
    kin = kin_folder(tmp_path / "data2vec", "data2vec-audio", num_conv_pos_embeddings=..., conv_pos_kernel_size=...)
    with pytest.raises(CheckpointError, match="missing"):
        speech_zoo.load(kin)


@pytest.mark.parametrize(
    ("kind", "x_vector", "changes", "message"),
    [
        ("hubert", False, {"architectures": ["HubertForCTC"]}, "a HubertForCTC, not a HubertForSequenceClassification"),
        ("hubert", False, {"architectures": ["HubertForXVector"]}, "not a HubertForSequenceClassification"),
        ("data2vec-audio", False, {"architectures": ["Data2VecAudioForXVector"]}, "holds a Data2VecAudioForXVector"),
        (
            "wavlm",
            False,
            {"architectures": ["WavLMForAudioFrameClassification"]},
            "not a WavLMForSequenceClassification or WavLMForXVector",
        ),
        ("wavlm", False, {"architectures": ["Wav2Vec2ForXVector"]}, "holds a Wav2Vec2ForXVector"),
        ("wavlm", False, {"architectures": ["WavLMForXVector"]}, "has no tdnn.0.kernel.weight: a WavLMForXVector has"),
        ("wavlm", False, {"num_buckets": 15}, "num_buckets 15 must be even"),
        ("wavlm", False, {"max_bucket_distance": 4}, "below 4 times max_bucket_distance"),
        ("wavlm", False, {"max_bucket_distance": 10**6}, "max_bucket_distance"),
        ("data2vec-audio", False, {"conv_pos_kernel_size": 0}, "positive"),
        ("wavlm", True, {"tdnn_kernel": [8, 3]}, "one entry for each layer"),
        ("wavlm", True, {"tdnn_dilation": [1, 0, 1]}, "positive"),
        ("wavlm", True, {"tdnn_dilation": [1, 101, 1]}, "a dilation is 100 frames at most"),
        ("wavlm", True, {"tdnn_kernel": [4, 3, 1]}, "tdnn.0.kernel.weight"),
        ("wav2vec2", True, {"add_adapter": True}, "add_adapter goes with a classifier"),
    ],
)
def test_refused_settings(kind: str, x_vector: bool, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        speech_zoo.load(kin_folder(tmp_path / "hf", kind, x_vector, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"id2label": None}, {"task": "speaker-embedding"}, {"embed_dim": 4}])
def test_labels_go_with_classes(change: dict[str, Any], tmp_path: Path) -> None:
    folder = speech_zoo.convert(hf_folder(tmp_path / "hf"), tmp_path / "zoo")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(ConfigError):
        speech_zoo.load(folder)


def test_sanitize_knows_every_body() -> None:
    """The prefix of another body, with and without the weight norm that a plain convolution lacks."""
    own = Model(config())
    expected = parameters(own).keys()
    for prefix in ("hubert", "wavlm", "unispeech_sat", "data2vec_audio"):
        renamed = {name.replace("wav2vec2.", f"{prefix}.", 1): value for name, value in source_tensors().items()}
        assert own.sanitize(to_mx(renamed)).keys() == expected


# Other heads


def test_labels_that_hold_each_for_itself(tmp_path: Path) -> None:
    """Probabilities that do not sum to 1, and no languages although the labels are codes."""
    source = hf_folder(tmp_path / "hf", problem_type="multi_label_classification")
    model = speech_zoo.load(speech_zoo.convert(source, tmp_path / "zoo"))
    assert model.config.task == "audio-tagging"
    logits = np.array(model.logits(voice(RATE), RATE), np.float64)
    answers = model.predict(voice(RATE), sample_rate=RATE)
    assert [answer.label for answer in answers] == [model.labels[i] for i in np.argsort(-logits)]
    assert [answer.name for answer in answers] == [answer.label for answer in answers]
    scores = dict(answers)
    for label, logit in zip(model.labels, logits, strict=True):
        assert scores[label] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    log_probs = np.array(model.log_probs(voice(RATE), RATE))
    assert np.allclose(log_probs, np.log([scores[label] for label in model.labels]), atol=1e-5)
    with pytest.raises(ConfigError, match="for audio-tagging, not for language-identification"):
        model.predict(voice(RATE), sample_rate=RATE, languages=["eng"])


def test_values(tmp_path: Path) -> None:
    labels = {"0": "arousal", "1": "dominance", "2": "valence"}
    source = hf_folder(tmp_path / "hf", problem_type="regression", id2label=labels, label2id=...)
    model = speech_zoo.load(speech_zoo.convert(source, tmp_path / "zoo"))
    assert (model.config.task, model.labels) == ("audio-regression", ["arousal", "dominance", "valence"])
    values = model.measure(voice(RATE), RATE)
    assert np.array_equal(np.array(values), np.array(model(model.features(voice(RATE), RATE)[None])[0]))
    rows = model.measure_batch([voice(RATE), voice(2 * RATE, 1)], RATE)
    assert np.allclose(np.array(rows[0]), np.array(values), atol=1e-6)
    assert model.measure_batch([], RATE).shape == (0, 3)
    with pytest.raises(TaskError, match=r"for audio-regression, not for .*: it has no predict, but labels, measure"):
        model.predict(voice(RATE), sample_rate=RATE)
    assert not {"predict", "log_probs", "embed"} & set(dir(model))


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_long_clips_are_the_mean_of_their_windows(problem: str, tmp_path: Path) -> None:
    folder = speech_zoo.convert(hf_folder(tmp_path / "hf", problem_type=problem), tmp_path / "zoo")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"window": 1.0, "single_pass": 1.0}))
    model = speech_zoo.load(folder)
    parts = [voice(RATE, 1), voice(RATE, 2)]
    if problem == "regression":
        alone = [np.array(model.measure(part, RATE)) for part in parts]
        assert np.allclose(np.array(model.measure(np.concatenate(parts), RATE)), np.mean(alone, axis=0), atol=1e-5)
        return
    alone = [np.exp(np.array(model.log_probs(part, RATE))) for part in parts]
    together = np.exp(np.array(model.log_probs(np.concatenate(parts), RATE)))
    assert np.allclose(together, np.mean(alone, axis=0), atol=1e-5)


def test_an_unknown_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="problem_type 'ranking' is unknown"):
        speech_zoo.load(hf_folder(tmp_path / "hf", problem_type="ranking"))


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside its base"])
def test_an_adapter_of_peft_is_no_model(beside: bool, tmp_path: Path) -> None:
    """transformers would load the base and change it; to load the base alone would be another model."""
    folder = hf_folder(tmp_path / "hf") if beside else tmp_path / "lora"
    folder.mkdir(exist_ok=True)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "facebook/mms-lid-126"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    save_file(
        {"base_model.model.q_proj.lora_A.weight": np.ones((2, 4), np.float32)}, folder / "adapter_model.safetensors"
    )
    for ref in (folder, folder / "adapter_model.safetensors"):
        with pytest.raises(CheckpointError) as caught:
            speech_zoo.load(ref)
        assert "holds a PEFT adapter of 'facebook/mms-lid-126', not a whole model: merge it" in str(caught.value)
        assert "\n" not in str(caught.value)
    if beside:
        speech_zoo.load(folder / "model.safetensors")
