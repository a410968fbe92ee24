"""Export and import of a store as Parquet and safetensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from speech_zoo.voices import exchange as store_exchange
from speech_zoo.voices.database import Checkpoint, StoreFile
from speech_zoo.voices.exchange import Exchanged, export, load
from speech_zoo.voices.rows import Clip, Recording, add_clip, clips, put_recording, recordings
from speech_zoo_core.errors import InputError, SpeechZooError

DIM = 8
CHECKPOINT = Checkpoint("a" * 64, "m", DIM)


def unit(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f4")


def recording(path: str, count: int, seed: int) -> Recording:
    spans = np.stack([np.arange(count) * 1.5, np.arange(count) * 1.5 + 3], axis=1)
    return Recording(path, 10 + count, 2**62 + count, spans.astype("<f8").tobytes(), unit(count, seed).tobytes())


CLIPS = [Clip(f"Ann / 🎤 {i % 2}", f"{i:064x}", f"/x/{i}.wav", unit(1, i).tobytes()) for i in range(5)]
RECORDINGS = [recording(f"/r/ü {i}.wav", 1 + 3 * i, i) for i in range(4)]


def held(file: StoreFile) -> tuple[list[Clip], list[Recording]]:
    with file.reading() as db:
        return list(clips(file, db)), list(recordings(file, db))


@pytest.fixture
def file(tmp_path: Path) -> StoreFile:
    file = StoreFile(tmp_path / "a.sqlite")
    with file.writing(CHECKPOINT) as db:
        for clip in CLIPS:
            add_clip(db, clip)
        for item in RECORDINGS:
            put_recording(db, item)
    return file


@pytest.fixture(params=["parquet", "safetensors"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return tmp_path / f"export.{request.param}"


def test_what_was_exported_comes_back(file: StoreFile, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_exchange, "ROWS", 7)  # a recording's rows lie in two groups
    assert export(file, out) == Exchanged(5, 4, 22)
    other = StoreFile(out.with_name("b.sqlite"))
    assert load(other, out) == Exchanged(5, 4, 22)
    assert held(other) == (CLIPS, RECORDINGS) == held(file)
    with other.reading() as db:
        assert other.checkpoint(db) == CHECKPOINT


def test_import_adds_to_what_is_there(file: StoreFile, out: Path) -> None:
    export(file, out)
    other = StoreFile(out.with_name("b.sqlite"))
    own = [Clip("Own", "1" * 64, "x", unit(1, 9).tobytes()), CLIPS[2]]
    with other.writing(CHECKPOINT) as db:
        for clip in own:
            add_clip(db, clip)
        put_recording(db, recording(RECORDINGS[0].path, 5, 77))
        put_recording(db, recording("/own.wav", 2, 78))
    assert load(other, out) == Exchanged(4, 4, 22)
    assert load(other, out) == Exchanged(0, 4, 22)
    rows = held(other)
    assert sorted(rows[0], key=lambda clip: clip.digest) == sorted([own[0], *CLIPS], key=lambda clip: clip.digest)
    assert {item.path: item for item in rows[1]} == {
        "/own.wav": recording("/own.wav", 2, 78),
        **{item.path: item for item in RECORDINGS},
    }


def test_vectors_of_another_checkpoint_stay_out(file: StoreFile, out: Path) -> None:
    export(file, out)
    other = StoreFile(out.with_name("b.sqlite"))
    with other.writing(Checkpoint("b" * 64, "n", DIM)) as db:
        add_clip(db, CLIPS[0])
    with pytest.raises(SpeechZooError, match=r"holds vectors of n \(b+\), which cannot be compared .* m \(a+\)"):
        load(other, out)
    assert held(other) == (CLIPS[:1], [])


def test_other_programs_read_it(file: StoreFile, tmp_path: Path) -> None:
    export(file, tmp_path / "a.safetensors")
    tensors = load_file(tmp_path / "a.safetensors")
    assert {name: (x.shape, x.dtype.name) for name, x in tensors.items()} == {
        "clips": ((5, DIM), "float32"),
        "windows": ((22, DIM), "float32"),
        "spans": ((22, 2), "float64"),
    }
    pq = pytest.importorskip("pyarrow.parquet")
    export(file, tmp_path / "a.parquet")
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert (rows[0]["name"], rows[0]["start"], len(rows[0]["vector"])) == ("Ann / 🎤 0", None, DIM)
    assert (rows[-1]["name"], rows[-1]["file"], rows[-1]["start"], rows[-1]["end"]) == (None, "/r/ü 3.wav", 13.5, 16.5)


def test_wrong_names_and_empty_stores(file: StoreFile, tmp_path: Path) -> None:
    for call in (export, load):
        with pytest.raises(InputError, match=r"must end in \.parquet or \.safetensors"):
            call(file, tmp_path / "a.csv")
    with pytest.raises(SpeechZooError, match="does not exist"):
        load(file, tmp_path / "none.safetensors")
    with pytest.raises(SpeechZooError, match="cannot be written"):
        export(file, tmp_path / "none" / "a.safetensors")
    empty = StoreFile(tmp_path / "empty.sqlite")
    with empty.writing():
        pass
    with pytest.raises(SpeechZooError, match="nothing to export"):
        export(empty, tmp_path / "a.safetensors")
    with pytest.raises(SpeechZooError, match="there is no store"):
        export(StoreFile(tmp_path / "none.sqlite"), tmp_path / "a.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.sqlite", "empty.sqlite"]


def test_without_pyarrow(file: StoreFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_exchange, "find_spec", lambda name: None)
    for call in (export, load):
        with pytest.raises(SpeechZooError, match=r"pip install 'pyarrow>=17'"):
            call(file, tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, metadata: tensors.update(clips=tensors["clips"] * 2), "not of unit length"),
        (lambda tensors, metadata: tensors.update(windows=tensors["windows"] * np.nan), "not of unit length"),
        (lambda tensors, metadata: tensors.update(windows=tensors["windows"][:-1]), "as many windows"),
        (lambda tensors, metadata: tensors.update(spans=tensors["spans"][:, ::-1].copy()), "times of .* are none"),
        (lambda tensors, metadata: tensors.pop("clips"), "clips"),
        (lambda tensors, metadata: metadata.pop("identity"), "there is no 'identity'"),
        (lambda tensors, metadata: metadata.update(identity="x"), "is no SHA-256"),
        (lambda tensors, metadata: metadata.update(clips="[]"), "damaged"),
        (lambda tensors, metadata: metadata.update(clips=metadata["clips"].replace("Ann", "A\\u0000nn")), r"U\+0000"),
        (lambda tensors, metadata: metadata.update(clips=metadata["clips"].replace('"/x/0.wav"', "7")), "is missing"),
        (lambda tensors, metadata: metadata.update(files=metadata["files"].replace(", 14,", ", -2,")), "no number"),
        (lambda tensors, metadata: metadata.update(files=metadata["files"].replace(" 1.wav", " 0.wav")), "together"),
        (lambda tensors, metadata: metadata.update(files="{"), "damaged"),
    ],
)
def test_what_is_no_export_changes_nothing(
    file: StoreFile, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, str]], None], message: str
) -> None:
    from safetensors import safe_open

    path = tmp_path / "a.safetensors"
    export(file, path)
    tensors = load_file(path)
    with safe_open(path, "np") as opened:
        metadata = opened.metadata()
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    other = StoreFile(tmp_path / "b.sqlite")
    with pytest.raises(SpeechZooError, match=message):
        load(other, path)
    assert not other.path.exists()


def test_a_file_that_was_cut_off(file: StoreFile, out: Path) -> None:
    export(file, out)
    content = out.read_bytes()
    for size in (0, 5, len(content) // 2, len(content) - 1):
        out.write_bytes(content[:size])
        with pytest.raises(SpeechZooError, match="is no export of a store of voices, or is damaged"):
            load(StoreFile(out.with_name("b.sqlite")), out)


def test_parquet_of_another_shape(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    for columns in ({"x": [1]}, {"vector": [1]}, {"vector": [[1.0]]}):
        pq.write_table(pa.table(columns), path)
        with pytest.raises(SpeechZooError, match="is no export of a store of voices"):
            load(StoreFile(tmp_path / "b.sqlite"), path)
