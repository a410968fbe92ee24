"""Settings with values of every type in every place: a model, or one line that says what is wrong."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch_files as tf
import yaml
from source_weights import source_weights
from speech_zoo_core.conversion import convert
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.loader import load
from tiny_models import CAMPPLUS, ECAPA, LID, TINY, speechbrain_folder, wespeaker_folder
from wav2vec2_files import PREPROCESSOR, hf_folder
from wav2vec2_kin_files import kin_folder

VALUES = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**40, 0.5, -1.5, 1e30, 1e-30, float("nan"), float("inf")),
    *("", "abc", "16000", "\ud800", "\x1b[2J", "x" * 5000, "../..", [], [[]], [None], [1] * 50, ["a", 5], {}),
    *({"a": 1}, {"": None}, {"1": {"2": [3]}}, [{"a": {}}]),
]
TRIES = 120


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in plain data, the whole of it included."""
    yield path
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


def changed(data: Any, chance: random.Random) -> Any:
    """The data with one to three values exchanged, dropped, or added."""
    data = json.loads(json.dumps(data))
    for _ in range(chance.choice([1, 1, 1, 3])):
        path = chance.choice(list(places(data)))
        value = copy.deepcopy(chance.choice(VALUES))
        if not path:
            data = value if chance.random() < 0.3 else data
            continue
        place = data
        for key in path[:-1]:
            place = place[key]
        how = chance.random()
        if how < 0.1:
            del place[path[-1]]
        elif how < 0.2 and isinstance(place, dict):
            place[chance.choice(["x", "model_type", "", "1", "é\n"])] = value
        else:
            place[path[-1]] = value
    return data


def as_json(data: Any) -> str:
    return json.dumps(data)


def as_yaml(data: Any) -> str:
    return yaml.safe_dump(data, allow_unicode=False)


def three_d(folder: Path) -> Path:
    folder.mkdir()
    tf.save_zip(folder / "campplus.bin", tf.state_dict(source_weights(CAMPPLUS)))
    return folder


def converted(source: Callable[[Path], Path]) -> Callable[[Path], Path]:
    return lambda folder: convert(source(folder.with_name("origin")), folder)


SHARDED = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}, "metadata": {"total_size": 5}}
THREE_D = {
    "sample_rate": 16000,
    "feature_extractor": {
        "obj": "speakerlab.process.processor.FBank",
        "args": {"n_mels": 16, "sample_rate": "<sample_rate>", "mean_nor": True},
    },
}
MODELSCOPE = {"model": {"type": "cam++", "model_config": {"sample_rate": 16000, "fbank_dim": 16}}}
PROCESSOR = {"feature_extractor": PREPROCESSOR, "processor_class": "Wav2Vec2Processor"}
# What makes a folder; the file of settings; what stands in it, None for what does already; how it is written.
CASES: dict[str, tuple[Callable[[Path], Path], str, Any, Callable[[Any], str]]] = {
    "transformers config": (hf_folder, "config.json", None, as_json),
    "WavLM x-vector": (lambda folder: kin_folder(folder, "wavlm", x_vector=True), "config.json", None, as_json),
    "data2vec": (lambda folder: kin_folder(folder, "data2vec-audio"), "config.json", None, as_json),
    "converted WavLM x-vector": (
        converted(lambda folder: kin_folder(folder, "wavlm", x_vector=True)),
        "config.json",
        None,
        as_json,
    ),
    "preprocessor": (hf_folder, "preprocessor_config.json", PREPROCESSOR, as_json),
    "processor": (hf_folder, "processor_config.json", PROCESSOR, as_json),
    "index": (hf_folder, "model.safetensors.index.json", SHARDED, as_json),
    "3D-Speaker": (three_d, "config.yaml", THREE_D, as_yaml),
    "ModelScope": (three_d, "configuration.json", MODELSCOPE, as_json),
    "converted wav2vec2": (converted(hf_folder), "config.json", None, as_json),
    "converted lid": (converted(lambda folder: speechbrain_folder(folder, LID)), "config.json", None, as_json),
}
for _name, _config in TINY.items():

    def _folder(folder: Path, config: Any = _config) -> Path:
        return wespeaker_folder(folder, config)

    CASES[f"WeSpeaker {_name}"] = (_folder, "config.yaml", None, as_yaml)
    CASES[f"converted {_name}"] = (converted(_folder), "config.json", None, as_json)


def attempt(folder: Path) -> bool:
    """Whether it loads; else it is told in one line, by whoever knows."""
    try:
        load(folder)
    except SpeechZooError as error:
        text = str(error)
        assert "\n" not in text
        assert "\x1b" not in text
        assert text.encode()
        assert len(text) < 3000
        assert "cannot be read as" not in text, text
        return False
    return True


@pytest.mark.parametrize("case", CASES)
def test_values_of_every_type(tmp_path: Path, case: str) -> None:
    make, name, data, written = CASES[case]
    folder = make(tmp_path / "folder")
    path = folder / name
    if data is None:
        data = json.loads(path.read_text()) if name.endswith(".json") else yaml.safe_load(path.read_text())
    outcomes = []
    for seed in range(TRIES):
        try:
            path.write_text(written(changed(data, random.Random(seed))), encoding="utf-8", errors="surrogatepass")
        except yaml.YAMLError:
            continue
        outcomes.append(attempt(folder))
    assert False in outcomes


@pytest.mark.parametrize("config", [ECAPA, LID], ids=["speakers", "languages"])
def test_hyperparams_line_by_line(tmp_path: Path, config: Any) -> None:
    folder = speechbrain_folder(tmp_path / "folder", config)
    path = folder / "hyperparams.yaml"
    lines = path.read_text().splitlines()
    values = [yaml.safe_dump(value, default_flow_style=True).split("\n...")[0].strip() for value in VALUES[:19]]
    values += [
        "!new:a.B",
        "!ref <n_mels>",
        "!ref <nothing>",
        "!name:os.system",
        "!apply:os.system [a]",
        "*a",
        "&a [*a]",
    ]
    outcomes = []
    for seed in range(2 * TRIES):
        chance = random.Random(seed)
        made = list(lines)
        for _ in range(chance.choice([1, 1, 2])):
            i = chance.randrange(len(made))
            key, colon, _ = made[i].partition(":")
            made[i] = f"{key}{colon} {chance.choice(values)}" if colon and chance.random() < 0.9 else ""
        path.write_text("\n".join(made), encoding="utf-8")
        outcomes.append(attempt(folder))
    assert set(outcomes) == {True, False}


@pytest.mark.parametrize("name", ["config.yaml", "hyperparams.yaml", "config.json", "label_encoder.txt"])
@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"\x00", b"a: \xed\xa0\x80", b"{" * 9999, b"- " * 9999, b'{"a": NaN, "a": 1}', b"..."]
)
def test_files_of_settings_that_are_none(tmp_path: Path, name: str, content: bytes) -> None:
    make, config = (wespeaker_folder, CAMPPLUS) if name == "config.yaml" else (speechbrain_folder, LID)
    folder = make(tmp_path / "folder", config)
    (folder / name).write_bytes(content)
    attempt(folder)


@pytest.mark.parametrize("name", ["config.json", "config.yaml"])
def test_settings_that_are_a_folder_or_a_pipe(tmp_path: Path, name: str) -> None:
    folder = wespeaker_folder(tmp_path / "w", CAMPPLUS)
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    attempt(folder)
