"""Languages and the speaker proxy by command: what is printed, what is written, and every error as one line."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub
from tiny_models import ECAPA, ECAPA_WESPEAKER, LABELS, LID, proxy_file, speechbrain_folder, wespeaker_folder

Run = Callable[..., Any]
Unchanged = Callable[[], None]

EXAMPLE = Path(__file__).parents[2] / "packages" / "ecapa_tdnn" / "examples" / "train_speaker_proxy.py"
CODES = [label.partition(":")[0] for label in LABELS]
NAMES = dict(label.split(": ") for label in LABELS)
PUBLISHED = {"embedding_model.ckpt", "classifier.ckpt", "hyperparams.yaml", "label_encoder.txt", "config.json"}


@pytest.fixture(scope="session")
def lid_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny language model as SpeechBrain publishes it."""
    return speechbrain_folder(tmp_path_factory.mktemp("lid") / "tiny-lid", LID)


def copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


# speech-zoo lid


def test_lid_prints_the_languages_of_each_file(
    cli: Run, python: Run, halves: dict[str, Path], clip: Path, lid_folder: Path
) -> None:
    files = [halves["a1"], clip, halves["b1"]]  # of unequal length
    arguments = ["lid", *files, "--model", lid_folder, "--top", "2"]
    rows = cli(*arguments, "--json").succeeded().json
    assert [row.keys() for row in rows] == [{"file", "model", "unknown", "logit", "languages"}] * 3
    assert [(row["file"], row["model"]) for row in rows] == [(str(file), str(lid_folder)) for file in files]
    for row in rows:
        scores = [language["score"] for language in row["languages"]]
        assert len(scores) == 2
        assert 1 >= scores[0] >= scores[1] >= 0
        assert all(language["name"] == NAMES[language["label"]] for language in row["languages"])

    lines = cli(*arguments).succeeded().out.splitlines()
    expected = []
    for file, row in zip(files, rows, strict=True):
        for i, language in enumerate(row["languages"]):
            lead = str(file) if i == 0 else " " * len(str(file))
            expected.append(f"{lead}  {language['score']:6.2%}  {language['label']:8} {language['name']}")
    assert lines == expected

    code = """
import json, sys, speech_zoo
model = speech_zoo.load(sys.argv[1])
predictions = [model.predict(file, top_k=2) for file in sys.argv[2:]]
assert [speech_zoo.Prediction] == list({type(p) for best in predictions for p in best})
print(json.dumps([[{"label": p.label, "score": p.score, "name": p.name} for p in best] for best in predictions]))
"""
    api = python(code, lid_folder, *files).succeeded().json
    for row, best in zip(rows, api, strict=True):
        assert [language["label"] for language in row["languages"]] == [language["label"] for language in best]
        for ours, theirs in zip(row["languages"], best, strict=True):
            assert ours["score"] == pytest.approx(theirs["score"], rel=1e-3, abs=1e-6)


def test_lid_among_some_languages(cli: Run, clip: Path, lid_folder: Path) -> None:
    arguments = ["lid", clip, "--model", lid_folder, "--json"]
    everything = cli(*arguments, "--top", "99").succeeded().json[0]["languages"]
    some = cli(*arguments, "--languages", "swh, heb,EN,,iw").succeeded().json[0]["languages"]
    assert sorted(language["label"] for language in everything) == sorted(CODES)
    assert sum(language["score"] for language in everything) == pytest.approx(1, abs=1e-5)
    assert sorted(language["label"] for language in some) == ["en", "iw", "sw"]
    assert sum(language["score"] for language in some) == pytest.approx(1, abs=1e-5)
    order = [language["label"] for language in everything]
    assert [language["label"] for language in some] == [code for code in order if code in ("en", "iw", "sw")]


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        ("en,engl", "language 'engl' is no ISO 639 code; did you mean 'en' (English)?"),
        ("fra", "language 'fra' is French, which this checkpoint does not know; it knows "),
    ],
)
def test_an_unknown_language_is_an_error(cli: Run, clip: Path, lid_folder: Path, languages: str, message: str) -> None:
    assert cli("lid", clip, "--model", lid_folder, "--languages", languages, "--json").failed().startswith(message)


BAD_CLIPS = {
    "missing.wav": "missing.wav does not exist",
    "silence.wav": "silence.wav holds no speech",
    "short.wav": "short.wav is too short: 0.010 s, ecapa_tdnn needs at least 0.040 s",
    "text.wav": "text.wav is not audio",
}


@pytest.mark.parametrize("name", BAD_CLIPS)
def test_a_bad_clip_is_refused(cli: Run, tmp_path: Path, clip: Path, lid_folder: Path, name: str) -> None:
    """The good one is answered all the same."""
    wav = clip.read_bytes()
    if name == "text.wav":
        (tmp_path / name).write_bytes(b"This is not audio.\n" * 50)
    elif name != "missing.wav":
        samples = bytes(32000) if name == "silence.wav" else wav[44 : 44 + 320]
        size = len(samples).to_bytes(4, "little")
        (tmp_path / name).write_bytes(wav[:4] + (36 + len(samples)).to_bytes(4, "little") + wav[8:40] + size + samples)
    result = cli("lid", clip, name, "--model", lid_folder)
    assert (result.status, result.out.startswith(str(clip))) == (1, True)
    assert result.err.startswith(f"error: {BAD_CLIPS[name]}") and result.err.count("\n") == 1


def test_the_default_model_out_of_reach_is_an_error(cli: Run, clip: Path) -> None:
    repo = "speechbrain/lang-id-voxlingua107-ecapa"
    message = f"the Hub cannot be reached and {repo} is not in the local cache: check the connection"
    assert cli("lid", clip).failed() == message


# The wrong kind of model


def test_a_speaker_model_identifies_no_language(cli: Run, clip: Path) -> None:
    message = cli("lid", clip, "--model", "campplus-zh-en").failed()
    assert message.startswith("campplus-zh-en is for speaker-embedding, not for language-identification")


@pytest.mark.parametrize("command", ["embed", "verify"])
def test_a_language_model_knows_no_speakers(
    cli: Run, unchanged: Unchanged, clip: Path, lid_folder: Path, command: str
) -> None:
    unchanged()
    more = [clip] if command == "verify" else ["--output", "vectors.safetensors"]
    message = cli(command, clip, *more, "--model", lid_folder).failed()
    assert message.startswith(f"{lid_folder} is for language-identification, not for speaker-embedding")
    unchanged()


def test_the_proxy_takes_no_audio(cli: Run, tmp_path: Path, clip: Path) -> None:
    proxy_file(tmp_path / "proxy.pt")
    assert cli("embed", clip, "--model", "proxy.pt").failed().startswith("this checkpoint takes no audio")


def test_the_proxy_is_not_on_the_hub(cli: Run, unchanged: Unchanged) -> None:
    """The catalogue knows it, and says what to do."""
    unchanged()
    message = cli("convert", "speaker-proxy", "out").failed()
    assert "speaker_proxy_10k_best.pt" in message
    unchanged()


# info


def test_info_of_a_language_model(cli: Run, lid_folder: Path) -> None:
    facts = cli("info", lid_folder, "--json").succeeded().json
    assert (facts["model_type"], facts["task"]) == ("ecapa_tdnn", "language-identification")
    assert facts["languages"] == list(LABELS)
    assert facts["shortest_clip_seconds"] == pytest.approx(0.04)
    assert facts["parameters"] > 0
    assert not {"id2label", "threshold"} & facts.keys()
    lines = cli("info", lid_folder).succeeded().out.splitlines()
    assert f"  languages      {', '.join(LABELS)}" in lines and "  gives          6 labels" in lines


def test_info_of_a_proxy(cli: Run, tmp_path: Path) -> None:
    facts = cli("info", proxy_file(tmp_path / "proxy.pt"), "--json").succeeded().json
    assert (facts["model_type"], facts["task"], facts["feat_dim"]) == ("ecapa_tdnn", "speaker-embedding", 24)
    assert not {"front_end", "languages", "shortest_clip_seconds", "threshold"} & facts.keys()


# convert

FORMS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "lid": (lambda path: speechbrain_folder(path, LID), "SpeechBrain language identification ECAPA-TDNN"),
    "speaker": (lambda path: speechbrain_folder(path, ECAPA), "SpeechBrain speaker ECAPA-TDNN"),
    "wespeaker": (lambda path: wespeaker_folder(path, ECAPA_WESPEAKER), "WeSpeaker ECAPA_TDNN_GLOB_c512"),
    "proxy.pt": (proxy_file, "speaker proxy"),
}


@pytest.mark.parametrize("name", FORMS)
def test_convert(cli: Run, tmp_path: Path, name: str) -> None:
    write, form = FORMS[name]
    write(tmp_path / name)
    hashes = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.rglob("*") if path.is_file()
    }
    out = cli("convert", name, "out", "--dtype", "float16").succeeded().out
    assert out.startswith(f"out: ecapa_tdnn from {form}, ")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {name, "out"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["source"]["form"] == form
    assert config["source"]["sha256"].items() <= hashes.items()


def test_a_converted_language_model(cli: Run, python: Run, tmp_path: Path, clip: Path, lid_folder: Path) -> None:
    cli("convert", lid_folder, "once").succeeded()
    cli("convert", "once", "twice").succeeded()
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()
    code = """
import json, sys, speech_zoo
clip, *folders = sys.argv[1:]
print(json.dumps([speech_zoo.load(folder).predict(clip, top_k=6) for folder in folders]))
"""
    original, converted = python(code, clip, lid_folder, tmp_path / "once").succeeded().json
    assert original == converted
    assert sorted(label for label, _ in original) == sorted(CODES)


# Folders that contradict themselves


def edit(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (folder / name).write_text(text.replace(old, new), encoding="utf-8")


BAD_FOLDERS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "fewer labels": (
        lambda f: edit(f, "label_encoder.txt", "'nn: Norwegian Nynorsk' => 5\n", ""),
        ["6 classes", "5 labels"],
    ),
    "labels that call": (
        lambda f: edit(f, "label_encoder.txt", "'nn: Norwegian Nynorsk'", "__import__('os').mkdir('executed')"),
        ["label_encoder.txt: cannot read the line"],
    ),
    "another model's settings": (
        lambda f: edit(f, "hyperparams.yaml", "ECAPA_TDNN.ECAPA_TDNN", "Xvector.Xvector"),
        ["hyperparams.yaml describes speechbrain.lobes.models.Xvector.Xvector"],
    ),
    "settings that call": (
        lambda f: edit(f, "hyperparams.yaml", "input_size: !ref <n_mels>", "input_size: !apply:os.mkdir [executed]"),
        ["hyperparams.yaml"],
    ),
    "no classifier": (lambda f: (f / "classifier.ckpt").unlink(), ["holds no classifier.ckpt"]),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_bad_folder_is_refused(
    cli: Run, unchanged: Unchanged, tmp_path: Path, clip: Path, lid_folder: Path, case: str
) -> None:
    spoil, messages = BAD_FOLDERS[case]
    spoil(copy(lid_folder, tmp_path / "broken"))
    unchanged()
    arguments = ["convert", "broken", "out"] if len(case) % 2 else ["lid", clip, "--model", "./broken"]
    error = cli(*arguments).failed()
    assert all(message in error for message in messages), error
    unchanged()


# From the Hub


def test_the_default_model_comes_from_the_hub_with_all_that_it_needs(
    hub: LoopbackHub, hub_env: dict[str, str], cli: Run, fresh_cli: Run, clip: Path, lid_folder: Path, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in lid_folder.iterdir()}
    unused = {
        "README.md": b"# A model",
        "udhr_th.wav": b"\0" * 100,
        ".gitattributes": b"",
        "sub/model.safetensors": b"",
    }
    hub.add("speechbrain/lang-id-voxlingua107-ecapa", files | unused)
    local = cli("lid", clip, "--model", lid_folder, "--engine", "mlx", "--json").succeeded().json[0]
    result = cli("lid", clip, "--engine", "mlx", "--json", env=hub_env)
    assert result.status == 0, result.err
    assert result.json == [local | {"model": "voxlingua107-ecapa"}]
    assert hub.downloads() == files.keys() == PUBLISHED
    hub.stop()  # from here on the cached copy serves
    assert fresh_cli("convert", "voxlingua107-ecapa", "out", env=hub_env).status == 0
    source = json.loads((tmp_path / "out" / "config.json").read_text())["source"]
    assert source["repo"] == "speechbrain/lang-id-voxlingua107-ecapa"
    assert source["sha256"].keys() == files.keys()


# The example


def test_the_example_trains_a_proxy(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert all(line[::2] == ["step", "loss", "separation"] for line in lines)
    reached = [float(line[5]) for line in lines]
    assert reached[0] < 0.5
    assert reached[-1] > 0.8
    assert max(reached[:-1]) <= 0.8  # it stops there
    assert not list(tmp_path.iterdir())
