"""The plugin for mlx_audio, in fresh interpreters.

`nox -s tests` installs wheels in an environment of its own: there, this is the smoke test of the wheels. In an editable
install it tests that. `SPEECH_ZOO_OLDEST_MLX_AUDIO` names a folder with the oldest mlx-audio that is supported.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub
from speech_zoo.plugin import patches as plugin
from speech_zoo_core import registry
from wav2vec2_files import hf_folder

Run = Callable[..., Any]

COMMAND = Path(sys.executable).with_name("speech-zoo")
OLDEST = os.environ.get("SPEECH_ZOO_OLDEST_MLX_AUDIO", "")
VERSIONS = [
    pytest.param(plugin.NEWEST, id="newest"),
    pytest.param(
        plugin.OLDEST, id="oldest", marks=pytest.mark.skipif(not OLDEST, reason="nox -s tests installs that mlx-audio")
    ),
]
PACKAGES = {"lid": "speech_zoo_wav2vec2_cls", "converted": "speech_zoo_resnet34", "bundled": "speech_zoo_campplus"}
# Which package and version a model came from, and whether any speech-to-text model was imported for it.
TELL = """
import mlx_audio.version, sys
stt = any(name.startswith("mlx_audio.stt.models") for name in sys.modules)
print(type(model).__module__.partition(".")[0], mlx_audio.version.__version__, stt)
"""
OFF = {"SPEECH_ZOO_AUTOLOAD": "0"}


@pytest.fixture(scope="session")
def lid_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Wav2Vec2 classifier as transformers writes it."""
    return hf_folder(tmp_path_factory.mktemp("lid-source") / "tiny-lid-source")


@pytest.fixture(scope="session")
def lid(tmp_path_factory: pytest.TempPathFactory, run_process: Run, lid_source: Path) -> Path:
    """`lid_source`, converted by the command."""
    folder = tmp_path_factory.mktemp("lid") / "tiny-lid-mlx"
    run_process([COMMAND, "convert", lid_source, folder], folder.parent).succeeded()
    return folder


def last_line(result: Any) -> str:
    """What an uncaught error says."""
    assert result.status == 1, result.out + result.err
    return result.err.strip().splitlines()[-1]


# Each entry point, in an interpreter that imported nothing of ours


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("code", "checkpoint"),
    [
        ("import mlx_audio; model = mlx_audio.load(ref)", "lid"),
        ("import mlx_audio; model = mlx_audio.load('campplus-zh-en')", "bundled"),
        ("import mlx_audio; model = mlx_audio.utils.load_model(ref)", "converted"),
        ("from mlx_audio.utils import load_model; model = load_model(model_name=ref)", "lid"),
        ("from mlx_audio.lid import load; model = load(ref, strict=True)", "lid"),
        ("from mlx_audio.lid.utils import load_model; model = load_model(Path(ref), True)", "lid"),
        ("import mlx_audio; model = mlx_audio.spk.load(ref)", "converted"),
        ("from mlx_audio.spk import load; model = load('campplus-zh-en')", "bundled"),
    ],
)
def test_an_entry_point_of_mlx_audio_loads_ours(
    python: Run, request: pytest.FixtureRequest, code: str, checkpoint: str, version: str
) -> None:
    folder = "" if checkpoint == "bundled" else request.getfixturevalue(checkpoint)
    env = {"PYTHONPATH": OLDEST} if version == plugin.OLDEST else {}
    code = f"import sys; from pathlib import Path; ref = sys.argv[1]\n{code}\n{TELL}"
    assert python(code, folder, env=env).succeeded().out == f"{PACKAGES[checkpoint]} {version} False\n"


def test_models_have_the_manners_of_mlx_audio(python: Run, lid: Path, converted: Path, clip: Path) -> None:
    code = """
import json, sys
import mlx_audio
import numpy as np
from mlx_audio.utils import load_audio
lid, spk, clip = sys.argv[1:]
audio = load_audio(clip, sample_rate=16000)
model = mlx_audio.lid.load(lid)
pairs = [(label, score) for label, score in model.predict(audio, top_k=2)]
speaker = mlx_audio.load(spk)
half = speaker.encode(np.repeat(np.array(audio), 3), sample_rate=48000)
print(json.dumps({
    "pairs": pairs, "batch of one": model.predict(audio[None], 2) == pairs,
    "rates": [model.sample_rate, speaker.sample_rate],
    "embedding": speaker.encode(audio, 16000).tolist(), "no rate": speaker.encode(audio).tolist(),
    "shape": [type(half).__name__, half.shape],
}))
"""
    result = python(code, lid, converted, clip).succeeded().json
    plain = """
import json, sys, speech_zoo
lid, spk, clip = sys.argv[1:]
print(json.dumps([speech_zoo.load(lid).predict(clip, top_k=2), speech_zoo.load(spk).embed(clip).tolist()]))
"""
    pairs, embedding = python(plain, lid, converted, clip).succeeded().json
    assert result["pairs"] == pairs
    assert result["batch of one"]
    assert result["rates"] == [16000, 16000]
    assert result["embedding"] == result["no rate"] == embedding
    assert result["shape"] == ["array", [16]]


@pytest.mark.parametrize("version", VERSIONS)
def test_types_are_classified(python: Run, version: str) -> None:
    code = """
import json, sys
from mlx_audio.registry import classify_model, is_supported_model
types = ["campplus", "resnet34", " ResNet34", "wav2vec2_cls", "ecapa_tdnn", "whisper", "nobody", "", None]
names = [classify_model("resnet34", "org/whisper-resnet34"), classify_model("nobody", "org/whisper-tiny")]
known = is_supported_model("campplus")
print(json.dumps([[classify_model(name) for name in types], names, known, "mlx" in sys.modules]))
"""
    env = {"PYTHONPATH": OLDEST} if version == plugin.OLDEST else {}
    kinds, with_names, supported, imported = python(code, env=env).succeeded().json
    assert kinds == ["spk", "spk", "spk", "lid", "lid", "stt", None, None, None]
    assert with_names == ["spk", "stt"]
    assert supported
    assert not imported


def test_a_repo_of_ours_is_loaded_through_mlx_audio(
    hub: LoopbackHub, hub_env: dict[str, str], python: Run, lid: Path, original: Path
) -> None:
    """The converted repo is read by mlx-audio first; the second is an original that only we know."""
    hub.add("org/mms-lid-256-mlx", {file.name: file.read_bytes() for file in lid.iterdir()}, branch="v2")
    hub.add("org/mms-lid-256-mlx", {file.name: file.read_bytes() for file in lid.iterdir()})
    hub.add("org/wespeaker", {file.name: file.read_bytes() for file in original.iterdir()})
    code = """
import json, mlx_audio
models = [
    mlx_audio.load("org/mms-lid-256-mlx"),
    mlx_audio.lid.load("org/mms-lid-256-mlx", revision="v2", force_download=True),
    mlx_audio.spk.load("org/wespeaker"),
]
import sys
print(json.dumps([type(m).__module__.partition(".")[0] for m in models] + [
    any(name.startswith("mlx_audio.stt.models") for name in sys.modules)]))
"""
    result = python(code, env=hub_env)
    assert result.status == 0, result.err
    assert result.json == ["speech_zoo_wav2vec2_cls", "speech_zoo_wav2vec2_cls", "speech_zoo_resnet34", False]


def test_a_repo_of_ours_is_fetched_for_us_alone_and_then_from_the_cache(
    hub: LoopbackHub, hub_env: dict[str, str], python: Run, converted: Path
) -> None:
    hub.add("org/tiny-mlx", {file.name: file.read_bytes() for file in converted.iterdir()} | {"extra.py": b"1"})
    code = "import mlx_audio; print(type(mlx_audio.load('org/tiny-mlx')).__module__)"
    for _ in range(2):
        assert python(code, env=hub_env).succeeded().out == "speech_zoo_resnet34.model\n"
        assert hub.downloads() == {"config.json", "model.safetensors"}
    hub.requests.clear()
    code = "import mlx_audio; mlx_audio.spk.load('org/tiny-mlx', force_download=True)"
    python(code, env=hub_env)
    assert hub.downloads() >= {"config.json", "model.safetensors"}
    hub.stop()
    code = "import mlx_audio; print(type(mlx_audio.load('org/tiny-mlx')).__module__)"
    assert python(code, env=hub_env).out == "speech_zoo_resnet34.model\n"


def test_errors_of_the_hub_are_those_of_mlx_audio(hub: LoopbackHub, hub_env: dict[str, str], python: Run) -> None:
    """No such repo or revision, no access, offline, a config that is damaged, no weights."""
    hub.add("org/whisper-gated", {"config.json": b'{"model_type": "whisper"}'})
    hub.add("org/whisper-bad", {"config.json": b"{", "model.safetensors": b""})
    hub.add("org/whisper-empty", {"config.json": b'{"model_type": "whisper"}'})
    hub.gated.add("org/whisper-gated")
    code = """
import json, os, sys
import mlx_audio.utils, mlx_audio.lid
outcomes = []
for load, ref, options in [
    (mlx_audio.utils.load_model, "org/whisper-none", {}), (mlx_audio.utils.load_model, "org/whisper-gated", {}),
    (mlx_audio.utils.load_model, "org/whisper-bad", {}), (mlx_audio.utils.load_model, "org/whisper-empty", {}),
    (mlx_audio.lid.load, "org/whisper-empty", {"revision": "v9"}), (mlx_audio.lid.load, "org/whisper-gated", {}),
    (mlx_audio.utils.load_model, "whisper", {}), (mlx_audio.utils.load_model, "./whisper", {}),
]:
    try:
        load(ref, **options)
    except Exception as error:
        said = str(error).splitlines()[0].partition(" (Req")[0]
        outcomes.append([kind.__name__ for kind in type(error).__mro__] + [said])
print(json.dumps(outcomes))
"""
    for more in ({}, {"HF_HUB_OFFLINE": "1"}):
        runs = []
        for switch in (OFF, {}):
            env = hub_env | {"HF_HOME": f"{hub_env['HF_HOME']}/{len(more)}{len(switch)}"} | switch | more
            runs.append(json.loads(python(code, env=env).out.splitlines()[-1]))
        assert len(runs[0]) == 8
        assert runs[1] == runs[0]


def test_what_mlx_audio_knows_stays_with_it(python: Run, lid_source: Path, original: Path) -> None:
    """Its own checkpoints, also of a type that we have too, and its own errors; what it cannot place is for us."""
    code = """
import json, sys
from pathlib import Path
import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_audio import lid, utils
from mlx_audio.lid.models.ecapa_tdnn import Model, ModelConfig

settings = dict(n_mels=60, channels=16, res2net_scale=2, se_channels=8, attention_channels=8, embedding_dim=8,
                classifier_hidden_dim=8, num_classes=2, id2label={"0": "eng: English", "1": "fra: French"})
folder = Path("theirs")
folder.mkdir(exist_ok=True)
mx.save_safetensors("theirs/model.safetensors", dict(tree_flatten(Model(ModelConfig(**settings)).parameters())))
(folder / "config.json").write_text(json.dumps(settings | {"model_type": "ecapa_tdnn"}))
outcomes = []
for load in (lid.load, utils.load_model):
    for ref in ("theirs", Path("theirs"), sys.argv[1], "/nowhere", sys.argv[2]):
        try:
            outcomes.append(type(load(ref)).__module__)
        except Exception as error:
            outcomes.append(repr(error))
print(json.dumps(outcomes))
"""
    runs = [python(code, lid_source, original, env=env) for env in (OFF, {})]
    without, with_us = (json.loads(run.out.splitlines()[-1]) for run in runs)
    assert with_us[:4] == without[:4]
    assert with_us[5:9] == without[5:9]
    assert without[2] == without[7] == "mlx_audio.lid.models.wav2vec2.wav2vec_lid"
    assert without[9].startswith("FileNotFoundError('Config not found")
    assert "for speaker-embedding: load it with mlx_audio.spk.load" in with_us[4]
    assert with_us[9] == "speech_zoo_resnet34.model"


# Conversion


def test_mlx_audio_converts_ours(
    run_process: Run, python: Run, lid_source: Path, original: Path, tmp_path: Path
) -> None:
    convert = [sys.executable, "-m", "mlx_audio.convert"]
    result = run_process([*convert, "--hf-path", original, "--mlx-path", "spk", "--dtype", "float16"], tmp_path)
    assert result.succeeded().out.endswith("[INFO] Conversion complete! Model saved to spk\n")
    options = ["--hf-path", lid_source, "-q", "--q-bits", "8"]
    run_process([Path(sys.executable).with_name("mlx_audio.convert"), *options], tmp_path).succeeded()
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("spk", "mlx_model")]
    assert [config["model_type"] for config in configs] == ["resnet34", "wav2vec2_cls"]
    assert configs[1]["quantization"]["bits"] == 8
    code = "import mlx_audio; print([mlx_audio.load(f'./{name}').config.task for name in ('spk', 'mlx_model')])"
    assert python(code).succeeded().out == "['speaker-embedding', 'language-identification']\n"

    again = run_process([*convert, "--hf-path", original, "--mlx-path", "spk"], tmp_path)
    assert again.status == 1
    assert again.err.startswith("error: spk exists already; give a new or empty folder; --force of speech-zoo convert")


# Switched off, switched on by hand, and interpreters that never import mlx_audio


def test_it_is_switched_off_and_on_by_hand(python: Run, lid: Path) -> None:
    code = """
import json, sys
import mlx_audio, mlx_audio.lid
before = [hasattr(mlx_audio, name) for name in ("load", "spk")]
import speech_zoo
speech_zoo.register()
speech_zoo.register()
wrapped = mlx_audio.lid.utils.load_model
model = mlx_audio.lid.load(sys.argv[1])
again = mlx_audio.lid.load_model(sys.argv[1])
print(json.dumps([before, type(model).__module__, hasattr(wrapped.__wrapped__, "__wrapped__"),
                  type(again).__module__, hasattr(mlx_audio, "nothing")]))
"""
    result = python(code, lid, env=OFF)
    assert result.status == 0, result.err
    assert result.json == [[False, False], *["speech_zoo_wav2vec2_cls.model", False] * 2]


def test_an_interpreter_without_mlx_audio_imports_one_module(python: Run) -> None:
    code = "import sys; print([name for name in sys.modules if name.startswith(('speech_zoo', 'mlx'))])"
    assert python(code).succeeded().out == "['speech_zoo_autoload']\n"
    code = "import json, importlib.util, sys; importlib.util.find_spec('mlx_audio'); print('speech_zoo' in sys.modules)"
    assert python(code).succeeded().out == "False\n"


# What goes wrong


def test_a_failing_hook_never_breaks_mlx_audio(python: Run, tmp_path: Path) -> None:
    """With a broken speech_zoo, and where warnings are errors, too."""
    broken = tmp_path / "path" / "speech_zoo"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise OSError('broken on purpose')")
    code = "import mlx_audio, mlx_audio.lid, mlx_audio.registry; print(mlx_audio.registry.classify_model('whisper'))"
    message = "mlx-speech-zoo's plugin for mlx_audio does not work here: broken on purpose; use speech_zoo.load instead"
    for more in ({}, {"PYTHONWARNINGS": "error"}):
        result = python(code, env={"PYTHONPATH": str(broken.parent), **more})
        assert (result.status, result.out) == (0, "stt\n"), result.err
        assert result.err.count(message) == 1


def test_an_unknown_layout_of_mlx_audio_is_told(python: Run, tmp_path: Path, lid: Path) -> None:
    package = tmp_path / "path" / "mlx_audio"
    (package / "lid").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "def load(name, dtype=None): return f'their {name}'\ndef __getattr__(name): return 7"
    )
    (package / "utils.py").write_text("def load_anything(name): pass\ndef load_config(name): return {}")
    (package / "lid" / "__init__.py").write_text("def load(path, **kwargs): return f'their {path}'")
    code = f"""
import mlx_audio, mlx_audio.utils, mlx_audio.lid
print(mlx_audio.load("x"), mlx_audio.lid.load("y"), mlx_audio.seven)
print(type(mlx_audio.load({str(lid)!r}, dtype="float32")).__module__, type(mlx_audio.lid.load({str(lid)!r})).__module__)
"""
    result = python(code, env={"PYTHONPATH": str(package.parent)})
    assert result.status == 0, result.err
    assert result.out == "their x their y 7\nspeech_zoo_wav2vec2_cls.model speech_zoo_wav2vec2_cls.model\n"
    assert result.err.count("RuntimeWarning") == 1
    assert (
        "has no mlx_audio.utils.load_model (known to work: mlx-audio 0.4.8 to 0.6.2); use speech_zoo.load" in result.err
    )


def test_two_packages_with_one_type(python: Run, tmp_path: Path, converted: Path) -> None:
    info = tmp_path / "path" / "rival_zoo-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rival-zoo\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[speech_zoo.models]\nresnet34 = rival:SPEC\n")
    env = {"PYTHONPATH": str(info.parent)}
    message = last_line(python("import sys, mlx_audio; mlx_audio.load(sys.argv[1])", converted, env=env))
    assert "RegistryError: two packages register the model type 'resnet34': " in message
    assert "rival-zoo" in message
    assert "mlx-speech-zoo-resnet34" in message
    code = "from mlx_audio.registry import classify_model as c; print(c('whisper'), c('campplus'))"
    assert python(code, env=env).succeeded().out == "stt spk\n"


def test_configs_that_nobody_can_load(python: Run, tmp_path: Path, converted: Path, lid: Path) -> None:
    """A type that nobody knows; our type with other weights; a model for another task; a folder that is not there."""
    config = (converted / "config.json").read_text()
    for name, text in {
        "unknown": '{"model_type": "nobody"}',
        "liar": config,
        "bare": '{"model_type": "resnet34"}',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
        (tmp_path / name / "model.safetensors").write_bytes((lid / "model.safetensors").read_bytes())
    code = """
import sys
import mlx_audio
for load, ref in [
    (mlx_audio.load, "unknown"), (mlx_audio.load, "liar"), (mlx_audio.load, "bare"),
    (mlx_audio.lid.load, sys.argv[1]), (mlx_audio.spk.load, sys.argv[2]), (mlx_audio.load, "/nowhere"),
]:
    try:
        load(ref)
    except Exception as error:
        print([kind.__name__ for kind in type(error).__mro__], error)
"""
    result = python(code, converted, lid)
    assert result.status == 0, result.err
    unknown, liar, bare, not_lid, not_spk, nowhere = result.out.splitlines()
    assert "SpeechZooError" in unknown and "ValueError" in unknown
    assert f"unknown model_type 'nobody'; known: {', '.join(registry.model_types())}" in unknown
    assert "known to mlx-audio: " in unknown and "whisper" in unknown
    assert "CheckpointError" in liar and "missing" in liar
    assert "SpeechZooError" in bare and "embed_dim" in bare
    assert "is for speaker-embedding: load it with mlx_audio.spk.load" in not_lid
    assert "is for language-identification: load it with mlx_audio.lid.load" in not_spk
    assert "Local path not found: /nowhere" in nowhere and "SpeechZooError" not in nowhere
