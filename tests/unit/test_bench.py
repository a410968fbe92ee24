"""What the benchmark measures, whom it compares and what it refuses; workers are stand-ins."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speech_zoo
from speech_zoo.bench import report as bench_report
from speech_zoo.bench import run as bench
from speech_zoo.bench.contender import ours
from speech_zoo.bench.memory import measured
from speech_zoo.bench.process import Worker
from speech_zoo.bench.run import Plan, agreement, compare, interleave, speech
from speech_zoo.bench.subjects import Subject, examples, known, subject, write_example
from speech_zoo.plots import bench as bench_chart
from speech_zoo_core import oracle, registry
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.tasks import audio_model
from tiny_models import RESNET, wespeaker_folder

FEATURES = Subject("fbank", "fbank", "fbank")
SPEAKERS = Subject("a speaker model", "", "speaker-embedding")
LANGUAGES = Subject("a language model", "", "language-identification", single_pass=60.0)
PNG = b"\x89PNG\r\n\x1a\n"


class FakeWorker:
    """Writes down who was asked for what; its output is `vector`, its runs take 1, 2, … seconds."""

    def __init__(self, name: str, asked: list[tuple[str, str]], vector: Any = (3.0, 4.0)) -> None:
        self.name, self.asked, self.vector, self.runs = name, asked, vector, 0

    def run(self, clips: Path, output: Path | None = None, network: bool = False) -> dict[str, Any]:
        self.asked.append((self.name, clips.name))
        self.runs += 1
        if output is not None:
            np.save(output, np.array([self.vector], np.float32))
        return {"seconds": float(self.runs), "peak_bytes": 1000 + self.runs}


def fakes(asked: list[tuple[str, str]], **vectors: Any) -> dict[str, Any]:
    return {name: FakeWorker(name, asked, vector) for name, vector in vectors.items()}


def test_the_memory_of_the_work_is_not_that_of_its_parent() -> None:
    mine = np.ones(100_000_000)  # 800 MB in this process
    assert measured("nothing", "pass")["peak_bytes"] < 400e6
    used = measured("half a gigabyte", "import numpy; x = numpy.ones(64_000_000)")["peak_bytes"]
    assert 512e6 < used < 512e6 + 400e6
    assert mine[-1] == 1


def test_workers_take_turns(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []
    workers = fakes(asked, ours=(1.0,), torch=(1.0,), onnxruntime=(1.0,))
    replies = interleave(workers, tmp_path / "clips.npy", repeats=3)
    assert [name for name, _ in asked] == ["ours", "torch", "onnxruntime"] * 3
    assert [reply["seconds"] for reply in replies["torch"]] == [1, 2, 3]


def test_medians_and_ratios_come_of_the_runs_after_the_warm_up(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []
    workers = fakes(asked, ours=(3.0, 4.0), torch=(6.0, 8.0))  # a scale means nothing to an embedding
    workers["torch"].runs = 4
    measured = compare(SPEAKERS, workers, tmp_path / "clips.npy", 3, tmp_path)
    assert [name for name, _ in asked] == ["ours", "torch"] * 4
    assert measured["ours"] == {"seconds": 3, "ratio": 1, "runs": 3, "peak_bytes": 1004, "agreement": None}
    assert (measured["torch"]["seconds"], measured["torch"]["ratio"]) == (7, 7 / 3)
    assert measured["torch"]["agreement"] == {"measure": "1 - cosine", "value": pytest.approx(0), "limit": 1e-6}


@pytest.mark.parametrize("on_cpu", [True, False])
def test_stock_mlx_runs_once_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_cpu: bool) -> None:
    monkeypatch.setattr(bench, "on_cpu", lambda: on_cpu)
    asked: list[tuple[str, str]] = []
    measured = compare(SPEAKERS, fakes(asked, ours=(1.0,), stock=(1.0,)), tmp_path / "clips.npy", 3, tmp_path)
    assert measured["stock"]["runs"] == (1 if on_cpu else 3)
    stock = [clips for name, clips in asked if name == "stock"]
    assert stock == (["clips-0.5-1.npy", "clips.npy"] if on_cpu else ["clips.npy"] * 4)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_who_is_compared(monkeypatch: pytest.MonkeyPatch, on_cpu: bool) -> None:
    monkeypatch.setattr(bench, "on_cpu", lambda: on_cpu)
    plan = Plan((), contenders=("torch", "stock"), seconds=(3.0, 70.0), batches=(1, 16))
    assert plan.names(FEATURES) == ["ours", "kaldi-native-fbank", "stock"]
    names = ["ours", "torch", "stock"]
    if not on_cpu:
        names[1:1] = ["ours float16", "ours float16 eager"]
        names[-1:-1] = ["torch float16 eager", "torch float16 compiled"]
    assert plan.names(LANGUAGES) == names
    ran = {case: [name for name in names if not plan.skips(name, LANGUAGES, case)] for case in ((3.0, 1), (3.0, 16))}
    assert ran[3.0, 1] == names
    assert ran[3.0, 16] == ([name for name in names if name != "stock"] if on_cpu else names)
    assert all(name.startswith("ours") for name in names if not plan.skips(name, LANGUAGES, (70.0, 1)))
    assert plan.skips("torch", SPEAKERS, (70.0, 1)) is None


@pytest.mark.parametrize(
    ("model", "contender", "theirs", "value"),
    [
        (SPEAKERS, "torch", [[3.0, 4.02]], "2.86e-06"),
        (SPEAKERS, "ours float16", [[3.0, 4.2]], "0.00027"),
        (FEATURES, "kaldi-native-fbank", [[3.0, 4.002]], "0.002"),
        (LANGUAGES, "onnxruntime", [[3.0, 4.001]], "0.00025"),
        (LANGUAGES, "ours float16", [[4.1, 4.0]], "1"),
        (SPEAKERS, "torch", [[np.nan, 4.0]], "nan"),
        (SPEAKERS, "torch", [[3.0, 4.0], [3.0, 4.0]], "shape"),
    ],
)
def test_a_contender_that_disagrees_is_an_error_before_anything_is_timed(
    tmp_path: Path, model: Subject, contender: str, theirs: Any, value: str
) -> None:
    ours = np.array([[3.0, 4.0]], np.float32)
    agreement(model, contender, ours, ours)
    with pytest.raises(SpeechZooError, match=rf"^bench: {model.name}: .*{contender}.*{value}") as error:
        agreement(model, contender, ours, np.array(theirs, np.float32))
    assert "\n" not in str(error.value)
    asked: list[tuple[str, str]] = []
    workers = fakes(asked, ours=(3.0, 4.0)) | {contender: FakeWorker(contender, asked, theirs[0])}
    if len(theirs) == 1:
        with pytest.raises(SpeechZooError, match="disagrees"):
            compare(model, workers, tmp_path / "clips.npy", 3, tmp_path)
        assert len(asked) == 2


def test_float16_may_differ_more() -> None:
    ours, theirs = np.array([[3.0, 4.0]], np.float32), np.array([[3.0, 4.02]], np.float32)
    assert agreement(SPEAKERS, "torch float16 compiled", ours, theirs)["limit"] == 1e-4
    assert agreement(LANGUAGES, "ours float16", ours, theirs * 2)["value"] == 0


def test_clips_are_the_voices() -> None:
    clips = speech(2.5, 3)
    assert (clips.shape, clips.dtype) == ((3, 40000), np.float32)
    assert all(0.01 < clip.std() < 1 for clip in clips)
    assert not np.array_equal(clips[0], clips[1])
    assert np.array_equal(clips[0], speech(60, 1)[0, :40000])


def test_a_worker_that_fails_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SpeechZooError, match=r"^bench: ours of a model: .*nowhere.*[^\n]$"):
        Worker("ours", "a model", str(tmp_path / "nowhere"), tmp_path)
    worker = Worker("ours", FEATURES.name, FEATURES.ref, tmp_path)
    for _ in range(2):  # once it is dead, too
        with pytest.raises(SpeechZooError, match=r"^bench: ours of fbank failed: FileNotFoundError: .*clips.npy'$"):
            worker.run(tmp_path / "clips.npy")
    worker.close()


def test_log_probabilities_agree_with_logits() -> None:
    logits = np.array([[3.0, 4.0, -1.0]], np.float32)
    log_probs = logits - np.log(np.exp(logits).sum())
    assert agreement(LANGUAGES, "torch", logits, log_probs)["value"] < 1e-6


def test_what_has_a_name_to_measure() -> None:
    assert {"campplus", "ecapa", "mms", "resnet34"} <= examples().keys()  # people's scripts have these names
    assert all(known(name) for name in (*examples(), *registry.model_types(), *registry.bundled(), "org/name"))
    assert not known("resnet")


@pytest.mark.parametrize("name", examples())
def test_an_example_without_its_original(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the original is not installed, our model gets seeded weights in the form that we convert to."""
    monkeypatch.setattr(oracle, "find_spec", lambda _: None)
    spec, example = examples()[name]
    channels = [64] * (len(getattr(example.config, "channels", "?")) - 1) + [96]
    small = {"num_blocks": [1, 1, 1, 1], "channels": channels, "num_hidden_layers": 2, "hidden_size": 64}
    small |= {"conv_dim": [16] * 7, "intermediate_size": 64}
    config = replace(example.config, **{key: x for key, x in small.items() if hasattr(example.config, key)})
    monkeypatch.setattr(registry, "specs", lambda: iter([replace(spec, example=replace(example, config=config))]))
    facts = write_example(name, tmp_path / "example", layers=1)
    assert "pip install" in facts["alone"]
    assert facts["layers"] == (1 if hasattr(config, "num_hidden_layers") else None)
    model = speech_zoo.load(tmp_path / "example")
    output = np.array(model(model.features(speech(2.0, 1)[0], 16000)[None]))
    assert np.isfinite(output).all()
    assert 1e-3 < np.abs(output).max() < 1e4


def test_a_checkpoint_is_measured_as_it_is(tmp_path: Path) -> None:
    name = "campplus-zh-en"
    measured = subject(name, 4, tmp_path)
    assert (measured.name, measured.ref, measured.task, measured.rate) == (name, name, "speaker-embedding", 16000)
    assert (measured.seeded, measured.layers, measured.alone) == (False, None, None)
    assert measured.size > 10e6
    segmentation = subject("pyannet", 4, tmp_path)  # has no example
    assert (segmentation.ref, segmentation.task) == ("pyannote-segmentation-3.0", "speaker-segmentation")
    assert subject("fbank", 4, tmp_path) == FEATURES
    with pytest.raises(SpeechZooError, match="nowhere"):
        subject(str(tmp_path / "nowhere"), 4, tmp_path)


ROWS = [
    {"model": "fbank", "audio_seconds": 3.0, "batch": 1, "contender": "ours", "why": None}
    | {"seconds": 0.01, "ratio": 1.0, "runs": 2, "peak_bytes": 5e7, "agreement": None},
    {"model": "fbank", "audio_seconds": 3.0, "batch": 1, "contender": "kaldi-native-fbank", "why": None}
    | {"seconds": 0.02, "ratio": 2.0, "runs": 2, "peak_bytes": None, "agreement": {}},
    {"model": "fbank", "audio_seconds": 3.0, "batch": 1, "contender": "stock", "why": "too slow"}
    | dict.fromkeys(bench.FIGURES),
]
LOADS = {"start_seconds": 0.5, "load_seconds": 0.25, "by": "someone 1.0", "device": "CPU", "blas": None, "threads": 1}
RESULT = bench_report.machine() | {
    "weights": {},
    "memory": [],
    "rows": ROWS,
    "contenders": [{"model": "fbank", "contender": name} | LOADS for name in ("ours", "kaldi-native-fbank")],
}


def test_the_table_names_the_machine_and_says_why_there_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    bench_report.show(RESULT, long=False)
    lines = capsys.readouterr().out.splitlines()
    table = next(i for i, line in enumerate(lines) if "ratio" in line)
    before = "\n".join(lines[:table])
    for said in (
        RESULT["machine"]["cpu"],
        "MLX on CPU",
        f"mlx {RESULT['versions']['mlx']}",
        "someone 1.0, CPU, 1 thread",
    ):
        assert said in before
    rows = [line.split() for line in lines[table + 1 : table + 4]]
    assert rows[0] == "fbank 3 s ours 0.0100 1.00 2 0.50 0.25 50".split()
    assert rows[1] == "fbank 3 s kaldi-native-fbank 0.0200 2.00 2 0.50 0.25 -".split()
    assert rows[2] == "fbank 3 s stock - - - - - -".split()
    assert lines[table + 4] == "- fbank, stock: too slow"


def test_the_table_of_long_clips(capsys: pytest.CaptureFixture[str]) -> None:
    short, long = ({"seconds": seconds, "runs": 1, "peak_bytes": 2e8} for seconds in (0.1, 6.6))
    row = {"model": "mms", "10_s": short, "600_s": long, "relative_cost": 1.1}
    facts = {"weights": {"mms": 5e8}, "seeded": ["mms"], "layers": {"mms": (2, 48)}, "rows": [row]}
    bench_report.show(bench_report.machine() | facts, long=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == "mms 0.1000 1 6.6000 1 1.10 200".split()
    assert "mms: 500 MB (seeded weights, 2 of its 48 layers)" in "".join(lines)


def test_a_chart_is_drawn(tmp_path: Path) -> None:
    bench_chart.draw(RESULT, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(PNG)


def test_a_chart_without_matplotlib_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(SpeechZooError, match="there is no folder"):
        bench.run(Plan(()), as_json=True, plot=tmp_path / "nowhere" / "chart.png")
    monkeypatch.setattr("speech_zoo.plots.figure.find_spec", lambda name: None)
    with pytest.raises(SpeechZooError, match=r"pip install 'matplotlib>=3\.8'"):
        bench.run(Plan(()), as_json=True, plot=tmp_path / "chart.png")


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("eager", [False, True])
def test_the_network_alone_gives_what_all_of_it_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eager: bool
) -> None:
    """`eager` pads to no bucket."""
    seen: list[int] = []
    monkeypatch.setattr(audio_model, "bucket", lambda size: seen.append(size) or size)
    measured = ours(str(wespeaker_folder(tmp_path / "source", RESNET)), engine="mlx", eager=eager)
    assert measured.inputs is not None
    assert measured.network is not None
    clips = speech(1.0, 2)
    assert np.allclose(measured.network(measured.inputs(clips)), measured.run(clips), atol=1e-5)
    assert bool(seen) != eager
    assert {"run", "inputs", "network"}.isdisjoint(measured.facts)
