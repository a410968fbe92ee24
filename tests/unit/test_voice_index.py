"""An index follows a folder: new, changed, removed and unusable files."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from speech_zoo.voices import exchange
from speech_zoo.voices.database import Checkpoint, StoreFile
from speech_zoo.voices.index import IndexReport, Skipped, update
from speech_zoo.voices.rows import recordings
from speech_zoo.voices.search import windows_of
from speech_zoo_core.errors import SpeechZooError

CHECKPOINT = Checkpoint("a" * 64, "m", 1)


class Folder:
    """A folder of files whose one vector is the number in them, and an index of it."""

    def __init__(self, path: Path) -> None:
        self.path = path / "recordings"
        self.path.mkdir()
        self.file = StoreFile(path / "index.sqlite")
        self.embedded: list[str] = []

    def write(self, name: str, text: str, time: int = 0) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, ns=(time, time))
        return path

    def embed(self, paths: list[str]) -> Any:
        def rows() -> Iterator[Any]:
            for path in paths:
                self.embedded.append(os.path.relpath(path, self.path))
                text = Path(path).read_text()
                windows = np.array([[0, 3.0]]).tobytes(), np.array([text or 0], "<f4").tobytes()
                yield path, windows if text else "is empty"

        return rows()

    def update(self, folder: Path | None = None) -> IndexReport:
        self.embedded.clear()
        return update(self.file, CHECKPOINT, folder or self.path, self.embed)

    @property
    def held(self) -> dict[str, float]:
        with self.file.reading(CHECKPOINT) as db:
            return {
                os.path.relpath(item.path, self.path): float(np.frombuffer(item.vectors, "<f4")[0])
                for item in recordings(self.file, db)
            }


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_only_new_and_changed_files_are_decoded(folder: Folder) -> None:
    folder.write("a.wav", "1")
    folder.write("deep/er/B.MP3", "2")
    folder.write("c.flac", "3")
    assert folder.update() == IndexReport(3, 0, 0, [], 3, 3)
    assert folder.update() == IndexReport(0, 3, 0, [], 3, 3)
    assert folder.embedded == []
    folder.write("a.wav", "4", time=1)  # later, of the same size
    folder.write("c.flac", "55")  # larger, of the same time
    folder.write("d.ogg", "6")
    (folder.path / "deep/er/B.MP3").unlink()
    assert folder.update() == IndexReport(3, 0, 1, [], 3, 3)
    assert sorted(folder.embedded) == ["a.wav", "c.flac", "d.ogg"]
    assert folder.held == {"a.wav": 4, "c.flac": 55, "d.ogg": 6}


def test_hidden_files_and_other_kinds_are_left_out(folder: Folder) -> None:
    for name in (".a.wav", ".hidden/a.wav", "notes.txt", "wav", "a.wav.part"):
        folder.write(name, "1")
    assert folder.update() == IndexReport(0, 0, 0, [], 0, 0)


def test_files_that_are_no_use_are_listed_and_tried_again(folder: Folder) -> None:
    folder.write("a.wav", "")
    folder.write("b.wav", "1")
    folder.write("c.wav", "1")
    os.mkfifo(folder.path / "d.wav")
    (folder.path / "e.wav").symlink_to("nowhere")
    folder.path.joinpath(os.fsdecode(b"f\xff.wav")).write_text("1")
    (folder.path / "g.wav").mkdir()
    for _ in range(2):
        report = folder.update()
        assert {Path(item.file).name: item.reason for item in report.skipped} == {
            "a.wav": "is empty",
            "d.wav": "is a pipe or device, not an audio file",
            "e.wav": "cannot be read: No such file or directory",
            "f\\udcff.wav": "has a name that is not UTF-8; rename it",
        }
        assert folder.held == {"b.wav": 1, "c.wav": 1}
    assert folder.embedded == ["a.wav"]
    folder.write("c.wav", "", time=1)  # what was known of it is no longer true
    assert Skipped(str(folder.path / "c.wav"), "is empty") in folder.update().skipped
    assert folder.held == {"b.wav": 1}


def test_another_folder_of_the_same_index_stays(folder: Folder) -> None:
    folder.write("one/a.wav", "1")
    folder.write("one two/b.wav", "2")
    assert folder.update(folder.path / "one").files == 1
    assert folder.update(folder.path / "one two").files == 1
    (folder.path / "one/a.wav").unlink()
    assert folder.update(folder.path / "one two").removed == 0
    assert folder.held == {"one/a.wav": 1, "one two/b.wav": 2}
    assert folder.update().removed == 1


def test_what_is_known_of_an_unreadable_folder_stays(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("closed/a.wav", "1")
    folder.write("open/a.wav", "2")
    folder.update()
    real = os.scandir

    def scandir(path: str) -> Any:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root may read every folder
    report = folder.update()
    assert (report.removed, report.files) == (0, 2)
    assert report.skipped == [Skipped(str(folder.path / "closed"), "cannot be read: Permission denied")]
    assert folder.held == {"closed/a.wav": 1, "open/a.wav": 2}


def test_what_was_done_before_a_failure_is_kept(folder: Folder) -> None:
    for i in range(5):
        folder.write(f"{i}.wav", "x" if i == 3 else "1")
    with pytest.raises(ValueError, match="x"):
        folder.update()
    assert sorted(folder.held) == ["0.wav", "1.wav", "2.wav"]
    folder.write("3.wav", "1")
    assert folder.update() == IndexReport(2, 3, 0, [], 5, 5)


def test_two_processes_may_index_one_folder_at_once(folder: Folder) -> None:
    for i in range(20):
        folder.write(f"{i}.wav", str(i))
    threads = [threading.Thread(target=folder.update) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folder.held == {f"{i}.wav": i for i in range(20)}


def test_no_folder(folder: Folder) -> None:
    for path in (folder.path / "none", folder.write("a.wav", "1"), Path("x" * 5000)):
        with pytest.raises(SpeechZooError, match="is no folder"):
            folder.update(path)
    assert not folder.file.path.exists()


# Windows of old, which may hold two people


def test_an_older_index_is_made_anew(folder: Folder, tmp_path: Path) -> None:
    """File by file: what was done when a run ends early need not be done again."""
    for name in ("a.wav", "b.wav", "c.wav"):
        folder.write(name, "1")
    folder.update()
    make_old(folder.file)
    assert folder.held == {"a.wav": 1, "b.wav": 1, "c.wav": 1}
    with pytest.raises(SpeechZooError, match=r"two people: .* index FOLDER --output .*index.sqlite does"):
        windows_of(folder.file, CHECKPOINT)
    folder.write("b.wav", "x")
    with pytest.raises(ValueError, match="x"):
        folder.update()
    with pytest.raises(SpeechZooError, match="two people"):
        windows_of(folder.file, CHECKPOINT)
    folder.write("b.wav", "2")
    assert folder.update() == IndexReport(2, 1, 0, [], 3, 3)
    assert windows_of(folder.file, CHECKPOINT).first.tolist() == [0, 1, 2, 3]
    assert folder.update() == IndexReport(0, 3, 0, [], 3, 3)


def test_older_rows_of_an_unreadable_folder_go(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("a.wav", "1")
    folder.update()
    make_old(folder.file)

    def scandir(path: str) -> Any:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert folder.update().removed == 1
    windows_of(folder.file, CHECKPOINT)


@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
def test_older_rows_come_back_as_such(folder: Folder, tmp_path: Path, suffix: str, monkeypatch: Any) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    folder.write("a.wav", "1")
    folder.update()
    fresh = StoreFile(tmp_path / "fresh.sqlite")
    exchange.export(folder.file, tmp_path / f"new{suffix}")
    exchange.load(fresh, tmp_path / f"new{suffix}")
    windows_of(fresh, CHECKPOINT)
    with monkeypatch.context() as patch:
        patch.setattr(exchange, "FORM", {})  # as exports were
        exchange.export(folder.file, tmp_path / f"old{suffix}")
    make_old(folder.file)
    exchange.export(folder.file, tmp_path / f"marked{suffix}")
    for name in ("old", "marked"):
        store = StoreFile(tmp_path / f"{name}.sqlite")
        assert exchange.load(store, tmp_path / f"{name}{suffix}").windows == 1
        with pytest.raises(SpeechZooError, match="two people"):
            windows_of(store, CHECKPOINT)


def make_old(file: StoreFile) -> None:
    with closing(sqlite3.connect(file.path)) as db:
        db.execute("PRAGMA user_version = 1")
