"""`speech-zoo calibrate` and what `verify` makes of it, in fresh processes: the bundled voices, and a tiny model."""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from wavs import read_wav, write_wav

Run = Callable[..., Any]
COMMAND = Path(sys.executable).with_name("speech-zoo")
PNG = b"\x89PNG\r\n\x1a\n"
THRESHOLDS = "thresholds.json"


@pytest.fixture(scope="session")
def listed(tmp_path_factory: pytest.TempPathFactory, voices: list[Path]) -> Path:
    """Every pair of 18 clips, the first and the last 1.5 s of each of the nine voices, in the VoxCeleb form."""
    folder = tmp_path_factory.mktemp("trials")
    files = []
    for voice in voices:
        samples = read_wav(voice)
        for name, part in (("first", samples[:24000]), ("last", samples[-24000:])):
            files.append(write_wav(folder / f"{voice.stem}-{name}.wav", part).name)
    pairs = itertools.combinations(files, 2)
    (folder / "trials.txt").write_text("".join(f"{int(a[:8] == b[:8])} {a} {b}\n" for a, b in pairs))
    return folder / "trials.txt"


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a user without calibrations."""
    return {"SPEECH_ZOO_HOME": str(tmp_path_factory.mktemp("user") / "home")}


@pytest.fixture(scope="module")
def calibrated(run_process: Run, listed: Path, converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the command found for the bundled checkpoint and the tiny one, by name; the environment of their user."""
    folder = tmp_path_factory.mktemp("calibrated")
    env = {"SPEECH_ZOO_HOME": str(folder / "home")}
    results = {}
    for name, model in (("bundled", "campplus-zh-en"), ("tiny", converted)):
        plot = ["--plot", folder / f"{name}.png"] if find_spec("matplotlib") else []
        results[name] = run_process(
            [COMMAND, "calibrate", listed, "--model", model, *plot, "--keep", "--json"], folder, env
        )
    return {name: result.succeeded().json for name, result in results.items()}, env


def test_the_voices(calibrated: Any) -> None:
    (each, env) = calibrated
    bundled = each["bundled"]
    assert (bundled["files"], bundled["targets"], bundled["nontargets"]) == (18, 9, 144)
    assert 0 <= bundled["eer"] < 0.05
    assert 0 <= bundled["min_dcf"] < 0.5
    assert 0.25 < bundled["threshold"] < 0.5
    assert (bundled["at"], bundled["p_target"], bundled["c_miss"], bundled["c_fa"]) == ("eer", 0.01, 1, 1)
    assert not bundled["enough_errors"]
    assert bundled["written"] == each["tiny"]["written"] == str(Path(env["SPEECH_ZOO_HOME"]) / THRESHOLDS)
    assert each["tiny"]["eer"] > bundled["eer"]  # it knows nothing
    assert not {"target_histogram", "nontarget_histogram"} & bundled.keys()


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs the extra plot")
def test_the_det_curve(calibrated: Any) -> None:
    pictures = [Path(result["plot"]).read_bytes() for result in calibrated[0].values()]
    assert all(picture.startswith(PNG) for picture in pictures)
    assert pictures[0] != pictures[1]


def test_verify_uses_it(cli: Run, python: Run, calibrated: Any, converted: Path, halves: dict[str, Path]) -> None:
    results, env = calibrated
    files = [halves["a1"], halves["b1"]]
    bundled = cli("verify", *files, "--json", env=env).succeeded().json
    assert (bundled["threshold"], bundled["threshold_source"]) == (results["bundled"]["threshold"], "calibrated")
    assert not bundled["same_speaker"]

    threshold, tiny = results["tiny"]["threshold"], ["--model", converted]
    score = cli("verify", *files, *tiny, "--json", env=env).succeeded().json["score"]
    sign, verdict = (">=", "the same speaker") if score >= threshold else ("<", "different speakers")
    out = cli("verify", *files, *tiny, env=env).succeeded().out
    assert out == f"score {score:.4f} {sign} threshold {threshold:.4f} (calibrated): {verdict}\n"
    given = cli("verify", *files, *tiny, "--threshold", "-0.5", "--json", env=env).succeeded().json
    assert (given["threshold"], given["threshold_source"], given["same_speaker"]) == (-0.5, "option", True)
    assert cli("info", converted, "--json", env=env).succeeded().json["calibrated"]["threshold"] == threshold
    code = """
import json, sys, speech_zoo
model = speech_zoo.load(sys.argv[1])
print(json.dumps([speech_zoo.threshold_of(model), model.verify(*sys.argv[2:]).threshold, model.config.threshold]))
"""
    of, used, own = python(code, converted, *files, env=env).succeeded().json
    assert (of, used, own) == (threshold, threshold, 0.3)


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs the extra plot")
def test_verify_draws(
    cli: Run, calibrated: Any, home: dict[str, str], converted: Path, halves: dict[str, Path], tmp_path: Path
) -> None:
    named = tmp_path / "$voice_1$ 😀.wav"
    named.write_bytes(halves["a1"].read_bytes())
    for name, env in (("calibrated", calibrated[1]), ("plain", home)):
        arguments = [named, halves["b1"], "--model", converted, "--plot", f"{name}.png"]
        assert cli("verify", *arguments, env=env).succeeded().out.startswith("score ")
    pictures = [(tmp_path / f"{name}.png").read_bytes() for name in ("calibrated", "plain")]
    assert all(picture.startswith(PNG) for picture in pictures)
    assert pictures[0] != pictures[1]
    assert {path.name for path in tmp_path.iterdir()} == {named.name, "calibrated.png", "plain.png"}


def test_the_figures_are_those_of_the_embeddings(
    cli: Run, home: dict[str, str], listed: Path, converted: Path, tmp_path: Path
) -> None:
    """Of a model that knows nothing; every threshold is tried."""
    options = ["--model", converted, "--p-target", "0.3", "--c-miss", "2", "--at", "min-dcf"]
    result = cli("calibrate", listed, *options, "--json", env=home).succeeded().json
    files = sorted(listed.parent.glob("*.wav"))
    cli("embed", *files, "--model", converted, "--output", "v.safetensors").succeeded()
    vectors = {Path(name).name: v.astype(np.float64) for name, v in load_file(tmp_path / "v.safetensors").items()}
    trials = [line.split() for line in listed.read_text().splitlines()]
    same = np.array([label == "1" for label, _, _ in trials])
    scores = np.array([vectors[a] @ vectors[b] for _, a, b in trials])

    def rates(threshold: float) -> tuple[float, float]:
        return float((scores[same] < threshold).mean()), float((scores[~same] >= threshold).mean())

    costs = [(2 * 0.3 * miss + 0.7 * fa) / 0.6 for miss, fa in map(rates, [*scores, np.inf])]
    assert result["min_dcf"] == pytest.approx(min(costs))
    miss, fa = rates(result["threshold"])
    assert (2 * 0.3 * miss + 0.7 * fa) / 0.6 == pytest.approx(min(costs))
    assert (result["misses"], result["false_alarms"]) == (round(9 * miss), round(144 * fa))
    assert result["eer"] <= min(max(rates(threshold)) for threshold in scores) + 1e-9


def test_classes_apart_and_a_dry_run(
    cli: Run, home: dict[str, str], converted: Path, halves: dict[str, Path], tmp_path: Path
) -> None:
    a1, a2, b1 = (halves[name] for name in ("a1", "a2", "b1"))
    (tmp_path / "t.csv").write_text(f"0,{a1},{b1}\n1,{a1},{a2}\n")
    arguments = ["calibrate", "t.csv", "--model", converted, "--c-miss", "10"]
    lines = cli(*arguments, "--dry-run", env=home).succeeded().out.splitlines()
    assert re.fullmatch(r"shortest   2\.\d s of speech", lines.pop(2))
    assert lines[:4] == [
        f"t.csv: 3 files, {converted}",
        "trials     1 target, 1 non-target",
        "EER        0.00%",
        "minDCF     0.0000  (p-target 0.01, c-miss 10, c-fa 1)",
    ]
    assert re.fullmatch(r"threshold  0\.\d{4}  \(at the EER: misses 0 of 1, false alarms 0 of 1\)", lines[4])
    assert lines[5].startswith("Every target scores above every non-target: the threshold is the midpoint of 0.")
    assert lines[6].startswith("Too few errors to mean much")
    assert lines[7:] == ["dry run: the threshold is not kept"]
    path = Path(home["SPEECH_ZOO_HOME"]) / THRESHOLDS
    assert not path.parent.exists()
    assert cli(*arguments, env=home).succeeded().out.splitlines()[8:] == [
        "The threshold is not kept; --keep keeps it all the same."
    ]
    assert not path.exists()
    kept, undo = cli(*arguments, "--keep", env=home).succeeded().out.splitlines()[8:]
    assert re.fullmatch(
        rf"verify, identify and search use 0\.\d{{4}} for {converted} from now on, instead of 0.3000: {path}", kept
    )
    assert undo == f"To undo: speech-zoo calibrate --forget --model {converted}"
    forget = ["calibrate", "--forget", "--model", converted]
    assert " is forgotten; verify uses the checkpoint's own: 0.3" in cli(*forget, env=home).succeeded().out
    assert cli(*forget, env=home).succeeded().out.startswith("no threshold was kept for")
    assert cli(*forget, "--json", env=home).succeeded().json["forgotten"] is None
    assert "takes no list" in cli(*forget, "t.csv", env=home).failed(2)


def test_verify_in_python_uses_the_calibrated_threshold(
    cli: Run, python: Run, home: dict[str, str], converted: Path, halves: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(f"0,{halves['a1']},{halves['b1']}\n1,{halves['a1']},{halves['a2']}\n")
    chosen = cli("calibrate", "t.csv", "--model", converted, "--keep", "--json", env=home).succeeded().json["threshold"]
    code = """
import sys, speech_zoo
model = speech_zoo.load(sys.argv[1])
clips = sys.argv[2:]
results = [model.verify(*clips), model.verify(*clips, threshold="checkpoint"), model.verify(*clips, threshold=1.0)]
print([result.threshold for result in results])
assert [bool(result) for result in results] == [result.same_speaker for result in results]
assert not results[2]
"""
    arguments = (converted, halves["a1"], halves["b1"])
    assert python(code, *arguments, env=home).succeeded().out == f"{[chosen, 0.3, 1.0]}\n"


def test_processes_at_once(home: dict[str, str], environment: dict[str, str]) -> None:
    """Three of them, ten checkpoints each: none is lost."""
    code = """
import sys
from speech_zoo.calibration.thresholds import Calibration, store
counts = [0] * 100
for i in range(10):
    rates = (0.0, 0.0, 0.01, 1.0, 1.0)
    store(f"{sys.argv[1]}-{i}", Calibration("m", "2026-01-31", 0.5, "eer", *rates, 1, 1, 0, 0, counts, counts))
"""
    running = [subprocess.Popen([sys.executable, "-c", code, name], env=environment | home) for name in "abc"]
    assert [process.wait(60) for process in running] == [0] * 3
    kept = json.loads((Path(home["SPEECH_ZOO_HOME"]) / THRESHOLDS).read_text())["thresholds"]
    assert kept.keys() == {f"{name}-{i}" for name in "abc" for i in range(10)}


def test_two_checkpoints(
    cli: Run,
    calibrated: Any,
    home: dict[str, str],
    environment: dict[str, str],
    converted: Path,
    halves: dict[str, Path],
    tmp_path: Path,
) -> None:
    """In float16 it is the same one; one with other weights has a threshold of its own; both are calibrated at once."""
    arguments = ("verify", halves["a1"], halves["b1"], "--model")
    cli("convert", converted, "half", "--dtype", "float16").succeeded()
    assert "(calibrated)" in cli(*arguments, "half", env=calibrated[1]).succeeded().out
    cli("convert", converted, "eight", "--bits", "8").succeeded()
    own = json.loads((converted / "config.json").read_text())["threshold"]
    out = cli(*arguments, "eight", env=calibrated[1]).succeeded().out
    assert f"threshold {own:.4f}: " in out
    lines = [f"{int(a[0] == b[0])} {halves[a]} {halves[b]}\n" for a, b in itertools.combinations(halves, 2)]
    (tmp_path / "t.txt").write_text("".join(lines))
    running = [
        subprocess.Popen(
            [COMMAND, "calibrate", "t.txt", "--model", model, "--keep", "--json"],
            cwd=tmp_path,
            env=environment | home,
            stdout=subprocess.PIPE,
        )
        for model in (converted, tmp_path / "eight")
    ]
    results = [json.loads(process.communicate(timeout=120)[0]) for process in running]
    kept = json.loads((Path(home["SPEECH_ZOO_HOME"]) / THRESHOLDS).read_text())["thresholds"]
    assert len(kept) == 2
    assert {each["identity"]: each["threshold"] for each in results} == {
        key: entry["threshold"] for key, entry in kept.items()
    }


# Bad input


def test_bad_files_are_named_by_their_line(
    cli: Run, home: dict[str, str], converted: Path, clip: Path, halves: dict[str, Path], tmp_path: Path
) -> None:
    write_wav(tmp_path / "silence.wav", np.zeros(16000))
    (tmp_path / "text.wav").write_text("Not audio.")
    for bad, reason in (("silence.wav", "holds no speech"), ("text.wav", "not audio"), ("gone.wav", "does not exist")):
        (tmp_path / "t.txt").write_text(f"1 {halves['a1']} {halves['a2']}\n0 {halves['a1']} {bad}\n")
        error = cli("calibrate", "t.txt", "--model", converted, env=home).failed()
        assert error.startswith("t.txt, line 2: ")
        assert bad in error
        assert reason in error
    (tmp_path / "t.txt").write_text(f"1 {halves['a1']} {halves['a2']}\n1 {halves['b1']} {halves['b2']}\n")
    assert "holds only target trials" in cli("calibrate", "t.txt", "--model", converted, env=home).failed()
    assert "cannot be read" in cli("calibrate", "gone.txt", env=home).failed()
    assert not Path(home["SPEECH_ZOO_HOME"]).exists()


@pytest.mark.parametrize(
    ("text", "message"), [('{"format": 1', "delete the file"), ('{"format": 99}', "written by a newer mlx-speech-zoo")]
)
def test_an_unusable_file_of_thresholds(
    cli: Run, home: dict[str, str], converted: Path, halves: dict[str, Path], listed: Path, text: str, message: str
) -> None:
    path = Path(home["SPEECH_ZOO_HOME"]) / THRESHOLDS
    path.parent.mkdir()
    path.write_text(text)
    files = ["verify", halves["a1"], halves["b1"], "--model", converted]
    for arguments in (files, ["calibrate", listed, "--model", converted]):
        assert message in cli(*arguments, env=home).failed()
    cli(*files, "--threshold", "0.5", env=home).succeeded()  # needs no file
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("calibrate", "Missing argument 'TRIALS'"),
        ("calibrate t.txt --p-target 0", "--p-target lies between 0 and 1"),
        ("calibrate t.txt --p-target nan", "--p-target lies between 0 and 1"),
        ("calibrate t.txt --c-miss 0", "--c-miss and --c-fa are positive numbers"),
        ("calibrate t.txt --c-fa inf", "--c-miss and --c-fa are positive numbers"),
        ("calibrate t.txt --at best", "Invalid value for '--at'"),
        ("calibrate t.txt --plot det.pdf", "--plot must end in .png"),
        ("verify a.wav b.wav --plot score.svg", "--plot must end in .png"),
    ],
)
def test_wrong_usage(cli: Run, home: dict[str, str], tmp_path: Path, arguments: str, message: str) -> None:
    error = cli(*arguments.split(), env=home).failed(2)
    assert message.lower() in error.lower()
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_nothing_is_begun(cli: Run, home: dict[str, str], listed: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['matplotlib'] = None\n")
    env = home | {"PYTHONPATH": str(tmp_path)}
    for arguments in (["calibrate", listed], ["verify", "a.wav", "b.wav"]):
        error = cli(*arguments, "--plot", "a.png", env=env).failed()
        assert error == "pictures need matplotlib: pip install 'matplotlib>=3.8'"
    assert not Path(home["SPEECH_ZOO_HOME"]).exists()
