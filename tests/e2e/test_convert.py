"""What converting leaves behind: when it is killed, when the disk is full, when the source is not what was expected."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub
from safetensors.numpy import save
from source_weights import source_weights
from speech_zoo_resnet34.oracle import EXAMPLE

Run = Callable[..., Any]
COMMAND = Path(sys.executable).with_name("speech-zoo")
UNSHARE = shutil.which("unshare")
OWN_MOUNTS = (
    UNSHARE is not None and subprocess.run([UNSHARE, "-rm", "true"], capture_output=True, check=False).returncode == 0
)
needs_mounts = pytest.mark.skipif(not OWN_MOUNTS, reason="this system lets nobody mount a file system of his own")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet of 26 MB, so that writing it takes a while."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "avg_model.safetensors").write_bytes(save(source_weights(EXAMPLE.config, projection=False)))
    (folder / "config.yaml").write_text("{model: ResNet34, model_args: {feat_dim: 80, embed_dim: 256}}")
    return folder


def test_killed_at_any_moment(tmp_path: Path, environment: dict[str, str], cli: Run, large: Path) -> None:
    start = time.monotonic()
    cli("convert", large, "reference").succeeded()
    duration = time.monotonic() - start
    expected = content(tmp_path / "reference")
    out = tmp_path / "out"

    def partial() -> bool:
        return any(tmp_path.glob(".out.*.partial"))

    moments = random.Random(0)
    states = []
    for i in range(12):
        process = subprocess.Popen([COMMAND, "convert", large, out], env=environment, stderr=subprocess.DEVNULL)
        if i % 3:  # two thirds while it writes
            while not partial() and process.poll() is None:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.1))
        else:
            time.sleep(moments.uniform(0, duration))
        process.send_signal(signal.SIGKILL)
        process.wait()
        states.append((out.exists(), partial()))
        if out.exists():
            assert content(out) == expected
            shutil.rmtree(out)
    assert (False, True) in states, "no process was killed while it wrote"
    cli("convert", large, out).succeeded()
    assert content(out) == expected
    assert {path.name for path in tmp_path.iterdir()} == {"out", "reference"}


def test_force_replaces_a_converted_checkpoint_and_nothing_else(
    cli: Run, tmp_path: Path, original: Path, converted: Path
) -> None:
    cli("convert", original, "out", "--dtype", "float16").succeeded()
    (tmp_path / "out" / "README.md").write_text("of the old one", encoding="utf-8")
    assert cli("convert", original, "out").failed().endswith("; --force of speech-zoo convert replaces it")
    cli("convert", original, "out", "--force").succeeded()
    assert content(tmp_path / "out") == content(converted)
    message = cli("convert", "out", "out", "--dtype", "float16", "--force").failed()
    assert message == "out is, holds or lies in what is converted; give another folder"
    assert content(tmp_path / "out") == content(converted)
    (tmp_path / "out" / "thesis.tex").write_text("mine", encoding="utf-8")
    before = content(tmp_path / "out")
    message = cli("convert", original, "out", "--force").failed()
    assert message.endswith("out holds more than a converted checkpoint (thesis.tex): not replaced")
    assert content(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@needs_mounts
@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        ("-t tmpfs -o size=16k tmpfs place", "No space left on device"),
        ("--bind -o ro place place", "Read-only file system"),
    ],
    ids=["a full disk", "a read-only target"],
)
def test_a_place_that_cannot_be_written(
    run_process: Run, tmp_path: Path, original: Path, mount: str, reason: str
) -> None:
    (tmp_path / "place").mkdir()
    script = f'mount {mount} && {{ "$0" convert "$1" place/out; status=$?; ls -A place >&1; exit $status; }}'
    result = run_process([UNSHARE, "-rm", "sh", "-c", script, COMMAND, original], tmp_path)
    assert result.failed() == f"place/out cannot be written: {reason}"


def test_a_source_that_is_not_what_the_catalogue_expects(
    hub: LoopbackHub, hub_env: dict[str, str], cli: Run, python: Run, tmp_path: Path, original: Path, converted: Path
) -> None:
    hub.add("Wespeaker/wespeaker-voxceleb-resnet34-LM", content(original))  # as safetensors, not as avg_model.pt
    message = cli("convert", "wespeaker-resnet34-lm", "out", env=hub_env).failed()
    assert "should be made of avg_model.pt, config.yaml, but avg_model.pt was not there" in message
    (tmp_path / "campplus_cn_en_common.pt").write_bytes(b"\x80 another file")
    error = cli("convert", original, "out", "--name", "campplus-zh-en").failed()
    assert "campplus_cn_en_common.pt was not there" in error
    assert (
        "did you mean wespeaker-resnet34-lm?"
        in cli("convert", original, "out", "--name", "wespeaker-resnet34-ml").failed()
    )
    code = """
import sys, speech_zoo_core as core
from speech_zoo_core.conversion import Expected
try:
    core.convert(sys.argv[1], "out", expected=Expected({"config.yaml": "0" * 64}))
except core.CheckpointError as error:
    print(error)
"""
    assert f"{'0' * 64} was expected" in python(code, original).succeeded().out
    assert not (tmp_path / "out").exists()


def test_a_catalogue_name_is_kept_with_the_provenance(cli: Run, tmp_path: Path) -> None:
    cli("convert", "campplus-zh-en", "out").succeeded()
    source = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["source"]
    assert source["name"] == "campplus-zh-en"
    assert source["form"] == "3D-Speaker CAM++"
    assert sys.executable not in str(source)
    assert os.fspath(tmp_path) not in str(source)


def test_another_checkpoint_under_the_name_of_an_entry(cli: Run, original: Path, tmp_path: Path) -> None:
    """Its files have the right names, and nobody knows their hashes."""
    folder = tmp_path / "toy"
    shutil.copytree(original, folder)
    (folder / "avg_model.safetensors").rename(folder / "avg_model.pt")
    error = cli("convert", folder, "out", "--name", "wespeaker-resnet34").failed()
    assert "has 16 values in an embedding, 256 were expected: it is another checkpoint" in error, error
    assert not (tmp_path / "out").exists()
