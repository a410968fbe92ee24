"""`speech-zoo bench` in a fresh process: what it prints and writes, and what it refuses. Speed is never asserted."""

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from speech_zoo.bench import audio as audio_bench
from speech_zoo.bench import diarization as diarization_bench
from speech_zoo.bench.process import KALDI
from speech_zoo.bench.run import names

FIGURES = {"seconds", "ratio", "runs", "peak_bytes", "agreement"}
QUICK = ("--seconds", "3", "--repeats", "1", "--json")


def test_contenders_side_by_side(cli: Callable[..., Any], tmp_path: Path) -> None:
    measured = cli(
        *(
            "bench",
            "fbank",
            "campplus",
            "--batch",
            "1,2",
            "--contenders",
            "torch,stock,mlx,coreml",
            "--plot",
            "chart.png",
            *QUICK,
        )
    )
    result = measured.succeeded().json
    assert result["machine"].keys() == {"os", "cpu", "cores", "python", "device"}
    assert result["versions"]["mlx"] is not None
    assert 27e6 < result["weights"]["campplus"] < 29e6
    cases = [(row["model"], row["batch"], row["contender"]) for row in result["rows"]]
    contenders = {
        model: ("ours", original, "stock", "mlx", "coreml")
        for model, original in (("fbank", KALDI), ("campplus", "torch"))
    }
    on_cpu = result["machine"]["device"] == "CPU"
    if on_cpu:
        assert cases == [(model, n, name) for model in contenders for n in (1, 2) for name in contenders[model]]
    for row in result["rows"]:
        assert row.keys() == {"model", "audio_seconds", "batch", "contender", "why"} | FIGURES
        assert row["audio_seconds"] == 3
        if row["why"] is not None:
            assert {row[key] for key in FIGURES} == {None}
            continue
        assert row["seconds"] > 0
        assert row["peak_bytes"] > 20e6
        assert row["runs"] == 1
        assert (
            row["ratio"] == 1 if row["contender"] == "ours" else row["agreement"]["value"] <= row["agreement"]["limit"]
        )
    missing = {
        (row["model"], row["contender"]): row["why"] for row in result["rows"] if row["batch"] == 1 and row["why"]
    }
    for model, name, module in (("fbank", KALDI, "kaldi_native_fbank"), ("campplus", "torch", "torch")):
        if find_spec(module) is None:
            assert "pip install" in missing.pop((model, name))
    for engine in ("mlx", "coreml"):
        assert missing.pop(("fbank", engine)) == "there is no network to compute"
    if sys.platform != "darwin":
        assert "runs on a Mac only" in missing.pop(("campplus", "coreml"))
    assert not missing or not on_cpu
    loaded = {(each["model"], each["contender"]): each for each in result["contenders"]}
    for each in loaded.values():
        assert 0 <= each["load_seconds"] <= each["start_seconds"]
        assert {"by", "device", "threads", "blas"} <= each.keys()
    if sys.platform == "linux" and on_cpu:
        assert loaded["campplus", "stock"]["blas"] is not None
        assert ", onnxruntime " in loaded["campplus", "ours"]["by"]
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_the_table(cli: Callable[..., Any]) -> None:
    out = cli("bench", "fbank", "--seconds", "1", "--repeats", "2", "--contenders", "ours,onnxruntime").succeeded().out
    assert "MLX on" in out
    assert "fbank, ours: mlx-speech-zoo" in out
    rows = [line.split() for line in out.splitlines() if line.startswith("fbank ")]
    assert [row[3] for row in rows] == ["ours", "onnxruntime"]
    assert rows[0][5:7] == ["1.00", "2"]
    assert rows[1][4:] == ["-"] * 6
    assert "- fbank, onnxruntime: there is no network" in out


def test_a_shared_machine(cli: Callable[..., Any]) -> None:
    (result,) = cli("bench", "--shared", "--repeats", "1", "--json").succeeded().json
    assert (result["model"], [*result["beside"]]) == ("campplus-zh-en", ["0", "1", "4"])
    assert min(*result["beside"].values(), result["in_turn"], result["at_once"]) > 0
    lines = cli("bench", "campplus-zh-en", "--shared", "--repeats", "1").succeeded().out.splitlines()
    assert [line.split("  ")[-1] for line in lines[1:]] == [
        *("beside 0 busy processes", "beside 1 busy process", "beside 4 busy processes"),
        *("4 requests in turn", "4 requests at once"),
    ]


def test_long_clips(cli: Callable[..., Any]) -> None:
    (row,) = cli("bench", "fbank", "--long", "--repeats", "1", "--json").succeeded().json["rows"]
    assert row.keys() == {"model", "10_s", "600_s", "relative_cost"}
    assert row["relative_cost"] == pytest.approx(row["600_s"]["seconds"] / row["10_s"]["seconds"] / 60)
    assert row["600_s"]["peak_bytes"] > row["10_s"]["peak_bytes"] > 20e6


def test_a_profile(cli: Callable[..., Any]) -> None:
    arguments = ("bench", "campplus", "--profile", "--seconds", "2", "--repeats", "1")
    result = cli(*arguments, "--json").succeeded().json
    assert all(value > 0 for value in result["ceilings"].values())
    (profile,) = result["profiles"]
    *layers, rest = profile["layers"]
    assert rest["layer"] == "everything else"
    assert sum(row["calls"] for row in layers) > 100
    assert 1.5 < sum(row["gflop"] for row in layers) < 3  # CAM++ has about 1 GFLOP for each second
    assert "Conv1d 3, 128 to 32, dilation 2" in cli(*arguments).succeeded().out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["resnet"], 2, ", ".join(names())),
        (["fbank", "--profile"], 2, f"the models are {names()[1]}"),
        (["fbank", "--contenders", "ours,jax"], 2, "'jax'"),
        (["fbank", "--contenders", ""], 2, "--contenders are"),
        (["fbank", "--seconds", "ten"], 2, "--seconds takes numbers of 0.1 or more"),
        (["fbank", "--seconds", "10,0"], 2, "--seconds"),
        (["fbank", "--seconds", "nan"], 2, "--seconds"),
        (["fbank", "--seconds", "inf"], 2, "--seconds"),
        (["fbank", "--batch", "1.5"], 2, "--batch takes whole numbers"),
        (["fbank", "--batch", "0"], 2, "--batch"),
        (["fbank", "--repeats", "0"], 2, "--repeats"),
        (["mms", "--layers", "49"], 2, "--layers"),
        (["fbank", "--plot", "chart.pdf"], 2, ".png"),
        (["fbank", "--plot", "chart.png", "--long"], 2, "--long"),
        (["fbank", "--plot", "nowhere/chart.png"], 1, "nowhere"),
    ],
)
def test_wrong_usage(cli: Callable[..., Any], arguments: list[str], status: int, said: str) -> None:
    assert said in cli("bench", *arguments).failed(status)


def test_a_clip_that_is_too_short(cli: Callable[..., Any]) -> None:
    said = cli("bench", "resnet34", "--seconds", "0.1", "--contenders", "ours").failed()
    assert said.startswith("bench: ours of resnet34: ")
    assert "too short" in said


def test_what_comes_before_a_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(audio_bench, "RUNS", {name: run for name, run in audio_bench.RUNS.items() if "ours" in name})
    audio_bench.run(1, True, seconds=20)
    measured = json.loads(capsys.readouterr().out)
    assert len(measured["decoding"]) == 3
    for row in measured["decoding"].values():
        assert row["audio_seconds"] > 20
        assert row["seconds"] > 0
    assert 0 < measured["speech_check"]["share"] < 1
    audio_bench.run(1, False, seconds=1)
    assert "the speech check of 10 s" in capsys.readouterr().out


def test_diarization(capsys: pytest.CaptureFixture[str]) -> None:
    diarization_bench.run((12.0, 15.0), True)
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["audio_seconds"] for row in rows] == [12, 15]
    for row in rows:
        assert list(row["stages"]) == list(diarization_bench.STAGES)
        assert row["stages"]["segmentation"] > row["stages"]["decoding"] > 0
        assert row["stages"]["embedding"] > 0
        assert row["seconds"] == pytest.approx(sum(row["stages"].values()), rel=0.3)
        assert row["peak_bytes"] is None or row["peak_bytes"] > 50e6
    diarization_bench.run((12.0,), False)
    out = capsys.readouterr().out
    assert "times real time, peak" in out
    assert all(f"ms  {stage}" in out for stage in diarization_bench.STAGES)
