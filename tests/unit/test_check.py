"""`check` without PyTorch: what it compares with, what it calls a miss, and what `parity.json` keeps."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import speech_zoo  # isort: skip  # before MLX, whose TF32 it turns off
import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from source_weights import source_weights
from speech_zoo.catalogue import entries as catalogue
from speech_zoo.engines import graphs
from speech_zoo.publish import check as comparison
from speech_zoo.publish import originals
from speech_zoo.publish.parity import FILE, Clip, Parity, limits_of, read, read_report, show
from speech_zoo_core import oracle as oracles
from speech_zoo_core import registry
from speech_zoo_core.errors import AudioError, CheckpointError, ConfigError, SpeechZooError
from speech_zoo_core.oracle import NoOracle, Oracle, Package
from speech_zoo_core.tasks.speaker import SpeakerEmbedding
from speech_zoo_export import ExportError
from tiny_models import ECAPA, ECAPA_WESPEAKER, LID, RESNET, proxy_file, speechbrain_folder, wespeaker_folder
from torch_files import save_zip, state_dict
from wav2vec2_files import hf_folder

FEW = ("1 s", "0.5 s", "silence", "noise")
Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(autouse=True)
def few_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    every = comparison.signals()
    monkeypatch.setattr(comparison, "signals", lambda: [clip for clip in every if clip.name in FEW])


def same(x: np.ndarray) -> np.ndarray:
    return x


@pytest.fixture
def with_oracle(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put in the original's place the zoo's own model of the source, with its results changed."""

    def put(output: Change = same, features: Change | None = same, log_probs: bool = False) -> None:
        def fake(config: Any, original: Callable[[], Any]) -> Oracle:
            model = speech_zoo.load(original().folder)
            front_end = model.config.front_end

            def of(waveform: np.ndarray) -> np.ndarray:
                return output(np.array(model(front_end(mx.array(waveform))[None])[0]))

            def shown(waveform: np.ndarray) -> np.ndarray:
                assert features is not None
                return features(np.array(front_end(mx.array(waveform))))

            return Oracle("original", "1.0", of, features and shown, "fbank 2.0", 16000, log_probs)

        real = originals.read_model

        def read_model(source: Any) -> Any:
            spec, *rest = real(source)
            return replace(spec, oracle=fake), *rest

        monkeypatch.setattr(originals, "read_model", read_model)

    return put


@pytest.fixture(autouse=True)
def without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test is not about engines: tracing takes longer than all else."""
    monkeypatch.setattr(comparison, "ONNX_RUNTIME", False)


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracles, "find_spec", lambda name: None)


@pytest.fixture
def speaker(tmp_path: Path) -> tuple[Path, Path]:
    """A source and what it was converted to."""
    source = wespeaker_folder(tmp_path / "source", RESNET)
    return source, speech_zoo.convert(source, tmp_path / "zoo")


@pytest.fixture
def languages(tmp_path: Path) -> tuple[Path, Path]:
    source = speechbrain_folder(tmp_path / "source", LID)
    return source, speech_zoo.convert(source, tmp_path / "zoo")


# What passes and what misses a limit


def test_an_equal_checkpoint(speaker: tuple[Path, Path], with_oracle: Any) -> None:
    source, folder = speaker
    with_oracle()
    parity = speech_zoo.check(folder, source)
    assert parity.passed is True
    assert parity.oracle == {"name": "original", "version": "1.0", "features": "fbank 2.0", "from": "live"}
    assert [(clip.clip, clip.computed, clip.passed) for clip in parity.clips] == [(n, "float32", True) for n in FEW]
    assert parity.worst() == {"features": 0.0, "cosine": pytest.approx(1, abs=1e-9)}
    assert parity.limits == {"features": 1e-3, "cosine": 0.999999}
    assert parity.not_compared == []
    assert parity.reference == {"sha256": json.loads((folder / "config.json").read_text())["source"]["sha256"]}
    assert parity.machine.keys() == {"system", "device", "tf32", "python", "packages"}
    assert "mlx" in parity.machine["packages"]
    assert read(folder) == parity


def test_engines_are_compared(
    speaker: tuple[Path, Path], with_oracle: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The one that this machine takes on every clip, the other on some."""
    monkeypatch.setattr(comparison, "ONNX_RUNTIME", True)
    monkeypatch.setenv("SPEECH_ZOO_CACHE", str(tmp_path / "home"))
    monkeypatch.setattr(comparison, "FEW", FEW[:1])
    source, folder = speaker
    with_oracle()
    parity = speech_zoo.check(folder, source)
    first, second = ("onnxruntime", "mlx") if mx.default_device().type == mx.DeviceType.cpu else ("mlx", "onnxruntime")
    rows = [(clip.clip, clip.engine, clip.passed) for clip in parity.clips]
    assert rows == [*((name, first, True) for name in FEW), (FEW[0], second, True)]
    assert {clip.how for clip in parity.clips} == {"float32", "float32, onnxruntime"}
    assert parity.passed is True and "onnxruntime" in parity.machine["packages"]
    assert read(folder) == parity


def test_one_engine_alone(with_oracle: Any, core_ml_here: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is written unless somebody says where; Core ML computes in float16, and is held to that."""
    clips = [clip for clip in comparison.signals() if clip.name == "0.5 s"]  # each length is a program of its own
    monkeypatch.setattr(comparison, "signals", lambda: clips)
    source = wespeaker_folder(tmp_path / "source", ECAPA_WESPEAKER)
    folder = speech_zoo.convert(source, tmp_path / "zoo")
    with_oracle()
    parity = speech_zoo.check(folder, source, engine="mlx")
    assert {clip.engine for clip in parity.clips} == {"mlx"} and not (folder / "parity.json").exists()
    monkeypatch.setattr("speech_zoo.engines.choice._coreml", lambda: core_ml_here)
    parity = speech_zoo.check(folder, source, engine="coreml", output=tmp_path / "coreml.json")
    assert [(clip.clip, clip.how, clip.passed) for clip in parity.clips] == [("0.5 s", "float16, coreml", True)]
    assert (parity.precision, parity.limits["cosine"]) == ("float16", 0.9999)
    assert read_report(tmp_path / "coreml.json") == parity and not (folder / "parity.json").exists()
    with pytest.raises(ConfigError, match="unknown engine"):
        speech_zoo.check(folder, source, engine="tensorrt")  # type: ignore[arg-type]


def test_an_engine_that_cannot_is_told(
    speaker: tuple[Path, Path], with_oracle: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any) -> Any:
        raise ExportError("no form")

    monkeypatch.setattr(comparison, "ONNX_RUNTIME", True)
    monkeypatch.setenv("SPEECH_ZOO_CACHE", str(tmp_path / "home"))
    monkeypatch.setattr(graphs, "traced", refuse)
    source, folder = speaker
    with_oracle()
    parity = speech_zoo.check(folder, source)
    assert parity.passed is True and {clip.engine for clip in parity.clips} == {"mlx"}
    assert parity.not_compared == [
        "the engine onnxruntime: onnxruntime cannot run this resnet34, use --engine mlx: no form"
    ]


def tilted(x: np.ndarray, cosine: float) -> np.ndarray:
    """A vector at that cosine to x."""
    x = x.astype(np.float64)
    side = np.roll(x, 1) - np.roll(x, 1) @ x / (x @ x) * x
    return cosine * x / np.linalg.norm(x) + np.sqrt(1 - cosine**2) * side / np.linalg.norm(side)


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({"output": lambda x: 3 * x}, True),
        ({"output": lambda x: tilted(x, 0.9999995)}, True),
        ({"output": lambda x: tilted(x, 0.9999985)}, False),
        ({"output": lambda x: -x}, False),
        ({"output": lambda x: x[:-1]}, False),
        ({"output": lambda x: 0 * x}, False),
        ({"output": lambda x: x * np.nan}, False),
        ({"features": lambda x: x + 9e-4}, True),
        ({"features": lambda x: x + 1.1e-3}, False),
        ({"features": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 7, x - 2e-3, x)}, False),
        ({"features": lambda x: x[1:]}, False),
        ({"features": lambda x: x * np.nan}, False),
    ],
)
def test_the_limits_of_embeddings(
    change: dict[str, Change], passed: bool, speaker: tuple[Path, Path], with_oracle: Any
) -> None:
    source, folder = speaker
    with_oracle(**change)
    parity = speech_zoo.check(folder, source)
    assert {clip.passed for clip in parity.clips} == {parity.passed} == {passed}
    assert read(folder) == parity
    json.loads((folder / FILE).read_text(), parse_constant=pytest.fail)  # no NaN, which is no JSON


def swapped(first: int, second: int) -> Change:
    """The scores of two places changed for each other."""

    def change(x: np.ndarray) -> np.ndarray:
        order = np.argsort(-x)
        x = x.copy()
        x[order[[first, second]]] = x[order[[second, first]]]
        return x

    return change


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x - np.log(np.exp(x).sum())


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        (same, True),
        (lambda x: x + 0.9e-4 * np.abs(x).max() * (np.arange(x.size) == 3), True),
        (lambda x: x + 1.2e-4 * np.abs(x).max() * (np.arange(x.size) == 3), False),
        (swapped(0, 1), False),
        (swapped(3, 4), False),
        (lambda x: 0 * x, False),
    ],
)
def test_the_limits_of_scores(change: Change, passed: bool, languages: tuple[Path, Path], with_oracle: Any) -> None:
    source, folder = languages
    with_oracle(change)
    parity = speech_zoo.check(folder, source)
    assert parity.passed is passed
    assert parity.limits == {"features": 1e-3, "logits": 1e-4, "top": 5}
    assert {clip.top1 for clip in parity.clips} <= {label.partition(":")[0] for label in (LID.id2label or {}).values()}


def test_log_probabilities_are_compared_with_log_probabilities(languages: tuple[Path, Path], with_oracle: Any) -> None:
    source, folder = languages
    with_oracle(log_softmax, log_probs=True)
    assert speech_zoo.check(folder, source).passed is True
    with_oracle(log_softmax, log_probs=False)
    assert speech_zoo.check(folder, source).passed is False


@pytest.mark.parametrize("precision", ["float16", "8-bit"])
def test_below_float32_the_first_label_of_speech_counts(precision: str, tmp_path: Path, with_oracle: Any) -> None:
    source = speechbrain_folder(tmp_path / "source", LID)
    how: dict[str, Any] = {"dtype": "float16"} if precision == "float16" else {"bits": 8}
    folder = speech_zoo.convert(source, tmp_path / "zoo", **how)
    with_oracle(swapped(2, 3))
    parity = speech_zoo.check(folder, source)
    assert (parity.passed, parity.limits) == (True, {"features": 1e-3, "top": 1})
    assert {clip.same_top5 for clip in parity.clips} == {False}
    with_oracle(swapped(0, 1))
    parity = speech_zoo.check(folder, source)
    assert parity.passed is False
    missed = {clip.clip for clip in parity.clips if clip.passed is False}
    assert missed <= {"1 s", "0.5 s"}
    assert missed


def test_equal_scores_have_no_order() -> None:
    theirs = np.array([3.0, 1.0, 2.0, 2.0, 0.0, -1.0])
    assert comparison._same_order(np.array([3.0, 1.0, 2.0, 2.1, 0.0, -1.0]), theirs, 5)
    assert not comparison._same_order(np.array([3.0, 2.05, 2.0, 2.1, 0.0, -1.0]), theirs, 5)
    assert comparison._same_order(np.array([3.0, 1.0, 2.0, 2.0, 0.0, -1.0]), theirs, 1)
    assert not comparison._same_order(np.array([1.0, 3.0, 2.0, 2.0, 0.0, -1.0]), theirs, 1)


def test_half_precision_is_computed_in_float32_and_in_itself(tmp_path: Path, with_oracle: Any) -> None:
    source = wespeaker_folder(tmp_path / "source", RESNET)
    with_oracle()
    parity = speech_zoo.check(speech_zoo.convert(source, tmp_path / "zoo", dtype="bfloat16"), source)
    assert parity.precision == "bfloat16"
    assert parity.limits["cosine"] == 0.9999
    pairs = [(clip.clip, clip.computed) for clip in parity.clips]
    assert pairs[: len(FEW)] == [(name, "float32") for name in FEW]
    few = ("1 s", "0.5 s", "noise") if mx.default_device().type == mx.DeviceType.cpu else FEW
    assert pairs[len(FEW) :] == [(name, "bfloat16") for name in few]


def test_4_bit_embeddings_have_no_limit() -> None:
    assert limits_of("speaker-embedding", "4-bit") == {"features": 1e-3}
    assert limits_of("audio-classification", "4-bit") == {"features": 1e-3, "top": 1}


def test_an_oracle_without_features(speaker: tuple[Path, Path], with_oracle: Any) -> None:
    source, folder = speaker
    with_oracle(features=None)
    parity = speech_zoo.check(folder, source)
    assert parity.passed is True
    assert parity.not_compared == ["features: original shows none"]
    assert '"features": null' in (folder / FILE).read_text()


def test_what_the_checkpoint_raises_is_a_miss(
    speaker: tuple[Path, Path], with_oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a user's clip raises is what `check` reports."""
    source, folder = speaker
    with_oracle()
    every = comparison.signals()
    monkeypatch.setattr(comparison, "signals", lambda: [clip for clip in every if clip.name == "1 s"])

    def fail(*_: Any, **__: Any) -> Any:
        raise AudioError("the embedding is not finite")

    monkeypatch.setattr(SpeakerEmbedding, "embed", fail)
    parity = speech_zoo.check(folder, source)
    assert parity.passed is False
    assert "the embedding is not finite" in str(parity.clips[0].problem)


# What it is compared with


@pytest.mark.parametrize("file", [False, True])
def test_the_reference_is_a_folder_or_a_file(file: bool, speaker: tuple[Path, Path], with_oracle: Any) -> None:
    source, folder = speaker
    with_oracle()
    assert speech_zoo.check(folder, source / "avg_model.pt" if file else source).passed is True


def test_a_file_under_another_name(tmp_path: Path, with_oracle: Any) -> None:
    (tmp_path / "a").mkdir()
    path = save_zip(tmp_path / "a" / "m.pt", state_dict(source_weights(RESNET)))
    folder = speech_zoo.convert(path, tmp_path / "zoo")
    (tmp_path / "b").mkdir()
    other = path.rename(tmp_path / "b" / "renamed.pt")
    with_oracle()
    assert speech_zoo.check(folder, other).passed is True
    other.write_bytes(other.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match=r"renamed\.pt is not what .*zoo was converted from: its sha256 differs"):
        speech_zoo.check(folder, other)


@pytest.mark.parametrize("installed", [False, True])
def test_another_reference(
    installed: bool, tmp_path: Path, speaker: tuple[Path, Path], with_oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, whether the original is installed or not."""
    _, folder = speaker
    if installed:
        with_oracle()
    else:
        monkeypatch.setattr(oracles, "find_spec", lambda name: None)
    other = wespeaker_folder(tmp_path / "other", RESNET)
    (other / "config.yaml").write_text((other / "config.yaml").read_text() + "\n# changed\n")
    with pytest.raises(CheckpointError, match=r"other is not what .*: the sha256 of config\.yaml differs"):
        speech_zoo.check(folder, other)
    (other / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"other is not what .*: it lacks config\.yaml"):
        speech_zoo.check(folder, other)
    with pytest.raises(CheckpointError, match="does not exist"):
        speech_zoo.check(folder, tmp_path / "nowhere")
    assert not (folder / FILE).exists()


@pytest.mark.parametrize(
    ("make", "packages"),
    [
        (lambda d: wespeaker_folder(d / "s", RESNET), ["torch", "kaldi-native-fbank", "wespeaker-unofficial"]),
        (lambda d: wespeaker_folder(d / "s", ECAPA_WESPEAKER), ["torch", "kaldi-native-fbank", "wespeaker-unofficial"]),
        (lambda d: speechbrain_folder(d / "s", ECAPA), ["torch", "hyperpyyaml>=1.2", "scipy", "speechbrain"]),
        (lambda d: hf_folder(d / "s"), ["torch", "transformers>=5"]),
    ],
)
def test_an_original_that_is_not_installed(
    make: Callable[[Path], Path], packages: list[str], tmp_path: Path, nothing_installed: None, capsys: Any
) -> None:
    source = make(tmp_path)
    folder = speech_zoo.convert(source, tmp_path / "zoo")
    parity = speech_zoo.check(folder)
    assert (parity.passed, parity.oracle, parity.clips, parity.reference) == (None, None, [], {})
    first = parity.not_compared[0]
    assert "not installed: pip install torch" in first
    assert all(package in first for package in packages)
    assert parity.not_compared[1] == "recorded outputs of the original: none ship for this checkpoint"
    assert read(folder) == parity
    show(parity)
    assert capsys.readouterr().out.startswith("Nothing was compared: torch")


def test_the_commands_that_install(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"torch"}
    monkeypatch.setattr(oracles, "find_spec", lambda name: name in here or None)
    a, b = Package("a", "a"), Package("b", "b-unofficial==1.0", alone=True)
    oracles.require(oracles.TORCH)
    with pytest.raises(NoOracle) as caught:
        oracles.require(oracles.TORCH, b)
    assert str(caught.value) == "b-unofficial is not installed: pip install --no-deps b-unofficial==1.0"
    with pytest.raises(NoOracle) as caught:
        oracles.require(oracles.TORCH, a, Package("c", "c>=2"), b)
    assert str(caught.value) == (
        "a, c and b-unofficial are not installed: pip install a 'c>=2' && pip install --no-deps b-unofficial==1.0"
    )


def test_the_speaker_proxy(tmp_path: Path) -> None:
    folder = speech_zoo.convert(proxy_file(tmp_path / "proxy.pt"), tmp_path / "zoo")
    parity = speech_zoo.check(folder)
    assert parity.passed is None
    assert "code is not public" in parity.not_compared[0]


def test_nothing_says_where_the_original_is(speaker: tuple[Path, Path], with_oracle: Any) -> None:
    _, folder = speaker
    with_oracle()
    parity = speech_zoo.check(folder)
    assert parity.passed is None
    assert parity.not_compared[0] == "the original is not at hand; --reference names its folder, file or Hub repo"


# The recorded outputs


@pytest.fixture
def voices(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the nine; the recorded outputs are of all nine."""
    monkeypatch.undo()
    every = comparison.signals()
    monkeypatch.setattr(comparison, "signals", lambda: [every[6], every[9]])


def test_the_bundled_checkpoint(voices: None, tmp_path: Path) -> None:
    parity = speech_zoo.check("campplus-zh-en", output=tmp_path / "p.json")
    assert parity.passed is True
    assert parity.oracle is not None
    assert (parity.oracle["name"], parity.oracle["from"], parity.oracle["features"]) == ("speakerlab", "goldens", None)
    assert {clip.clip for clip in parity.clips} == {"libri_07_spk1580"}
    assert sorted(clip.how for clip in parity.clips) == ["float16", "float32", "float32, onnxruntime"]
    assert parity.worst()["cosine"] >= 0.9999
    assert any("features" in sentence and "silence" in sentence for sentence in parity.not_compared)
    assert (tmp_path / "p.json").read_text() == parity.to_json()
    assert not (registry.bundled()["campplus-zh-en"] / FILE).exists()


def test_a_changed_copy_of_the_bundled_checkpoint(
    voices: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(originals, "HALF", {})  # in which a CPU is slow
    folder = shutil.copytree(registry.bundled()["campplus-zh-en"], tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name, value in sorted(tensors.items()) if value.ndim > 1)
    tensors[name] = tensors[name][::-1].copy()
    save_file(tensors, folder / "model.safetensors")
    parity = speech_zoo.check(folder)
    assert parity.passed is False
    assert read(folder) == parity
    assert "miss a limit" in parity.verdict()
    assert "cosine" in parity.verdict()


def test_recorded_outputs_of_other_files(voices: None, tmp_path: Path) -> None:
    folder = shutil.copytree(registry.bundled()["campplus-zh-en"], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["source"] |= {"sha256": {"m.pt": "0" * 64}, "name": "campplus-zh-en"}
    (folder / "config.json").write_text(json.dumps(config))
    parity = speech_zoo.check(folder)
    assert parity.passed is None
    assert parity.not_compared[-1] == "recorded outputs of the original: those that ship are of other files"


def test_the_entry_of_a_provenance() -> None:
    digest = json.loads((registry.bundled()["campplus-zh-en"] / "config.json").read_text())["source"]["sha256"]
    matches = [
        catalogue.entry_of(source)
        for source in (
            {"name": "mms-lid-256", "repo": "facebook/mms-lid-126"},
            {"repo": "facebook/mms-lid-126", "sha256": digest},
            {"sha256": digest},
            {"sha256": {"m.pt": "0" * 64}},
            {},
        )
    ]
    assert [entry and entry[0] for entry in matches] == ["mms-lid-256", "mms-lid-126", "campplus-zh-en", None, None]


# What cannot be checked


def test_what_is_no_converted_checkpoint(tmp_path: Path, speaker: tuple[Path, Path]) -> None:
    source, folder = speaker
    for ref, error in (
        (source, r"is a source \(WeSpeaker ResNet34\): convert it first"),
        ("mms-lid-256", "is a source: convert it first"),
        (folder / "model.safetensors", "is a file; check takes the folder"),
        (tmp_path / "nowhere", "does not exist"),
    ):
        with pytest.raises(CheckpointError, match=error):
            speech_zoo.check(ref)


@pytest.mark.parametrize("source", [None, {}, {"form": "WeSpeaker ResNet34"}, {"sha256": {"m": "0"}}])
def test_a_checkpoint_of_unknown_origin(source: Any, speaker: tuple[Path, Path]) -> None:
    _, folder = speaker
    config = json.loads((folder / "config.json").read_text())
    config["source"] = source
    (folder / "config.json").write_text(json.dumps({key: x for key, x in config.items() if x is not None}))
    with pytest.raises(ConfigError, match=r"does not say what it was converted from; convert it again"):
        speech_zoo.check(folder)


def test_a_target_that_cannot_be_written(speaker: tuple[Path, Path], nothing_installed: None) -> None:
    _, folder = speaker
    with pytest.raises(SpeechZooError, match=r"parity\.json cannot be written"):
        speech_zoo.check(folder, output=folder / "nowhere" / "parity.json")
    (folder / FILE).mkdir()
    with pytest.raises(SpeechZooError, match=r"parity\.json cannot be written"):
        speech_zoo.check(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", FILE]


# parity.json


def test_stale(speaker: tuple[Path, Path], nothing_installed: None) -> None:
    _, folder = speaker
    assert read(folder) is None
    parity = speech_zoo.check(folder)
    assert parity.checkpoint.keys() == {"config.json", "model.safetensors"}
    (folder / "README.md").write_text("A card.")
    assert not parity.stale(folder)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text + "\n")
    assert parity.stale(folder)
    (folder / "config.json").write_text(text)
    assert not parity.stale(folder)
    shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    assert parity.stale(folder)


def test_the_same_text_every_time(speaker: tuple[Path, Path], with_oracle: Any) -> None:
    source, folder = speaker
    with_oracle()
    texts = {speech_zoo.check(folder, source).to_json() for _ in range(2)} | {(folder / FILE).read_text()}
    assert len(texts) == 1
    assert str(folder.parent) not in texts.pop()


@pytest.mark.parametrize(
    "change", [{"passed": "yes"}, {"precision": ...}, {"more": 1}, {"clips": [{"clip": "a"}]}, {"checkpoint": []}]
)
def test_a_damaged_record(change: dict[str, Any], speaker: tuple[Path, Path], nothing_installed: None) -> None:
    _, folder = speaker
    speech_zoo.check(folder)
    data = json.loads((folder / FILE).read_text()) | change
    (folder / FILE).write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))
    with pytest.raises(ConfigError, match=r"parity\.json is not what check writes"):
        read(folder)
    (folder / FILE).write_text("{")
    with pytest.raises(ConfigError, match=r"parity\.json is not valid JSON"):
        read(folder)


def test_the_verdict_names_what_was_missed() -> None:
    facts: dict[str, Any] = {"seconds": 1.0, "computed": "float32"}
    parity = Parity(
        checkpoint={},
        precision="float32",
        task="language-identification",
        oracle={"name": "original", "version": "1.0", "features": None, "from": "live"},
        reference={},
        limits={"features": 1e-3, "logits": 1e-4, "top": 5},
        clips=[
            Clip(clip="a", **facts, logits=1e-6, top1="eng", same_top1=True, same_top5=True, passed=True),
            Clip(clip="b", **facts, logits=2e-4, top1="eng", same_top1=True, same_top5=False, passed=False),
        ],
        not_compared=[],
        passed=False,
        machine={},
    )
    assert parity.verdict() == (
        "1 of 2 comparisons in float32 with original 1.0, live miss a limit; "
        "b (float32): logits 2.0e-04 (limit 0.0001), another order of the first five"
    )
