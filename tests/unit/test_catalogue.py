"""The catalogue: complete, consistent with what conversion writes, and helpful about names that it does not have."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import iso639
import pytest
import speech_zoo
from speech_zoo.catalogue.entries import VARIANTS, Entry, entries, entry_of, facts, licences, resolve, targets
from speech_zoo.publish.originals import GOLDENS
from speech_zoo_campplus.source import THREE_D_SPEAKER
from speech_zoo_core import registry
from speech_zoo_core.checkpoint.source import needed_names
from speech_zoo_core.checkpoint.speechbrain import THRESHOLD as SPEECHBRAIN_THRESHOLD
from speech_zoo_core.checkpoint.wespeaker import THRESHOLD
from speech_zoo_core.config import from_dict, read_json
from speech_zoo_core.errors import CheckpointError, ConfigError
from speech_zoo_core.hub import REPO_ID
from speech_zoo_core.tasks.methods import TASKS
from speech_zoo_wav2vec2_cls.source import THRESHOLDS

CAMPPLUS_SHA256 = "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199"
every_entry = pytest.mark.parametrize(("name", "entry"), entries().items())


def test_every_family_and_every_bundled_checkpoint_has_an_entry() -> None:
    assert {entry.model_type for entry in entries().values()} == set(registry.model_types())
    assert registry.bundled().keys() <= entries().keys()


@every_entry
def test_an_entry_is_complete(name: str, entry: Entry) -> None:
    assert re.fullmatch(r"[a-z0-9.-]+", name)
    assert entry.model_type in registry.model_types()
    assert entry.task in TASKS
    assert entry.licence in licences()
    assert all((entry.summary, entry.origin, entry.training_data, entry.citation, entry.limits))
    assert entry.repo is None or (REPO_ID.fullmatch(entry.repo) and entry.repo in entry.origin)
    assert entry.files
    assert all(digest is None or re.fullmatch("[0-9a-f]{64}", digest) for digest in entry.files.values())
    assert list(entry.variants) == [variant for variant in VARIANTS if variant in entry.variants]
    assert {"float32", "float16"} <= set(entry.variants)
    for metric in entry.metrics:
        assert metric.value > 0
        assert metric.source.startswith("https://") or entry.repo is None


@every_entry
def test_the_files_of_an_entry_are_what_would_be_read(name: str, entry: Entry) -> None:
    """superb/* publish the weights in more than one form, so no file of weights is named."""
    names = list(entry.files)
    assert set(needed_names(names)) == set() if name.startswith("superb") else set(names)


@every_entry
def test_a_threshold_is_what_conversion_writes(name: str, entry: Entry) -> None:
    verifies = entry.task == "speaker-embedding" and entry.takes_audio
    assert (entry.threshold is not None) == (entry.threshold_from is not None) == verifies
    if verifies:
        of_source = {
            "campplus-zh-en": THREE_D_SPEAKER["threshold"],
            "speechbrain-ecapa-voxceleb": SPEECHBRAIN_THRESHOLD,
            "superb-wav2vec2-sv": THRESHOLDS["wav2vec2"],
            "wavlm-base-sv": THRESHOLDS["wavlm"],
            "wavlm-base-plus-sv": THRESHOLDS["wavlm"],
            "unispeech-sat-base-plus-sv": THRESHOLDS["unispeech-sat"],
        }
        of_source |= {"pyannote-resnet34-lm": THRESHOLD}
        if name in of_source or name.startswith("wespeaker-"):
            assert entry.threshold == of_source.get(name, THRESHOLD)
    if name in registry.bundled():
        assert read_json(registry.bundled()[name] / "config.json").get("threshold") == entry.threshold


@every_entry
def test_languages_are_iso_639_codes(name: str, entry: Entry) -> None:
    for code in entry.languages:
        assert code == "multilingual" or iso639.Lang(code)


def test_the_languages_of_voxlingua107() -> None:
    """With today's codes for Hebrew and Javanese, as the Hub wants them."""
    lines = (Path(__file__).parents[1] / "helpers" / "voxlingua107.txt").read_text().splitlines()
    labels = {line.partition(":")[0] for line in lines if line}
    assert set(entries()["voxlingua107-ecapa"].languages) == labels - {"iw", "jw"} | {"he", "jv"}


def test_published_names_are_unique() -> None:
    published = [name for entry in entries().values() for name in targets(entry).values()]
    assert len(set(published)) == len(published)
    assert all(REPO_ID.fullmatch(f"org/{name.partition('/')[0]}") for name in published)
    assert targets(entries()["mms-lid-256"]) == {
        "float32": "mms-lid-256-mlx",
        "float16": "mms-lid-256-mlx-fp16",
        "8-bit": "mms-lid-256-mlx-8bit",
        "4-bit": "mms-lid-256-mlx-4bit",
        "onnx": "mms-lid-256-mlx/onnx/model.onnx",
        "coreml": "mms-lid-256-mlx/coreml/model.mlpackage",
    }


def test_repos_are_unique() -> None:
    repos = [entry.repo for entry in entries().values() if entry.repo]
    assert len(set(repos)) == len(repos)


def test_licences() -> None:
    """Those that forbid adapted copies do not allow redistribution, and no entry is under one."""
    assert {name for name, licence in licences().items() if not licence.redistribution} == {
        name for name in licences() if "-nd-" in name
    }
    assert all(licence.url.startswith("https://") and licence.name for licence in licences().values())
    assert all(licences()[entry.licence].redistribution for entry in entries().values())


def test_facts_are_plain_data() -> None:
    plain = facts(entries()["wespeaker-resnet34-lm"])
    assert plain["targets"]["float32"] == "wespeaker-resnet34-lm-mlx"
    assert plain["metrics"][0] == {
        "dataset": "VoxCeleb1",
        "split": "O (cleaned)",
        "metric": "EER (%), cosine without score normalisation",
        "value": 0.797,
        "source": "https://github.com/wenet-e2e/wespeaker/blob/master/examples/voxceleb/v2/README.md",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [({"colour": "red"}, "colour"), ({"threshold": "high"}, "threshold"), ({"files": ["a"]}, "files")],
)
def test_an_entry_is_read_strictly(change: dict[str, Any], message: str) -> None:
    known = entries()["mms-lid-256"]
    with pytest.raises(ConfigError, match=message):
        from_dict(Entry, vars(known) | change, "catalogue.yaml: mms-lid-256")


# To which entry a provenance belongs


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ({"name": "mms-lid-512"}, "mms-lid-512"),
        ({"repo": "facebook/mms-lid-512", "revision": "abc"}, "mms-lid-512"),
        ({"sha256": {"renamed.pt": CAMPPLUS_SHA256, "config.yaml": "0" * 64}}, "campplus-zh-en"),
        ({"name": "mms-lid-512", "repo": "facebook/mms-lid-256", "sha256": {"a": CAMPPLUS_SHA256}}, "mms-lid-512"),
        ({"name": "mine", "repo": "facebook/mms-lid-256", "sha256": {"a": CAMPPLUS_SHA256}}, "mms-lid-256"),
        ({"name": "mine", "repo": "me/mine", "sha256": {"a": CAMPPLUS_SHA256}}, "campplus-zh-en"),
    ],
)
def test_entry_of_a_provenance(source: dict[str, Any], name: str) -> None:
    assert entry_of(source) == (name, entries()[name])


@pytest.mark.parametrize(
    "source", [None, {}, {"form": "x"}, {"repo": None, "sha256": {"a": None, "b": ["c"]}}, {"sha256": "a", "name": 1}]
)
def test_a_provenance_without_an_entry(source: dict[str, Any] | None) -> None:
    assert entry_of(source) is None


# Names


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("wespeaker-resnet34-ml", "wespeaker-resnet34-lm"),
        ("mms-lid-254", "mms-lid-256"),
        ("campplus", "campplus-zh-en"),
    ],
)
@pytest.mark.parametrize("call", [speech_zoo.load, lambda name: speech_zoo.convert(name, "out")])
def test_an_unknown_name_suggests_the_nearest(call: Any, name: str, near: str) -> None:
    with pytest.raises(CheckpointError, match=f"^{name} does not exist; did you mean {near}\\?$"):
        call(name)


def test_a_file_may_have_a_name_near_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mms-lid-254").mkdir()
    assert resolve("mms-lid-254") == "mms-lid-254"


@pytest.mark.parametrize("ref", ["campplus-zh-en", "org/mms-lid-256", "./mms-lid-25", "quite-another-name", Path("x")])
def test_what_is_no_name_stays(ref: str | Path) -> None:
    assert resolve(ref) == ref


def test_an_entry_without_a_repo_says_what_to_get() -> None:
    entry = entries()["speaker-proxy"]
    assert entry == replace(entry, repo=None)
    with pytest.raises(CheckpointError, match=r"not on the Hub: get speaker_proxy_10k_best\.pt from .*give its path"):
        speech_zoo.load("speaker-proxy")


@pytest.mark.parametrize("name", entries())
def test_recorded_outputs_ship_where_the_entry_says_so(name: str) -> None:
    assert entries()[name].goldens == (GOLDENS / f"{name}.safetensors").is_file()


def test_no_checkpoint_is_refused_for_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("speech_zoo_core.convert", lambda *_, **options: given.update(options))
    for name, parameters in (("wavlm-base-sv", None), ("mms-lid-256", entries()["mms-lid-256"].parameters)):
        speech_zoo.convert(name, "out")
        assert (given["expected"].parameters, given["expected"].outputs) == (parameters, entries()[name].outputs)
