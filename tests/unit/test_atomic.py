"""What may be replaced, what planted links reach, and what happens when two write to one place."""

import json
import os
import shutil
import stat
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from speech_zoo_core import conversion
from speech_zoo_core.atomic import whole_folder, written_beside
from speech_zoo_core.conversion import convert
from speech_zoo_core.errors import CheckpointError, SpeechZooError
from tiny_models import RESNET, wespeaker_folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return wespeaker_folder(tmp_path / "source", RESNET)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(path: Path) -> None:
    save_file({"a": np.zeros(3, np.float32)}, path)


def other(folder: Path, kind: str) -> Path:
    """A folder that is no conversion of ours."""
    folder.mkdir()
    config: dict[str, Any] = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2Model"]}
    weights(folder / "model.safetensors")
    if kind == "an adapter":
        weights(folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    if kind == "a model of a type of ours, by others":
        config = {"model_type": "resnet34", "source": {"converter": "mlx_audio 0.6"}}
    if kind == "weights with a suffix of ours":
        weights(folder / "my.safetensors")
    if kind == "a mark of another kind":
        config = {"model_type": "resnet34", "source": {"converter": ["mlx-speech-zoo 0.1.0"]}}
    if kind == "marks in a list":
        config = {"source": ["mlx-speech-zoo"]}
    if kind != "weights without a config":
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if kind == "a config that is no JSON":
        (folder / "config.json").write_bytes(b"mlx-speech-zoo\xff")
    if kind == "links to weights":
        (folder / "model.safetensors").rename(folder.parent / "kept.safetensors")
        (folder / "model.safetensors").symlink_to(folder.parent / "kept.safetensors")
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        "a model",
        "an adapter",
        "a model of a type of ours, by others",
        "weights with a suffix of ours",
        "weights without a config",
        "a mark of another kind",
        "marks in a list",
        "a config that is no JSON",
        "links to weights",
    ],
)
def test_what_is_no_conversion_of_ours_is_not_replaced(tmp_path: Path, source: Path, kind: str) -> None:
    out = other(tmp_path / "out", kind)
    before = content(out)
    with pytest.raises(CheckpointError, match="not replaced"):
        convert(source, out, force=True)
    assert content(out) == before


def test_a_conversion_of_ours_is_replaced(tmp_path: Path, source: Path) -> None:
    out = convert(source, tmp_path / "out", "float16")
    (out / "README.md").write_text("a card", encoding="utf-8")
    convert(source, out, force=True)
    assert sorted(content(out)) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("place", ["itself", "inside", "deep inside", "the folder of the file", "through a link"])
@pytest.mark.parametrize("force", [False, True])
def test_a_source_is_not_written_over(tmp_path: Path, source: Path, place: str, force: bool) -> None:
    given = converted = convert(source, tmp_path / "converted")
    before = content(tmp_path)
    if place == "the folder of the file":
        given = converted / "model.safetensors"
    if place == "through a link":
        given = tmp_path / "link"
        given.symlink_to(converted)
    out = converted / {"inside": "out", "deep inside": "a/out"}.get(place, "")
    with pytest.raises(CheckpointError, match=r"exists already|what is converted"):
        convert(given, out, force=force)
    with pytest.raises(CheckpointError, match="what is converted"):
        convert(given, out, force=True)
    shutil.rmtree(tmp_path / "link", ignore_errors=True)
    assert {name: data for name, data in content(tmp_path).items() if not name.startswith("link")} == before


def test_a_source_of_links_into_the_place(tmp_path: Path, source: Path) -> None:
    out = convert(source, tmp_path / "out")
    links = tmp_path / "links"
    links.mkdir()
    for path in out.iterdir():
        (links / path.name).symlink_to(path)
    with pytest.raises(CheckpointError, match="what is converted"):
        convert(links, out, "float16", force=True)
    assert sorted(content(out)) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("dangling", [False, True])
def test_a_place_that_is_a_link(tmp_path: Path, source: Path, dangling: bool) -> None:
    target = tmp_path / "target"
    if not dangling:
        target.mkdir()
    (tmp_path / "out").symlink_to(target)
    with pytest.raises(CheckpointError, match="not a folder"):
        convert(source, tmp_path / "out")
    assert target.exists() != dangling


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("meanwhile", ["a thesis", "a conversion", "a file"])
def test_what_appears_meanwhile_stays(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str, force: bool
) -> None:
    out = tmp_path / "out"
    write = conversion.write_checkpoint

    def slow(*args: Any) -> Any:
        if meanwhile == "a file":
            out.write_text("mine", encoding="utf-8")
        else:
            out.mkdir()
            name = "thesis.tex" if meanwhile == "a thesis" else "model.safetensors"
            (out / name).write_bytes(b"mine")
        return write(*args)

    monkeypatch.setattr(conversion, "write_checkpoint", slow)
    with pytest.raises(CheckpointError, match=r"exists already|not replaced"):
        convert(source, out, force=force)
    assert "mine" in (out.read_text() if out.is_file() else b"".join(content(out).values()).decode())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_of_two_that_convert_to_one_place_one_succeeds(tmp_path: Path, source: Path) -> None:
    results: list[str] = []

    def run() -> None:
        try:
            convert(source, tmp_path / "out")
            results.append("done")
        except CheckpointError as error:
            results.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("done") == 1
    assert all("exists already" in text or "another process is writing" in text for text in results if text != "done")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


@pytest.mark.parametrize("name", [".out.partial", ".out.old", ".out.0123abcd.partial", ".out.0123abcd.old"])
def test_planted_links_are_not_followed_to_a_folder(tmp_path: Path, source: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "model.safetensors").write_bytes(b"precious")
    (tmp_path / name).symlink_to(victim)
    convert(source, tmp_path / "out")
    assert content(victim) == {"model.safetensors": b"precious"}


@pytest.mark.parametrize("name", [".a.json.part", ".a.json.0123abcd.part"])
def test_planted_links_are_not_followed_to_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").write_text("precious", encoding="utf-8")
    (tmp_path / name).symlink_to("victim")
    with written_beside(tmp_path / "a.json") as beside:
        beside.write_text("new", encoding="utf-8")
    assert (tmp_path / "victim").read_text(encoding="utf-8") == "precious"
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "new"


def test_names_cannot_be_foreseen_nor_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for _ in range(20):
        with written_beside(tmp_path / "a") as beside:
            names.add(beside.name)
        with whole_folder(tmp_path / "b") as folder:
            names.add(folder.name)
    assert len(names) == 40
    (tmp_path / "victim").write_text("precious", encoding="utf-8")
    monkeypatch.setattr("speech_zoo_core.atomic.token_hex", lambda _: "0123abcd")
    (tmp_path / ".a.0123abcd.part").symlink_to("victim")
    with pytest.raises(SpeechZooError, match="cannot be written"), written_beside(tmp_path / "a"):
        raise AssertionError("it was given away")
    assert (tmp_path / "victim").read_text(encoding="utf-8") == "precious"


def test_what_killed_writers_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".a.0123abcd.part").write_bytes(b"half")
    (tmp_path / ".a.notes.part").write_bytes(b"mine")
    with written_beside(tmp_path / "a") as first, written_beside(tmp_path / "a") as second:
        first.write_text("1", encoding="utf-8")
        second.write_text("2", encoding="utf-8")  # a live writer's is no leftover
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.notes.part", "a"]
    assert (tmp_path / "a").read_text(encoding="utf-8") == "1"


def test_a_folder_of_somebody_else_is_no_leftover(tmp_path: Path) -> None:
    mine = tmp_path / ".out.0123abcd.partial"
    mine.mkdir()
    (mine / "thesis.tex").write_text("mine", encoding="utf-8")
    with whole_folder(tmp_path / "out"):
        pass
    assert (mine / "thesis.tex").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "名" * 85])
def test_names_as_long_as_they_can_be(tmp_path: Path, name: str) -> None:
    with written_beside(tmp_path / name) as beside:
        beside.write_text("a", encoding="utf-8")
    assert (tmp_path / name).read_text(encoding="utf-8") == "a"


def test_permissions_are_the_usual_ones(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with written_beside(tmp_path / "a"), whole_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "b")]
    assert modes == [0o640, 0o750]


def test_without_a_current_folder(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        convert(source, "out")
    convert(source, tmp_path / "out")
