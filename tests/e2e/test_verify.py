"""`speech-zoo verify` of lists, of several files a side and with a cohort; `speech-zoo cohort`."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from wavs import write_wav

Run = Callable[..., Any]


@pytest.fixture
def listed(tmp_path: Path, halves: dict[str, Path]) -> Path:
    for file in halves.values():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "pairs.txt"
    path.write_text("1 a1.wav a2.wav\na1.wav b1.wav\nnontarget b1.wav a1.wav\na1.wav a1.wav\n")
    return path


@pytest.fixture
def others(cli: Run, voices: list[Path], converted: Path, tmp_path: Path) -> Path:
    cli("cohort", *voices[2:], "--model", converted, "-o", "others.safetensors").succeeded()
    return tmp_path / "others.safetensors"


def test_a_list(cli: Run, listed: Path, converted: Path, tmp_path: Path) -> None:
    model = ["--model", converted]
    lines = [line.split() for line in cli("verify", "--list", listed, *model).succeeded().out.splitlines()]
    names = [("a1.wav", "a2.wav", "1"), ("a1.wav", "b1.wav"), ("b1.wav", "a1.wav", "nontarget"), ("a1.wav", "a1.wav")]
    assert [(a, b, *label) for a, b, _, *label in lines] == names
    scores = [float(line[2]) for line in lines]
    for (a, b, *_), score in zip(names[:2], scores, strict=False):
        pair = json.loads(cli("verify", a, b, *model, "--json").succeeded().out)
        assert score == pytest.approx(pair["score"], abs=1e-6)
    assert (scores[1], scores[3]) == (scores[2], pytest.approx(1))
    out = cli("verify", "--list", listed, *model, "--output", "s.csv").succeeded().out
    assert out == f"s.csv: scores of 4 pairs of 3 files, {converted}\n"
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert [float(row["score"]) for row in rows] == scores
    assert [row["label"] for row in rows] == ["1", "", "nontarget", ""]
    cli("verify", "--list", listed, *model, "--output", "s.jsonl", "--json").succeeded()
    assert [json.loads(line)["score"] for line in (tmp_path / "s.jsonl").read_text().splitlines()] == scores


def test_names_with_spaces_and_files_that_are_not_there(
    cli: Run, listed: Path, converted: Path, unchanged: Callable[[], None]
) -> None:
    spaced = write_wav(listed.with_name("a 1.wav"), np.zeros(9))
    (spaced.parent / "spaced.csv").write_text(f"a,b\n{spaced.name},b1.wav\n")
    (spaced.parent / "gone.txt").write_text("a1.wav b1.wav\na1.wav gone.wav\n")
    (spaced.parent / "empty.jsonl").write_text("\n")
    unchanged()
    model = ["--model", converted, "-o", "s.txt"]
    assert cli("verify", "--list", "spaced.csv", *model).failed().startswith("'a 1.wav' holds a space: --output takes")
    assert cli("verify", "--list", "gone.txt", *model).failed() == "gone.txt, line 2: gone.wav does not exist"
    assert cli("verify", "--list", "empty.jsonl", *model).failed().startswith("empty.jsonl holds no pairs; it takes")
    unchanged()


def test_with_a_cohort(cli: Run, listed: Path, others: Path, converted: Path) -> None:
    model = ["--model", converted]
    pair = ["verify", "a1.wav", "b1.wav", *model]
    plain = cli(*pair, "--json").succeeded().json
    result = cli(*pair, "--cohort", others, "--threshold", "-50", "--top", "4", "--json").succeeded().json
    assert (result["cosine"], result["same_speaker"], "cohort" in plain) == (plain["score"], True, False)
    assert result["score"] != plain["score"]
    shown = cli(*pair, "--cohort", others, "--threshold", "50", "--top", "4").succeeded().out
    wanted = f"normalised score {result['score']:.4f} (cosine {plain['score']:.4f}) < threshold 50.0000: different"
    assert shown.startswith(wanted)
    rows = cli("verify", "--list", listed, *model, "--cohort", others, "--top", "4").succeeded().out.splitlines()
    assert float(rows[1].split()[2]) == pytest.approx(result["score"], abs=1e-4)
    assert cli(*pair, "--cohort", others).failed().startswith("normalised scores are no cosines and need a threshold")
    wrong = cli("verify", "--list", listed, "--cohort", others).failed()
    assert wrong == f"the cohort was made with {converted}, another checkpoint: make one with this model"


def test_a_threshold_for_normalised_scores(cli: Run, listed: Path, others: Path, converted: Path) -> None:
    listed.write_text("1 a1.wav a2.wav\n1 b1.wav b2.wav\n0 a1.wav b1.wav\n0 a2.wav b2.wav\n")
    arguments = ["calibrate", listed, "--model", converted, "--cohort", others]
    result = cli(*arguments, "--json")
    if result.status:  # a model that knows nothing may have its scores the wrong way round
        assert "do not tell one speaker from two" in result.err
        return
    assert (result.json["cohort"], result.json["written"]) == (str(others), None)
    line = f"For: speech-zoo verify A B --cohort {others} --threshold {result.json['threshold']:.4f}"
    assert cli(*arguments).succeeded().out.splitlines()[-1] == line


def test_several_files_of_one_side(cli: Run, halves: dict[str, Path], converted: Path) -> None:
    a, b = [halves["a1"], halves["b1"]], ["--enrol", halves["a2"], "--threshold", "0", "--model", converted, "--json"]
    result = cli("verify", *a, *b)
    assert result.status == 0
    assert result.json["files"] == [str(halves[name]) for name in ("a1", "b1", "a2")]
    assert result.json["score"] != cli("verify", *a, *b[2:]).json["score"]


def test_a_cohort_by_folder(cli: Run, halves: dict[str, Path], converted: Path, tmp_path: Path) -> None:
    for name in ("a1", "a2", "b1"):
        folder = tmp_path / "people" / name[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.wav").write_bytes(halves[name].read_bytes())
    made = ["cohort", "people", "--model", converted, "-o", "c.safetensors"]
    assert cli(*made).succeeded().out == f"c.safetensors: 3 speakers of 3 files, {converted}\n"
    facts = cli(*made, "--by-folder", "--json").succeeded().json
    assert facts == {"output": "c.safetensors", "model": str(converted), "speakers": 2, "files": 3}
    assert load_file(tmp_path / "c.safetensors")["cohort"].shape == (2, 16)
    (tmp_path / "bad.wav").write_bytes(b"")
    some = cli("cohort", "bad.wav", "people", "--model", converted, "-o", "d.safetensors")
    assert (some.status, some.out) == (1, f"d.safetensors: 3 speakers of 3 files, {converted}\n")
    assert some.err.startswith("error: bad.wav")


def test_what_goes_with_what(cli: Run, halves: dict[str, Path], converted: Path) -> None:
    a = halves["a1"]
    for arguments, message in (
        (["verify"], "missing argument 'A', or --list"),
        (["verify", a], "missing argument 'B', or --list"),
        (["verify", a, a, "--top", "5"], "--top goes with --cohort"),
        (["verify", a, a, "--output", "s.txt"], "--output goes with --list"),
        (["verify", a, "--list", a], "--list takes the place of A B"),
        (["verify", "--list", a, "--threshold", "1"], "--threshold goes with A B, not with --list"),
        (["verify", "--list", a, "--output", "s.wav"], "--output ends in .txt, .csv, .tsv or .jsonl"),
        (["cohort", a, "-o", "c.txt"], "--output must end in .safetensors"),
        (["calibrate", a, "--cohort", a, "--keep"], "a threshold for normalised scores is not kept"),
    ):
        assert message in cli(*arguments).failed(2)
    assert (
        cli("cohort", a, "--model", converted, "-o", "c.safetensors").failed().startswith("a cohort takes 2 speakers")
    )
