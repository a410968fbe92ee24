"""What may be published, and what the Hub's answers mean for the next attempt."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import speech_zoo
import tiny_models
from helpers.reports import prove
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from safetensors.numpy import load_file, save_file
from speech_zoo.publish import upload as publish
from speech_zoo.publish.preflight import publishable, with_repo_in_card
from speech_zoo_core.errors import SpeechZooError

CARD = "---\nlicense: cc-by-4.0\n---\n# Tiny\n"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("converted")
    return speech_zoo.convert(tiny_models.wespeaker_folder(root / "source", tiny_models.RESNET), root / "tiny")


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    """A checkpoint with everything that it needs to be published."""
    target = tmp_path / "tiny"
    target.mkdir()
    for path in converted.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    (target / "README.md").write_text(CARD)
    prove(target)
    return target


def with_exports(folder: Path) -> list[str]:
    """Other forms of the weights beside them, and their names in a repo."""
    names = ["coreml/model.mlpackage/Data/weights/weight.bin", "coreml/model.mlpackage/Manifest.json"]
    names += ["onnx/model.onnx", "onnx/model.onnx.data"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return names


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    prove(folder)


def shard(folder: Path) -> None:
    """The weights in two files and an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    weight_map = {name: SHARDS[i % 2] for i, name in enumerate(names)}
    for file in SHARDS:
        save_file({name: weights[name] for name in names if weight_map[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    prove(folder)


def drop_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(min(weights))
    save_file(weights, folder / "model.safetensors")
    prove(folder)


def licence(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / "README.md").write_text(CARD.replace("cc-by-4.0", name))


def test_exports_are_published_too(folder: Path) -> None:
    names = with_exports(folder)
    listed = {file.name: file for file in publishable(folder).files}
    assert list(listed) == sorted({*names, "README.md", "config.json", "model.safetensors", "parity.json"})
    assert all(listed[name].size == len(name) for name in names)
    (folder / "onnx" / "notes.txt").write_text("mine")
    with pytest.raises(SpeechZooError, match=r"belong to no converted checkpoint: onnx/notes\.txt"):
        publishable(folder)


def test_exports_do_not_keep_a_checkpoint_from_being_replaced(converted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(converted, tmp_path / "tiny"))
    with_exports(folder)
    speech_zoo.convert(converted, folder, force=True)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    with_exports(folder)
    (folder / "onnx" / "notes.txt").write_text("mine")
    with pytest.raises(SpeechZooError, match="holds more than a converted checkpoint"):
        speech_zoo.convert(converted, folder, force=True)


def test_everything_is_listed_with_its_hashes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    listed = publishable(folder)
    assert [file.name for file in listed.files] == ["README.md", "config.json", "model.safetensors", "parity.json"]
    for file in listed.files:
        content = (folder / file.name).read_bytes()
        assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert file.git == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    assert listed.title.startswith("resnet34, float32, converted by mlx-speech-zoo ")
    assert not caplog.messages


def test_shards_are_listed_with_their_index(folder: Path) -> None:
    shard(folder)
    names = [file.name for file in publishable(folder).files]
    assert names == ["README.md", "config.json", *SHARDS, INDEX, "parity.json"]


@pytest.mark.parametrize(("options", "title"), [({"dtype": "float16"}, "float16"), ({"bits": 8}, "8-bit")])
def test_the_title_gives_the_precision(converted: Path, tmp_path: Path, options: dict[str, Any], title: str) -> None:
    folder = speech_zoo.convert(converted.parent / "source", tmp_path / "out", **options)
    (folder / "README.md").write_text(CARD)
    assert publishable(folder).title.startswith(f"resnet34, {title}, converted by ")


# What is wrong, what the error says, and whether --force publishes it all the same.
REFUSED: dict[str, tuple[Callable[[Path], Any], str, bool]] = {
    "no card": (lambda f: (f / "README.md").unlink(), "has no README.md; write one with: speech-zoo card", False),
    "failed": (lambda f: prove(f, False), "parity.json says that the checkpoint failed its parity check", True),
    "stale": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text() + " "),
        "parity.json was written for other files than these (config.json); run again: speech-zoo check",
        True,
    ),
    "proof of another precision": (
        lambda f: prove(f, checkpoint={}),
        "was written for other files than these (config.json, model.safetensors)",
        True,
    ),
    "no proof at all": (
        lambda f: (f / "parity.json").write_text('{"passed": "yes"}'),
        "is not what check writes",
        False,
    ),
    "no licence": (lambda f: (f / "README.md").write_text("# Tiny\n"), "names no licence", False),
    "ND": (
        licence("cc-by-nd-4.0"),
        "is under Creative Commons Attribution-NoDerivatives 4.0, which forbids redistribution",
        False,
    ),
    "one of two is ND": (
        licence("[mit, cc-by-nc-nd-4.0]"),
        "is under Creative Commons Attribution-NonCommercial-NoDerivatives 4.0, which forbids",
        False,
    ),
    "unknown licence": (licence("other"), "has the licence 'other', and nothing says that it allows", False),
    "bad metadata": (licence("[mit"), "the metadata of ", False),
    "relicensed": (
        lambda f: edit_config(f, source={"repo": "facebook/mms-lid-126", "form": "x"}),
        "gives the licence cc-by-4.0, but mms-lid-126 is under cc-by-nc-4.0",
        True,
    ),
    "stranger": (lambda f: (f / "notes.txt").write_text("x"), "belong to no converted checkpoint: notes.txt", False),
    "folder in it": (lambda f: (f / "logs").mkdir(), "belong to no converted checkpoint: logs", False),
    "second weights": (
        lambda f: (f / "model-00001-of-00001.safetensors").write_bytes((f / "model.safetensors").read_bytes()),
        "belong to no converted checkpoint: model-00001-of-00001.safetensors",
        False,
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json: it is not a converted", False),
    "unknown type": (lambda f: edit_config(f, model_type="resnet99"), "unknown model_type 'resnet99'", False),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no checkpoint", False),
    "missing tensor": (drop_tensor, "1 missing: ", False),
    "missing shard": (lambda f: [shard(f), (f / SHARDS[1]).unlink()], f"{SHARDS[1]} does not exist", False),
    "unused shard": (
        lambda f: [shard(f), (f / "model-00003-of-00003.safetensors").write_bytes(b"")],
        "belong to no converted checkpoint: model-00003-of-00003.safetensors",
        False,
    ),
    "cut off": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-1]),
        "model.safetensors is cut off",
        False,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_must_not_be_published_is_refused(folder: Path, caplog: pytest.LogCaptureFixture, case: str) -> None:
    spoil, message, forced = REFUSED[case]
    spoil(folder)
    with pytest.raises(speech_zoo.SpeechZooError) as refused:
        publishable(folder)
    assert message in str(refused.value)
    if forced:
        publishable(folder, force=True)
        assert any(message in line for line in caplog.messages)
    else:
        with pytest.raises(speech_zoo.SpeechZooError):
            publishable(folder, force=True)


def test_the_catalogue_says_what_a_checkpoint_without_a_card_is_under(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "README.md").unlink()
    edit_config(folder, source={"repo": "Wespeaker/wespeaker-voxceleb-resnet34-LM", "form": "x"})
    assert len(publishable(folder, force=True).files) == 3
    assert "has no README.md" in caplog.text
    from speech_zoo.catalogue import entries as catalogue

    forbidding = catalogue.Licence(name="No copies", url="", redistribution=False)
    monkeypatch.setattr(catalogue, "licences", lambda: {"cc-by-4.0": forbidding})
    with pytest.raises(speech_zoo.CheckpointError, match="is under No copies, which forbids redistribution"):
        publishable(folder, force=True)


@pytest.mark.parametrize("passed", [None, "no file"])
def test_a_checkpoint_without_proof_is_published_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, passed: str | None
) -> None:
    if passed is None:
        prove(folder, None)
    else:
        (folder / "parity.json").unlink()
    publishable(folder)
    assert [f"nothing proves that {folder} equals its source" in line for line in caplog.messages] == [True]


def test_hidden_files_stay_behind(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / ".DS_Store").write_text("x")
    assert len(publishable(folder).files) == 4
    assert caplog.messages == ["warning: hidden files are not uploaded: .DS_Store"]


@pytest.mark.parametrize("what", ["file", "nowhere", "source"])
def test_what_is_no_converted_checkpoint_is_refused(converted: Path, tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("x")
    path = converted.parent / "source" if what == "source" else tmp_path / what
    message = "has no config.json" if what == "source" else "is not a folder"
    with pytest.raises(speech_zoo.CheckpointError, match=message):
        publishable(path)


NAMES = ["org/two words", "a/b/c", "-x/y", "org/x.git", "org/a--b", "org/a..b", "", "org/", "/x", "org/.x", "org/x-"]
NAMES += ["org/" + "x" * 97, "org/voilà", "datasets/tiny", "models/tiny", "https://huggingface.co/org/x"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_the_hub_would_refuse(folder: Path, name: str) -> None:
    with pytest.raises(speech_zoo.ConfigError, match="is not a valid repo name: "):
        speech_zoo.upload(folder, name, dry_run=True)


@pytest.mark.parametrize("branch", ["", "-x", "a b", "a..b", "/x", "x/", "x.lock", "x^", "x:y", "0" * 40])
def test_what_is_not_the_name_of_a_branch(folder: Path, branch: str) -> None:
    with pytest.raises(speech_zoo.ConfigError, match="is not the name of a branch"):
        speech_zoo.upload(folder, "org/tiny", revision=branch, dry_run=True)


def test_a_dry_run_and_its_name_stay_usable(folder: Path) -> None:
    """`speech_zoo.upload` is a function before and after the first call."""
    for name in ("tiny", "org/Tiny_1.0-mlx"):
        result = speech_zoo.upload(folder, name, revision="refs/pr/1", dry_run=True)
        assert isinstance(result, speech_zoo.Upload)
        assert (result.repo, result.revision, result.commit, result.changed) == (name, "refs/pr/1", None, False)


def http_error(status: int, **headers: str) -> HfHubHTTPError:
    class Response:
        request = None

    response: Any = Response()
    response.status_code = status
    response.headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return HfHubHTTPError("no", response=response)


@pytest.mark.parametrize(
    ("error", "attempt", "wait"),
    [
        (http_error(503), 1, 1),
        (http_error(503), 4, 8),
        (http_error(412), 2, 2),
        (http_error(429, Retry_After="7"), 1, 7),
        (http_error(503, Retry_After="0"), 3, 0),
        (http_error(429, Retry_After="Thu, 01 Jan 1970 00:00:00 GMT"), 3, 0),
        (http_error(429, RateLimit='"api";r=0;t=55'), 1, 55),
        (http_error(500, RateLimit='"api";r=400;t=55'), 1, 1),
        (http_error(403), 1, None),
        (http_error(409), 1, None),
        (HTTPError("cut"), 2, 2),
        (ConnectionResetError(), 1, 1),
        (TimeoutError(), 1, 1),
        (json.JSONDecodeError("no JSON", "", 0), 1, 1),
        (OfflineModeIsEnabled("offline"), 1, None),
        (ValueError("Invalid metadata in README.md."), 1, None),
        (FileNotFoundError("gone"), 1, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_wait_before_the_next_attempt(error: Exception, attempt: int, wait: float | None) -> None:
    assert publish._wait(error, attempt) == wait


def test_what_the_client_wraps_is_looked_at() -> None:
    """The client reports whatever happened to a large file as a RuntimeError."""
    cut = HTTPError("cut")
    wrapped = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    wrapped.__cause__ = cut
    assert publish._cause(wrapped) is cut
    assert publish._cause(cut) is cut
    assert publish._cause(RuntimeError("of Xet")).args == ("of Xet",)


def test_a_hub_out_of_reach_is_tried_a_few_times(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(publish.time, "sleep", waits.append)
    api = HfApi(endpoint="http://127.0.0.1:9", token="hf_nobody")  # nobody listens on the discard port
    publication = publish._Publication(api, publishable(folder), "org/tiny", "main", False, False)
    with pytest.raises(speech_zoo.HubError, match=r"^the connection to the Hub failed \(.*\); check it and upload"):
        publication.run()
    assert waits == [1, 2, 4, 8]


# The card


def test_the_card_names_the_repo_that_it_goes_to(folder: Path) -> None:
    (folder / "parity.json").unlink()
    speech_zoo.card(folder, licence="cc-by-4.0")
    before = (folder / "README.md").read_bytes()
    assert b"your-org/" in before
    content = publishable(folder)
    card = next(file for file in with_repo_in_card(content, "org/mine").files if file.name == "README.md")
    assert card.content is not None
    assert b'load("org/mine")' in card.content
    assert b"your-org" not in card.content
    assert (card.size, card.sha256) == (len(card.content), hashlib.sha256(card.content).hexdigest())
    assert card.git == hashlib.sha1(b"blob %d\0" % card.size + card.content).hexdigest()
    assert (folder / "README.md").read_bytes() == before
    speech_zoo.card(folder, licence="cc-by-4.0", repo="org/mine")
    assert with_repo_in_card(publishable(folder), "org/other") == publishable(folder)  # it names one already
