"""Models as ONNX files: read back by ONNX Runtime, against MLX, from features and from samples."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import onnxruntime
import pytest
import speech_zoo
from export_sessions import assert_close, normal
from speech_zoo.publish import export as exporting
from speech_zoo_core.audio.front_end import REDIMNET, REDIMNET2
from speech_zoo_core.errors import CheckpointError, ConfigError, SpeechZooError
from speech_zoo_export import onnx as writer
from tiny_models import CONFIGS, LABELS, model_of, noise, tiny_model, tiny_source
from wav2vec2_files import hf_folder, source_tensors
from wav2vec2_kin_files import kin_folder

LENGTHS = (3000, 16000, 33333)


def opened(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def raw(model: Any, samples: np.ndarray) -> np.ndarray:
    return np.array(model(model.config.front_end(mx.array(samples))[None]))


def facts(session: onnxruntime.InferenceSession) -> dict[str, str]:
    found: dict[str, str] = session.get_modelmeta().custom_metadata_map
    return found


@pytest.mark.parametrize("name", ["basic", "campplus_3dspeaker", "ecapa_speechbrain", "ecapa_lid", "ecapa_wespeaker"])
def test_from_samples(name: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    session = opened(speech_zoo.export(model, tmp_path / "model.onnx", from_="waveform"))
    assert [value.name for value in session.get_inputs()] == ["waveform"]
    for length in LENGTHS:
        assert_close(session.run(None, {"waveform": noise(length)[None]}), [raw(model, noise(length))], 1e-4)


def of_whole_clips(name: str) -> Any:
    """A model with features that depend on where a clip ends: ReDimNet mirrors both ends, ReDimNet2 normalises it."""
    front_end = {"redimnet": REDIMNET, "redimnet2": REDIMNET2}[name]
    return model_of(replace(CONFIGS[name], front_end=replace(front_end, n_mels=16)), tiny_source(name))


@pytest.mark.parametrize("name", ["redimnet", "redimnet2"])
def test_from_samples_of_whole_clips(name: str, tmp_path: Path) -> None:
    model = of_whole_clips(name)
    session = opened(speech_zoo.export(model, tmp_path / "model.onnx", from_="waveform"))
    for length in (3333, *LENGTHS):
        assert_close(session.run(None, {"waveform": noise(length)[None]}), [raw(model, noise(length))], 1e-4)


@pytest.mark.parametrize("name", ["redimnet", "redimnet2"])
def test_whole_clips_and_clips_that_are_filled_up(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"need its length: take features \(--from features\)"):
        speech_zoo.export(of_whole_clips(name), tmp_path / "model.mlpackage", from_="waveform")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["basic", "speaker_proxy"])
def test_from_features(name: str, tmp_path: Path) -> None:
    model, width = tiny_model(name), CONFIGS[name].feat_dim
    session = opened(speech_zoo.export(model, tmp_path / "model.onnx"))
    assert [value.shape for value in session.get_inputs()] == [["batch", "frames", width]]
    assert [value.shape for value in session.get_outputs()] == [["batch", 8]]
    for batch, frames in ((1, model.min_frames), (1, 98), (3, 231), (2, 4001)):
        x = normal(batch, frames, width)
        assert_close(session.run(["embedding"], {"features": x}), [np.array(model(mx.array(x)))])


@pytest.mark.parametrize("from_", ["features", "waveform"])
def test_wav2vec2(from_: Any, tmp_path: Path) -> None:
    model = speech_zoo.load(hf_folder(tmp_path / "model", source_tensors()))
    session = opened(speech_zoo.export(model, tmp_path / "model.onnx", from_=from_))
    for length in LENGTHS:
        x = np.array(model.config.front_end(mx.array(noise(length)))) if from_ == "features" else noise(length)
        assert_close(session.run(["logits"], {from_: x[None]}), [raw(model, noise(length))], 1e-4)


@pytest.mark.parametrize("x_vector", [False, True])
def test_wavlm(x_vector: bool, tmp_path: Path) -> None:
    """The bias of relative positions in a file for every length."""
    model = speech_zoo.load(kin_folder(tmp_path / "model", "wavlm", x_vector))
    session = opened(speech_zoo.export(model, tmp_path / "model.onnx", from_="waveform"))
    for length in (8000, 16000, 40123):
        outputs = session.run(["embedding" if x_vector else "logits"], {"waveform": noise(length)[None]})
        assert_close(outputs, [raw(model, noise(length))], 1e-4)


def test_half_precision(tmp_path: Path) -> None:
    model = tiny_model("basic")
    path = speech_zoo.export(model, tmp_path / "model.onnx", from_="waveform", dtype="float16")
    got = opened(path).run(None, {"waveform": noise(16000)[None]})[0]
    assert got.dtype == np.float32
    assert_close([got], [raw(model, noise(16000))], 5e-3)
    assert model.conv1.weight.dtype == mx.float32  # the model that was given stays as it is
    whole = speech_zoo.export(model, tmp_path / "whole.onnx", from_="waveform")
    assert path.stat().st_size < whole.stat().st_size


def test_a_model_in_half_precision_is_written_in_float32(tmp_path: Path) -> None:
    half = exporting._as(tiny_model("basic"), "float16")
    session = opened(speech_zoo.export(half, tmp_path / "model.onnx"))
    x = normal(1, 150, 16)
    assert_close(session.run(None, {"features": x}), [np.array(exporting._as(half, "float32")(mx.array(x)))])


def test_what_stands_in_the_file(tmp_path: Path) -> None:
    speaker = facts(opened(speech_zoo.export(tiny_model("basic"), tmp_path / "a.onnx")))
    assert (speaker["model_type"], speaker["task"], speaker["takes"]) == ("resnet34", "speaker-embedding", "features")
    assert json.loads(speaker["threshold"]) == 0.3
    assert json.loads(speaker["sample_rate"]) == 16000
    assert json.loads(speaker["front_end"])["n_mels"] == 16
    assert speaker["exporter"] == f"mlx-speech-zoo {speech_zoo.__version__}"
    languages = facts(opened(speech_zoo.export(tiny_model("ecapa_lid"), tmp_path / "b.onnx")))
    assert json.loads(languages["labels"]) == list(LABELS)
    assert "threshold" not in languages


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    path, model = tmp_path / "model.onnx", tiny_model("basic")
    path.write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="exists already; force"):
        speech_zoo.export(model, path)
    assert path.read_bytes() == b"mine"
    speech_zoo.export(model, path, force=True)
    assert path.read_bytes() != b"mine"
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(CheckpointError, match="not what export writes"):
        speech_zoo.export(model, tmp_path / "folder.onnx", force=True)


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("model.tflite", {}, "must end in .onnx or .mlpackage"),
        ("model.onnx", {"seconds": [3]}, "takes every length"),
        ("model.onnx", {"dtype": "bfloat16"}, "float32 or float16, not in 'bfloat16'"),
        ("model.onnx", {"from_": "audio"}, "features or waveform"),
        ("missing/model.onnx", {}, "cannot be written: No such file"),
    ],
)
def test_what_cannot_be(path: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SpeechZooError, match=message):
        speech_zoo.export(tiny_model("basic"), tmp_path / path, **options)
    assert not list(tmp_path.iterdir())


def test_a_model_that_takes_no_audio(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes no audio"):
        speech_zoo.export(tiny_model("speaker_proxy"), tmp_path / "model.onnx", from_="waveform")
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "sync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        speech_zoo.export(tiny_model("basic"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_large_model_has_its_weights_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_INLINE_BYTES", 1000)
    model, x = tiny_model("basic"), normal(2, 99, 16)
    path = speech_zoo.export(model, tmp_path / "model.onnx")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert_close(opened(path).run(None, {"features": x}), [np.array(model(mx.array(x)))])
    path.unlink()
    with pytest.raises(CheckpointError, match=r"model\.onnx\.data exists already"):
        speech_zoo.export(model, path)


def test_what_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs coremltools: pip install 'coremltools"):
        speech_zoo.export(tiny_model("basic"), tmp_path / "model.mlpackage")
