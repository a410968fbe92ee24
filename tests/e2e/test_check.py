"""`speech-zoo check` in fresh processes, PyTorch out of reach."""

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub
from safetensors.numpy import load_file, save_file

Run = Callable[..., Any]

# The command where PyTorch is not installed, whatever this machine has.
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from speech_zoo.cli.main import main
sys.argv[0] = "speech-zoo"
main()
"""
# The command with the zoo's own model of the source in the original's place.
WITH_ORACLE = """
import dataclasses, sys
import speech_zoo
import mlx.core as mx
import numpy as np
from speech_zoo.cli import main as cli
from speech_zoo.publish import originals
from speech_zoo_core.oracle import Oracle

def oracle(config, original):
    source = original()
    print("fetched", source.repo, source.revision, source.main_file.name)
    model = speech_zoo.load(source.folder)
    features = lambda clip: np.array(model.config.front_end(mx.array(clip)))
    output = lambda clip: np.array(model(mx.array(features(clip))[None])[0])
    return Oracle("original", "1.0", output, features, "fbank 2.0")

def read_model(source, real=originals.read_model):
    spec, *rest = real(source)
    return dataclasses.replace(spec, oracle=oracle), *rest

originals.read_model = read_model
sys.argv[0] = "speech-zoo"
cli.main()
"""


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    """A converted folder to write into."""
    return shutil.copytree(converted, tmp_path / "zoo")


def bundled(tmp_path: Path) -> Path:
    """A copy of the bundled checkpoint."""
    from importlib.util import find_spec

    spec = find_spec("speech_zoo_campplus")
    assert spec is not None and spec.origin is not None
    return shutil.copytree(Path(spec.origin).parent / "bundled" / "campplus-zh-en", tmp_path / "copy")


def test_the_bundled_checkpoint_against_recorded_outputs(cli: Run, tmp_path: Path) -> None:
    result = cli("check", "campplus-zh-en", "--json", "--output", "p.json").succeeded()
    assert (tmp_path / "p.json").read_text() == result.out
    facts = result.json
    assert (facts["passed"], facts["precision"], facts["task"]) == (True, "float16", "speaker-embedding")
    assert facts["oracle"] == {"name": "speakerlab", "version": "0.0.6", "features": None, "from": "goldens"}
    assert facts["reference"] == {
        "sha256": {"campplus_cn_en_common.pt": "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199"}
    }
    float32 = [clip for clip in facts["clips"] if clip["computed"] == "float32"]
    assert sorted(Counter(clip["engine"] for clip in float32).values()) == [1, 9]  # MLX and onnxruntime
    assert all(re.fullmatch(r"libri_\d\d_spk\d+", clip["clip"]) and clip["features"] is None for clip in float32)
    assert min(clip["cosine"] for clip in float32) > 0.9999


def test_a_changed_copy_fails(cli: Run, tmp_path: Path) -> None:
    folder = bundled(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name, value in sorted(tensors.items()) if value.ndim > 1)
    tensors[name] = tensors[name][::-1].astype("float32")
    save_file({name: value.astype("float32") for name, value in tensors.items()}, folder / "model.safetensors")
    result = cli("check", folder)
    assert result.status == 1
    assert re.fullmatch(
        r"error: \S+/copy is not equal to its original: 10 of 10 comparisons in float32 .*\n", result.err
    )
    assert result.out.count("missed") == 10
    assert "Not compared: features" in result.out
    assert json.loads((folder / "parity.json").read_text())["passed"] is False


def test_an_original_that_is_not_installed(python: Run, original: Path, folder: Path) -> None:
    result = python(WITHOUT_TORCH, "check", folder, "--reference", original)
    out = result.out
    assert (result.status, "--reference names the original" in result.err) == (3, True)
    assert out.startswith("Nothing was compared: torch")
    assert "pip install torch" in out
    facts = json.loads((folder / "parity.json").read_text())
    assert (facts["passed"], facts["oracle"], facts["clips"]) == (None, None, [])
    assert facts["checkpoint"].keys() == {"config.json", "model.safetensors"}
    printed = python(WITHOUT_TORCH, "check", folder, "--json").json
    assert printed == json.loads((folder / "parity.json").read_text())


def test_a_reference_on_the_hub(
    hub: LoopbackHub, hub_env: dict[str, str], python: Run, original: Path, folder: Path
) -> None:
    files = {path.name: path.read_bytes() for path in original.iterdir()}
    commit = hub.add("org/tiny", files)
    hub.add("org/other", files | {"config.yaml": files["config.yaml"] + b"\n"})
    for reference in ("org/tiny", "org/tiny@main", f"org/tiny@{commit}"):
        out = python(WITH_ORACLE, "check", folder, "--reference", reference, env=hub_env).succeeded().out
        assert out.startswith(f"fetched org/tiny {commit} avg_model.safetensors\n")
        assert "Parity holds in float32 with original 1.0, live; worst features 0.0e+00, cosine 1.0000" in out
        reference_facts = json.loads((folder / "parity.json").read_text())["reference"]
        assert (reference_facts["repo"], reference_facts["revision"]) == ("org/tiny", commit)
    error = python(WITH_ORACLE, "check", folder, "--reference", "org/other", env=hub_env).failed()
    assert re.fullmatch(r"org/other is not what \S+ was converted from: the sha256 of config.yaml differs", error)
    error = python(WITH_ORACLE, "check", folder, "--reference", "org/tiny@none", env=hub_env).failed()
    assert "org/tiny has no revision 'none'" in error


def test_the_repo_that_it_came_from(
    hub: LoopbackHub, hub_env: dict[str, str], cli: Run, python: Run, original: Path, tmp_path: Path
) -> None:
    """At the revision of the conversion, though the branch has moved on; nothing is compared where it is away."""
    files = {path.name: path.read_bytes() for path in original.iterdir()}
    commit = hub.add("org/tiny", files)
    assert cli("convert", "org/tiny", "zoo", env=hub_env).status == 0
    out = python(WITH_ORACLE, "check", "zoo", env=hub_env).succeeded().out
    assert out.startswith(f"fetched org/tiny {commit} ")
    empty = {"HF_HOME": str(tmp_path / "empty")}
    hub.broken = True
    result = python(WITH_ORACLE, "check", "zoo", env=hub_env | empty)
    assert result.status == 3
    assert result.out.startswith("Nothing was compared: the original is not at hand: org/tiny")


def test_errors(cli: Run, folder: Path, original: Path, tmp_path: Path) -> None:
    assert "does not exist" in cli("check", "nowhere").failed()
    assert "does not exist" in cli("check", folder, "--reference", "nowhere").failed()
    assert "is a source: convert it first" in cli("check", "mms-lid-256").failed()
    assert "is a source (WeSpeaker ResNet34): convert it first" in cli("check", original).failed()
    assert "was converted from: it lacks" in cli("check", folder, "--reference", tmp_path).failed()
    if sys.platform != "darwin":
        assert "runs on a Mac only" in cli("check", folder, "--engine", "coreml").failed()
    assert not (folder / "parity.json").exists()
