"""A manifest to a folder of embeddings, in one process: what is read, written, resumed and refused."""

import fcntl
import json
import tracemalloc
import wave
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from speech_zoo import SpeechZooError, embed_manifest
from speech_zoo.corpus import parquet as corpus_folder
from speech_zoo.corpus import run as corpus
from speech_zoo.corpus.manifest import Entry, read
from speech_zoo.corpus.ranks import Ranks
from speech_zoo_core.errors import AudioError, ConfigError
from speech_zoo_core.identity import identity
from speech_zoo_core.tasks import audio_model
from tiny_models import RATE, tiny_model, voice

LENGTHS = [9000, 4000, 12345, 4000, 20000, 5000, 8000]


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """References name tiny models."""
    monkeypatch.setattr("speech_zoo.models.load", tiny_model)


def write_wav(path: Path, samples: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "clips"
    folder.mkdir()
    return [write_wav(folder / f"{i}.wav", voice(n, seed=i)) for i, n in enumerate(LENGTHS)]


def write_manifest(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries), encoding="utf-8")
    return path


@pytest.fixture
def manifest(tmp_path: Path, clips: list[Path]) -> Path:
    """Seven clips."""
    return write_manifest(tmp_path / "files.jsonl", [{"audio": f"clips/{clip.name}"} for clip in clips])


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of all shards by id, which must be unique."""
    found = [row for shard in shards(folder) for row in pq.ParquetFile(shard).read().to_pylist()]
    by_id = {row["id"]: row for row in found}
    assert len(by_id) == len(found)
    return by_id


def errors(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "errors.jsonl").read_text(encoding="utf-8").splitlines()]


def check_rows(folder: Path, clips: list[Path], model: str = "basic") -> None:
    """Every clip is there once and has its own embedding."""
    found = rows(folder)
    assert found.keys() == {f"clips/{clip.name}" for clip in clips}
    for clip in clips:
        row = found[f"clips/{clip.name}"]
        assert row["audio"] == row["id"]
        np.testing.assert_allclose(row["embedding"], np.array(tiny_model(model).embed(clip)), atol=1e-6)


# Manifests


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense", "not a JSON object"),
        ('["a.wav"]', "not a JSON object"),
        ('{"audio": "a.wav"', "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ('{"audio": "\xff"}', "not a JSON object"),  # written as Latin-1
        ('{"wave": "a.wav"}', "names no audio file; its path goes under audio, audio_filepath, file_name"),
        ('{"audio": ""}', "audio must be a text that is not empty, not ''"),
        ('{"audio": 5}', "audio must be a text that is not empty, not 5"),
        ('{"file_name": null}', "file_name must be a text"),
        ('{"audio": "a.wav", "id": ""}', "id must be a text that is not empty"),
        ('{"audio": "a.wav", "id": true}', "id must be a text that is not empty, not True"),
        ('{"audio": "a\\udcff.wav"}', "audio must be a text"),
        ('{"audio": "0.wav"}', "the id '0.wav' was used before"),
        ('{"audio": "b.wav", "id": "0.wav"}', "the id '0.wav' was used before"),
        ('{"audio_filepath": "a.wav", "offset": 2.5, "duration": 1.0}', "offset is not supported"),
    ],
)
def test_a_line_that_is_no_entry(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "files.jsonl"
    path.write_bytes(b'{"audio": "0.wav"}\n\n' + line.encode("latin-1") + b'\n{"audio": "9.wav"}\n')
    with pytest.raises(SpeechZooError) as error:
        embed_manifest(path, tmp_path / "out")
    assert str(error.value).startswith(f"{path}, line 3: {says}")
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n \n")
    for name, says in (
        ("none.jsonl", "none.jsonl cannot be read: No such file"),
        ("", "is a folder, not a manifest file"),
        ("empty.jsonl", 'empty.jsonl is empty: it needs a line {"audio": "path"} for each file'),
    ):
        with pytest.raises(SpeechZooError, match=says):
            embed_manifest(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_line_may_be(tmp_path: Path) -> None:
    path = tmp_path / "files.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"audio": "a.wav", "speaker": [1]}\r\n'
        b'{"audio_filepath": "b.wav", "offset": 0.0, "text": "two"}\n\n'
        b'{"file_name": "c d/\xf0\x9f\x8e\xa4.wav", "id": 17}\n'
        b'{"audio": "a.wav", "file_name": "x.wav", "id": "again"}'
    )
    manifest, ids = read(path)
    assert ids == {"a.wav", "b.wav", "17", "again"}
    assert list(manifest.share(ids, 0, 1)) == [
        Entry("a.wav", "a.wav"),
        Entry("b.wav", "b.wav"),
        Entry("17", "c d/🎤.wav"),
        Entry("again", "a.wav"),
    ]


@given(ids=st.sets(st.text(min_size=1).filter(lambda text: text.isprintable()), min_size=1), data=st.data())
def test_ranks_share_what_is_pending(tmp_path_factory: pytest.TempPathFactory, ids: set[str], data: Any) -> None:
    path = tmp_path_factory.mktemp("manifest") / "files.jsonl"
    manifest, found = read(write_manifest(path, [{"audio": "a.wav", "id": id} for id in sorted(ids)]))
    assert found == ids
    pending = data.draw(st.sets(st.sampled_from(sorted(ids))))
    size = data.draw(st.integers(1, 5))
    path.write_text(path.read_text(encoding="utf-8") + "added later", encoding="utf-8")
    shares = [[entry.id for entry in manifest.share(pending, rank, size)] for rank in range(size)]
    assert sorted(id for share in shares for id in share) == sorted(pending)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# What is written


def test_a_folder_of_embeddings(tmp_path: Path, manifest: Path, clips: list[Path]) -> None:
    result = embed_manifest(manifest, tmp_path / "new" / "out", "basic")
    out = tmp_path / "new" / "out"
    assert (result.embedded, result.skipped, result.already_done, result.ranks) == (7, 0, 0, 1)
    assert result.audio_seconds == pytest.approx(sum(LENGTHS) / RATE, abs=0.001)
    assert [item.name for item in sorted(out.iterdir())] == [".lock", "part-00000-00000.parquet"]
    check_rows(out, clips)
    assert [row["seconds"] for row in rows(out).values()] == [n / RATE for n in LENGTHS]
    schema = pq.read_schema(shards(out)[0])
    assert str(schema.field("embedding").type).startswith("fixed_size_list<")
    facts = json.loads(schema.metadata[b"speech_zoo"])
    assert facts["identity"] == identity(tiny_model("basic"))
    assert (facts["model"], facts["dimension"]) == ("basic", tiny_model("basic").config.embed_dim)


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("model", ["basic", "ecapa_speechbrain"])
def test_batches_by_length(
    tmp_path: Path, manifest: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """As on a GPU: within a window, short clips come first, and a file that cannot be read is no part of a batch."""
    monkeypatch.setattr(corpus, "on_cpu", lambda: False)
    monkeypatch.setattr(corpus, "WINDOW_CLIPS", 5)
    monkeypatch.setattr(corpus, "CHUNK_CLIPS", 3)
    with manifest.open("a") as file:
        file.write('{"audio": "clips/none.wav"}\n')
    result = embed_manifest(manifest, tmp_path / "out", model)
    assert (result.embedded, result.skipped) == (7, 1)
    seconds = [row["seconds"] for row in rows(tmp_path / "out").values()]
    assert [a > b for a, b in pairwise(seconds)] == [False] * 4 + [True, False]  # windows of five and of two
    check_rows(tmp_path / "out", clips, model)


def test_a_window_is_bounded_in_seconds(
    tmp_path: Path, manifest: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "on_cpu", lambda: False)
    monkeypatch.setattr(corpus, "WINDOW_SECONDS", 1.0)
    embed_manifest(manifest, tmp_path / "out", "basic")
    order = [row["seconds"] * RATE for row in rows(tmp_path / "out").values()]
    assert order == [4000, 9000, 12345, 4000, 20000, 5000, 8000]
    check_rows(tmp_path / "out", clips)


def test_a_clip_whose_embedding_fails_does_not_fail_its_batch(
    tmp_path: Path, manifest: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(pair: Any) -> Any:
        if pair[0].size == LENGTHS[2]:
            raise AudioError("the embedding is not finite")
        return model.embed(pair)

    def embed_batch(pairs: Any) -> Any:
        return np.stack([embed(pair) for pair in pairs])

    model = tiny_model("basic")
    stub = type("Stub", (), {"config": model.config, "sample_rate": RATE, "_waveform": model._waveform})()
    stub.embed, stub.embed_batch = embed, embed_batch
    monkeypatch.setattr(corpus, "on_cpu", lambda: False)
    monkeypatch.setattr("speech_zoo.models.load", lambda ref: stub)
    monkeypatch.setattr(corpus, "identity", lambda model: "0" * 64)
    assert embed_manifest(manifest, tmp_path / "out").embedded == 6
    assert errors(tmp_path / "out") == [
        {"id": "clips/2.wav", "audio": "clips/2.wav", "error": "the embedding is not finite"}
    ]
    check_rows(tmp_path / "out", clips[:2] + clips[3:])


def test_a_file_that_does_not_fit_in_memory(
    tmp_path: Path, manifest: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_audio(path: Path, *_: Any) -> Any:
        if path == clips[5]:
            raise MemoryError
        return whole(path, *_)

    whole = audio_model.load_audio
    monkeypatch.setattr(audio_model, "load_audio", load_audio)
    assert embed_manifest(manifest, tmp_path / "out", "basic").embedded == 6
    assert [error["error"] for error in errors(tmp_path / "out")] == [
        f"{clips[5]} does not fit in memory; cut it into shorter files"
    ]


@pytest.mark.parametrize(("name", "value"), [("SHARD_ROWS", 3), ("SHARD_SECONDS", 0.0)])
def test_shards_are_closed_after_rows_or_seconds(
    tmp_path: Path, manifest: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    monkeypatch.setattr(corpus_folder, name, value)
    embed_manifest(manifest, tmp_path / "out", "basic")
    sizes = [pq.ParquetFile(shard).metadata.num_rows for shard in shards(tmp_path / "out")]
    assert sizes == ([3, 3, 1] if name == "SHARD_ROWS" else [1] * 7)
    check_rows(tmp_path / "out", clips)


# Files that cannot be read


def test_files_that_cannot_be_read(tmp_path: Path, manifest: Path, clips: list[Path]) -> None:
    bad = {
        "none.wav": None,
        "empty.wav": b"",
        "text.wav": b"these are words",
        "cut.wav": clips[0].read_bytes()[:500],
        "🎤 a b.wav": b"RIFF",
    }
    for name, data in bad.items():
        if data is not None:
            (tmp_path / "clips" / name).write_bytes(data)
    write_wav(tmp_path / "clips" / "silent.wav", np.zeros(RATE, np.float32))
    names = [*bad, "silent.wav", "", "x" * 5000, "nul\0.wav"]
    with manifest.open("a") as file:
        file.writelines(json.dumps({"audio": f"clips/{name}", "id": f"bad {name}"}) + "\n" for name in names)
    result = embed_manifest(manifest, tmp_path / "out", "basic")
    assert (result.embedded, result.skipped) == (7, len(names))
    listed = errors(tmp_path / "out")
    assert [(error["id"], error["audio"]) for error in listed] == [(f"bad {name}", f"clips/{name}") for name in names]
    reasons = ["does not exist", "empty", "cannot be decoded|not audio", "truncated", "not audio", "silent", "folder"]
    for error, reason in zip(listed, reasons, strict=False):
        assert any(part in error["error"] for part in reason.split("|")), error
    check_rows(tmp_path / "out", clips)


def test_a_folder_whose_name_is_not_unicode(tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"  # Latin-1 bytes
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    (folder / "files.jsonl").write_text('{"audio": "none.wav"}')
    assert embed_manifest(folder / "files.jsonl", tmp_path / "out", "basic").skipped == 1
    assert errors(tmp_path / "out")[0]["error"] == f"{folder}/none.wav does not exist"


def test_a_file_that_was_mended_is_done_on_the_next_run(
    tmp_path: Path, manifest: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    good = {i: clips[i].read_bytes() for i in (1, 4)}
    for i in good:
        clips[i].write_bytes(b"RIFF")
    other = write_manifest(tmp_path / "other.jsonl", [{"audio": "none.wav"}])
    assert embed_manifest(manifest, out, "basic").skipped == 2
    assert embed_manifest(other, out, "basic").skipped == 1
    clips[1].write_bytes(good[1])
    result = embed_manifest(manifest, out, "basic")
    assert (result.embedded, result.skipped, result.already_done) == (1, 1, 5)
    assert [error["id"] for error in errors(out)] == ["none.wav", "clips/4.wav"]
    clips[4].write_bytes(good[4])
    assert embed_manifest(manifest, out, "basic").embedded == 1
    assert [error["id"] for error in errors(out)] == ["none.wav"]
    check_rows(out, clips)


# Resuming


def test_only_new_files_are_done(tmp_path: Path, manifest: Path, clips: list[Path]) -> None:
    out = tmp_path / "out"
    first = write_manifest(tmp_path / "first.jsonl", [{"audio": f"clips/{i}.wav"} for i in (5, 2)])
    embed_manifest(first, out, "basic")
    before = shards(out)[0].read_bytes()
    result = embed_manifest(manifest, out, "basic")
    assert (result.embedded, result.already_done) == (5, 2)
    assert shards(out)[0].read_bytes() == before
    result = embed_manifest(manifest, out, "basic")
    assert (result.embedded, result.skipped, result.already_done, result.audio_seconds) == (0, 0, 7, 0)
    assert len(shards(out)) == 2
    check_rows(out, clips)


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path, manifest: Path, clips: list[Path]) -> None:
    out = tmp_path / "out"
    embed_manifest(write_manifest(tmp_path / "first.jsonl", [{"audio": "none.wav"}]), out, "basic")
    with (out / "errors.jsonl").open("ab") as file:
        file.write(b'{"id": "clips/3.wav", "audio": "clips/3.w')
    (out / ".part-00000-00000.parquet.part").write_bytes(b"PAR1")
    embed_manifest(manifest, out, "basic")
    assert [error["id"] for error in errors(out)] == ["none.wav"]
    assert sorted(item.name for item in out.iterdir()) == [".lock", "errors.jsonl", "part-00000-00000.parquet"]
    check_rows(out, clips)


def test_a_shard_that_was_cut_off(tmp_path: Path, manifest: Path, clips: list[Path]) -> None:
    out = tmp_path / "out"
    embed_manifest(manifest, out, "basic")
    shard = shards(out)[0]
    whole = shard.read_bytes()
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        shard.write_bytes(whole[:size])
        with pytest.raises(SpeechZooError) as error:
            embed_manifest(manifest, out, "basic")
        assert str(error.value).startswith(f"{shard} is damaged (")
        assert str(error.value).endswith("delete it and run again, and its files are embedded anew")
    shard.unlink()
    assert embed_manifest(manifest, out, "basic").embedded == 7
    check_rows(out, clips)


def test_a_shard_in_which_a_byte_of_an_id_changed(tmp_path: Path, manifest: Path) -> None:
    embed_manifest(manifest, tmp_path / "out", "basic")
    shard = shards(tmp_path / "out")[0]
    data = bytearray(shard.read_bytes())
    ids = pq.ParquetFile(shard).metadata.row_group(0).column(0)
    data[ids.data_page_offset + ids.total_compressed_size - 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(SpeechZooError, match="is damaged"):
        embed_manifest(manifest, tmp_path / "out", "basic")


def test_a_damaged_list_of_errors(tmp_path: Path, manifest: Path, clips: list[Path]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for text in ("nonsense\n", "[1]\n", '{"audio": "a.wav"}\n'):
        (out / "errors.jsonl").write_text(text)
        with pytest.raises(SpeechZooError, match=r"errors\.jsonl is damaged; delete it and run again"):
            embed_manifest(manifest, out, "basic")
    (out / "errors.jsonl").unlink()
    embed_manifest(manifest, out, "basic")
    check_rows(out, clips)


# Folders and models that are refused


def test_embeddings_of_two_checkpoints_are_not_mixed(tmp_path: Path, manifest: Path, clips: list[Path]) -> None:
    embed_manifest(manifest, tmp_path / "out", "basic")
    with pytest.raises(SpeechZooError, match=r"holds embeddings of another checkpoint \(basic\).*those of campplus"):
        embed_manifest(manifest, tmp_path / "out", "campplus")
    check_rows(tmp_path / "out", clips)


def test_a_shard_of_something_else(tmp_path: Path, manifest: Path) -> None:
    out = tmp_path / "out"
    embed_manifest(manifest, out, "basic")
    table = pq.ParquetFile(shards(out)[0]).read()
    pq.write_table(table.replace_schema_metadata(None), out / "part-00000-00001.parquet")
    with pytest.raises(SpeechZooError, match=r"part-00000-00001\.parquet was not written by speech-zoo"):
        embed_manifest(manifest, out, "basic")


def test_a_folder_of_other_things(tmp_path: Path, manifest: Path, clips: list[Path]) -> None:
    with pytest.raises(
        SpeechZooError, match=r"clips holds other files \(0\.wav, 1\.wav, 2\.wav\); give a new or empty"
    ):
        embed_manifest(manifest, clips[0].parent, "basic")
    assert not (clips[0].parent / ".lock").exists()
    with pytest.raises(SpeechZooError, match=r"files\.jsonl cannot be written: Not a directory"):
        embed_manifest(manifest, manifest, "basic")
    out = tmp_path / "out"
    out.mkdir()
    (out / ".DS_Store").touch()
    embed_manifest(manifest, out, "basic")
    (out / "README.md").write_text("left alone")
    assert embed_manifest(manifest, out, "basic").already_done == 7
    assert (out / "README.md").read_text() == "left alone"


def test_one_run_at_a_time(tmp_path: Path, manifest: Path, clips: list[Path]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as lock:
        for held in (fcntl.LOCK_EX, fcntl.LOCK_SH):  # a run that begins, or any rank of one that works
            fcntl.flock(lock, held)
            with pytest.raises(
                SpeechZooError, match=r"another process is writing to .*out; wait until it has finished"
            ):
                embed_manifest(manifest, out, "basic")
    embed_manifest(manifest, out, "basic")
    check_rows(out, clips)


def test_a_disk_that_is_full(
    tmp_path: Path, manifest: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(corpus_folder.pq, "write_table", full)
        with pytest.raises(SpeechZooError, match=r"part-00000-00000\.parquet cannot be written: No space left"):
            embed_manifest(manifest, tmp_path / "out", "basic")
    assert shards(tmp_path / "out") == []
    embed_manifest(manifest, tmp_path / "out", "basic")
    check_rows(tmp_path / "out", clips)


@pytest.mark.parametrize("model", ["ecapa_lid", "speaker_proxy"])
def test_a_model_that_embeds_no_speakers(tmp_path: Path, manifest: Path, model: str) -> None:
    with pytest.raises(ConfigError, match=r"is for language-identification|takes no audio"):
        embed_manifest(manifest, tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


def test_checking_a_long_manifest_holds_nothing_but_its_ids(tmp_path: Path) -> None:
    path = tmp_path / "files.jsonl"
    with path.open("w") as file:
        file.writelines(
            f'{{"audio": "some/folder/of/a/corpus/{i:07}.flac", "text": "{"x" * 200}"}}\n' for i in range(10_000)
        )
    tracemalloc.start()
    manifest, ids = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert manifest.count == len(ids) == 10_000
    assert peak < 10_000 * 220  # the ids, and nothing else of 300 bytes a line


@pytest.mark.parametrize("left", ["zeros", "the call before"])
def test_what_a_lost_rank_leaves_in_the_buffer_is_no_result(monkeypatch: pytest.MonkeyPatch, left: str) -> None:
    """MLX's ring was seen to give an answer although a rank had been killed."""
    kept: list[mx.array] = []

    def all_gather(mine: mx.array, group: Any) -> mx.array:
        kept.append(mine)
        return kept[0] if left == "the call before" else mx.zeros_like(mine) if len(kept) > 1 else mine

    monkeypatch.setattr(mx.distributed, "all_gather", all_gather)
    ranks = Ranks()
    assert ranks.gather(3, 4).tolist() == [[3, 4]]
    with pytest.raises(SpeechZooError, match="another rank is gone"):
        ranks.gather(5, 6)
