"""`VoiceStore`: names, identification, and what a store says that is missing, foreign, newer or damaged."""

import random
import sqlite3
import threading
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import speech_zoo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from speech_zoo.voices.database import APPLICATION, VERSION, Checkpoint, StoreFile, check_name
from speech_zoo.voices.rows import Clip, Recording, add_clip, clips, put_recording, recordings
from speech_zoo_core.audio import load_audio
from speech_zoo_core.errors import AudioError, ConfigError, InputError, SpeechZooError
from speech_zoo_core.tasks.speaker import Voice
from tiny_models import RATE, RESNET
from wavs import write_wav

SIZE = 4
OTHER = "0" * 64


class Echo(nn.Module):
    """A model whose embedding of a clip is its first four samples, at unit length."""

    sample_rate = RATE

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = replace(RESNET, embed_dim=SIZE, threshold=0.5, **config)

    def voice(self, audio: Any, sample_rate: int | None = None, **_: Any) -> Voice:
        samples = load_audio(audio, RATE, sample_rate)
        return Voice(samples[:SIZE] / mx.linalg.norm(samples[:SIZE]), samples.size / RATE, samples)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECH_ZOO_HOME", str(tmp_path / "home"))


@pytest.fixture
def store(tmp_path: Path) -> Any:
    return speech_zoo.VoiceStore(tmp_path / "voices.sqlite", Echo())


def clip(*values: float) -> tuple[np.ndarray, int]:
    return np.array([*values, *[0.0] * (SIZE - len(values))], np.float32), RATE


def write_clip(path: Path, *values: float) -> Path:
    return write_wav(path, clip(*values)[0])


# Names


def test_a_store_knows_what_was_enrolled(store: Any, tmp_path: Path) -> None:
    assert store.enroll("Bob", [clip(1), clip(1, 0.1)]) == 2
    assert store.enroll("Ann", clip(0, 1)) == 1
    assert store.enroll("Ann", write_clip(tmp_path / "a.wav", 0, 1, 0.5)) == 1
    assert list(store.names().items()) == [("Ann", 2), ("Bob", 2)]
    again = speech_zoo.VoiceStore(store.path, "no model is loaded")
    assert again.names() == store.names()
    names, vectors = again.voices()
    assert names == ["Bob", "Bob", "Ann", "Ann"]
    assert np.allclose(vectors[[0, 2]], [[1, 0, 0, 0], [0, 1, 0, 0]])


def test_the_same_content_is_enrolled_once_for_each_name(store: Any, tmp_path: Path) -> None:
    first = write_clip(tmp_path / "a.wav", 0, 1)
    second = Path(str(tmp_path / "copy.wav"))
    second.write_bytes(first.read_bytes())
    assert store.enroll("Ann", [first, first, str(second)]) == 1
    assert store.enroll("Ann", [clip(1), clip(1)]) == 1
    assert store.enroll("Bob", (path for path in [first])) == 1
    assert store.names() == {"Ann": 2, "Bob": 1}


def test_a_name_that_is_removed_leaves_nothing(store: Any) -> None:
    store.enroll("Ann", [clip(0.3, 0.5, 0.7, 0.9), clip(1)])
    store.enroll("Bob", clip(0, 1))
    vector = store.voices()[1][0].tobytes()
    assert vector in store.path.read_bytes()
    assert store.remove(" Ann ") == 2
    assert store.names() == {"Bob": 1}
    assert [path.name for path in store.path.parent.iterdir()] == ["voices.sqlite"]
    content = store.path.read_bytes()
    assert vector not in content and b"Ann" not in content
    with pytest.raises(InputError, match="knows no voice named 'Ann'"):
        store.remove("Ann")


@given(st.text())
@settings(max_examples=300)
def test_a_name_is_any_text_without_control_characters(name: str) -> None:
    forbidden = {"Cc", "Cs", "Zl", "Zp"} & {unicodedata.category(char) for char in name.strip()}
    if forbidden or not name.strip():
        with pytest.raises(InputError):
            check_name(name)
    else:
        kept = check_name(name)
        assert kept == check_name(kept) == unicodedata.normalize("NFC", name.strip())


@pytest.mark.parametrize(
    "name", ["Ann Lee", "../../etc/passwd", "C:\\x", "🧑‍🎤", "'; DROP TABLE clip; --", "%s", "名前", "x" * 5000]
)
def test_odd_names_are_data(store: Any, name: str) -> None:
    store.enroll(name, clip(1))
    assert store.names() == {name: 1}
    assert store.identify(clip(1)).name == name
    assert [path.name for path in store.path.parent.iterdir()] == ["voices.sqlite"]
    assert store.remove(name) == 1


def test_composed_and_decomposed_letters_are_one_name(store: Any) -> None:
    store.enroll("Zoë", clip(1))
    assert store.enroll("Zoe\u0308", clip(1)) == 0
    assert store.names() == {"Zoë": 1}


def test_a_refused_name_or_clip_makes_no_store(store: Any) -> None:
    with pytest.raises(InputError, match="U\\+000A"):
        store.enroll("a\nb", clip(1))
    with pytest.raises(InputError, match="not empty"):
        store.enroll("  ", clip(1))
    with pytest.raises(AudioError, match="does not exist"):
        store.enroll("Ann", "nothing.wav")
    assert not store.path.exists()


def test_the_clips_before_one_that_is_no_use_are_kept(store: Any) -> None:
    with pytest.raises(AudioError, match="does not exist"):
        store.enroll("Ann", [clip(1), "nothing.wav", clip(0, 1)])
    assert store.names() == {"Ann": 1}


# Identification


def test_identify_compares_with_the_mean_of_each_name(store: Any) -> None:
    store.enroll("Ann", [clip(1), clip(0, 1)])
    store.enroll("Bob", clip(0, 0, 1))
    store.enroll("Cid", clip(0, 0, 0, 1))
    identified = store.identify(clip(1, 1), top_k=2)
    assert (identified.name, identified.threshold) == ("Ann", 0.5)
    assert [match.name for match in identified.matches] == ["Ann", "Bob"]
    assert identified.matches[0].score == pytest.approx(1)
    assert identified.matches[1].score == pytest.approx(0)
    assert store.identify(clip(1, 0, 1.5)).name == "Bob"
    assert store.identify(clip(1), top_k=1).matches[0].score == pytest.approx(2**-0.5)


def test_below_the_threshold_is_unknown(store: Any) -> None:
    store.enroll("Ann", clip(1))
    assert store.identify(clip(1, 2)).name is None
    assert store.identify(clip(1, 2)).matches[0].name == "Ann"
    assert store.identify(clip(1, 2), threshold=0.4).name == "Ann"
    assert store.identify(clip(1), threshold=1.0).name == "Ann"
    store.remove("Ann")
    assert store.identify(clip(1)).matches == []


def test_wrong_arguments(store: Any) -> None:
    store.enroll("Ann", clip(1))
    with pytest.raises(InputError, match="top_k"):
        store.identify(clip(1), top_k=0)
    with pytest.raises(ConfigError, match="between -1 and 1"):
        store.identify(clip(1), threshold=1.5)
    with pytest.raises(InputError, match="jobs"):
        store.index(".", jobs=0)
    with pytest.raises(InputError, match="by its name"):
        store.index(".", jobs=2)
    store = speech_zoo.VoiceStore(store.path, store.model)
    store.model.config = replace(store.model.config, threshold=None)
    with pytest.raises(ConfigError, match="names no threshold"):
        store.identify(clip(1))


# Checkpoints


def test_vectors_of_another_checkpoint_are_refused(store: Any) -> None:
    store.enroll("Ann", clip(1))
    before = store.path.read_bytes()
    other = speech_zoo.VoiceStore(store.path, Echo(m_channels=3))
    held, mine = (s.checkpoint.identity[:12] for s in (store, other))
    assert held != mine
    calls: list[Callable[[], Any]] = [
        lambda: other.enroll("Bob", clip(1)),
        lambda: other.identify(clip(1)),
        lambda: other.search(clip(1)),
        lambda: other.index(store.path.parent),
    ]
    for call in calls:
        with pytest.raises(
            SpeechZooError, match=f"holds vectors of resnet34 \\({held}\\).*those of resnet34 \\({mine}"
        ):
            call()
    assert store.path.read_bytes() == before
    assert other.names() == {"Ann": 1}
    store.remove("Ann")
    assert other.enroll("Bob", clip(1)) == 1
    with pytest.raises(SpeechZooError, match="holds vectors of"):
        store.enroll("Ann", clip(1))


# Files that are no stores


def test_a_store_from_before_the_front_end_told_its_resampler(store: Any, tmp_path: Path) -> None:
    checkpoint = store.checkpoint
    older = StoreFile(store.path)
    with older.writing(Checkpoint(checkpoint.before, checkpoint.name, checkpoint.dim)) as db:
        add_clip(db, Clip("Ann", "0" * 64, "a.wav", np.ones(SIZE, "<f4").tobytes()))
    with pytest.raises(SpeechZooError, match=r"voices\.sqlite is from before files were resampled as .* move it away"):
        store.identify(clip(1, 0))
    assert store.names() == {"Ann": 1}  # without a model it is a store like any other


def test_enrolling_leaves_out_what_is_no_speech_and_identifying_does_not(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    class Listening(Echo):
        def voice(self, audio: Any, sample_rate: int | None = None, **how: Any) -> Voice:
            asked.append(how)
            return super().voice(audio, sample_rate)

    for how in ({}, {"vad": False, "channel": 1}):
        store = speech_zoo.VoiceStore(tmp_path / f"{len(asked)}.sqlite", Listening(), **how)
        store.enroll("Ann", clip(1, 0))
        store.identify(clip(1, 0))
    default, other = {"channel": None, "vad": True}, {"channel": 1, "vad": False}
    assert asked == [default | {"trim": True}, default, other | {"trim": False}, other]


def held(path: Path) -> tuple[list[Clip], list[Recording]]:
    """All that a store holds, with the checks of a search."""
    file = StoreFile(path)
    with file.reading() as db:
        file.check_current(db)
        return list(clips(file, db)), list(recordings(file, db))


def refusal(store: Any) -> str:
    """The error of reading a store, which reading and writing must share and which changes nothing."""
    files = {path: path.read_bytes() for path in store.path.parent.rglob("*") if path.is_file()}
    messages = []
    for call in (
        store.names,
        lambda: store.remove("Ann"),
        lambda: store.identify(clip(1)),
        lambda: store.enroll("Ann", clip(1)),
    ):
        with pytest.raises(SpeechZooError) as error:
            call()
        messages.append(str(error.value))
    assert len(set(messages)) == 1
    assert files == {path: path.read_bytes() for path in store.path.parent.rglob("*") if path.is_file()}
    return messages[0]


def test_reading_makes_no_store(store: Any) -> None:
    for call in (
        store.names,
        lambda: store.remove("Ann"),
        lambda: store.identify(clip(1)),
        lambda: store.search(clip(1)),
    ):
        with pytest.raises(SpeechZooError, match=r"there is no store of voices at .*: speech-zoo voices enroll"):
            call()
    assert not store.path.exists()


def test_an_empty_file_is_no_store(store: Any) -> None:
    store.path.touch()
    assert "is an empty file, no store of voices: remove it" in refusal(store)


def test_a_store_of_a_newer_version(store: Any) -> None:
    store.enroll("Ann", clip(1))
    with sqlite3.connect(store.path) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    message = refusal(speech_zoo.VoiceStore(store.path, Echo()))
    assert "was written by a newer speech-zoo (store version 3, this one reads 2): update mlx-speech-zoo" in message


def test_a_file_of_another_program(store: Any) -> None:
    with sqlite3.connect(store.path) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    assert "another program's SQLite file" in refusal(store)
    store.path.write_text("Something else that is long enough. " * 50)
    assert "is no store of voices" in refusal(store)


def test_a_place_that_cannot_hold_a_store(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "x.sqlite", tmp_path / ("x" * 300)):
        with pytest.raises(SpeechZooError, match=r"cannot be (used|written)"):
            speech_zoo.VoiceStore(path, Echo()).enroll("Ann", clip(1))
    with pytest.raises(SpeechZooError, match="cannot be used"):
        speech_zoo.VoiceStore(tmp_path, Echo()).names()


def test_the_file_is_a_plain_store_in_wal_mode(store: Any) -> None:
    store.enroll("Ann", clip(1))
    db = sqlite3.connect(store.path)
    values = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "application_id", "user_version")]
    vector = db.execute("SELECT vector FROM clip").fetchone()[0]
    db.close()
    assert values == ["wal", APPLICATION, VERSION]
    assert np.frombuffer(vector, "<f4").tolist() == [1, 0, 0, 0]


# Damage


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a store with clips and recordings."""
    path = tmp_path_factory.mktemp("sound") / "x.sqlite"
    file, values = StoreFile(path), np.random.default_rng(0)
    for i in range(30):
        with file.writing(Checkpoint(OTHER, "m", 8)) as db:
            vectors = values.standard_normal((10, 8)).astype("<f4").tobytes()
            add_clip(db, Clip(f"name {i % 7}", f"{i:064x}", "x.wav", vectors[:32]))
            if i < 6:
                put_recording(db, Recording(f"/r{i}", 1, 2, np.arange(20.0).tobytes(), vectors))
    return path.read_bytes()


@given(st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_told_and_never_taken_for_data(
    sound: bytes, tmp_path_factory: pytest.TempPathFactory, chance: random.Random
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x.sqlite"
    path.write_bytes(sound)
    whole = held(path)
    damaged = bytearray(sound)
    kind, place = chance.choice(["byte", "zeros", "end"]), chance.randrange(1, len(sound))
    if kind == "byte":
        damaged[place] = chance.randrange(256)
    elif kind == "zeros":
        size = chance.choice([16, 512, 4096])
        damaged[place : place + size] = bytes(len(damaged[place : place + size]))
    else:
        damaged = damaged[:place]
    path.write_bytes(damaged)
    try:
        rows = held(path)
    except SpeechZooError as error:
        assert "\n" not in str(error)
    else:
        assert rows == whole  # it hit what no row needs


def test_a_damaged_version_is_no_silent_one(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "x.sqlite"
    for version in (0, 1, 3, 255):
        damaged = bytearray(sound)
        damaged[63] = version  # the last byte of user_version
        path.write_bytes(damaged)
        with pytest.raises(SpeechZooError) as caught:
            held(path)
        assert "\n" not in str(caught.value)


def test_a_damaged_store_says_how_to_go_on(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "x.sqlite"
    for damaged in (sound[: len(sound) // 2], sound[:5000] + bytes(12000) + sound[17000:]):
        path.write_bytes(damaged)
        with pytest.raises(
            SpeechZooError, match=r"x.sqlite is damaged \(.*\): move it away, then import .* index FOLDER"
        ):
            held(path)


# Many at once


def test_threads_enroll_at_once(tmp_path: Path) -> None:
    store = speech_zoo.VoiceStore(tmp_path / "voices.sqlite", Echo())
    start, failed = threading.Barrier(6), []

    def enroll(number: int) -> None:
        try:
            start.wait()
            for i in range(5):
                store.enroll(f"{number}", clip(1, number / 10, i / 10))
        except BaseException as error:
            failed.append(error)
            raise

    store.checkpoint  # noqa: B018 (MLX evaluates in one thread)
    threads = [threading.Thread(target=enroll, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert store.names() == {str(number): 5 for number in range(6)}


# Voices as a whole


def test_a_voice_gets_another_name(store: Any) -> None:
    store.enroll("Bob", [clip(1), clip(1, 0.1)])
    store.enroll("Ann", clip(0, 1))
    assert store.rename("Bob", " Robert ") == 2
    assert store.names() == {"Ann": 1, "Robert": 2}
    assert store.enroll("Robert", clip(1)) == 0  # known, as before
    for old, new, says in (("Bob", "Eve", "knows no voice named 'Bob'"), ("Ann", "Robert", "named 'Robert' already")):
        with pytest.raises(InputError, match=says):
            store.rename(old, new)


def test_one_clip_of_a_voice_is_removed(store: Any, tmp_path: Path) -> None:
    files = [write_clip(tmp_path / f"{i}.wav", 1, i / 10) for i in range(3)]
    store.enroll("Bob", [*files, clip(0, 1)])
    files[0].unlink()  # found by its path
    files[1] = files[1].rename(tmp_path / "moved.wav")  # found by its content
    for known in (files[0], files[1], clip(0, 1)):
        assert store.remove("Bob", known) == 1
    with pytest.raises(InputError, match="Bob has no such clip"):
        store.remove("Bob", files[0])
    assert store.names() == {"Bob": 1}


def test_a_voice_is_its_vector(store: Any) -> None:
    store.enroll("Bob", [clip(1), clip(0, 1)])
    vector = store.vector("Bob")
    assert np.allclose(vector, [0.5**0.5, 0.5**0.5, 0, 0])
    assert store.identify(vector=5 * vector).matches == store.identify(clip(1, 1)).matches
    with pytest.raises(InputError, match="knows no voice named 'Ann'"):
        store.vector("Ann")
    for wrong in (np.ones(3), np.zeros(SIZE), np.full(SIZE, np.nan)):
        with pytest.raises(InputError, match="has 4 finite values, not all zero"):
            store.identify(vector=wrong)
    for arguments in ((), (clip(1), vector)):
        with pytest.raises(InputError, match="a clip or a vector"):
            store.identify(*arguments[:1], **({"vector": vector} if len(arguments) > 1 else {}))


def test_another_person_under_the_same_name_is_told(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    store.enroll("Bob", [clip(1), clip(1, 0.2)])
    assert caplog.messages == []
    store.enroll("Bob", clip(0, 1))
    assert caplog.messages == [
        "warning: samples scores 0.10 with the clips that Bob has (threshold 0.50): is it the same person?"
    ]


def test_short_clips_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = speech_zoo.VoiceStore(tmp_path / "voices.sqlite", Echo(threshold_seconds=1.0))
    long = np.concatenate([clip(1)[0], np.zeros(RATE, np.float32)]), RATE
    store.enroll("Ann", [long, clip(1, 0.1)])
    store.enroll("Ann", clip(1, 0.1))  # not new
    store.identify(long)
    store.identify(clip(1))
    store.search(clip(1))
    store.identify(clip(1), threshold=0.5)
    store.identify(vector=[1, 0, 0, 0])
    assert [message.split(" holds ")[0] for message in caplog.messages] == [
        "warning: samples", "warning: the clip", "warning: the clip",
    ]  # fmt: skip
    assert " holds 0.0 s of speech; the threshold was chosen on clips of 1.0 s or more" in caplog.messages[0]


def test_identify_knows_each_of_many_names(store: Any) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3000, SIZE)).astype("<f4")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with store._file.writing(store.checkpoint) as db:
        for i, vector in enumerate(vectors):
            add_clip(db, Clip(f"name {i % 1000}", f"{i}", "x", vector.tobytes()))
    for i in (0, 7, 999):
        mean = vectors[i::1000].mean(axis=0, dtype=np.float64)
        best = store.identify(vector=mean, top_k=1).matches[0]
        assert best.name == f"name {i}"
        assert best.score == pytest.approx(1)


# What is removed, and what is not


def test_what_was_removed_is_nowhere(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    store.enroll("Ann", clip(0, 0, 1))
    other = sqlite3.connect(store.path)  # another process keeps the store open, so that SQLite keeps its log
    other.execute("SELECT * FROM clip").fetchall()
    store.enroll("Bob", clip(0.6, 0.8))
    vector = np.array([0.6, 0.8, 0, 0], "<f4").tobytes()
    files = [store.path, store.path.with_name("voices.sqlite-wal")]
    assert any(vector in file.read_bytes() for file in files)
    store.remove("Bob")
    assert not any(vector in file.read_bytes() for file in files if file.exists())
    assert not caplog.messages

    store.enroll("Eve", clip(0.6, 0.8))
    other.execute("BEGIN")
    other.execute("SELECT * FROM clip").fetchall()  # and reads: its snapshot needs the log
    store.remove("Eve")
    other.close()
    assert [message for message in caplog.messages if "stays in voices.sqlite-wal until it ends" in message]


def test_a_search_leaves_the_stores_beside_alone(store: Any, tmp_path: Path) -> None:
    vectors = np.eye(SIZE, dtype="<f4")[:1]
    spans = np.array([[0.0, 3.0]], "<f8")
    beside = [tmp_path / f"voices.sqlite-vectors-{end}" for end in ("mine", "mine.npy", "0123.npy")]
    for path in beside:
        path.write_text("somebody's")
    with store._file.writing(store.checkpoint) as db:
        put_recording(db, Recording("/a.wav", 1, -1, spans.tobytes(), vectors.tobytes()))
    assert len(store.search(clip(1))) == 1
    [matrix] = store._file.matrices()
    with store._file.writing(store.checkpoint) as db:
        put_recording(db, Recording("/b.wav", 1, 2**63 - 1, spans.tobytes(), vectors.tobytes()))
    assert len(store.search(clip(1))) == 2
    assert not matrix.exists()
    assert [path.read_text() for path in beside] == ["somebody's"] * 3
    store._file.forget()
    assert store._file.matrices() == []
    assert len(store.search(clip(1))) == 2


def test_a_read_only_medium(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.enroll("Bob", clip(1))
    with store._file.writing(store.checkpoint) as db:
        spans, vectors = np.array([[0.0, 3.0]], "<f8"), np.eye(SIZE, dtype="<f4")[:1]
        put_recording(db, Recording("/a.wav", 1, 1, spans.tobytes(), vectors.tobytes()))
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(StoreFile, "writable", False)  # what the system says of such a medium
    again = speech_zoo.VoiceStore(store.path, Echo())
    assert again.names() == {"Bob": 1}
    assert again.identify(clip(1)).name == "Bob"
    assert len(again.search(clip(1))) == 1
    assert sorted(tmp_path.iterdir()) == before  # not even a log of changes
    again.export(tmp_path / "out.safetensors")
    with pytest.raises(SpeechZooError, match=r"voices.sqlite cannot be used: .*readonly"):
        again.enroll("Ann", clip(0, 1))
