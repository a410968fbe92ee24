"""Checkpoints from the Hub: the real client, and a Hub on 127.0.0.1."""

import json
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files
from loopback_hub import Fault, LoopbackHub
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
    hub: LoopbackHub, hub_env: dict[str, str], fresh_cli: Run, original: Path, converted: Path, tmp_path: Path
) -> None:
    commit = hub.add("org/tiny", content(original))
    result = fresh_cli("convert", "org/tiny", "out", env=hub_env)
    assert result.status == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (converted / "model.safetensors").read_bytes()
    source = json.loads((tmp_path / "out" / "config.json").read_text())["source"]
    assert (source["repo"], source["revision"]) == ("org/tiny", commit)
    assert source["sha256"].keys() == {"avg_model.safetensors", "config.yaml"}


def test_a_catalogue_name_leads_to_its_repo(
    hub: LoopbackHub,
    hub_env: dict[str, str],
    fresh_cli: Run,
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
    result = fresh_cli("convert", "wespeaker-resnet34-lm", "wespeaker-resnet34-lm-mlx", env=hub_env)
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
    hub: LoopbackHub, hub_env: dict[str, str], fresh_cli: Run, converted: Path
) -> None:
    hub.add("org/tiny", content(converted))
    fresh_cli("info", "org/tiny", env=hub_env).succeeded()


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
    fresh_cli: Run,
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
    assert message in fresh_cli("convert", repo, "out", *revision, env=hub_env).failed()
    unchanged()


# A Hub that means harm, and what is no Hub


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def hostile_answer(hub: LoopbackHub, place: str, name: str, files: dict[str, bytes]) -> Fault:
    """An answer with `name` where the client takes the name of a file from."""
    commit, wanted = hub.commit("org/tiny"), "model.safetensors"
    if place in ("ETag", "X-Linked-ETag", "weak ETag"):
        value = f'W/"{name}"' if place == "weak ETag" else f'"{name}"'
        headers = (("ETag", value), ("X-Repo-Commit", commit), ("X-Linked-Size", str(len(files[wanted]))))
        headers += (("X-Linked-ETag", value),) if place == "X-Linked-ETag" else ()
        return Fault("HEAD .*/resolve/", 200, headers)
    if place == "X-Repo-Commit":
        return Fault("HEAD .*/resolve/", 200, (("ETag", '"0123"'), ("X-Repo-Commit", name)))
    if place == "X-Repo-Commit of what is not there":
        return Fault("HEAD .*/resolve/", 404, (("X-Error-Code", "EntryNotFound"), ("X-Repo-Commit", name)))
    kind = (("Content-Type", "application/json"),)
    if place == "sha":
        facts = {"id": "org/tiny", "sha": name, "siblings": [{"rfilename": file} for file in files]}
        return Fault("GET /api/models/org/tiny(/revision/main)?$", 200, kind, json.dumps(facts).encode())
    entry: dict[str, Any] = {"type": "file", "path": wanted, "size": 3, "oid": "0" * 40}
    entry |= (
        {"lfs": {"oid": name, "size": 3, "pointerSize": 3}, "xetHash": "0" * 64} if place == "lfs" else {"oid": name}
    )
    return Fault("GET /api/models/org/tiny/tree/", 200, kind, json.dumps([entry]).encode())


@pytest.mark.parametrize(
    "name", ["../../../../../planted", "/tmp/speech-zoo-planted", "a/../../../planted", "..", "a\\b"]
)
@pytest.mark.parametrize(
    "place",
    [
        "ETag",
        "weak ETag",
        "X-Linked-ETag",
        "X-Repo-Commit",
        "X-Repo-Commit of what is not there",
        "sha",
        "oid",
        "lfs",
    ],
)
def test_a_hub_that_names_a_place_outside_the_cache(
    hub: LoopbackHub, hub_env: dict[str, str], cli: Run, converted: Path, tmp_path: Path, place: str, name: str
) -> None:
    files = content(converted)
    hub.add("org/tiny", files)
    hub.faults += [hostile_answer(hub, place, name, files) for _ in range(20)]
    outside = tmp_path / "deep/down/here/is/the/cache"
    outside.mkdir(parents=True)
    message = cli("convert", "org/tiny", "out", env=hub_env | {"HF_HOME": str(outside), "HF_HUB_CACHE": str(outside)})
    assert "the Hub's answer was refused" in message.failed()
    assert not any("planted" in path for path in tree(tmp_path))
    assert not Path("/tmp/speech-zoo-planted").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "revision",
    ["../main", "../../../x", "a/../b", "/etc", "..", ".", "a//b", "a/", "", "-x", "a\nb", "a\\..\\b", "a b"],
)
def test_a_revision_that_is_a_path(
    hub: LoopbackHub, hub_env: dict[str, str], cli: Run, converted: Path, revision: str
) -> None:
    hub.add("org/tiny", content(converted))
    before = len(hub.requests)
    message = cli("convert", "org/tiny", "out", f"--revision={revision}", env=hub_env).failed()
    assert "is no revision" in message
    assert len(hub.requests) == before


@pytest.mark.parametrize("key", ["revision", "repo"])
@pytest.mark.parametrize("value", ["../../../x", "/etc", 5, ["a"], {"a": 1}])
def test_a_config_that_leads_check_elsewhere(
    hub: LoopbackHub, hub_env: dict[str, str], cli: Run, converted: Path, tmp_path: Path, key: str, value: Any
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in content(converted).items():
        (folder / name).write_bytes(data)
    config = json.loads((folder / "config.json").read_text())
    config["source"] |= {"repo": "org/tiny", "revision": "main"} | {key: value}
    (folder / "config.json").write_text(json.dumps(config))
    result = cli("check", folder, env=hub_env)
    assert "is no revision" in result.out or result.status in (1, 3)  # 3: the original is not installed
    assert "Traceback" not in result.err
    assert not hub.requests


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (200, "text/html", b"<html><body>Log in to the hotel's network</body></html>"),
        (200, "application/json", b"[]"),
        (200, "application/json", b'"hello"'),
        (200, "application/json", b"{}"),
        (200, "application/json", b'{"id": "org/tiny", "sha": null, "siblings": 5}'),
        (200, "application/json", b'{"id": "org/tiny", "sha": 5, "siblings": [{"rfilename": 5}]}'),
        (200, "application/json", b"\xff\xfe"),
        (204, "text/plain", b""),
        (511, "text/html", b"<html>Network Authentication Required</html>"),
    ],
)
def test_an_answer_of_what_is_no_hub(
    hub: LoopbackHub, hub_env: dict[str, str], fresh_cli: Run, converted: Path, status: int, kind: str, body: bytes
) -> None:
    hub.add("org/tiny", content(converted))
    hub.faults += [Fault("", status, (("Content-Type", kind),), body) for _ in range(30)]
    message = fresh_cli("convert", "org/tiny", "out", env=hub_env).failed()
    assert "org/tiny" in message


@pytest.mark.parametrize(
    ("model", "others"),
    [
        ("avg_model.pt", ["optimizer.pt", "scheduler.pt", "rng_state_0.pth", "rng_state.pth", "training_args.bin"]),
        ("my_model.pt", ["optimizer.pt", "scaler.pt", "optim_states.pt", "random_states_0.pt"]),
        ("avg_model.pt", ["model_5.pt", "other.pth", "classifier.ckpt"]),
    ],
)
def test_what_a_training_left_is_not_fetched(
    hub: LoopbackHub,
    hub_env: dict[str, str],
    cli: Run,
    weights: dict[str, np.ndarray],
    original: Path,
    tmp_path: Path,
    model: str,
    others: list[str],
) -> None:
    checkpoint = torch_files.save_zip(tmp_path / model, torch_files.state_dict(weights))
    files = {model: checkpoint.read_bytes(), "config.yaml": (original / "config.yaml").read_bytes()}
    hub.add("org/tiny", files | dict.fromkeys([*others, "sub/optimizer.pt"], b"\0" * 100))
    assert cli("convert", "org/tiny", "out", env=hub_env).status == 0
    assert hub.downloads() == files.keys()
