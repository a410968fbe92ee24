"""Wav2Vec2 classifiers by command, in fresh processes and from a Hub on loopback."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback_hub import LoopbackHub
from safetensors.numpy import save_file
from wav2vec2_files import SETTINGS, hf_folder, source_tensors
from wavs import write_wav

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folder(tmp_path_factory.mktemp("wav2vec2") / "tiny-mms")


def languages(result: Any) -> list[tuple[str, float]]:
    return [(row["label"], pytest.approx(row["score"], abs=1e-6)) for row in result.succeeded().json[0]["languages"]]


def test_lid_convert_and_lid_again(cli: Run, tmp_path: Path, clip: Path, folder: Path) -> None:
    first = languages(cli("lid", clip, "--model", folder, "--json"))
    assert {label for label, _ in first} == {"eng", "fra", "cmn"}
    converted = tmp_path / "mms-mlx"
    told = cli("convert", folder, converted).succeeded().out
    assert "wav2vec2_cls from transformers Wav2Vec2ForSequenceClassification" in told
    assert languages(cli("lid", clip, "--model", converted, "--json")) == first
    some = cli("lid", clip, "--model", converted, "--languages", "zh,en", "--json")
    assert {label for label, _ in languages(some)} == {"cmn", "eng"}
    assert "  languages      eng, fra, cmn\n" in cli("info", converted).succeeded().out


def test_info_calls_no_label_a_language(cli: Run, tmp_path: Path) -> None:
    values = hf_folder(tmp_path / "values", problem_type="regression")
    told = cli("info", values).succeeded().out
    assert "  labels         eng, fra, cmn\n" in told
    assert "languages" not in told


@pytest.mark.parametrize("bits", ["8", "4"])
def test_quantized(cli: Run, tmp_path: Path, clip: Path, folder: Path, bits: str) -> None:
    cli("convert", folder, tmp_path / "small", "--bits", bits).succeeded()
    cli("lid", clip, "--model", tmp_path / "small").succeeded()


def test_shards_from_the_hub(cli: Run, tmp_path: Path, clip: Path, hub: LoopbackHub, hub_env: dict[str, str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    tensors = sorted(source_tensors().items())
    weight_map = {}
    for i, part in enumerate((tensors[::2], tensors[1::2]), 1):
        file = f"model-{i:05}-of-00002.safetensors"
        save_file(dict(part), source / file)
        weight_map.update(dict.fromkeys(dict(part), file))
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (source / "config.json").write_text(json.dumps(SETTINGS))
    hub.add("org/tiny-mms", {path.name: path.read_bytes() for path in source.iterdir()})
    result = cli("lid", clip, "--model", "org/tiny-mms", "--json", env=hub_env).succeeded()
    pairs = [(row["label"], row["score"]) for row in result.json[0]["languages"]]
    assert pairs == languages(cli("lid", clip, "--model", source, "--json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["Wav2Vec2ForCTC"]}, "holds a Wav2Vec2ForCTC"),
        ({"id2label": {"0": "eng", "1": "fra"}}, "names 2 labels, the classifier has 3 classes"),
        ({"hidden_act": "mish"}, "hidden_act"),
    ],
)
@pytest.mark.parametrize("command", ["lid", "convert"])
def test_a_bad_folder_is_refused(
    cli: Run, tmp_path: Path, clip: Path, command: str, changes: dict[str, Any], message: str
) -> None:
    bad = hf_folder(tmp_path / "bad", **changes)
    arguments = ["lid", clip, "--model", bad] if command == "lid" else ["convert", bad, tmp_path / "out"]
    assert message in cli(*arguments).failed()
    assert not (tmp_path / "out").exists()


def test_a_clip_below_the_receptive_field(cli: Run, tmp_path: Path, folder: Path) -> None:
    short = write_wav(tmp_path / "short.wav", np.sin(np.arange(399)) * 0.3)
    assert "is too short: 0.025 s, wav2vec2_cls needs at least 0.025 s" in cli("lid", short, "--model", folder).failed()
