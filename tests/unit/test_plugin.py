"""The plugin for mlx_audio: what is ours, what its import hook does, and mlx-audio's options for our conversion.

`tests/e2e/test_mlx_audio.py` has what users see.
"""

import sys
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import mlx.core as mx
import numpy as np
import pytest
import speech_zoo_autoload
from speech_zoo.plugin import convert as plugin_convert
from speech_zoo.plugin import load as plugin_load
from speech_zoo.plugin import patches as plugin
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import AudioError, ConfigError, RegistryError
from tiny_models import CONFIGS, model_of, tiny_source, voice, wespeaker_folder

SOURCE = {"form": "x", "converter": "mlx-speech-zoo 0.1.0"}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_converted_config_bears_our_marks(name: str) -> None:
    assert plugin_load.bears_our_marks({**to_dict(CONFIGS[name]), "source": SOURCE})


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "resnet34"},
        {"model_type": "ecapa_tdnn", "n_mels": 60, "channels": 1024},
        {"model_type": "ecapa_tdnn", "task": "language-identification"},
        {"model_type": "ecapa_tdnn", "task": "language-identification", "front_end": "fbank", "source": "hub"},
        {"model_type": "whisper", "task": "transcribe", "front_end": {"kind": "mel"}},
        {"model_type": "whisper", "task": ["speaker-embedding"], "front_end": {"kind": "mel"}},
        {"task": "speaker-embedding", "source": SOURCE},
        {"model_type": "resnet34", "task": "speaker-embedding", "source": {"converter": "another 1.0"}},
    ],
)
def test_other_configs_do_not(config: Any) -> None:
    assert not plugin_load.bears_our_marks(config)


def test_a_path_wins_over_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert plugin_load.ours("campplus-zh-en") == "campplus-zh-en"
    assert plugin_load.ours("mms-lid-256") == "mms-lid-256"
    for other in (
        "org/campplus-zh-en",
        "whisper-tiny",
        "/nowhere",
        "~nobody/x",
        "",
        "a/b/c",
        Path("mms-lid-256/x"),
        None,
    ):
        assert plugin_load.ours(other) is None
    assert plugin_load.ours("org/x", "../../x") is None
    (tmp_path / "campplus-zh-en").mkdir()
    assert plugin_load.ours("campplus-zh-en") is None
    for text in ("{", "[]", '""', '{"model_type": "resnet34"}'):
        (tmp_path / "campplus-zh-en" / "config.json").write_text(text)
        assert plugin_load.ours("campplus-zh-en") is None


# The import hook


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the plugin does with a module is to note what had happened until then."""
    seen: list[Any] = []
    monkeypatch.setattr(speech_zoo_autoload, "_patch", lambda module: seen.append(list(module.happened)))
    return seen


@pytest.fixture
def spec(tmp_path: Path) -> Iterator[Any]:
    """Of a module that notes what happens."""
    (tmp_path / "some_module.py").write_text("happened = ['executed']\n")
    yield spec_from_file_location("some_module", tmp_path / "some_module.py")


def run(spec: Any) -> ModuleType:
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_module_is_patched_after_one_import_and_nothing_is_left(spec: Any, patched: list[Any]) -> None:
    assert speech_zoo_autoload.patched_after_import(spec) is spec
    assert speech_zoo_autoload.patched_after_import(spec) is spec
    module = run(spec)
    assert patched == [["executed"]]
    assert type(module.__spec__.loader) is SourceFileLoader  # type: ignore[union-attr]
    assert not {"exec_module", "get_code"} & vars(spec.loader).keys()
    run(spec)
    assert len(patched) == 1


def test_python_m_runs_the_patched_module(spec: Any, patched: list[Any]) -> None:
    """As runpy does it: it asks for the code, and an import of the module is another one."""
    spec.name = speech_zoo_autoload.CONVERT
    speech_zoo_autoload.patched_after_import(spec)
    assert "main" in spec.loader.get_code("mlx_audio.convert").co_names
    spec.loader.name = spec.name
    assert run(spec).happened == ["executed"]
    assert patched == [["executed"]]
    assert "main" not in spec.loader.get_code("mlx_audio.convert").co_names


def test_an_error_of_the_plugin_is_a_warning(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise ValueError("of\ntwo lines")

    monkeypatch.setattr(speech_zoo_autoload, "_patch", fail)
    speech_zoo_autoload.patched_after_import(spec)
    with pytest.warns(RuntimeWarning, match="does not work here: of two lines; use speech_zoo.load") as caught:
        assert run(spec).happened == ["executed"]
    assert len(caught) == 1
    with pytest.warns(RuntimeWarning, match="does not work here"):
        assert speech_zoo_autoload.patched_after_import(ModuleSpec("no_loader", None)).loader is None


def test_where_warnings_are_errors_it_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        speech_zoo_autoload.attempt({}.__getitem__, "")
    assert "does not work here: ''; use speech_zoo.load" in capsys.readouterr().err


def test_an_error_of_the_module_itself_is_its_own(spec: Any, patched: list[Any]) -> None:
    Path(spec.origin).write_text("raise LookupError('mine')\n")
    speech_zoo_autoload.patched_after_import(spec)
    with pytest.raises(LookupError, match="mine"):
        run(spec)
    assert patched == []


def test_it_is_installed_once_and_never_when_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setenv("SPEECH_ZOO_AUTOLOAD", "0")
    speech_zoo_autoload.install()
    assert sys.meta_path == []
    monkeypatch.delenv("SPEECH_ZOO_AUTOLOAD")
    speech_zoo_autoload.install()
    speech_zoo_autoload.install()  # as site does it in some virtual environments
    assert [type(finder).__name__ for finder in sys.meta_path] == ["Finder"]
    for name in ("json", "mlx_audio", "mlx_audio.utils", "mlx_audio_x"):  # nobody else finds it
        assert sys.meta_path[0].find_spec(name) is None


def test_what_is_missing_is_named() -> None:
    module = ModuleType("mlx_audio.utils")
    with pytest.raises(RegistryError, match=r"has no mlx_audio\.utils\.load_model \(known to work: mlx-audio 0.4.8 to"):
        plugin.patch(module)


def test_loaders_get_what_they_were_called_with(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def load_model(model_path: str, lazy: bool = False, **kwargs: Any) -> str:
        calls.append((model_path, lazy, kwargs))
        return "theirs"

    monkeypatch.setattr(plugin_load, "load_ours", lambda kind, ref, **options: (ref, kind, options))
    loader = plugin_load.taking_ours(load_model, "lid")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert loader("org/whisper", True, revision="x") == "theirs"
    assert calls == [("org/whisper", True, {"revision": "x"})]
    ours = loader(model_path="mms-lid-256", revision="x")
    assert ours == ("mms-lid-256", "lid", {"revision": "x"})
    with pytest.raises(TypeError):
        loader()


# Models


def test_samples_without_a_rate_are_at_the_rate_of_the_model_only_for_mlx_audio() -> None:
    model = model_of(CONFIGS["basic"], tiny_source("basic"))
    samples = mx.array(voice(16000))
    with pytest.raises(AudioError, match="samples need their rate"):
        model.encode(samples)
    model.default_sample_rate = 16000
    expected = np.array(model.embed(samples, 16000))
    for given in (samples, np.array(samples), samples[None], (samples, 16000)):
        np.testing.assert_array_equal(np.array(model.encode(given)), expected)
    np.testing.assert_array_equal(np.array(model.embed_batch([samples])[0]), expected)
    assert model.sample_rate == 16000
    with pytest.raises(AudioError, match="must have shape"):
        model.encode(samples[None, None])


# Conversion


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"upload_repo": "org/x"}, "--upload-repo is not for the models of mlx-speech-zoo: publish the folder with"),
        ({"dequantize": True}, "--dequantize .*convert the original again"),
        ({"quantize": True, "quant_predicate": "mixed_2_6"}, "--quant-predicate"),
        ({"quantize": True, "q_mode": "mxfp4"}, "--q-mode .*only affine"),
        ({"quantize": True, "q_group_size": 64}, "--q-group-size .*only 32"),
        ({"quantize": True, "q_bits": 3}, "--q-bits .*only 8 or 4"),
    ],
)
def test_options_that_our_conversion_has_not(options: dict[str, Any], message: str) -> None:
    def theirs(hf_path: str, revision: str | None = None, model_domain: str | None = None, **more: Any) -> str:
        return "theirs"

    with pytest.raises(ConfigError, match=message):
        plugin_convert._convert("campplus-zh-en", options)
    assert plugin_convert.converting_ours(theirs)("campplus-zh-en", model_domain="stt", **options) == "theirs"


def test_what_is_for_our_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(name: str, config: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
        return tmp_path / name

    original = wespeaker_folder(tmp_path / "whisper-original", CONFIGS["basic"])
    assert plugin_convert.ours_to_convert(original)
    assert plugin_convert.ours_to_convert(str(original / "avg_model.pt"))
    assert plugin_convert.ours_to_convert("campplus-zh-en")
    classifier = '{"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForSequenceClassification"]}'
    assert plugin_convert.ours_to_convert(folder("classifier", classifier))
    assert not plugin_convert.ours_to_convert(
        folder("ctc", '{"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]}')
    )
    assert not plugin_convert.ours_to_convert(folder("strange", '{"model_type": "wav2vec2", "architectures": 5}'))
    assert not plugin_convert.ours_to_convert(folder("theirs", '{"model_type": "ecapa_tdnn", "n_mels": 60}'))
    assert not plugin_convert.ours_to_convert(folder("nobody", '{"model_type": "nobody"}'))
    assert not plugin_convert.ours_to_convert(tmp_path / "nowhere")
