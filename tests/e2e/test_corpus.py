"""Corpora as people embed them: the command and shards; `test_corpus_killed.py` has kills."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import Rows, check

Run = Callable[..., Any]


# The command


def test_the_command(cli: Run, tmp_path: Path, corpus: Path, converted: Path, expected: Rows) -> None:
    arguments = ("embed", "--manifest", corpus, "--output", "out", "--model", converted)
    done = cli(*arguments).succeeded().out
    assert re.fullmatch(
        r"out: 40 embedded, 2 skipped \(out/errors\.jsonl says why\), 0 already done; "
        r"23\.7 s of audio in \d+\.\d s, \d+\.\d s a second\n",
        done,
    ), done
    check(tmp_path / "out", expected)
    again = cli(*arguments, "--json").succeeded().json
    assert again.pop("seconds") >= 0
    assert again == {
        "output": "out",
        "model": str(converted),
        "embedded": 0,
        "skipped": 2,
        "already_done": 40,
        "audio_seconds": 0.0,
        "ranks": 1,
    }
    check(tmp_path / "out", expected)


@pytest.mark.parametrize(
    "arguments", ["--manifest a.jsonl", "a.wav --manifest a.jsonl --output out", "--manifest a.jsonl b.wav"]
)
def test_wrong_usage(cli: Run, arguments: str) -> None:
    assert "--manifest takes the place of FILE… and needs --output FOLDER" in cli("embed", *arguments.split()).failed(2)


def test_shards_that_do_not_exist(cli: Run) -> None:
    """They are numbered from 0, as Slurm's arrays and indexed jobs of Kubernetes are."""
    for shard in ("16/16", ""):
        said = cli("embed", "--manifest", "a.jsonl", "--output", "out", "--shard", shard).failed(2)
        assert f"--shard takes I/N with I from 0 to N-1, as in 0/16 to 15/16, not {shard!r}" in said
    assert "--shard goes with --manifest" in cli("embed", "a.wav", "--shard", "0/2").failed(2)


def test_the_shards_of_an_array_job(cli: Run, tmp_path: Path, corpus: Path, converted: Path, expected: Rows) -> None:
    arguments = ("embed", "--manifest", corpus, "--output", "out", "--model", converted)
    said = [cli(*arguments, "--shard", f"{rank}/3").succeeded().out for rank in (2, 0, 1)]
    assert [line.partition(" already done")[0] for line in said] == [
        "out, shard 2/3: 14 embedded, 0 skipped, 0",
        "out, shard 0/3: 13 embedded, 1 skipped (out/errors.jsonl says why), 0",
        "out, shard 1/3: 13 embedded, 1 skipped (out/errors.jsonl says why), 0",
    ]
    check(tmp_path / "out", expected)
    (corpus.parent / "bad.jsonl").write_text('{"audio": "00.wav"}\n{"audio": "none.wav"}')
    bad = ("embed", "--manifest", corpus.parent / "bad.jsonl", "--output", "bad", "--model", converted)
    says = "bad, shard 1/2: none of the 1 files could be read; bad/errors.jsonl says why"
    assert cli(*bad, "--shard", "1/2").failed() == says
    result = cli(*bad, "--shard", "0/2", "--json").succeeded().json
    assert (result["rank"], result["ranks"], result["embedded"]) == (0, 2, 1)
    assert "0 embedded, 0 skipped, 0 already done" in cli(*bad, "--shard", "2/3").succeeded().out


def test_errors_are_one_line(cli: Run, tmp_path: Path, unchanged: Callable[[], None]) -> None:
    (tmp_path / "bad.jsonl").write_text('{"audio": "a.wav"}\n{"audio": "a.wav"}\n')
    (tmp_path / "empty.jsonl").write_text("")
    unchanged()
    for manifest, says in (
        ("bad.jsonl", "bad.jsonl, line 2: the id 'a.wav' was used before; give each line an \"id\" of its own"),
        ("empty.jsonl", 'empty.jsonl is empty: it needs a line {"audio": "path"} for each file'),
        ("none.jsonl", "none.jsonl cannot be read: No such file or directory"),
    ):
        assert cli("embed", "--manifest", manifest, "--output", "out").failed() == says
        unchanged()


def test_nothing_that_can_be_read(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "files.jsonl").write_text('{"audio": "a.wav"}\n{"audio": "b.wav"}\n')
    says = "none of the 2 files could be read; out/errors.jsonl says why"
    assert cli("embed", "--manifest", "files.jsonl", "--output", "out").failed() == says
    assert len((tmp_path / "out" / "errors.jsonl").read_text().splitlines()) == 2


def test_without_pyarrow(python: Run, tmp_path: Path) -> None:
    code = """
import sys
sys.modules["pyarrow"] = None
sys.argv = ["speech-zoo", "embed", "--manifest", "files.jsonl", "--output", "out"]
from speech_zoo.cli.main import main
main()
"""
    assert python(code).failed() == "embed: --manifest needs pyarrow: pip install 'pyarrow>=17'"
    assert not list(tmp_path.iterdir())
