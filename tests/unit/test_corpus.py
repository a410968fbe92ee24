"""A manifest to a folder of embeddings, in one process: what is read, written, resumed and refused."""

import fcntl
import json
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soxr
import speech_zoo
import typer
from hypothesis import given
from hypothesis import strategies as st
from speech_zoo import SpeechZooError, embed_manifest
from speech_zoo.cli.embed import _shard
from speech_zoo.corpus import parquet
from speech_zoo.corpus import run as corpus
from speech_zoo.corpus.manifest import Line, read
from speech_zoo_core.audio.stream import Stream, load_audio
from speech_zoo_core.errors import AudioError, ConfigError, InputError
from speech_zoo_core.identity import identity
from speech_zoo_core.tasks import audio_model
from tiny_models import RATE, tiny_model, voice
from wavs import write_wav

LENGTHS = [9000, 4000, 12345, 4000, 20000, 5000, 8000]


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """References name tiny models."""
    monkeypatch.setattr("speech_zoo_core.load", lambda ref, **_: tiny_model(ref))
    monkeypatch.setattr("speech_zoo.models.resolve", lambda ref: ref)


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


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of all parts by id, which must be unique."""
    table = [row for part in parts(folder) for row in pq.ParquetFile(part).read().to_pylist()]
    by_id = {row["id"]: row for row in table}
    assert len(by_id) == len(table)
    return by_id


def errors(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "errors.jsonl").read_text(encoding="utf-8").splitlines()]


def check_rows(folder: Path, clips: list[Path], model: str = "basic") -> None:
    """Every clip is there once and has its own embedding."""
    by_id = rows(folder)
    assert by_id.keys() == {f"clips/{clip.name}" for clip in clips}
    for clip in clips:
        row = by_id[f"clips/{clip.name}"]
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
        ('{"audio": "a.wav", "offset": -0.5}', "offset is a number of seconds, 0 or more, not -0.5"),
        ('{"audio": "a.wav", "offset": "1"}', "offset is a number of seconds, 0 or more, not '1'"),
        ('{"audio": "a.wav", "offset": true}', "offset is a number of seconds"),
        ('{"audio": "a.wav", "offset": NaN}', "offset is a number of seconds, 0 or more, not nan"),
        ('{"audio": "a.wav", "offset": 1e400}', "offset is a number of seconds, 0 or more, not inf"),
        ('{"audio": "a.wav", "offset": 1' + "0" * 400 + "}", "offset is a number of seconds"),
        ('{"audio": "a.wav", "duration": 0}', "duration is a number of seconds, more than 0, not 0"),
        ('{"audio": "a.wav", "duration": [1]}', "duration is a number of seconds"),
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
        b'{"audio_filepath": "b.wav", "offset": null, "duration": 3.5, "text": "two"}\n\n'
        b'{"file_name": "c d/\xf0\x9f\x8e\xa4.wav", "id": 17}\n'
        b'{"audio": "a.wav", "file_name": "x.wav", "id": "again"}\n'
        b'{"audio": "a.wav", "offset": 0, "duration": 5.2}\n'
        b'{"audio": "a.wav", "offset": 0.1, "duration": 0.2}\n'
        b'{"audio": "a.wav", "offset": 7200, "duration": null}\n'
        b'{"audio": "a.wav", "offset": 1.5, "duration": 1, "id": "x"}'
    )
    manifest = read(path)
    assert manifest.count == 8
    assert list(manifest.share(0, 1)) == [
        Line("a.wav", "a.wav"),
        Line("b.wav", "b.wav", None, 3.5),
        Line("17", "c d/🎤.wav"),
        Line("again", "a.wav"),
        Line("a.wav#t=0,5.2", "a.wav", 0, 5.2),
        Line("a.wav#t=0.1,0.3", "a.wav", 0.1, 0.2),
        Line("a.wav#t=7200", "a.wav", 7200),
        Line("x", "a.wav", 1.5, 1),
    ]


def test_a_manifest_is_not_another_one_with_its_segments_moved(tmp_path: Path) -> None:
    lines = [{"audio": "a.wav", "id": "x", **more} for more in ({}, {"offset": 1}, {"duration": 1}, {"offset": 1.5})]
    files = [write_manifest(tmp_path / f"{i}.jsonl", [line]) for i, line in enumerate(lines)]
    assert len({read(file).checksum for file in files}) == 4


@given(ids=st.sets(st.text(min_size=1).filter(lambda text: text.isprintable()), min_size=1), ranks=st.integers(1, 5))
def test_shares_are_every_nth_line(tmp_path_factory: pytest.TempPathFactory, ids: set[str], ranks: int) -> None:
    path = tmp_path_factory.mktemp("manifest") / "files.jsonl"
    listed = sorted(ids)
    manifest = read(write_manifest(path, [{"audio": "a.wav", "id": id} for id in listed]))
    path.write_text(path.read_text(encoding="utf-8") + "added later", encoding="utf-8")
    for rank in range(ranks):
        assert [line.id for line in manifest.share(rank, ranks)] == listed[rank::ranks]


# What is written


def test_a_folder_of_embeddings(tmp_path: Path, manifest: Path, clips: list[Path]) -> None:
    result = embed_manifest(manifest, tmp_path / "new" / "out", "basic")
    out = tmp_path / "new" / "out"
    assert (result.embedded, result.skipped, result.already_done, result.ranks) == (7, 0, 0, 1)
    assert result.audio_seconds == pytest.approx(sum(LENGTHS) / RATE, abs=0.001)
    assert [item.name for item in sorted(out.iterdir())] == [
        ".lock",
        ".lock-0",
        ".lock-errors",
        "part-00000-00000.parquet",
    ]
    check_rows(out, clips)
    assert [row["seconds"] for row in rows(out).values()] == [n / RATE for n in LENGTHS]
    schema = pq.read_schema(parts(out)[0])
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
    def embed(pair: Any, **_: Any) -> Any:
        if pair[0].size == LENGTHS[2]:
            raise AudioError("the embedding is not finite")
        return model.embed(pair, vad=False)

    def embed_batch(pairs: Any, **_: Any) -> Any:
        return np.stack([embed(pair) for pair in pairs])

    model = tiny_model("basic")
    stub = type("Stub", (), {"config": model.config, "sample_rate": RATE, "_clip": model._clip})()
    stub.embed, stub.embed_batch = embed, embed_batch
    monkeypatch.setattr(corpus, "on_cpu", lambda: False)
    monkeypatch.setattr("speech_zoo.corpus.embedder.load", lambda _, **how: stub)
    monkeypatch.setattr(corpus, "identity", lambda model: "0" * 64)
    assert embed_manifest(manifest, tmp_path / "out").embedded == 6
    assert errors(tmp_path / "out") == [
        {"id": "clips/2.wav", "audio": "clips/2.wav", "error": "the embedding is not finite"}
    ]
    check_rows(tmp_path / "out", clips[:2] + clips[3:])


def test_a_file_that_does_not_fit_in_memory(
    tmp_path: Path, manifest: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_audio(path: Path, *_: Any, **how: Any) -> Any:
        if path == clips[5]:
            raise MemoryError
        return whole(path, *_, **how)

    whole = audio_model.load_audio
    monkeypatch.setattr(audio_model, "load_audio", load_audio)
    assert embed_manifest(manifest, tmp_path / "out", "basic").embedded == 6
    assert [error["error"] for error in errors(tmp_path / "out")] == [
        f"{clips[5]} does not fit in memory; cut it into shorter files"
    ]


@pytest.mark.parametrize(("name", "value"), [("PART_ROWS", 3), ("PART_SECONDS", 0.0)])
def test_parts_are_closed_after_rows_or_seconds(
    tmp_path: Path, manifest: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    monkeypatch.setattr(parquet, name, value)
    embed_manifest(manifest, tmp_path / "out", "basic")
    sizes = [pq.ParquetFile(part).metadata.num_rows for part in parts(tmp_path / "out")]
    assert sizes == ([3, 3, 1] if name == "PART_ROWS" else [1] * 7)
    check_rows(tmp_path / "out", clips)


# Shards


def test_shards_and_another_number_of_them(tmp_path: Path, manifest: Path, clips: list[Path]) -> None:
    out = tmp_path / "out"
    lines = manifest.read_text().splitlines()
    lines[2:2] = ['{"audio": "clips/none.wav"}', "", '{"audio": "clips/nothing.wav"}']
    manifest.write_text("\n".join(lines))
    first = embed_manifest(manifest, out, "basic", (1, 3))
    assert (first.embedded, first.skipped, first.already_done, first.rank, first.ranks) == (3, 0, 0, 1, 3)
    assert rows(out).keys() == {"clips/1.wav", "clips/2.wav", "clips/5.wav"}
    runs = [embed_manifest(manifest, out, "basic", (rank, 2)) for rank in (0, 1)]
    assert [(run.embedded, run.skipped, run.already_done) for run in runs] == [(3, 1, 1), (1, 1, 2)]
    assert [error["id"] for error in errors(out)] == ["clips/none.wav", "clips/nothing.wav"]
    again = embed_manifest(manifest, out, "basic", (2, 100))
    assert (again.embedded, again.skipped, again.already_done) == (0, 1, 0)
    assert sorted(error["id"] for error in errors(out)) == ["clips/none.wav", "clips/nothing.wav"]
    empty = embed_manifest(manifest, out, "basic", (99, 100))
    assert (empty.embedded, empty.skipped, empty.already_done) == (0, 0, 0)
    assert [part.name for part in parts(out)] == [
        f"part-0000{rank}-0000{n}.parquet" for rank, n in ((0, 0), (1, 0), (1, 1))
    ]
    check_rows(out, clips)


def test_what_a_killed_shard_left_is_cleared_by_one_other(tmp_path: Path, manifest: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    left = [out / f".part-{rank:05}-00000.parquet.part" for rank in (0, 1, 2, 15)]
    for path in left:
        path.touch()
    embed_manifest(manifest, out, "basic", (1, 2))
    assert [path.exists() for path in left] == [True, False, True, False]


@pytest.mark.parametrize("shard", [(3, 3), (-1, 3), (0, 0), (1, 1)])
def test_shards_that_do_not_exist(tmp_path: Path, manifest: Path, shard: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=f"shard {shard[0]}/{shard[1]} does not exist"):
        embed_manifest(manifest, tmp_path / "out", "basic", shard)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["16/16", "-1/16", "3", "/16", "3/", "", "1/0", "٣/16", "1/2/3", "1/" + "9" * 5000])
def test_shards_that_the_command_refuses(text: str) -> None:
    assert _shard("0/1") == (0, 1)
    assert _shard("15/16") == (15, 16)
    with pytest.raises(typer.BadParameter, match="--shard takes I/N with I from 0 to N-1, as in 0/16 to 15/16, not"):
        _shard(text)


# Segments


@pytest.mark.parametrize("rate", [RATE, 48000])
def test_segments_are_as_files_of_their_own(tmp_path: Path, rate: int) -> None:
    samples = soxr.resample(voice(7 * RATE, seed=3), RATE, rate)
    path = write_wav(tmp_path / "a.wav", samples, rate)
    wanted = [(None, 5.2), (0, 5.2), (0.25, 1.5), (1.0, None), (0.5, 0.3), (0.5, 6.52), (6.5, 0.5), (2.125, 0.375)]
    lines = [{"audio": "a.wav", "offset": offset, "duration": duration} for offset, duration in wanted]
    result = embed_manifest(write_manifest(tmp_path / "files.jsonl", lines), tmp_path / "out", "basic")
    assert (result.embedded, result.skipped) == (8, 0)
    assert result.audio_seconds == pytest.approx(5.2 + 5.2 + 1.5 + 6 + 0.3 + 6.5 + 0.5 + 0.375, abs=1e-3)
    by_id, model = rows(tmp_path / "out"), tiny_model("basic")
    whole = np.array(load_audio(path, RATE, resampler="torchaudio", channel="first"))
    for line, row in zip(lines, by_id.values(), strict=True):
        start = round((line["offset"] or 0) * RATE)
        stop = round(((line["offset"] or 0) + (line["duration"] or 7)) * RATE)
        expected = np.array(model.embed(whole[start:stop], RATE))
        np.testing.assert_allclose(row["embedding"], expected, atol=1e-6, err_msg=str(line))
        assert row["audio"] == "a.wav"
    assert list(by_id)[:4] == ["a.wav", "a.wav#t=0,5.2", "a.wav#t=0.25,1.75", "a.wav#t=1"]


def test_segments_that_cannot_be_cut(tmp_path: Path, clips: list[Path]) -> None:
    """Each is an error of its line alone, also between good segments of the same file."""
    (tmp_path / "clips" / "text.wav").write_text("these are words")
    segments = {
        "0.wav": [(0, 0.5), (0.3, 0.4), (9, None), (9, 1), (0.5625, None), (0.1, 0.4), (0.1, 0.001), (0.2, 0.36)],
        "none.wav": [(0, 1), (1, 1)],
        "text.wav": [(0, 1)],
    }
    lines = [
        {"audio": f"clips/{name}", "offset": offset, "duration": duration, "id": f"{name} {offset} {duration}"}
        for name, parts in segments.items()
        for offset, duration in parts
    ]
    result = embed_manifest(write_manifest(tmp_path / "files.jsonl", lines), tmp_path / "out", "basic")
    assert result.embedded == 3
    assert rows(tmp_path / "out").keys() == {"0.wav 0 0.5", "0.wav 0.1 0.4", "0.wav 0.2 0.36"}
    said = {error["id"]: error["error"] for error in errors(tmp_path / "out")}
    short = f"{clips[0]} is 0.562 s long, too short for a segment from"
    assert said["0.wav 0.3 0.4"] == f"{short} 0.3 s for 0.4 s"
    assert said["0.wav 9 None"] == f"{short} 9 s to its end"
    assert said["0.wav 0.5625 None"].startswith(short)
    assert "is too short: 0.001 s" in said["0.wav 0.1 0.001"]
    assert said["none.wav 1 1"] == f"{tmp_path}/clips/none.wav does not exist"
    assert "text.wav" in said["text.wav 0 1"]
    assert len(said) == 8


def test_segments_in_order_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no further than they go."""
    write_wav(tmp_path / "a.wav", voice(100 * RATE, seed=4))
    write_wav(tmp_path / "b.wav", voice(2 * RATE, seed=5))
    read_blocks: list[str] = []

    def counting(stream: Stream) -> Any:
        for block in blocks(stream):
            read_blocks.append(Path(stream.name).name)
            yield block

    blocks = Stream.blocks
    monkeypatch.setattr(Stream, "blocks", counting)
    lines = [{"audio": "a.wav", "offset": i, "duration": 2} for i in range(0, 40, 3)] + [
        {"audio": "b.wav", "offset": 1}
    ]
    assert embed_manifest(write_manifest(tmp_path / "files.jsonl", lines), tmp_path / "out", "basic").embedded == 15
    assert read_blocks == ["a.wav"] * 6 + ["b.wav"]  # blocks of eight seconds


# Embedder


def test_an_embedder_takes_paths_and_arrays(clips: list[Path]) -> None:
    embed = speech_zoo.Embedder("basic")
    vectors = [np.array(tiny_model("basic").embed(clip)) for clip in clips]
    embedded = embed({"audio": np.array([str(clip) for clip in clips], object), "speaker": list("abcdefg")})
    assert embedded.keys() == {"audio", "speaker", "embedding", "error"}
    assert (embedded["embedding"].dtype, embedded["embedding"].shape) == (np.float32, (7, 8))
    np.testing.assert_allclose(embedded["embedding"], vectors, atol=1e-6)
    assert list(embedded["error"]) == [""] * 7
    arrays = [voice(n, seed=i) for i, n in enumerate(LENGTHS)]
    ragged = np.empty(7, object)
    ragged[:] = arrays
    embedded = embed({"audio": ragged, "sample_rate": np.full(7, RATE)})
    np.testing.assert_allclose(embedded["embedding"], vectors, atol=2e-2)
    stacked = np.stack([array[:4000] for array in arrays])
    embedded = embed({"audio": stacked, "sample_rate": np.full(7, RATE), "duration": np.full(7, 0.25)})
    np.testing.assert_allclose(embedded["embedding"][1], vectors[1], atol=1e-3)


def test_an_embedder_says_why_a_row_has_no_embedding(tmp_path: Path, clips: list[Path]) -> None:
    embed = speech_zoo.Embedder("basic")
    paths = [str(clips[0]), str(tmp_path / "none.wav"), str(clips[4]), str(clips[0]), str(clips[4])]
    offsets = np.array([np.nan, np.nan, 0.25, 9.0, -1.0])
    embedded = embed({"audio_filepath": paths, "offset": offsets, "duration": [None, None, 0.5, None, None]})
    model = tiny_model("basic")
    np.testing.assert_allclose(embedded["embedding"][0], np.array(model.embed(clips[0])), atol=1e-6)
    segment = np.array(load_audio(clips[4], RATE))[4000:12000]
    np.testing.assert_allclose(embedded["embedding"][2], np.array(model.embed(segment, RATE)), atol=1e-6)
    assert np.isnan(embedded["embedding"][[1, 3, 4]]).all()
    assert list(embedded["error"][[0, 2]]) == ["", ""]
    assert embedded["error"][1].endswith("none.wav does not exist")
    assert "too short for a segment from 9 s" in embedded["error"][3]
    assert embedded["error"][4].endswith("4.wav: offset is a number of seconds, 0 or more, not -1.0")
    assert embed({"audio": []})["embedding"].shape == (0, 8)


def test_batches_that_no_row_of_can_be_used() -> None:
    embed = speech_zoo.Embedder("basic")
    with pytest.raises(InputError, match="a batch needs a column audio, audio_filepath, file_name; this one has wave"):
        embed({"wave": ["a.wav"]})
    with pytest.raises(InputError, match='arrays need a column "sample_rate"'):
        embed({"audio": np.zeros((2, 8000), np.float32)})
    with pytest.raises(ConfigError, match="is for language-identification"):
        speech_zoo.Embedder("ecapa_lid")


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
    assert errors(tmp_path / "out")[0]["error"] == f"{tmp_path}/caf\\udce9/none.wav does not exist"


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
    before = parts(out)[0].read_bytes()
    result = embed_manifest(manifest, out, "basic")
    assert (result.embedded, result.already_done) == (5, 2)
    assert parts(out)[0].read_bytes() == before
    result = embed_manifest(manifest, out, "basic")
    assert (result.embedded, result.skipped, result.already_done, result.audio_seconds) == (0, 0, 7, 0)
    assert len(parts(out)) == 2
    check_rows(out, clips)


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path, manifest: Path, clips: list[Path]) -> None:
    out = tmp_path / "out"
    embed_manifest(write_manifest(tmp_path / "first.jsonl", [{"audio": "none.wav"}]), out, "basic")
    with (out / "errors.jsonl").open("ab") as file:
        file.write(b'{"id": "clips/3.wav", "audio": "clips/3.w')
    (out / ".part-00000-00000.parquet.part").write_bytes(b"PAR1")
    embed_manifest(manifest, out, "basic")
    assert [error["id"] for error in errors(out)] == ["none.wav"]
    assert sorted(path.name for path in out.glob("[!.]*")) == ["errors.jsonl", "part-00000-00000.parquet"]
    assert not list(out.glob(".part*"))
    check_rows(out, clips)


def test_a_part_that_was_cut_off(tmp_path: Path, manifest: Path, clips: list[Path]) -> None:
    out = tmp_path / "out"
    embed_manifest(manifest, out, "basic")
    part = parts(out)[0]
    whole = part.read_bytes()
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        part.write_bytes(whole[:size])
        with pytest.raises(SpeechZooError) as error:
            embed_manifest(manifest, out, "basic")
        assert str(error.value).startswith(f"{part} is damaged (")
        assert str(error.value).endswith("delete it and run again, and its files are embedded anew")
    part.unlink()
    assert embed_manifest(manifest, out, "basic").embedded == 7
    check_rows(out, clips)


def test_a_part_in_which_a_byte_of_an_id_changed(tmp_path: Path, manifest: Path) -> None:
    embed_manifest(manifest, tmp_path / "out", "basic")
    part = parts(tmp_path / "out")[0]
    data = bytearray(part.read_bytes())
    ids = pq.ParquetFile(part).metadata.row_group(0).column(0)
    data[ids.data_page_offset + ids.total_compressed_size - 2] ^= 1
    part.write_bytes(data)
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


def test_a_part_of_something_else(tmp_path: Path, manifest: Path) -> None:
    out = tmp_path / "out"
    embed_manifest(manifest, out, "basic")
    table = pq.ParquetFile(parts(out)[0]).read()
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


def test_one_run_at_a_time(tmp_path: Path, manifest: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(parquet, "LOCK_SECONDS", 0.05)
    with (out / ".lock").open("w") as lock:
        for held in (fcntl.LOCK_EX, fcntl.LOCK_SH):  # a run that begins, or any rank of one that works
            fcntl.flock(lock, held)
            with pytest.raises(
                SpeechZooError, match=r"another process is writing to .*out; wait until it has finished"
            ):
                embed_manifest(manifest, out, "basic")
    embed_manifest(manifest, out, "basic")
    check_rows(out, clips)


def test_what_may_write_at_the_same_time(tmp_path: Path, manifest: Path, clips: list[Path]) -> None:
    """The other shards of a run; not the same one, another manifest, another model or another number of shards."""
    out, other = tmp_path / "out", tmp_path / "other.jsonl"
    other.write_text(manifest.read_text() + '{"audio": "clips/none.wav"}\n')
    count, facts = read(manifest).checksum, {"identity": identity(tiny_model("basic"))}
    with parquet.CorpusFolder(out, facts, count, 0, 2) as running:
        running.open(set())
        for *arguments, shard in (
            (manifest, "basic", (0, 2)),
            (manifest, "basic", (1, 3)),
            (manifest, "basic", None),
            (other, "basic", (1, 2)),
            (manifest, "campplus", (1, 2)),
        ):
            with pytest.raises(SpeechZooError, match="another process is writing to"):
                embed_manifest(arguments[0], out, arguments[1], shard)
        assert embed_manifest(manifest, out, "basic", (1, 2)).embedded == 3
    assert embed_manifest(manifest, out, "basic").already_done == 3
    check_rows(out, clips)


def test_a_disk_that_is_full(
    tmp_path: Path, manifest: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(parquet.pq, "write_table", full)
        with pytest.raises(SpeechZooError, match=r"part-00000-00000\.parquet cannot be written: No space left"):
            embed_manifest(manifest, tmp_path / "out", "basic")
    assert parts(tmp_path / "out") == []
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
    manifest = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert manifest.count == 10_000
    assert peak < 10_000 * 220  # the ids, and nothing else of 300 bytes a line
