"""A conversion, a threshold, a shard outlive a loss of power at any moment: the old one, the new one, or none."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from power_loss import Disk
from speech_zoo import embed_manifest
from speech_zoo.calibration import thresholds
from speech_zoo.calibration.det import Det
from speech_zoo_core.atomic import whole_folder, written_beside
from speech_zoo_core.conversion import convert
from speech_zoo_core.loader import load
from tiny_models import RESNET, tiny_model, voice, wespeaker_folder
from wavs import write_wav


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool) -> None:
    source = wespeaker_folder(tmp_path / "source", RESNET)
    place = tmp_path / "place"
    place.mkdir()
    out = place / "deep" / "out"
    if replaced:
        convert(source, out, "float16")
    wanted = np.array(load(source).embed((voice(16000), 16000)))
    disk = Disk(place, monkeypatch)
    convert(source, out, force=replaced)
    monkeypatch.undo()
    states = []
    for when, crash in disk.crashes(tmp_path / "crashes"):
        converted = crash / "deep" / "out"
        if not converted.exists():
            # While the old one makes way: it stands beside, and the next conversion finds it.
            assert not replaced or any(name.endswith(".old") for name in hidden(converted.parent)), when
            states.append("none")
            continue
        vector = np.array(load(converted).embed((voice(16000), 16000)))
        states.append(json.loads((converted / "config.json").read_text())["model_type"])
        assert np.allclose(vector, wanted, atol=2e-2 if replaced else 1e-6), when
    assert len(states) > 3
    assert states[-1] == "resnet34"
    kept = disk.kept(tmp_path) / "deep/out"
    assert (kept / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert (kept / "config.json").read_bytes() == (out / "config.json").read_bytes()


def test_what_made_way_is_put_back(tmp_path: Path) -> None:
    source = wespeaker_folder(tmp_path / "source", RESNET)
    out = convert(source, tmp_path / "out", "float16")
    before = (out / "model.safetensors").read_bytes()
    out.rename(tmp_path / ".out.0123abcd.old")
    with pytest.raises(KeyboardInterrupt), whole_folder(out):
        raise KeyboardInterrupt
    assert (out / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_a_threshold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "folder", lambda: tmp_path / "user")
    (tmp_path / "user").mkdir()
    det = Det.of(np.array([5, 6, 7, -2, -1, 0, 1, 6]) / 10, np.arange(8) < 4)
    calibration = thresholds.calibrate(det, "basic", "eer", 0.01, 1.0, 1.0)
    thresholds.store("a", calibration)
    disk = Disk(tmp_path / "user", monkeypatch)
    thresholds.store("b", calibration)
    monkeypatch.undo()
    states = []
    for when, crash in disk.crashes(tmp_path / "crashes"):
        monkeypatch.setattr(thresholds, "folder", lambda crash=crash: crash)
        states.append(sorted(thresholds.calibrations()))
        assert states[-1] in (["a"], ["a", "b"]), when
    assert states[0] == ["a"]
    monkeypatch.setattr(thresholds, "folder", lambda: disk.kept(tmp_path))
    assert sorted(thresholds.calibrations()) == ["a", "b"]


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speech_zoo.corpus.embedder.load", lambda ref, **_: tiny_model(ref))
    names = [f"{i}.wav" for i in range(3)]
    for i, name in enumerate(names):
        write_wav(tmp_path / name, voice(4000, seed=i))
    manifest = tmp_path / "files.jsonl"
    manifest.write_text("".join(f'{{"audio": "{name}"}}\n' for name in names), encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr("speech_zoo.corpus.parquet.PART_ROWS", 1)
    disk = Disk(out, monkeypatch)
    embed_manifest(manifest, out, "basic")
    monkeypatch.undo()
    for when, crash in disk.crashes(tmp_path / "crashes"):
        kept = ids(crash, when)
        assert kept == names[: len(kept)], when
    assert ids(disk.kept(tmp_path), "at the end") == names


def ids(folder: Path, when: str) -> list[str]:
    try:
        return [
            row["id"] for shard in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(shard).to_pylist()
        ]
    except OSError as error:
        raise AssertionError(f"a shard is damaged {when}") from error


def test_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "a.json").write_text("old", encoding="utf-8")
    disk = Disk(place, monkeypatch)
    with written_beside(place / "a.json") as beside:
        beside.write_text("new", encoding="utf-8")
    monkeypatch.undo()
    states = [(crash / "a.json").read_text() for _, crash in disk.crashes(tmp_path / "crashes")]
    assert set(states) == {"old", "new"}
    assert (disk.kept(tmp_path) / "a.json").read_text() == "new"
