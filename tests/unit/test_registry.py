"""Model types are found through entry points, imported only when needed, and claimed by one package alone."""

import json
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file
from speech_zoo_core import registry
from speech_zoo_core.errors import CheckpointError, ConfigError, RegistryError
from speech_zoo_core.loader import load
from speech_zoo_core.registry import GROUP, ModelSpec
from speech_zoo_core.tasks.methods import TASKS
from tiny_models import RESNET, wespeaker_folder


def register(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    """Let exactly these model types be installed."""
    registered = tuple(EntryPoint(name, value, GROUP) for name, value in points)
    monkeypatch.setattr(registry, "registered", lambda path: registered)


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_installed_types() -> None:
    assert registry.model_types()
    assert registry.model_types() == sorted(registry.model_types())
    for spec in registry.specs():
        assert isinstance(spec, ModelSpec)
        assert registry.get(spec.model_type) is spec
        assert spec.task in TASKS


def test_an_unknown_type_lists_the_known_ones() -> None:
    with pytest.raises(RegistryError) as caught:
        registry.get("resnet99")
    assert "unknown model_type 'resnet99'" in str(caught.value)
    assert ", ".join(registry.model_types()) in str(caught.value)


def test_no_types_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    assert registry.model_types() == []
    assert registry.bundled() == {}
    with pytest.raises(RegistryError, match="known: none"):
        registry.get("resnet34")


def test_two_packages_with_one_type(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, ("campplus", "speech_zoo_campplus:SPEC"), ("campplus", "another_package:SPEC"))
    for call in (registry.model_types, registry.bundled, lambda: registry.get("campplus")):
        with pytest.raises(RegistryError) as caught:
            call()
        assert "'campplus'" in str(caught.value)
        assert "speech_zoo_campplus" in str(caught.value)
        assert "another_package" in str(caught.value)


def test_two_distributions_with_one_type_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "rival_zoo-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rival-zoo\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ncampplus = rival:SPEC\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RegistryError) as caught:
        registry.model_types()
    assert "rival-zoo" in str(caught.value)
    assert "mlx-speech-zoo-campplus" in str(caught.value)


def test_a_package_that_is_installed_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, *[("campplus", "speech_zoo_campplus:SPEC")] * 2)
    assert registry.model_types() == ["campplus"]


@pytest.mark.parametrize(
    ("name", "value"), [("campplus", "speech_zoo_campplus:Model"), ("other", "speech_zoo_campplus:SPEC")]
)
def test_a_package_that_registers_something_else(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    register(monkeypatch, (name, value))
    with pytest.raises(RegistryError, match=f"registers '{name}' with something else"):
        registry.get(name)


@pytest.mark.parametrize("value", ["package_that_is_gone:SPEC", "speech_zoo_campplus:NOTHING"])
def test_a_package_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    register(monkeypatch, ("broken", value))
    with pytest.raises(RegistryError, match="broken"):
        registry.get("broken")


def test_a_package_that_is_gone_bundles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, ("broken", "package_that_is_gone:SPEC"))
    assert registry.bundled() == {}


def test_bundled_checkpoints() -> None:
    assert "campplus-zh-en" in registry.bundled()
    for folder in registry.bundled().values():
        assert {"config.json", "model.safetensors", "LICENSE", "README.md"} <= {path.name for path in folder.iterdir()}


def test_bundled_checkpoints_are_found_without_importing_their_package() -> None:
    code = """
        import sys
        from speech_zoo_core import registry
        print("campplus-zh-en" in registry.bundled(), "campplus" in registry.model_types())
        print([name for name in sys.modules if name.startswith(("speech_zoo_campplus", "speech_zoo_resnet34"))])
        print("mlx.core" in sys.modules)
    """
    assert run(code).splitlines() == ["True True", "[]", "False"]


def test_one_type_is_imported_without_the_others() -> None:
    code = """
        import sys
        from speech_zoo_core import registry
        registry.get("resnet34")
        print("speech_zoo_resnet34" in sys.modules, "speech_zoo_campplus" in sys.modules)
    """
    assert run(code) == "True False"


# Through the loader


def folder_with(path: Path, config: Any) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({"a": np.ones(3, np.float32)}, path / "model.safetensors")
    return path


def test_a_config_with_an_unknown_type(tmp_path: Path) -> None:
    with pytest.raises(RegistryError) as caught:
        load(folder_with(tmp_path / "model", {"model_type": "whisper"}))
    assert "unknown model_type 'whisper'" in str(caught.value)
    assert "campplus" in str(caught.value)
    assert "resnet34" in str(caught.value)


@pytest.mark.parametrize("model_type", [5, ["resnet34"], {"a": 1}, True])
def test_a_config_whose_type_is_no_text(tmp_path: Path, model_type: Any) -> None:
    with pytest.raises(ConfigError, match="model_type must be a string"):
        load(folder_with(tmp_path / "model", {"model_type": model_type}))


def test_a_type_that_a_new_package_brings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Adding a family touches nothing else: a module on the path and its entry point are enough."""
    (tmp_path / "tiny_family.py").write_text(
        textwrap.dedent("""
            from dataclasses import dataclass
            import mlx.core as mx
            import mlx.nn as nn
            from speech_zoo_core import AudioModel, ModelSpec, SpeakerConfig

            @dataclass(frozen=True, kw_only=True)
            class ModelConfig(SpeakerConfig):
                pass

            class Model(nn.Module, AudioModel):
                min_frames = 1

                def __init__(self, config):
                    super().__init__()
                    self.config = config
                    self.a = mx.zeros(3)

                def __call__(self, x, lengths=None):
                    return mx.mean(x, axis=1)[:, :3] * self.a

                def sanitize(self, weights):
                    return weights

            SPEC = ModelSpec("tiny", "speaker-embedding", Model, ModelConfig, lambda source: None)
        """),
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    register(monkeypatch, ("tiny", "tiny_family:SPEC"), ("resnet34", "speech_zoo_resnet34:SPEC"))
    model = load(folder_with(tmp_path / "model", {"model_type": "tiny", "embed_dim": 3, "front_end": {"cmn": False}}))
    vector = model.embed(np.random.default_rng(0).standard_normal(8000).astype(np.float32) / 10, 16000, vad=False)
    assert vector.shape == (3,)
    assert float(mx.linalg.norm(vector)) == pytest.approx(1)


BROKEN = {
    "raises": "raise ValueError('broken\\n at birth')",
    "exits": "import sys; sys.exit('bye')",
    "no Python": "def (:",
    "divides": "1 / 0",
    "asserts": "assert False",
    "no SPEC": "",
}


@pytest.mark.parametrize("code", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_package_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    (tmp_path / "somebody.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebody", raising=False)
    register(monkeypatch, ("aaa", "somebody:SPEC"), ("resnet34", "speech_zoo_resnet34:SPEC"))
    with pytest.raises(RegistryError, match="somebody:SPEC registers 'aaa' but fails"):
        registry.get("aaa")
    assert load(wespeaker_folder(tmp_path / "source", RESNET)).config.embed_dim == 8  # others know it
    assert "somebody:SPEC registers 'aaa'" in caplog.text


@pytest.mark.parametrize("value", ["", ":", "a b:c", "no.such.package:SPEC", "json:dumps", "...", "json:x.y"])
def test_a_broken_entry_point(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    register(monkeypatch, ("aaa", value), ("campplus", "speech_zoo_campplus:SPEC"))
    assert "campplus-zh-en" in registry.bundled()
    with pytest.raises(RegistryError, match="registers 'aaa'"):
        registry.get("aaa")


def test_a_package_that_fails_at_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
    from speech_zoo_core.registry import ModelSpec
    SPEC = ModelSpec("aaa", "speaker-embedding", object, object, lambda source: {}["key"])
    """
    (tmp_path / "somebody.py").write_text(textwrap.dedent(code), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebody", raising=False)
    register(monkeypatch, ("aaa", "somebody:SPEC"))
    with pytest.raises(CheckpointError, match="cannot be read as aaa: KeyError"):
        load(wespeaker_folder(tmp_path / "source", RESNET))
