"""The export into mlx-audio, on the installed one; its whole suite runs in `nox -s upstream -- PATH`."""

import ast
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speech_zoo
from speech_zoo_core import registry
from tiny_models import CONFIGS, LID, RESNET, speechbrain_folder, wespeaker_folder
from wav2vec2_files import hf_folder

from upstream import __main__ as program
from upstream import edits, git, models, rewrite, suite
from upstream.tree import AnchorError, Tree, UpstreamError

# The wheel has no pyproject.toml; this one has what the edits look for.
PYPROJECT = """[project.optional-dependencies]
# Server dependencies
server = [
    "fastapi>=0.95.0",
]

all = [
    "fastapi>=0.95.0",
]
"""
FIXES, COMMITS = 5, 14
LOAD = """
import json, sys
import numpy as np
import mlx_audio
folders, clip = json.loads(sys.argv[1]), np.load(sys.argv[2])
for folder in folders:
    model = mlx_audio.load(folder)
    output = model.encode(clip) if model.config.task == "speaker-embedding" else model.logits(clip)
    np.save(folder + ".npy", np.array(output))
    print(type(model).__module__)
ours = {name for name in sys.modules if name.startswith("speech_zoo")} - {"speech_zoo_autoload"}  # of every interpreter
assert not ours, f"the export leans on our packages: {ours}"
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed mlx-audio as a source tree; do not change it."""
    folder = tmp_path_factory.mktemp("mlx-audio")
    spec = find_spec("mlx_audio")
    assert spec is not None and spec.origin is not None
    shutil.copytree(Path(spec.origin).parent, folder / "mlx_audio", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "README.md").write_text(str(metadata("mlx-audio").get_payload()), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def plan(released: Path) -> Tree:
    return program.plan(released, tidy=False)


@pytest.fixture(scope="module")
def exported(released: Path, plan: Tree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree after the export."""
    folder = tmp_path_factory.mktemp("exported") / "mlx-audio"
    shutil.copytree(released, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "plan", lambda _path: plan)
        assert program.export(folder, "speech-zoo", test=False)
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def small(folder: Path, released: Path, *more: str) -> Path:
    """A tree with the files that the edits touch, and no others."""
    touched = ["__init__", "version", "registry", "utils", "convert", "lid/__init__", "lid/utils"]
    touched += [f"lid/models/wav2vec2/{name}" for name in ("config", "wav2vec_lid")]
    touched += [f"lid/models/ecapa_tdnn/{name}" for name in ("mel", "ecapa_tdnn")]
    for name in [*(f"mlx_audio/{name}.py" for name in touched), "pyproject.toml", "README.md", *more]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(released / name, folder / name)
    return folder


def run_program(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["upstream", *arguments])
        patch.setattr(program, "plan", lambda path: real_plan(path, tidy=False))
        return program.main(), capsys.readouterr().err


real_plan = program.plan


def test_every_anchor_is_there_and_every_fix_has_a_test(plan: Tree) -> None:
    assert len(plan.commits) == COMMITS
    assert [commit.proof is not None for commit in plan.commits] == [True] * FIXES + [False] * (COMMITS - FIXES)
    for commit in plan.commits:
        title = commit.message.splitlines()[0]
        assert title.startswith(("fix(", "feat", "docs")) and len(title) <= 72
        assert title.startswith("docs") or any("/tests/test_" in path for path in commit.files), title


def test_no_import_of_ours_is_left(plan: Tree) -> None:
    for commit in plan.commits:
        for path, text in commit.files.items():
            if not path.endswith(".py"):
                continue
            for node in ast.walk(ast.parse(text)):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not any(name.startswith("speech_zoo") for name in names), (path, names)
            assert "speech_zoo" not in text, path
            assert "# GOLDEN" not in text, path


def test_only_what_the_models_need_goes_upstream() -> None:
    names = models.new_names()
    assert names["speech_zoo_campplus.model"] == "mlx_audio.spk.models.campplus.campplus"
    assert names["speech_zoo_core.layers"] == "mlx_audio.voice_id.layers"
    left_out = {"source", "registry", "loader", "checkpoint", "blas", "hub", "conversion", "proxy"}
    assert not left_out & {part for module in names for part in module.split(".")}


def test_a_checkout_gets_a_branch_of_commits(exported: Path) -> None:
    assert git.git(exported, "status", "--porcelain") == ""
    assert git.git(exported, "rev-parse", "--abbrev-ref", "HEAD") == "speech-zoo"
    assert git.git(exported, "rev-list", "--count", "main..speech-zoo") == str(COMMITS)
    assert git.git(exported, "diff", "--diff-filter=D", "--name-only", "main", "speech-zoo") == ""


def test_our_checkpoints_load_through_the_exported_tree(exported: Path, tmp_path: Path) -> None:
    sources = {
        "resnet34": wespeaker_folder(tmp_path / "a", RESNET),
        "campplus": wespeaker_folder(tmp_path / "b", CONFIGS["campplus"]),
        "ecapa": speechbrain_folder(tmp_path / "c", CONFIGS["ecapa_speechbrain"]),
        "ecapa-wespeaker": wespeaker_folder(tmp_path / "d", CONFIGS["ecapa_wespeaker"]),
        "voxlingua": speechbrain_folder(tmp_path / "e", LID),
        "mms-lid": hf_folder(tmp_path / "f"),
    }
    clip = speech()
    np.save(tmp_path / "clip.npy", clip)
    expected, folders = {}, []
    for name, source in sources.items():
        for bits in (None, 8) if name in ("mms-lid", "ecapa") else (None,):
            folder = speech_zoo.convert(source, tmp_path / f"{name}-{bits}-mlx", bits=bits)
            model = speech_zoo.load(folder)
            method = model.embed if model.config.task == "speaker-embedding" else model.logits
            expected[folder] = np.array(method(clip, sample_rate=16000))
            folders.append(str(folder))
    done = in_tree(exported, "-c", LOAD, json.dumps(folders), str(tmp_path / "clip.npy"))
    assert done.returncode == 0, done.stderr
    kinds = {line.split(".")[1] + "." + line.split(".")[3] for line in done.stdout.split()}
    assert kinds == {"spk.resnet34", "spk.campplus", "spk.ecapa_tdnn", "lid.wav2vec2_cls"}
    for folder, output in expected.items():
        found = np.load(f"{folder}.npy")
        assert np.abs(found - output).max() <= 1e-5 * max(1, np.abs(output).max()), folder.name


def test_exported_tests_pass(exported: Path) -> None:
    files = ("voice_id/tests/test_features.py", "spk/tests/test_resnet34.py", "tests/test_plugins.py")
    outcomes = suite.run(exported, *(f"mlx_audio/{name}" for name in files))
    assert len(outcomes) > 20 and set(outcomes.values()) == {"passed"}, outcomes


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("mlx_audio/__init__.py", "TRANSFORMERS_NO_ADVISORY_WARNINGS", "TRANSFORMERS_VERBOSITY"),
        ("mlx_audio/registry.py", "def classify_model(", "def classify_any("),
        ("mlx_audio/utils.py", '"vad": _get_vad_utils().load_model', '"vad": _get_vad_utils().load'),
        ("mlx_audio/convert.py", "_get_model_identifier(config)\n", "_identifier(config)\n"),
        ("mlx_audio/lid/utils.py", "MODEL_REMAPPING = {", "REMAPPING = {"),
        ("mlx_audio/lid/models/wav2vec2/wav2vec_lid.py", 'k == "masked_spec_embed"', '"masked_spec_embed" == k'),
        ("mlx_audio/lid/models/ecapa_tdnn/mel.py", "_htk_mel_filterbank", "_mel_filterbank"),
        ("README.md", "### Speech-to-Speech (STS)", "### Speech to speech"),
        ("pyproject.toml", "# Server dependencies", "# Server"),
    ],
)
def test_a_missing_anchor_stops_the_export(
    path: str, old: str, new: str, released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = small(tmp_path / "tree", released)
    text = (tree / path).read_text(encoding="utf-8")
    assert old in text
    (tree / path).write_text(text.replace(old, new), encoding="utf-8")
    before = snapshot(tree)
    status, message = run_program(str(tree), "--no-tests", capsys=capsys)
    assert status == 1 and message.startswith("error: ") and message.count("\n") == 1
    assert path in message and "anchor" in message and repr(old)[1:-1] in message
    assert snapshot(tree) == before


def test_an_anchor_that_stands_twice(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    x = 1\n\n\ndef g():\n    x = 1\n")
    tree = Tree(tmp_path)
    with pytest.raises(AnchorError, match="stands 2 times"):
        tree.replace("a.py", "x = 1", "x = 2")
    tree.replace("a.py", "x = 1", "x = 2", within="g")
    assert tree.read("a.py") == "def f():\n    x = 1\n\n\ndef g():\n    x = 2\n"
    with pytest.raises(AnchorError, match="is there already"):
        tree.create("a.py", "")


def test_edits_that_leave_no_python(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    tree = Tree(tmp_path)
    tree.replace("a.py", "x = 1", "x = ")
    with pytest.raises(AnchorError, match=r"a\.py is no Python"):
        tree.commit("broken")


def test_a_newer_version_is_said(
    released: Path, tmp_path: Path, plan: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = small(tmp_path / "tree", released)
    (tree / "mlx_audio" / "version.py").write_text('__version__ = "9.9.9"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "plan", lambda path: real_plan(path, tidy=False))
        program.export(tree, "speech-zoo", test=False)
    assert "this is mlx-audio 9.9.9; the edits are made for 0.6.2" in capsys.readouterr().out


def test_what_is_refused(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no source tree of mlx-audio" in run_program(str(tmp_path), capsys=capsys)[1]
    tree = small(tmp_path / "tree", released)
    git.git(tree, "init", "--quiet", "--initial-branch=main")
    assert "has changes that are not committed" in run_program(str(tree), capsys=capsys)[1]
    git.git(tree, "add", "--all")
    git.git(tree, "commit", "--quiet", "-m", "all")
    git.git(tree, "branch", "speech-zoo")
    assert "has a branch speech-zoo already" in run_program(str(tree), capsys=capsys)[1]
    assert git.git(tree, "rev-parse", "--abbrev-ref", "HEAD") == "main"


def test_who_commits(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setattr(program, "plan", lambda path: real_plan(path, tidy=False))
    unknown, known = small(tmp_path / "unknown", released), small(tmp_path / "known", released)
    program.export(unknown, "speech-zoo", test=False)
    assert git.git(unknown, "log", "-1", "--format=%an") == git.IDENTITY["NAME"]
    git.git(known, "init", "--quiet", "--initial-branch=trunk")
    git.git(known, "config", "user.name", "A Person")
    git.git(known, "config", "user.email", "person@example.org")
    git.git(known, "add", "--all")
    git.git(known, "commit", "--quiet", "-m", "all")
    program.export(known, "topic", test=False)
    assert git.git(known, "log", "-1", "--format=%an %ae") == "A Person person@example.org"
    assert git.git(known, "branch", "--format=%(refname:short)").split() == ["topic", "trunk"]


def test_docs_entries(released: Path, tmp_path: Path) -> None:
    tree = small(tmp_path / "tree", released)
    (tree / "docs" / "models").mkdir(parents=True)
    (tree / "docs" / "models" / "index.md").write_text("# Models\n\n## Speech-to-Speech (STS)\n")
    (tree / "mkdocs.yml").write_text("nav:\n  - Models:\n    - Voice Activity Detection: models/vad/index.md\n")
    last = program.plan(tree, tidy=False).commits[-1]
    assert set(last.files) == {
        "README.md",
        "mkdocs.yml",
        *(f"docs/models/{page}index.md" for page in ("", "spk/", "lid/")),
    }
    assert "models/spk/index.md" in last.files["mkdocs.yml"]
    index = last.files["docs/models/index.md"]
    assert index.index("| **CAM++** |") < index.index("| **MMS-LID** |") < index.index("## Speech-to-Speech")


def test_imports_are_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "import mlx.core as mx\n"
        "from speech_zoo_core.layers import (\n    a,\n    b as c,\n)  # why\n"
        "def f():\n    from . import dsp, conv as other\n    from .errors import E\n"
    )
    monkeypatch.setattr(rewrite, "source", lambda _module: text)
    names = {f"speech_zoo_core.{name}": f"mlx_audio.x.{name}" for name in ("layers", "dsp", "conv", "errors")}
    assert rewrite.rewritten("speech_zoo_core.tasks.speaker", names) == (
        "import mlx.core as mx\n"
        "from mlx_audio.x.layers import (a, b as c)  # why\n"
        "def f():\n    from mlx_audio.x import (dsp, conv as other)\n    from mlx_audio.x.errors import (E)\n"
    )
    with pytest.raises(UpstreamError, match=r"speech_zoo_core\.errors is not exported"):
        rewrite.rewritten("speech_zoo_core.tasks.speaker", {k: v for k, v in names.items() if "errors" not in k})


@pytest.mark.parametrize(
    "line", ["import speech_zoo_core.audio.decode", "from speech_zoo_core import load", "from . import nobody"]
)
def test_imports_that_cannot_be_rewritten(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "source", lambda _module: f"{line}\n")
    with pytest.raises(UpstreamError, match="line 1"):
        rewrite.rewritten("speech_zoo_core.tasks.speaker", {})


def test_a_change_of_ours_that_the_export_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "ADAPTED", [("tasks", "nothing like this", "")])
    with pytest.raises(UpstreamError, match=r"speech_zoo_core\.tasks: 'nothing like this' stands 0 times"):
        models.adapted("speech_zoo_core.tasks.speaker", models.new_names())


def test_every_family_is_exported() -> None:
    assert sorted(models.TYPES) == registry.model_types()
    assert {family.model_type for family in models.FAMILIES} == set(models.TYPES)


def speech() -> "np.ndarray[Any, Any]":
    from signals import waveforms

    return waveforms()["1 s"]


def in_tree(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(tree), "SPEECH_ZOO_AUTOLOAD": "0", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )


def test_templates_are_all_used(plan: Tree) -> None:
    made = {path for commit in plan.commits for path in commit.files}
    there = {path.relative_to(edits.TEMPLATES).as_posix() for path in edits.TEMPLATES.rglob("*") if path.is_file()}
    assert {path for path in there if not path.startswith("docs/") and "__pycache__" not in path} <= made
