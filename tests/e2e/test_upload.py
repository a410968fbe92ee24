"""Publishing on the Hub: the real client, and a Hub on 127.0.0.1 that refuses, fails, and hangs up."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.reports import prove
from loopback_hub import TOKEN, LoopbackHub
from loopback_repos import Account, Repo

Run = Callable[..., Any]

CARD = "---\nlicense: cc-by-4.0\n---\n# Tiny\n"
READER = "hf_reader"  # a token that may read
STRANGER = "hf_stranger"  # one of somebody who does not belong to org
FILES = {"README.md", "config.json", "model.safetensors", "parity.json"}

# Makes the uploads that are given as JSON, one after the other; prints a result or an error for each.
# Waits between retries, ours and the client's, are a tenth as long.
UPLOADS = """
import json, os, sys, time, speech_zoo
results = []
sleep = time.sleep
time.sleep = lambda seconds: sleep(seconds / 10)
for call in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = call.pop("token", os.environ["HF_TOKEN"])
    try:
        results.append(vars(speech_zoo.upload(**call)) | {"files": None})
    except speech_zoo.HubError as error:
        results.append({"error": str(error)})
print(json.dumps(results))
"""
EMBED = """
import json, sys, speech_zoo
print(json.dumps([speech_zoo.load(ref).embed(sys.argv[1]).tolist() for ref in sys.argv[2:]]))
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, converted: Path) -> Path:
    """The tiny ResNet, with a card and a proof; do not change it."""
    target = tmp_path_factory.mktemp("upload") / "tiny"
    shutil.copytree(converted, target)
    (target / "README.md").write_text(CARD)
    prove(target)
    return target


@pytest.fixture
def env(hub: LoopbackHub, hub_env: dict[str, str]) -> dict[str, str]:
    """The environment of somebody who is logged in."""
    hub.accounts |= {READER: Account("reader", may_write=False), STRANGER: Account("stranger", orgs=())}
    return hub_env | {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}  # Xet's storage is not part of this Hub


@pytest.fixture
def uploads(python: Run, env: dict[str, str], folder: Path) -> Callable[..., list[dict[str, Any]]]:
    """`uploads({"repo": "org/a"}, …)` makes them in one fresh process; each is of `folder` unless it says otherwise."""

    def run(*calls: dict[str, Any]) -> list[dict[str, Any]]:
        defaults = {"checkpoint": str(folder)}
        result = python(UPLOADS, json.dumps([defaults | call for call in calls], default=str), env=env)
        assert (result.status, result.err) == (0, "")
        return result.json

    return run


def titles(repo: Repo, ref: str = "main") -> list[str]:
    return [commit.title for commit in repo.refs[ref].history()]


def holds(repo: Repo, folder: Path, ref: str = "main") -> bool:
    """Whether a ref holds the files of the folder and, but for the first commit's, nothing else."""
    files = {name: content for name, content in repo.refs[ref].files.items() if name != ".gitattributes"}
    return files == {path.name: path.read_bytes() for path in folder.iterdir()}


def published_once(hub: LoopbackHub, folder: Path, name: str) -> bool:
    repo = hub.repos[name]
    return titles(repo)[1:] == ["initial commit"] and holds(repo, folder) and not repo.pull_requests


def test_what_was_uploaded_is_one_commit_and_loads_by_its_name(
    hub: LoopbackHub, env: dict[str, str], cli: Run, python: Run, folder: Path, clip: Path
) -> None:
    result = cli("upload", folder, "org/tiny", env=env).succeeded()
    title = titles(hub.repos["org/tiny"])[0]
    assert title.startswith("Upload resnet34, float32, converted by mlx-speech-zoo ")
    assert published_once(hub, folder, "org/tiny")
    assert result.out == f"{hub.url}/org/tiny\ncommit {hub.commit('org/tiny')}\n"
    local, fetched = python(EMBED, clip, folder, "org/tiny", env=env).succeeded().json
    assert len(local) == 16
    assert fetched == local


def test_a_dry_run_needs_no_token_and_no_hub(cli: Run, folder: Path, unchanged: Callable[[], None]) -> None:
    unchanged()
    lines = cli("upload", folder, "org/tiny", "--dry-run", "--create-pr").succeeded().out.splitlines()
    listed = {name: (int(size), sha256) for name, size, sha256 in map(str.split, lines[:-1])}
    assert listed.keys() == FILES
    for name, facts in listed.items():
        content = (folder / name).read_bytes()
        assert facts == (len(content), hashlib.sha256(content).hexdigest())
    assert lines[-1].startswith("4 files, ")
    assert lines[-1].endswith(" MB, would go to org/tiny, branch main")
    facts = cli("upload", folder, "tiny", "--dry-run", "--revision", "v2", "--json").succeeded().json
    assert {file["name"]: (file["size"], file["sha256"]) for file in facts["files"]} == listed
    assert (facts["repo"], facts["revision"], facts["commit"], facts["dry_run"]) == ("tiny", "v2", None, True)
    unchanged()


@pytest.mark.parametrize("case", ["no token", "no card", "bad name"])
def test_what_is_refused_is_one_line(cli: Run, tmp_path: Path, folder: Path, case: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    if case == "no card":
        (copy / "README.md").unlink()
    error = cli("upload", copy, "org/a..b" if case == "bad name" else "org/tiny").failed()
    assert error.startswith(
        {
            "no token": "no Hugging Face token; log in with: hf auth login",
            "no card": f"{copy} has no README.md; write one with: speech-zoo card {copy}",
            "bad name": "'org/a..b' is not a valid repo name: ",
        }[case]
    )


def test_repos_branches_and_pull_requests(
    hub: LoopbackHub, uploads: Callable[..., list[dict[str, Any]]], folder: Path
) -> None:
    hub.add("org/public", {"README.md": b"# Mine"})
    hub.add("other/theirs", {"README.md": b"# Theirs"})
    for title in ("Typo", "Another", "A third"):  # on two pages, with other content than ours
        hub.repos["other/theirs"].open_pull_request(title, "somebody", "main", hub.repos["other/theirs"].refs["main"])
    results = uploads(
        {"repo": "own", "private": True},
        {"repo": "own"},
        {"repo": "org/branched", "revision": "v2"},
        {"repo": "org/branched", "revision": "v2"},
        {"repo": "org/asked", "create_pr": True},
        {"repo": "org/asked", "create_pr": True},
        {"repo": "org/asked", "create_pr": True, "revision": "v2"},
        {"repo": "other/theirs", "create_pr": True},
        {"repo": "other/theirs", "create_pr": True},
        {"repo": "org/public", "private": True},
        {"repo": "org/public", "token": "hf_wrong"},
    )
    own, again, branched, branched_again, asked, asked_again, other_base, theirs, theirs_again, public, wrong = results

    assert published_once(hub, folder, "tester/own")
    assert hub.repos["tester/own"].private
    assert (own["repo"], own["changed"], again["changed"]) == ("tester/own", True, False)
    assert own["commit"] == again["commit"] == hub.commit("tester/own")

    repo = hub.repos["org/branched"]
    assert titles(repo) == ["initial commit"]
    assert titles(repo, "v2")[1:] == ["initial commit"]
    assert holds(repo, folder, "v2")
    assert branched["url"] == f"{hub.url}/org/branched/tree/v2"
    assert (branched["changed"], branched_again["changed"]) == (True, False)

    repo = hub.repos["org/asked"]
    assert titles(repo) == ["initial commit"]
    assert [(item.num, item.base) for item in repo.pull_requests] == [(1, "main"), (2, "v2")]
    assert holds(repo, folder, "refs/pr/1")
    assert asked["url"] == asked_again["url"] == f"{hub.url}/org/asked/discussions/1"
    assert asked["commit"] == asked_again["commit"] == repo.refs["refs/pr/1"].oid
    assert (asked["changed"], asked_again["changed"], other_base["changed"]) == (True, False, True)

    repo = hub.repos["other/theirs"]  # where the account may not write
    assert titles(repo) == ["Add files"]
    assert [item.num for item in repo.pull_requests] == [1, 2, 3, 4]
    assert theirs["url"] == theirs_again["url"] == f"{hub.url}/other/theirs/discussions/4"

    assert public["error"].startswith("org/public exists already and is public; ")
    assert wrong["error"].startswith("the Hub does not accept the token")
    assert wrong["error"].endswith("; log in with: hf auth login")
    assert titles(hub.repos["org/public"]) == ["Add files"]


def test_files_of_an_earlier_upload_do_not_stay(
    hub: LoopbackHub, uploads: Callable[..., list[dict[str, Any]]], folder: Path, tmp_path: Path
) -> None:
    """What is not ours stays."""
    stale = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    kept = {"figure.png": b"\x89PNG", "extra/other.safetensors": b"1"}
    hub.add("org/tiny", {"README.md": b"# Old"} | dict.fromkeys(stale, b"old") | kept)
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "README.md").write_text(CARD.replace("Tiny", "Mini"))  # as long as before
    changed, first, again = uploads(
        {"repo": "org/tiny", "checkpoint": str(other)}, {"repo": "org/tiny"}, {"repo": "org/tiny"}
    )
    assert changed["removed"] == stale
    assert (first["changed"], first["removed"]) == (True, [])
    assert (again["changed"], again["removed"]) == (False, [])
    assert hub.repos["org/tiny"].refs["main"].files == kept | {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert len(titles(hub.repos["org/tiny"])) == 3


def test_a_hub_that_fails_for_a_while_makes_nothing_twice(
    hub: LoopbackHub, uploads: Callable[..., list[dict[str, Any]]], folder: Path
) -> None:
    commit = "POST /api/models/org/{}/commit/main"
    hub.fail("POST /api/validate-yaml", 503)  # met by the first upload, whose answer is then not JSON
    hub.fail(commit.format("limited"), 429, retry_after="1")
    hub.fail(commit.format("failing"), 500, 503, retry_after="0")
    hub.fail("GET /api/models/org/looked$", 504, retry_after="0")
    hub.fail("GET /api/models/org/compared/revision/", 502, retry_after="0")
    hub.cut(commit.format("unanswered"), "answer")
    hub.cut(commit.format("halved"), "body")
    hub.meet(commit.format("raced"), lambda: hub.add("org/raced", {"notes.txt": b"Somebody else's."}))
    names = ["first", "limited", "failing", "looked", "compared", "unanswered", "halved", "raced"]
    results = uploads(*({"repo": f"org/{name}"} for name in names))
    assert not hub.faults
    assert all(result.get("changed") for result in results), results
    for name in names[:-1]:
        assert published_once(hub, folder, f"org/{name}"), name
    sent = [request for request in hub.requests if "/commit/" in request]
    tries = {name: sent.count(commit.format(name)) for name in names}
    assert tries == dict.fromkeys(names, 1) | {"limited": 2, "failing": 3, "halved": 2, "raced": 2}
    assert titles(hub.repos["org/raced"])[1:] == ["Add files", "initial commit"]
    assert "notes.txt" in hub.repos["org/raced"].refs["main"].files


def test_a_connection_that_ends_makes_nothing_twice(
    hub: LoopbackHub, uploads: Callable[..., list[dict[str, Any]]], folder: Path
) -> None:
    """In the middle of the weights, after the repo was made, after the branch was, after the pull request was."""
    hub.cut("PUT /lfs/", "body")
    hub.cut("POST /api/repos/create", "answer")
    hub.cut("POST /api/models/org/branched/branch/", "answer")
    hub.cut("POST /api/models/org/asked/commit/", "answer")
    weights, branched, asked = uploads(
        {"repo": "org/weights"}, {"repo": "org/branched", "revision": "v2"}, {"repo": "org/asked", "create_pr": True}
    )
    assert not hub.faults
    assert published_once(hub, folder, "org/weights")
    assert weights["changed"]
    puts = [request for request in hub.requests if request.startswith("PUT /lfs/")]
    assert len(puts) == 2
    assert list(hub.objects.values()) == [(folder / "model.safetensors").read_bytes()]
    assert branched["changed"]
    assert titles(hub.repos["org/branched"], "v2")[1:] == ["initial commit"]
    assert asked["changed"]
    assert asked["url"] == f"{hub.url}/org/asked/discussions/1"
    assert [item.num for item in hub.repos["org/asked"].pull_requests] == [1]


def test_what_the_hub_refuses_is_explained(
    hub: LoopbackHub, uploads: Callable[..., list[dict[str, Any]]], folder: Path
) -> None:
    hub.add("org/mine", {"a": b"1"})
    hub.add("stranger/mine", {"a": b"1"})
    hub.repos["stranger/hidden"] = Repo(private=True)
    commit = "POST /api/models/org/mine/commit/"
    hub.fail(commit, 409)
    hub.fail(commit, 404)
    hub.fail(commit, 413)
    hub.fail(commit, 429, retry_after="3600")
    hub.fail(commit, *[503] * 5, retry_after="0")
    hub.spoilt.add("model.safetensors")
    calls: list[tuple[dict[str, Any], str]] = [
        ({"repo": "org/mine"}, "org/mine is being changed by somebody else; upload again later"),
        ({"repo": "org/mine"}, "org/mine is not on the Hub, or the token may not see it"),
        ({"repo": "org/mine"}, "the Hub refuses the upload to org/mine with status 413"),
        ({"repo": "org/mine"}, "the Hub has had too many requests; upload again in 3600 seconds"),
        ({"repo": "org/mine"}, "the Hub fails with status 503; upload again later, nothing will be published twice"),
        ({"repo": "stranger/mine"}, "the token may not write to stranger/mine (the Hub says: You don't have write"),
        ({"repo": "stranger/new"}, "the token may not write to stranger/new (the Hub says: You don't have the rights"),
        ({"repo": "stranger/hidden"}, "the token may not write to stranger/hidden "),
        ({"repo": "org/new", "token": READER}, "the token may not write to org/new "),
        ({"repo": "org/mine", "token": READER, "revision": "v2"}, "the token may not write to org/mine "),
        ({"repo": "stranger/mine", "token": "hf_wrong", "create_pr": True}, "the Hub does not accept the token"),
        ({"repo": "mine", "token": "hf_wrong"}, "the Hub does not accept the token"),
        ({"repo": "org/mine", "token": TOKEN}, "org/mine holds other content at commit "),
    ]
    results = uploads(*(call for call, _ in calls))
    for result, (call, message) in zip(results, calls, strict=True):
        assert result.get("error", "").startswith(message), (call, result)
    assert not hub.faults
    assert f"than {folder}: model.safetensors; do not use that commit" in results[-1]["error"]
    assert titles(hub.repos["org/mine"])[1:] == ["Add files"]
    assert titles(hub.repos["stranger/mine"]) == ["Add files"]
    assert {"stranger/new", "org/new", "tester/mine"}.isdisjoint(hub.repos)


def test_what_the_hub_thinks_of_the_card_and_what_proves_nothing(
    hub: LoopbackHub, env: dict[str, str], cli: Run, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").write_text(CARD.replace("---\n#", "tags: one\n---\n#"))
    error = cli("upload", copy, "org/tiny", env=env).failed()
    assert error == 'org/tiny could not be uploaded: Invalid metadata in README.md. - "tags" must be an array'
    prove(copy, passed=False)
    (copy / "README.md").unlink()
    (copy / "config.json").write_text(
        (copy / "config.json").read_text().replace('"source": {', '"source": {"name": "wespeaker-resnet34-lm", ')
    )
    result = cli("upload", copy, "org/tiny", "--force", "--json", env=env)
    assert result.status == 0
    assert [line.startswith("warning: ") for line in result.err.splitlines()] == [True] * 3
    assert "has no README.md" in result.err
    assert "was written for other files" in result.err
    assert "failed its parity check" in result.err
    assert result.json["changed"]
    assert holds(hub.repos["org/tiny"], copy)
