"""Checkpoints from the Hub: the real client, and a Hub on 127.0.0.1."""

import json
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files
from loopback_hub import LoopbackHub
from safetensors.numpy import save

Run = Callable[..., Any]

# For each "REF" or "REF@REVISION" the embedding of the clip, as a list of JSON lists.
EMBED = """
import json, sys, speech_zoo
clip, *refs = sys.argv[1:]
vectors = []
for ref in refs:
    name, _, revision = ref.partition("@")
    vectors.append(speech_zoo.load(name, revision=revision or None).embed(clip).tolist())
print(json.dumps(vectors))
"""


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("form", ["converted", "original"])
def test_a_repo_is_loaded_by_name(
    hub: LoopbackHub, hub_env: dict[str, str], python: Run, request: pytest.FixtureRequest, clip: Path, form: str
) -> None:
    folder = request.getfixturevalue(form)
    hub.add("org/tiny", content(folder))
    result = python(EMBED, clip, folder, "org/tiny", env=hub_env)
    local, fetched = result.json
    assert result.status == 0
    assert len(local) == 16
    assert fetched == local


def test_a_repo_is_converted_with_its_provenance(
    hub: LoopbackHub, hub_env: dict[str, str], cli: Run, original: Path, converted: Path, tmp_path: Path
) -> None:
    commit = hub.add("org/tiny", content(original))
    result = cli("convert", "org/tiny", "out", env=hub_env)
    assert result.status == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (converted / "model.safetensors").read_bytes()
    source = json.loads((tmp_path / "out" / "config.json").read_text())["source"]
    assert (source["repo"], source["revision"]) == ("org/tiny", commit)
    assert source["sha256"].keys() == {"avg_model.safetensors", "config.yaml"}


def test_a_catalogue_name_leads_to_its_repo(
    hub: LoopbackHub,
    hub_env: dict[str, str],
    cli: Run,
    weights: dict[str, np.ndarray],
    original: Path,
    converted: Path,
    tmp_path: Path,
) -> None:
    """The repo as WeSpeaker lays it out; the command is the third one that the demo suggests."""
    checkpoint = torch_files.save_zip(tmp_path / "avg_model.pt", torch_files.state_dict(weights))
    files = {"avg_model.pt": checkpoint.read_bytes(), "config.yaml": (original / "config.yaml").read_bytes()}
    unused = {"README.md": b"# A model", "voxceleb_resnet34_LM.onnx": b"\0" * 100, ".gitattributes": b""}
    hub.add("Wespeaker/wespeaker-voxceleb-resnet34-LM", files | unused)
    result = cli("convert", "wespeaker-resnet34-lm", "wespeaker-resnet34-lm-mlx", env=hub_env)
    assert result.status == 0
    assert result.out.startswith("wespeaker-resnet34-lm-mlx: resnet34 from WeSpeaker ResNet34, ")
    out = tmp_path / "wespeaker-resnet34-lm-mlx"
    assert (out / "model.safetensors").read_bytes() == (converted / "model.safetensors").read_bytes()
    assert hub.downloads() == files.keys()


def test_only_the_best_form_is_downloaded(
    hub: LoopbackHub, hub_env: dict[str, str], cli: Run, converted: Path, clip: Path
) -> None:
    others = ("model.onnx", "pytorch_model.bin", "avg_model.pt", "weights.npz", "README.md", "figure.png")
    hub.add("org/tiny", content(converted) | dict.fromkeys(others, b"\0" * 100) | {"other/model.safetensors": b"\0"})
    result = cli("embed", clip, "--model", "org/tiny", "--json", env=hub_env)
    assert result.status == 0
    assert len(result.json[0]["embedding"]) == 16
    assert hub.downloads() == {"model.safetensors", "config.json"}


def test_every_shard_is_downloaded(
    hub: LoopbackHub,
    hub_env: dict[str, str],
    python: Run,
    weights: dict[str, np.ndarray],
    original: Path,
    clip: Path,
) -> None:
    names = sorted(weights)
    shards = {f"model-0000{i}-of-00002.safetensors": names[i - 1 :: 2] for i in (1, 2)}
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    files = {shard: save({name: weights[name] for name in part}) for shard, part in shards.items()}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    files["config.yaml"] = (original / "config.yaml").read_bytes()
    hub.add("org/tiny", files | {"pytorch_model.bin": b"\0" * 100})
    result = python(EMBED, clip, original, "org/tiny", env=hub_env)
    local, fetched = result.json
    assert result.status == 0
    assert fetched == local
    assert hub.downloads() == files.keys()


def test_a_revision_is_a_branch_or_a_commit(
    hub: LoopbackHub,
    hub_env: dict[str, str],
    python: Run,
    cli: Run,
    weights: dict[str, np.ndarray],
    original: Path,
    clip: Path,
    tmp_path: Path,
) -> None:
    settings = (original / "config.yaml").read_bytes()
    other = weights | {"seg_1.bias": weights["seg_1.bias"] + 1}
    first = hub.add("org/tiny", {"avg_model.safetensors": save(weights), "config.yaml": settings})
    second = hub.add("org/tiny", {"avg_model.safetensors": save(other), "config.yaml": settings}, branch="v2")
    refs = ("org/tiny", "org/tiny@v2", f"org/tiny@{first}", f"org/tiny@{second}")
    result = python(EMBED, clip, original, *refs, env=hub_env)
    assert result.status == 0
    local, main, v2, by_first, by_second = result.json
    assert main == by_first == local
    assert v2 == by_second != local
    assert cli("convert", "org/tiny", "out", "--revision", "v2", env=hub_env).status == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["source"]["revision"] == second


@pytest.mark.parametrize(
    ("how", "revision"), [("stopped", ""), ("stopped", "@v2"), ("stopped", "@commit"), ("HF_HUB_OFFLINE", "")]
)
def test_the_cached_copy_serves_without_a_connection(
    hub: LoopbackHub, hub_env: dict[str, str], python: Run, converted: Path, clip: Path, how: str, revision: str
) -> None:
    # A file that is not downloaded must not make the cached copy look incomplete.
    commit = hub.add("org/tiny", content(converted) | {"README.md": b"# A model"}, branch="v2" if revision else "main")
    ref = "org/tiny" + revision.replace("commit", commit)
    before = python(EMBED, clip, ref, env=hub_env)
    assert before.status == 0
    if how == "stopped":
        hub.stop()
    else:
        hub_env["HF_HUB_OFFLINE"] = "1"
    after = python(EMBED, clip, ref, env=hub_env)
    assert after.status == 0, after.err
    assert after.json == before.json


def test_a_local_folder_wins_over_a_repo_of_its_name(
    hub: LoopbackHub, hub_env: dict[str, str], cli: Run, converted: Path, tmp_path: Path
) -> None:
    hub.add("org/tiny", {"README.md": b"no checkpoint"})
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "tiny").symlink_to(converted)
    cli("info", "org/tiny", env=hub_env).succeeded()
    assert not hub.requests


def test_the_download_shows_no_bar_when_piped(
    hub: LoopbackHub, hub_env: dict[str, str], cli: Run, converted: Path
) -> None:
    hub.add("org/tiny", content(converted))
    cli("info", "org/tiny", env=hub_env).succeeded()


ERRORS = {
    "no such repo": ("org/nobody", "org/nobody does not exist on the Hub, or is private"),
    "no such repo, not logged in": ("org/nobody", "org/nobody does not exist on the Hub, or is private"),
    "gated": ("org/gated", "org/gated is gated: accept its terms on the Hub"),
    "no such revision": ("org/tiny", "org/tiny has no revision 'v9'"),
    "broken": ("org/tiny", "org/tiny could not be fetched from the Hub: "),
    "no checkpoint": ("org/empty", "org/empty holds no checkpoint"),
    "damaged": ("org/damaged", "model.safetensors is cut off"),
    "stopped": ("org/tiny", "the Hub cannot be reached and org/tiny is not in the local cache"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_the_hub_refuses_is_one_line(
    hub: LoopbackHub,
    hub_env: dict[str, str],
    cli: Run,
    converted: Path,
    unchanged: Callable[[], None],
    case: str,
) -> None:
    repo, message = ERRORS[case]
    files = content(converted)
    hub.add("org/tiny", files)
    hub.add("org/gated", files)
    hub.add("org/empty", {"README.md": b"# Nothing"})
    hub.add("org/damaged", files | {"model.safetensors": files["model.safetensors"][:-100]})
    hub.gated.add("org/gated")
    hub.broken = case == "broken"
    if case == "no such repo, not logged in":
        hub.anonymous_status = HTTPStatus.UNAUTHORIZED
    if case == "stopped":
        hub.stop()
    unchanged()
    revision = ["--revision", "v9"] if case == "no such revision" else []
    assert message in cli("convert", repo, "out", *revision, env=hub_env).failed()
    unchanged()
