"""A new family is one folder: a package that is installed works everywhere, and no file of ours knows of it."""

import json
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
TYPE = "toy_xvector"
EXAMPLE = """
import sys
from pathlib import Path
from speech_zoo_core import registry
example = registry.get(sys.argv[1]).example
example.write(example.config, Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, run_process: Run) -> dict[str, str]:
    """The environment of processes that have the package, installed by pip from its folder."""
    root = tmp_path_factory.mktemp("family")
    shutil.copytree(Path(__file__).with_name("toy_family"), root / "packages")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index"]
    options = ["--no-deps", "--no-build-isolation", "--target", root / "site"]
    run_process([*pip, *options, root / "packages"], root).succeeded()
    return {"PYTHONPATH": str(root / "site")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, run_process: Run, installed: dict[str, str]) -> Path:
    """A checkpoint as its original is published."""
    folder = tmp_path_factory.mktemp("source")
    run_process([sys.executable, "-c", EXAMPLE, TYPE, folder], folder, installed).succeeded()
    return folder / "toy.npz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, run_process: Run, installed: dict[str, str], source: Path) -> Path:
    """`source`, converted by the command."""
    folder = tmp_path_factory.mktemp("converted") / "toy"
    command = Path(sys.executable).with_name("speech-zoo")
    done = run_process([command, "convert", source, folder], folder.parent, installed).succeeded()
    assert f"{TYPE} from toy npz" in done.out
    return folder


def test_the_commands(fresh_cli: Run, installed: dict[str, str], source: Path, folder: Path, clip: Path) -> None:
    rows = [
        fresh_cli("embed", clip, "--model", ref, "--json", env=installed).succeeded().json for ref in (source, folder)
    ]
    vectors = [row[0]["embedding"] for row in rows]
    assert len(vectors[0]) == 24
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-6)
    info = fresh_cli("info", folder, "--json", env=installed).succeeded().json
    assert (info["model_type"], info["task"]) == (TYPE, "speaker-embedding")


def test_check(fresh_cli: Run, installed: dict[str, str], source: Path, folder: Path) -> None:
    parity = fresh_cli("check", folder, "--reference", source, "--json", env=installed).succeeded().json
    assert parity["passed"] is True
    assert (parity["oracle"]["name"], parity["oracle"]["from"]) == ("toy-original", "live")
    assert min(clip["cosine"] for clip in parity["clips"]) >= 0.999999


@pytest.mark.parametrize("named", ["toy", TYPE, "folder"])
def test_bench(fresh_cli: Run, installed: dict[str, str], source: Path, named: str) -> None:
    name = str(source) if named == "folder" else named
    options = ("--seconds", "1", "--repeats", "1", "--contenders", "torch,onnxruntime", "--json")
    result = fresh_cli("bench", name, *options, env=installed).succeeded().json
    assert result["seeded"] == ([] if named == "folder" else [name])
    rows = {row["contender"]: row for row in result["rows"]}
    assert rows["ours"]["seconds"] > 0
    assert rows["torch"]["agreement"]["value"] <= 1e-6
    assert {each["by"] for each in result["contenders"] if each["contender"] == "torch"} == {"toy-original 1.0"}
    assert rows["onnxruntime"]["why"] is not None


@pytest.mark.skipif(find_spec("mlx_audio") is None, reason="mlx-audio is not installed")
def test_the_plugin(run_process: Run, installed: dict[str, str], source: Path, folder: Path, clip: Path) -> None:
    code = """
import json, sys
import mlx_audio
from mlx_audio.registry import classify_model
models = [mlx_audio.load(sys.argv[2]), mlx_audio.spk.load(sys.argv[2]), mlx_audio.spk.load(sys.argv[1])]
print(json.dumps([classify_model(sys.argv[4])] + [model.encode(sys.argv[3]).tolist() for model in models]))
"""
    done = run_process([sys.executable, "-c", code, source, folder, clip, TYPE], folder.parent, installed)
    kind, *vectors = json.loads(done.succeeded().out)
    assert kind == "spk"
    assert vectors[0] == vectors[1] == pytest.approx(vectors[2], abs=1e-6)
