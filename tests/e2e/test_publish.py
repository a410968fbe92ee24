"""The whole way of a published checkpoint: its repo on the Hub, convert, check, card, upload, and a stranger loads it.

`nox -s parity` runs it too: there the original is installed, and `check` compares with it.
"""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch_files
from huggingface_hub import metadata_load
from loopback_hub import TOKEN, LoopbackHub
from source_weights import source_weights
from speech_zoo_resnet34.oracle import EXAMPLE

Run = Callable[..., Any]
HAS_ORACLE = all(find_spec(name) for name in ("torch", "wespeaker", "kaldi_native_fbank"))
NAME, REPO = "wespeaker-resnet34-lm", "Wespeaker/wespeaker-voxceleb-resnet34-LM"
CONFIG_YAML = """\
model: ResNet34
model_args: {feat_dim: 80, embed_dim: 256, pooling_func: TSTP, two_emb_layer: false}
dataset_args: {fbank_args: {num_mel_bins: 80, frame_length: 25, frame_shift: 10, dither: 1.0}, resample_rate: 16000}
"""
EMBED = "import sys, speech_zoo; print(speech_zoo.load(sys.argv[1]).embed(sys.argv[2]).tolist())"


def test_from_the_source_to_a_strangers_machine(
    hub: LoopbackHub, hub_env: dict[str, str], cli: Run, python: Run, tmp_path: Path, clip: Path
) -> None:
    weights = torch_files.state_dict(source_weights(EXAMPLE.config, projection=True))
    model = torch_files.save_zip(tmp_path / "avg_model.pt", weights)
    commit = hub.add(REPO, {"avg_model.pt": model.read_bytes(), "config.yaml": CONFIG_YAML.encode()})
    env = hub_env | {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    folder, target = tmp_path / "out", "org/wespeaker-resnet34-lm-mlx"

    cli("convert", NAME, "out", env=env).succeeded()
    source = json.loads((folder / "config.json").read_text(encoding="utf-8"))["source"]
    assert (source["name"], source["repo"], source["revision"]) == (NAME, REPO, commit)

    checked = cli("check", "out", "--json", env=env)
    report = checked.json
    assert checked.status == (0 if HAS_ORACLE else 3)
    assert report == json.loads((folder / "parity.json").read_text(encoding="utf-8"))
    if HAS_ORACLE:
        assert report["passed"] is True
        assert report["oracle"]["name"] == "wespeaker-unofficial"
        assert len({row["clip"] for row in report["clips"]}) == 13
        assert all(row["cosine"] >= 0.999999 and row["features"] <= 1e-3 for row in report["clips"])
    else:
        assert report["passed"] is None
        assert any("pip install" in sentence for sentence in report["not_compared"])

    cli("card", "out", env=env).succeeded()
    metadata = metadata_load(folder / "README.md")
    assert (metadata["base_model"], metadata["license"], metadata["library_name"]) == (REPO, "cc-by-4.0", "mlx-audio")

    uploaded = cli("upload", "out", target, "--private", env=env)
    assert uploaded.status == 0
    assert ("nothing proves" in uploaded.err) is not HAS_ORACLE
    assert hub.repos[target].private
    assert [name for name in hub.repos[target].refs["main"].files if not name.startswith(".")] == [
        "README.md",
        "config.json",
        "model.safetensors",
        "parity.json",
    ]
    card = hub.repos[target].refs["main"].files["README.md"].decode()
    assert f'load("{target}")' in card
    assert "your-org" not in card

    here = python(EMBED, folder, clip).succeeded().out
    fresh = tmp_path / "stranger"
    there = python(EMBED, target, clip, env=env | {"HF_HOME": str(fresh)}).succeeded().out
    assert here == there
    assert f"/{target}/resolve/" in " ".join(hub.requests)
