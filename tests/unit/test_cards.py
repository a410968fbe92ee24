"""Model cards: what stands in them is known or was measured, the Hub can read them, and the kept ones are current."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import speech_zoo
import yaml
from card_snippets import FENCE, snippets
from dacite import from_dict
from helpers.reports import REPORT, prove
from huggingface_hub import metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from signals import cosine
from speech_zoo.catalogue.entries import entries, targets
from speech_zoo.publish import card as cards
from speech_zoo.publish.card_text import Wording
from speech_zoo.publish.parity import Parity, hashes, read_report
from speech_zoo_core import registry
from speech_zoo_core.conversion import convert
from speech_zoo_core.errors import CheckpointError, ConfigError, SpeechZooError
from speech_zoo_core.layers import parameters
from speech_zoo_core.loader import load
from tiny_models import CAMPPLUS, LID, RESNET, proxy_file, speechbrain_folder, wespeaker_folder

HUB_CARDS = Path(__file__).parents[2] / "hub_cards"
# https://huggingface.co/docs/hub/model-cards: values that the Hub accepts, of those that could fit.
PIPELINE_TAGS = {"feature-extraction", "audio-classification", "voice-activity-detection"}
MEASURED = re.compile(r"\de-\d|[Cc]ompared clip|[Ww]ithin limits|Measured on|faster|\d ?m?s\b|times as|cosine of 0\.9")
SPEAKER_CLIPS = [
    {"clip": "a|b", "seconds": 10.4, "computed": "float32", "features": 3.2e-4, "cosine": 1 - 4e-9, "passed": True},
    {"clip": "two", "seconds": 5.0, "computed": "float32", "features": 8.1e-4, "cosine": 1 - 2e-7, "passed": True},
    {"clip": "two", "seconds": 5.0, "computed": "float16", "features": None, "cosine": 1 - 3e-5, "passed": True},
]
CLASSIFIER_CLIPS = [
    {"clip": "one", "seconds": 1.0, "computed": "float32", "features": None, "logits": 1.2e-6, "top1": "eng"}
    | {"same_top1": True, "same_top5": True, "passed": True},
    {"clip": "two", "seconds": 1.0, "computed": "float32", "features": None, "logits": 3e-3, "top1": "deu"}
    | {"same_top1": True, "same_top5": False, "passed": False},
]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny conversions of sources that the catalogue does not know."""
    root = tmp_path_factory.mktemp("cards")
    resnet = wespeaker_folder(root / "wespeaker", RESNET)
    campplus = wespeaker_folder(root / "campplus", CAMPPLUS)
    return {
        "float32": convert(resnet, root / "tiny"),
        "float16": convert(resnet, root / "tiny-16", "float16"),
        "bfloat16": convert(resnet, root / "tiny-b16", "bfloat16"),
        "unquantized": convert(campplus, root / "tiny-campplus"),
        "8-bit": convert(campplus, root / "tiny-8", bits=8),
        "lid": convert(speechbrain_folder(root / "lid", LID), root / "tiny-lid"),
        "proxy": convert(proxy_file(root / "proxy.pt"), root / "tiny-proxy"),
    }


def copy_of(folder: Path, tmp_path: Path, **source: Any) -> Path:
    """A copy of a conversion, with more in its provenance."""
    shutil.copytree(folder, tmp_path / folder.name)
    path = tmp_path / folder.name / "config.json"
    config = json.loads(path.read_text())
    config["source"] |= source
    path.write_text(json.dumps(config))
    return path.parent


def report_for(folder: Path, **changes: Any) -> dict[str, Any]:
    """A parity report on the files of a folder, put beside them."""
    return prove(folder, **{"clips": SPEAKER_CLIPS, **changes})


def section(card: str, title: str) -> str:
    return card.partition(f"\n## {title}\n")[2].partition("\n## ")[0].strip()


def refused(*arguments: Any, error: type[SpeechZooError] = ConfigError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        speech_zoo.card(*arguments, **options)
    return str(caught.value)


# The cards that are kept


@pytest.mark.parametrize("name", entries())
def test_the_kept_card_is_current(name: str) -> None:
    report = HUB_CARDS / f"{name}.parity.json"
    rendered = cards.render_entry(name, read_report(report) if report.exists() else None)
    message = "stale: write it with nox -s cards"
    assert (HUB_CARDS / f"{name}.md").read_bytes() == rendered.encode(), message


def test_nothing_else_is_kept() -> None:
    reports = {path.name for path in HUB_CARDS.glob("*.parity.json")}
    assert reports <= {f"{name}.parity.json" for name in entries()}
    assert {path.name for path in HUB_CARDS.iterdir()} - reports == {f"{name}.md" for name in entries()} | {
        "card.md.j2"
    }


def test_the_command_that_writes_them(tmp_path: Path) -> None:
    for report in HUB_CARDS.glob("*.parity.json"):
        shutil.copy(report, tmp_path)
    cards.main([str(tmp_path)])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in HUB_CARDS.iterdir() if path.suffix != ".j2"
    }


@pytest.mark.parametrize("name", entries())
def test_the_hub_can_read_a_kept_card(name: str) -> None:
    entry = entries()[name]
    metadata = metadata_load(HUB_CARDS / f"{name}.md")
    assert metadata is not None
    assert metadata["license"] == entry.licence
    assert metadata.get("base_model") == entry.repo
    assert "base_model_relation" not in metadata  # float32
    assert metadata["pipeline_tag"] in PIPELINE_TAGS
    assert metadata["library_name"] == "mlx-audio"
    assert {"mlx", "speech"} <= set(metadata["tags"])
    assert metadata.get("language", []) == entry.languages
    assert metadata.get("datasets", []) == entry.datasets
    assert ("model-index" in metadata) == bool(entry.metrics)
    if entry.metrics:
        title, results = model_index_to_eval_results(metadata["model-index"])
        assert title in targets(entry).values()
        assert [(r.metric_name, r.metric_value, r.dataset_split) for r in results] == [
            (metric.metric, metric.value, metric.split) for metric in entry.metrics
        ]
        assert {r.metric_type for r in results} <= {"eer", "accuracy", "error_rate", "separation"}
        assert all(r.source_url == m.source for r, m in zip(results, entry.metrics, strict=True) if r.source_url)


@pytest.mark.parametrize("name", entries())
def test_a_card_without_a_parity_report_claims_no_measurement(name: str) -> None:
    """Neither of parity nor of speed; what the authors published is marked as theirs."""
    card = cards.render_entry(name)
    _, _, body = card.partition("\n# ")
    figures = section(card, "Published figures")
    assert re.fullmatch(r"Not compared: [^\n]+\.", section(card, "Parity with the original"))
    assert MEASURED.search(body.replace(figures, "")) is None
    assert not figures or figures.startswith("Measured by the authors of the original")
    assert "Not compared with the original" in section(card, "Limits")


def test_a_kept_report_is_shown() -> None:
    told = {"checkpoint": {"model.safetensors": "f" * 64}, "precision": "float16", "clips": SPEAKER_CLIPS}
    report = from_dict(Parity, REPORT | told)
    card = cards.render_entry("campplus-zh-en", report)
    assert "# campplus-zh-en-mlx-fp16\n" in card
    assert MEASURED.search(section(card, "Parity with the original"))
    assert "f" * 64 in section(card, "Parity with the original")
    assert "Not compared with the original" not in card


# The card of a converted folder


def test_a_card_is_written_beside_the_weights(converted: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(converted["float32"], tmp_path, repo="me/original", revision="abc123")
    written = speech_zoo.card(folder, licence="mit", repo="org/name")
    card = written.read_text()
    assert written == folder / "README.md"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    metadata = metadata_load(written)
    assert metadata is not None
    assert (metadata["license"], metadata["base_model"], metadata["pipeline_tag"]) == (
        "mit",
        "me/original",
        "feature-extraction",
    )
    assert not {"language", "datasets", "model-index"} & metadata.keys()
    source = json.loads((folder / "config.json").read_text())["source"]
    for fact in ("me/original", "abc123", source["form"], source["converter"], *source["sha256"].values()):
        assert fact in section(card, "Provenance")
    assert "MIT License" in section(card, "Licence and citation")
    assert "Variants" not in card
    before = written.read_bytes()
    assert speech_zoo.card(folder, licence="mit", repo="org/name").read_bytes() == before


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "8-bit"])
def test_facts_of_the_files(converted: dict[str, Path], precision: str) -> None:
    folder = converted[precision]
    card = cards.render(folder, "mit")
    unquantized = converted["unquantized"] if precision == "8-bit" else folder
    count = sum(value.size for value in parameters(load(unquantized)).values())
    assert f"| precision | {precision} |" in card
    assert f"| parameters | {count / 1e6:.2f} million |" in card
    assert f"| size | {(folder / 'model.safetensors').stat().st_size / 1e6:.1f} MB |" in card
    assert cards._read_folder(folder).parameters == count
    assert ("quantized to 8 bits" in section(card, "Limits")) == (precision == "8-bit")


@pytest.mark.parametrize(
    ("precision", "title"),
    [
        ("float32", "wespeaker-resnet34-lm-mlx"),
        ("float16", "wespeaker-resnet34-lm-mlx-fp16"),
        ("bfloat16", "wespeaker-resnet34-lm-mlx-bfloat16"),
    ],
)
def test_a_source_of_the_catalogue_needs_no_licence(
    converted: dict[str, Path], tmp_path: Path, precision: str, title: str
) -> None:
    entry = entries()["wespeaker-resnet34-lm"]
    folder = copy_of(converted[precision], tmp_path, repo=entry.repo, revision="abc123")
    card = speech_zoo.card(folder).read_text()
    assert f"\n# {title}\n" in card
    assert f'speech_zoo.load("your-org/{title}")' in card
    assert (f"`{title}` (this one)" in section(card, "Variants")) == (precision != "bfloat16")
    assert entry.citation in section(card, "Licence and citation")
    assert "0.797" in section(card, "Published figures")
    assert "a cosine of 0.3 on" in section(card, "Limits")
    assert cards.for_repo(card, "me/mine") == speech_zoo.card(folder, repo="me/mine").read_text()
    assert "is under cc-by-4.0" in refused(folder, licence="mit")
    assert speech_zoo.card(folder, licence="cc-by-4.0").read_text() == card


def test_exports_have_a_snippet_each(converted: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(converted["float32"], tmp_path)
    assert "## Use without MLX" not in cards.render(folder, "mit")
    (folder / "onnx").mkdir()
    speech_zoo.export(load(folder), folder / "onnx" / "model.onnx", from_="waveform")
    (folder / "coreml" / "model.mlpackage").mkdir(parents=True)
    card = cards.render(folder, "mit", cards.Wording(repo="org/name"))
    assert {"onnx", "coreml"} <= set(yaml.safe_load(card.split("---\n")[1])["tags"])
    (_, onnx), (_, swift) = FENCE.findall(section(card, "Use without MLX"))
    assert 'snapshot_download("org/name", allow_patterns="onnx/*")' in onnx
    assert "shape: [1, 48000]" in swift and 'for: "embedding"' in swift
    code = onnx.replace('snapshot_download("org/name", allow_patterns="onnx/*")', repr(str(folder)))
    clip = Path(speech_zoo.__file__).parent / "data" / "voices" / "libri_01_spk1089.wav"
    result: dict[str, Any] = {}
    exec(code.replace('"a.wav"', repr(str(clip))), result)
    expected = load(folder).embed(clip, vad=False)
    assert cosine(result["embedding"], expected) > 0.999999


def test_snippets_fit_the_task(converted: dict[str, Path]) -> None:
    speaker = snippets(cards.render(converted["float32"], "mit", Wording(repo="org/name")))
    language = snippets(cards.render(converted["lid"], "mit", Wording(repo="org/name")))
    proxy = snippets(cards.render(converted["proxy"], "mit", Wording(repo="org/name")))
    assert 'mlx_audio.load("org/name")' in speaker.mlx_audio
    assert "model.verify(" in speaker.speech_zoo
    assert [command[1] for command in speaker.commands] == ["embed", "verify"]
    assert "model.predict(" in language.mlx_audio
    assert [command[1] for command in language.commands] == ["lid"]
    assert ".wav" not in proxy.speech_zoo
    assert [command[1] for command in proxy.commands] == ["info"]


def test_labels_of_a_classifier(converted: dict[str, Path]) -> None:
    labels = list(LID.id2label.values())
    card = cards.render(converted["lid"], "mit")
    assert f"| labels | {len(labels)}: {', '.join(labels)} |" in card
    assert "pipeline_tag: audio-classification\n" in card


def test_a_licence_that_forbids_redistribution_says_so(converted: dict[str, Path]) -> None:
    card = cards.render(converted["float32"], "cc-by-nd-4.0")
    assert "does not let converted weights be passed on" in section(card, "Licence and citation")


def test_text_of_a_provenance_cannot_leave_its_line(converted: dict[str, Path], tmp_path: Path) -> None:
    evil = "x`\n\n## Licence and citation\n\nPublic domain"
    folder = copy_of(
        converted["float32"], tmp_path, repo=evil, revision=evil, form=evil, converter=evil, sha256={evil: evil}
    )
    card = speech_zoo.card(folder, licence="mit").read_text()
    assert re.findall(r"^#+ .*", card, re.MULTILINE).count("## Licence and citation") == 1
    metadata = metadata_load(folder / "README.md")
    assert metadata is not None and "base_model" not in metadata


# Parity


def test_a_report_becomes_tables(converted: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(converted["float32"], tmp_path)
    report = report_for(folder)
    card = cards.render(folder, "mit")
    parity = section(card, "Parity with the original")
    rows = [line for line in parity.splitlines() if line.startswith("| ") and "---" not in line]
    assert rows == [
        "| computed in | clips | largest difference of the features | 1 - cosine |",
        "| float32 | 2 | 8.1e-04 | 2.0e-07 |",
        "| float16 | 1 |  | 3.0e-05 |",
        "| clip | seconds | computed in | largest difference of the features | 1 - cosine | within limits |",
        r"| a\|b | 10.4 | float32 | 3.2e-04 | 4.0e-09 | yes |",
        "| two | 5.0 | float32 | 8.1e-04 | 2.0e-07 | yes |",
        "| two | 5.0 | float16 |  | 3.0e-05 | yes |",
    ]
    assert "wespeaker-unofficial 0.0.2, features of kaldi-native-fbank 1" in parity
    assert "features within 0.001; cosine at least 0.999999" in parity
    assert "Linux x86_64, cpu, Python 3.11.2, mlx 0.32.4" in parity
    assert all(digest in parity for digest in report["checkpoint"].values())
    assert "Not compared: sentences of more than a minute." in section(card, "Limits")


def test_a_failed_report_says_so(converted: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(converted["lid"], tmp_path)
    limits = {"logits": 1e-4, "top": 5}
    oracle = {"name": "speechbrain", "version": "1.1.2", "features": None, "from": "goldens"}
    report_for(folder, clips=CLASSIFIER_CLIPS, limits=limits, passed=False, oracle=oracle)
    parity = section(cards.render(folder, "mit"), "Parity with the original")
    assert parity.startswith("**This conversion does not meet its limits.** ")
    assert "| float32 | 2 | 3.0e-03 | 2 of 2 | 1 of 2 |" in parity
    assert "| two | 1.0 | float32 | 3.0e-03 | yes | no | **no** |" in parity
    assert "outputs that speechbrain 1.1.2 wrote earlier" in parity
    assert "logits within 0.0001 of the largest; the same top 5 in the same order" in parity


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"passed": None, "clips": [], "oracle": None}, "there was nothing to compare it with"),
        ({"checkpoint": {"model.safetensors": "0" * 64}}, "the parity report is of other files than these"),
        ({"checkpoint": {"model-00001-of-00002.safetensors": "0"}}, "the parity report is of other files than these"),
    ],
)
def test_a_report_that_proves_nothing_is_not_shown(
    converted: dict[str, Path], tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    folder = copy_of(converted["float32"], tmp_path)
    report_for(folder, **changes)
    card = cards.render(folder, "mit")
    assert section(card, "Parity with the original") == f"Not compared: {reason}."
    assert MEASURED.search(card) is None


@pytest.mark.parametrize("changes", [{"clips": 5}, {"clips": [{}]}, {"machine": None}, {"checkpoint": []}])
def test_a_report_that_is_none(converted: dict[str, Path], tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = copy_of(converted["float32"], tmp_path)
    report_for(folder, **changes)
    assert refused(folder, licence="mit").endswith("run speech-zoo check again")
    assert not (folder / "README.md").exists()


# Bad input


def test_a_source_without_an_entry_needs_a_licence(converted: dict[str, Path]) -> None:
    message = refused(converted["float32"])
    assert "name it with --licence" in message
    assert "apache-2.0" in message


def test_an_unknown_licence(converted: dict[str, Path]) -> None:
    assert refused(converted["float32"], licence="my-own").startswith("the licence 'my-own' is not known; known are ")


@pytest.mark.parametrize("repo", ["name", "org/name/more", "/name", "org/na me", ""])
def test_an_invalid_repo(converted: dict[str, Path], repo: str) -> None:
    assert "is not a valid repo name" in refused(converted["float32"], licence="mit", repo=repo)


def test_a_folder_that_is_no_conversion(converted: dict[str, Path], tmp_path: Path) -> None:
    source = converted["float32"].parent / "wespeaker"
    for folder in (source, tmp_path, tmp_path / "missing", source / "avg_model.pt"):
        assert "convert it first" in refused(folder, licence="mit", error=CheckpointError)
    folder = copy_of(converted["float32"], tmp_path)
    (folder / "config.json").write_text('{"model_type": "wav2vec2"}')
    assert "convert it first" in refused(folder, licence="mit", error=CheckpointError)


def test_damaged_weights(converted: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(converted["float32"], tmp_path)
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    assert "model.safetensors cannot be read" in refused(folder, licence="mit", error=CheckpointError)


def test_a_card_that_cannot_be_written(converted: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(converted["float32"], tmp_path)
    (folder / "README.md").mkdir()
    assert "README.md cannot be written" in refused(folder, licence="mit", error=SpeechZooError)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_the_kept_parity_report_is_of_the_bundled_files() -> None:
    report = json.loads((HUB_CARDS / "campplus-zh-en.parity.json").read_text(encoding="utf-8"))
    assert report["checkpoint"] == hashes(registry.bundled()["campplus-zh-en"])
    assert report["passed"] is True


def test_a_local_copy_that_nothing_proves_claims_nothing(converted: dict[str, Path], tmp_path: Path) -> None:
    """Its name alone ties it to the entry, whose files' hashes nobody knows."""
    folder = copy_of(converted["float32"], tmp_path, name="wespeaker-resnet34-lm")
    card = cards.render(folder)
    metadata = yaml.safe_load(card.split("---")[1])
    assert not metadata.keys() & {"base_model", "model-index"}
    assert "Nothing proves that this copy is WeSpeaker, Hub Wespeaker/wespeaker-voxceleb-resnet34-LM" in card
    assert "a local copy: not proved to be WeSpeaker" in section(card, "Provenance")
    assert "## Published figures" not in card and "## Variants" not in card
    trusted = cards.render(folder, wording=Wording(trust_name=True))
    assert yaml.safe_load(trusted.split("---")[1])["base_model"] == "Wespeaker/wespeaker-voxceleb-resnet34-LM"
    assert "## Published figures" in trusted and "Nothing proves" not in trusted


def test_what_the_hashes_prove(converted: dict[str, Path], tmp_path: Path) -> None:
    hashes = {"campplus_cn_en_common.pt": "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199"}
    folder = copy_of(converted["float32"], tmp_path, name="campplus-zh-en", sha256=hashes)
    assert "Nothing proves" not in cards.render(folder)


def test_what_people_say_of_their_own(converted: dict[str, Path]) -> None:
    wording = Wording(title="my-voices", base_model="me/voices", languages=("de", "fr"))
    card = cards.render(converted["8-bit"], "mit", wording)
    metadata = yaml.safe_load(card.split("---")[1])
    assert "# my-voices\n" in card and 'load("your-org/my-voices")' in card
    assert (metadata["base_model"], metadata["base_model_relation"]) == ("me/voices", "quantized")
    assert metadata["language"] == ["de", "fr"]
    with pytest.raises(ConfigError, match="is not a valid repo name"):
        cards.render(converted["8-bit"], "mit", Wording(base_model="voices"))


def test_a_difference_too_small_to_keep_is_a_bound(converted: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(converted["float32"], tmp_path)
    report_for(folder, clips=[SPEAKER_CLIPS[0] | {"cosine": 1.0, "features": 0.0}], features_unit="natural log")
    parity = section(cards.render(folder, "mit"), "Parity with the original")
    assert "largest difference of the features (natural log)" in parity
    assert "| float32 | 1 | 0 | < 1e-10 |" in parity
