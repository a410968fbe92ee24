"""Models as Core ML packages: read back and computed by tests/mlprogram.py, against MLX."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import speech_zoo
from mlprogram import MLProgram
from pyannet_files import lightning
from signals import COSINE, cosine
from speech_zoo_core.errors import CheckpointError, ConfigError
from speech_zoo_export import Axis, ExportError, trace
from speech_zoo_export.coreml import to_coreml
from tiny_models import noise, tiny_model
from wav2vec2_files import hf_folder, source_tensors
from wav2vec2_kin_files import kin_folder


def raw(model: Any, samples: np.ndarray) -> np.ndarray:
    return np.array(model(model.config.front_end(mx.array(samples))[None]))


def taken(program: MLProgram) -> list[list[int]]:
    """The shapes that the program takes."""
    kind = program.spec.description.input[0].type.multiArrayType
    return [list(shape.shape) for shape in kind.enumeratedShapes.shapes] or [list(kind.shape)]


def compare(model: Any, program: MLProgram, lengths: dict[int, int], from_: str, limit: float) -> None:
    """Clips of so many samples, and how many are given: zeros fill them up."""
    for length, filled in lengths.items():
        samples = noise(length)
        x = samples if from_ == "waveform" else np.array(model.config.front_end(mx.array(samples)))
        size = filled if from_ == "waveform" else model.config.front_end.num_frames(filled)
        given = [np.pad(x, [(0, size - len(x)), *[(0, 0)] * (x.ndim - 1)])[None]]
        if "length" in program.inputs:
            given.append(np.array([len(x)], np.int32))
        assert cosine(program(*given)[0], raw(model, samples)) >= limit


@pytest.mark.parametrize("name", ["basic", "ecapa_speechbrain"])
def test_from_samples_of_several_lengths(name: str, tmp_path: Path) -> None:
    model, path = tiny_model(name), tmp_path / "model.mlpackage"
    program = MLProgram(speech_zoo.export(model, path, from_="waveform", seconds=[2, 1, 1.4]))
    assert taken(program) == [[1, 16000], [1, 22400], [1, 32000]]
    assert program.inputs == ["waveform", "length"]
    assert [output.name for output in program.spec.description.output] == ["embedding"]
    lengths = {16000: 16000, 22400: 22400, 32000: 32000, 12345: 16000, 22401: 32000}
    compare(model, program, lengths, "waveform", COSINE["float16"])


def test_from_features_of_several_lengths(tmp_path: Path) -> None:
    model, path = tiny_model("basic"), tmp_path / "model.mlpackage"
    program = MLProgram(speech_zoo.export(model, path, seconds=[1, 1.5], dtype="float32"))
    assert taken(program) == [[1, 98, 16], [1, 148, 16]]
    compare(model, program, {16000: 16000, 24000: 24000, 9999: 16000}, "features", COSINE["float32"])


def test_of_one_length(tmp_path: Path) -> None:
    model = speech_zoo.load(hf_folder(tmp_path / "source", source_tensors()))
    path = speech_zoo.export(model, tmp_path / "model.mlpackage", from_="waveform", seconds=[1], dtype="float32")
    program = MLProgram(path)
    assert taken(program) == [[1, 16000]]
    assert program.inputs == ["waveform", "length"]
    compare(model, program, {16000: 16000, 9000: 16000}, "waveform", COSINE["float32"])
    facts = program.spec.description.metadata.userDefined
    assert json.loads(facts["seconds"]) == [1]
    assert json.loads(facts["labels"]) == ["eng", "fra", "cmn"]
    assert (facts["takes"], facts["gives"], facts["dtype"]) == ("waveform", "logits", "float32")


@pytest.mark.parametrize(("kind", "x_vector"), [("unispeech-sat", True), ("wavlm", True), ("data2vec-audio", False)])
def test_what_follows_a_clip_is_left_out(kind: str, x_vector: bool, tmp_path: Path) -> None:
    """Of a norm over time, of WavLM's bias of positions, of a TDNN, and of convolutions one after the other."""
    model, path = speech_zoo.load(kin_folder(tmp_path / "source", kind, x_vector)), tmp_path / "model.mlpackage"
    program = MLProgram(speech_zoo.export(model, path, from_="waveform", seconds=[1, 2], dtype="float32"))
    assert program.inputs == ["waveform", "length"]
    compare(model, program, {16000: 16000, 9000: 16000, 23456: 32000}, "waveform", COSINE["float32"])


def test_recurrent_layers(tmp_path: Path) -> None:
    """Of one length; several, and lengths of an ONNX file, are told to have no form."""
    model, path = speech_zoo.load(lightning(tmp_path / "pytorch_model.bin")), tmp_path / "model.mlpackage"
    speech_zoo.export(model, path, from_="waveform", seconds=[1])
    samples = noise(16000)
    outputs, expected = MLProgram(path)(samples[None])[0], raw(model, samples)
    assert outputs.shape == expected.shape == (1, 56, 7)
    assert np.abs(outputs - expected).max() < 1e-4
    with pytest.raises(ConfigError, match="computes in float32 only"):
        speech_zoo.export(model, tmp_path / "half.mlpackage", dtype="float16")
    for other in ("model.onnx", "several.mlpackage"):
        with pytest.raises(ConfigError, match="this pyannet cannot be written"):
            speech_zoo.export(model, tmp_path / other)


def test_a_package_is_replaced_when_that_is_asked_for(tmp_path: Path) -> None:
    model, path = tiny_model("basic"), tmp_path / "model.mlpackage"
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not what export writes"):
        speech_zoo.export(model, path, seconds=[1], force=True)
    (path / "Manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match="exists already; force"):
        speech_zoo.export(model, path, seconds=[1])
    speech_zoo.export(model, path, seconds=[1], force=True)
    assert not (path / "notes.txt").exists()
    assert [item.name for item in tmp_path.iterdir()] == ["model.mlpackage"]


@pytest.mark.parametrize("seconds", [[0.01], [3, 601], [float("nan")]])
def test_lengths_that_cannot_be(seconds: list[float], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"this resnet34 takes 0\.\d+ to 600 s"):
        speech_zoo.export(tiny_model("basic"), tmp_path / "model.mlpackage", seconds=seconds)
    assert not list(tmp_path.iterdir())


def test_sizes_that_are_asked_for_in_the_function(tmp_path: Path) -> None:
    """Ranges, padding, stretches and repeats whose sizes vary."""

    def fn(x: mx.array) -> mx.array:
        size = x.shape[1]
        blocks = -(-size // 10)
        padded = mx.pad(x, [(0, 0), (0, 10 * blocks - size), (0, 0)]).reshape(1, blocks, 10, 2)
        sums = mx.repeat(mx.sum(padded, axis=2), 10, axis=1)[:, :size]
        ramp = mx.arange(size).astype(mx.float32)[None, :, None] / size
        return mx.concatenate([x + sums * ramp, mx.broadcast_to(x[:, :1], x.shape)], axis=-1)[:, ::-1]

    graph = trace(fn, mx.zeros((1, 20, 2)), axes=[{1: Axis("time", 11, 300)}])
    to_coreml(graph, precision="float32", sizes=(25, 70)).save(str(tmp_path / "model.mlpackage"))
    program = MLProgram(tmp_path / "model.mlpackage")
    for size in (25, 70):
        x = np.random.default_rng(size).standard_normal((1, size, 2)).astype(np.float32)
        assert np.abs(program(x)[0] - np.array(fn(mx.array(x)))).max() < 1e-5
    with pytest.raises(ExportError, match="fixed sizes"):
        to_coreml(graph)
