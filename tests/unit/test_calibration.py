"""EER, minDCF and thresholds against slow and plain computations; trial lists; the file of calibrated thresholds."""

import json
import math
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import speech_zoo
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from speech_zoo.calibration import thresholds as calibration
from speech_zoo.calibration.det import Det
from speech_zoo.calibration.thresholds import (
    BINS,
    Calibration,
    calibrate,
    calibrations,
    config_file,
    store,
    threshold_in_force,
)
from speech_zoo.calibration.trials import read_trials, score
from speech_zoo.cli.options import check_plot
from speech_zoo.plots import scores as calibration_plot
from speech_zoo_core.errors import AudioError, ConfigError, SpeechZooError
from speech_zoo_core.tasks.speaker import Verification

# A coarse grid, so that there are ties within a class and between the two.
tenths = st.lists(st.integers(-10, 10), min_size=1, max_size=12)
OPERATING = {"p_target": 0.01, "c_miss": 1.0, "c_fa": 1.0}


def det(targets: Any, nontargets: Any) -> Det:
    """Of scores in tenths."""
    same = np.arange(len(targets) + len(nontargets)) < len(targets)
    return Det.of(np.array([*targets, *nontargets]) / 10, same)


def slow_rates(targets: list[int], nontargets: list[int]) -> list[tuple[Fraction, Fraction]]:
    """(P_fa, P_miss) of every threshold that makes a difference, counted one by one."""
    return [
        (
            Fraction(sum(score >= threshold for score in nontargets), len(nontargets)),
            Fraction(sum(score < threshold for score in targets), len(targets)),
        )
        for threshold in (*sorted({*targets, *nontargets}), math.inf)
    ]


def slow_eer(targets: list[int], nontargets: list[int]) -> Fraction:
    """The least equal error rate of any two thresholds used by turns: what the ROC convex hull means."""
    rates, equal = slow_rates(targets, nontargets), []
    for (x, y), (u, v) in product(rates, rates):
        first, second = y - x, v - u
        if first <= 0 <= second:
            share = first / (first - second) if first != second else Fraction(0)
            equal.append(y + share * (v - y))
    return min(equal)


@given(tenths, tenths)
def test_eer(targets: list[int], nontargets: list[int]) -> None:
    assert det(targets, nontargets).eer() == pytest.approx(float(slow_eer(targets, nontargets)), abs=1e-12)


@given(tenths, tenths, st.sampled_from([0.001, 0.01, 0.3, 0.9]), st.sampled_from([0.5, 1.0, 10.0]))
def test_min_dcf(targets: list[int], nontargets: list[int], p_target: float, c_miss: float) -> None:
    costs = [c_miss * p_target * y + 2 * (1 - p_target) * x for x, y in slow_rates(targets, nontargets)]
    expected = min(costs) / min(c_miss * p_target, 2 * (1 - p_target))
    assert det(targets, nontargets).costs(p_target, c_miss, 2.0).min() == pytest.approx(expected)


@given(tenths, tenths, st.sampled_from(["eer", "min-dcf"]), st.sampled_from([0.01, 0.5]))
def test_the_threshold_makes_the_errors_that_are_reported(
    targets: list[int], nontargets: list[int], at: str, p_target: float
) -> None:
    curve = det(targets, nontargets)
    rates = slow_rates(targets, nontargets)
    try:
        result = calibrate(curve, "m", at, p_target, 1.0, 1.0)
    except SpeechZooError as error:
        assert "EER 50 %" in str(error) or "minDCF 1" in str(error)
        assert slow_eer(targets, nontargets) == Fraction(1, 2) or curve.costs(p_target, 1.0, 1.0).min() >= 1 - 1e-12
        return
    misses = sum(score / 10 < result.threshold for score in targets)
    false_alarms = sum(score / 10 >= result.threshold for score in nontargets)
    assert (result.misses, result.false_alarms) == (misses, false_alarms)
    assert (result.targets, result.nontargets) == (len(targets), len(nontargets))
    x, y = Fraction(false_alarms, len(nontargets)), Fraction(misses, len(targets))
    if at == "eer":
        assert abs(x - y) == min(abs(u - v) for u, v in rates)
    else:
        cost = p_target * float(y) + (1 - p_target) * float(x)
        assert cost / min(p_target, 1 - p_target) == pytest.approx(result.min_dcf)


@given(tenths, tenths)
def test_a_rising_function_of_the_scores_changes_nothing(targets: list[int], nontargets: list[int]) -> None:
    plain = det(targets, nontargets)
    bent = det([x**3 + x for x in targets], [x**3 + x for x in nontargets])
    assert plain.eer() == bent.eer()
    assert np.array_equal(plain.costs(**OPERATING), bent.costs(**OPERATING))
    assert plain.at_eer() == bent.at_eer()


@given(tenths, tenths)
def test_misses_and_false_alarms_are_alike(targets: list[int], nontargets: list[int]) -> None:
    mirrored = det([-x for x in nontargets], [-x for x in targets])
    assert det(targets, nontargets).eer() == pytest.approx(mirrored.eer(), abs=1e-12)


def test_figures_worked_out_by_hand() -> None:
    """Targets 3 5 6 8, non-targets 1 2 4 7: of four each, 4 and 7 are accepted from 3 on, 3 and 5 refused from 6 on."""
    curve = det([3, 5, 6, 8], [1, 2, 4, 7])
    assert curve.misses.tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 4]
    assert curve.false_alarms.tolist() == [4, 3, 2, 2, 1, 1, 1, 0, 0]
    assert curve.eer() == 0.25  # at (1/4, 1/4), which lies on the hull
    assert curve.costs(0.5, 1.0, 1.0).min() == pytest.approx(0.5)
    assert curve.costs(0.01, 1.0, 1.0).min() == pytest.approx(0.75)
    assert calibrate(curve, "m", "eer", **OPERATING).threshold == pytest.approx(0.45)
    assert calibrate(curve, "m", "min-dcf", **OPERATING).threshold == pytest.approx(0.75)


def test_classes_apart_have_the_midpoint() -> None:
    for at in ("eer", "min-dcf"):
        calibration = calibrate(det([6, 7, 9], [-3, 2]), "m", at, **OPERATING)
        assert (calibration.eer, calibration.min_dcf, calibration.misses, calibration.false_alarms) == (0, 0, 0, 0)
        assert calibration.threshold == pytest.approx(0.4)


def test_neighbouring_numbers_are_told_apart() -> None:
    low = 0.3
    high = math.nextafter(low, 1)
    assert Det.of(np.array([low, high]), np.array([False, True])).threshold(1) == high


@pytest.mark.parametrize(("targets", "nontargets"), [([5, 5], [5]), ([1, 2], [3, 4]), ([1, 3], [1, 3])])
def test_scores_that_tell_nothing_give_no_threshold(targets: list[int], nontargets: list[int]) -> None:
    assert det(targets, nontargets).eer() == 0.5
    with pytest.raises(SpeechZooError, match=r"EER 50 %.*labels"):
        calibrate(det(targets, nontargets), "m", "eer", **OPERATING)


def test_an_operating_point_where_no_threshold_helps() -> None:
    with pytest.raises(SpeechZooError, match="accepting every pair"):
        calibrate(det([0, 4], [1, 2]), "m", "min-dcf", 0.99, 1.0, 1.0)
    with pytest.raises(SpeechZooError, match=r"refusing every pair.*--at eer"):
        calibrate(det([1, 4], [5, 0]), "m", "min-dcf", **OPERATING)
    assert calibrate(det([1, 4], [5, 0]), "m", "eer", **OPERATING).min_dcf == 1


def test_the_rule_of_30() -> None:
    result = calibrate(det([2] * 30 + [8] * 70, [2] * 70 + [8] * 30), "m", "eer", **OPERATING)
    assert (result.misses, result.false_alarms, result.eer) == (30, 30, pytest.approx(0.3))
    assert calibration.enough(result)
    assert not calibration.enough(replace(result, misses=29))
    assert not calibration.enough(replace(result, false_alarms=0))


def test_histograms_count_every_trial() -> None:
    result = calibrate(det([10, 10, 9, 3], [-10, 0, 5]), "m", "eer", **OPERATING)
    for histogram, scores in (
        (result.target_histogram, [1, 1, 0.9, 0.3]),
        (result.nontarget_histogram, [-1, 0, 0.5]),
    ):
        assert histogram == np.histogram(scores, BINS, (-1, 1))[0].tolist()


# Trial lists


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.wav", "c.wav", "my voice, 1.wav", "my voice 😀.wav"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


PAIRS = [("a.wav", "b.wav", True), ("a.wav", "my voice, 1.wav", False), ("my voice 😀.wav", "b.wav", False)]
FORMS = {
    "list.csv": 'label,a,b\r\n1,a.wav,b.wav\r\n0, a.wav,"my voice, 1.wav"\r\nnontarget,my voice 😀.wav,./b.wav\r\n',
    "bare.csv": 'target,a.wav,b.wav\n\n0,a.wav,"my voice, 1.wav"\n0,my voice 😀.wav,b.wav',
    "list.tsv": "label\ta\tb\n1\ta.wav\tb.wav\n0\ta.wav\tmy voice, 1.wav\n0\tmy voice 😀.wav\tb.wav\n",
    "list.jsonl": "\n".join(json.dumps({"label": int(kind), "a": a, "b": b}) for a, b, kind in PAIRS),
    "words.jsonl": "\n".join(
        json.dumps({"b": b, "label": "target" if kind else "nontarget", "a": a}, ensure_ascii=False)
        for a, b, kind in PAIRS
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_a_trial_list(folder: Path, name: str) -> None:
    (folder / name).write_bytes(FORMS[name].encode())
    trials = read_trials(folder / name)
    names = [file.name for file in trials.files]
    pairs = [({names[a], names[b]}, kind) for (a, b), kind in zip(trials.pairs, trials.same, strict=True)]
    assert pairs == [({a, b}, kind) for a, b, kind in PAIRS]
    assert names == ["a.wav", "b.wav", "my voice, 1.wav", "my voice 😀.wav"]


def test_the_voxceleb_form(folder: Path) -> None:
    text = f"\ufeff1 a.wav {folder}/b.wav\r\n\r\n0\ta.wav   ./c.wav\r\ntarget c.wav b.wav"
    (folder / "veri_test.txt").write_text(text, encoding="utf-8", newline="")
    trials = read_trials(folder / "veri_test.txt")
    assert trials.files == {folder / "a.wav": 1, folder / "b.wav": 1, folder / "c.wav": 3}
    assert (trials.pairs, trials.same) == ([(0, 1), (0, 2), (1, 2)], [True, False, True])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.txt", "", "t.txt holds no trials; it takes lines"),
        ("t.csv", "label,a,b\n", "holds no trials"),
        ("t.txt", "1 a.wav b.wav\n1 a.wav c.wav\n", r"holds only target trials \(1\); add pairs of different speakers"),
        ("t.txt", "0 a.wav b.wav\n", r"holds only non-target trials \(0\); add pairs of one speaker"),
        ("t.txt", "1 a.wav b.wav\nsame a.wav c.wav", "t.txt, line 2: the label is 1 or target, .* not 'same'"),
        ("t.jsonl", '{"label": true, "a": "a.wav", "b": "b.wav"}', "line 1: the label is 1 .* not 'True'"),
        ("t.txt", "1 a.wav b.wav\n\n0 a.wav gone.wav", "t.txt, line 3: .*gone.wav does not exist"),
        ("t.txt", "1 a.wav ..\n", "line 1: .* is not a file"),
        ("t.csv", "1,a.wav,\n", "line 1: .* is not a file"),
        ("t.txt", f"1 a.wav {'x' * 5000}", "line 1: x* does not exist|does not exist"),
        ("t.txt", "1 a.wav b\0.wav", "does not exist"),
        ("t.txt", "1 a.wav b.wav\n0 a.wav ./a.wav", "line 2 compares .*a.wav with itself"),
        ("t.txt", "1 a.wav b.wav\n0 a.wav c.wav\n1 b.wav a.wav", "line 3 repeats line 1"),
        ("t.txt", "1 a.wav b.wav\n0 a.wav b.wav", "line 2 contradicts line 1"),
        ("t.txt", "1 a.wav b.wav\n1 my voice.wav b.wav", "line 2 holds 4 parts, .*names with spaces need a .csv"),
        ("t.csv", "1,a.wav\n", "line 1 holds 2 parts, not label, file, file$"),
        ("t.csv", '1,a.wav,"b.wav\n', "t.csv, line 1: "),
        ("t.jsonl", '{"label": 1, "a": "a.wav", "b": "b.wav"}\n{"label": 1', "line 2 is not JSON"),
        ("t.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("t.jsonl", '{"label": 1, "a": "a.wav"}', "line 1 must be an object like"),
        ("t.jsonl", '["1", "a.wav", "b.wav"]', "line 1 must be an object like"),
    ],
)
def test_a_bad_trial_list_is_one_line(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(SpeechZooError, match=message) as error:
        read_trials(folder / name)
    assert "\n" not in str(error.value)


def test_a_trial_list_that_cannot_be_read(folder: Path) -> None:
    for path, message in ((folder / "gone.txt", "gone.txt cannot be read: No such file"), (folder, "cannot be read")):
        with pytest.raises(SpeechZooError, match=message):
            read_trials(path)
    (folder / "latin.txt").write_bytes("1 a.wav ö.wav".encode("latin-1"))
    with pytest.raises(SpeechZooError, match=r"latin\.txt is not text in UTF-8"):
        read_trials(folder / "latin.txt")


class Model:
    """Embeds a file as the vector of its name; `bad` cannot be used."""

    def __init__(self, bad: str | None = None) -> None:
        self.asked: list[str] = []
        self.bad = bad

    def voice(self, file: Path) -> Any:
        if file.name == self.bad:
            raise AudioError(f"{file} is silent (its peak is below -80 dBFS); there is no voice to work on")
        self.asked.append(file.name)
        vector, seconds = {"a": ([1.0, 0.0], 4.5), "b": ([0.6, 0.8], 2.5), "c": ([0.0, 1.0], 3.5)}[file.name[0]]
        return SimpleNamespace(vector=np.array(vector, np.float32), seconds=seconds)


def test_each_file_is_embedded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "t.txt").write_text("1 a.wav b.wav\n0 c.wav a.wav\n1 c.wav b.wav\n")
    monkeypatch.setattr("speech_zoo.calibration.trials.PAIRS_AT_ONCE", 2)
    model = Model()
    scores, seconds = score(model, folder / "t.txt", read_trials(folder / "t.txt"))
    assert seconds == 2.5
    assert model.asked == ["a.wav", "b.wav", "c.wav"]
    assert scores == pytest.approx([0.6, 0, 0.8])


def test_a_file_that_cannot_be_used_is_named_by_its_line(tmp_path: Path) -> None:
    folder = tmp_path / "two  spaces"  # an error has one
    folder.mkdir()
    for name in ("a.wav", "b.wav", "a", "c"):
        (folder / name).write_bytes(b"")
    (folder / "t.txt").write_text("1 a b.wav\n0 a.wav b.wav\n0 a c\n")
    with pytest.raises(AudioError, match=r"t.txt, line 2: .*a.wav is silent"):
        score(Model(bad="a.wav"), folder / "t.txt", read_trials(folder / "t.txt"))


# The file of calibrated thresholds


def example(**changes: Any) -> Calibration:
    return replace(calibrate(det([6, 7, 9], [-3, 2, 6.5]), "campplus-zh-en", "eer", **OPERATING), **changes)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's empty folder; a model's identity is its name there."""
    monkeypatch.setenv("SPEECH_ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(calibration, "identity", lambda model: model.name)
    monkeypatch.setattr(calibration, "identity_before", lambda model: f"old {model.name}")
    return tmp_path / "home"


def model(name: str, threshold: float | None) -> Any:
    return SimpleNamespace(name=name, config=SimpleNamespace(threshold=threshold, threshold_seconds=2.1))


def test_a_stored_calibration_comes_back(home: Path) -> None:
    assert calibrations() == {}
    assert not home.exists()
    first, second = example(), example(threshold=1.0, model="org/ö")
    assert store("one", first) == home / "thresholds.json" == config_file()
    store("two", second)
    assert calibrations() == {"one": first, "two": second}
    store("one", replace(first, threshold=-0.25))
    assert calibrations() == {"one": replace(first, threshold=-0.25), "two": second}
    assert sorted(path.name for path in home.iterdir()) == [".thresholds.json.lock", "thresholds.json"]


def test_the_threshold_of_a_model(home: Path) -> None:
    assert speech_zoo.threshold_of(model("one", 0.47)) == 0.47
    store("one", example(threshold=0.41))
    assert speech_zoo.threshold_of(model("one", 0.47)) == 0.41
    assert speech_zoo.threshold_of(model("one", None)) == 0.41
    assert speech_zoo.threshold_of(model("two", 0.47)) == 0.47
    assert speech_zoo.threshold_of(model("two", None)) is None


def test_a_threshold_brings_the_seconds_of_its_shortest_clip(home: Path) -> None:
    assert threshold_in_force(model("one", 0.47)) == (0.47, 2.1)
    store("one", example(threshold=0.41, seconds=1.25))
    assert threshold_in_force(model("one", 0.47)) == (0.41, 1.25)
    text = config_file().read_text()
    config_file().write_text(text.replace(', "seconds": 1.25', ""))  # as an older version wrote it
    assert text != config_file().read_text()
    assert threshold_in_force(model("one", 0.47)) == (0.41, None)


def test_a_threshold_of_the_same_checkpoint_before_its_resampler_is_told(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store("old one", example(threshold=0.41, model="campplus-zh-en"))
    assert speech_zoo.threshold_of(model("one", 0.47)) == 0.47
    (record,) = caplog.records
    assert record.getMessage().startswith("warning: the threshold calibrated for campplus-zh-en is not used: ")
    assert record.getMessage().endswith("; run speech-zoo calibrate again")


def changed(**changes: Any) -> str:
    return json.dumps({"format": 1, "thresholds": {"one": vars(example()) | changes}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON.*delete the file and calibrate anew"),
        ('{"format": 1, "thresholds": {"one', "is not valid JSON.*delete the file"),
        ("[]", "must hold a JSON object.*delete the file"),
        ("{}", "does not hold calibrated thresholds; delete"),
        ('{"format": "1", "thresholds": {}}', "does not hold calibrated thresholds"),
        ('{"format": 1, "thresholds": []}', "does not hold calibrated thresholds"),
        ('{"format": 1, "thresholds": {"one": 0.4}}', "thresholds.json: one must be a JSON object"),
        (changed(threshold=1.5), "threshold is a cosine"),
        (changed(threshold="0.5"), "threshold"),
        (changed(threshold=math.nan), "'threshold' is out of range"),
        (changed(target_histogram=[1, 2]), "a histogram has 100 bins"),
        (changed(colour="red"), "colour"),
        ('{"format": 2, "limits": {}}', "was written by a newer mlx-speech-zoo; update"),
    ],
)
def test_a_file_that_cannot_be_used_is_never_ignored(home: Path, text: str, message: str) -> None:
    home.mkdir()
    config_file().write_text(text)
    for act in (lambda: speech_zoo.threshold_of(model("two", 0.47)), lambda: store("two", example())):
        with pytest.raises(ConfigError, match=message) as error:
            act()
        assert "\n" not in str(error.value)
        assert "thresholds.json" in str(error.value)
    assert config_file().read_text() == text


def test_a_home_that_cannot_be_written(home: Path) -> None:
    home.write_text("A file.")
    with pytest.raises(SpeechZooError, match=r"thresholds\.json cannot be written"):
        store("one", example())


# Pictures


@pytest.fixture
def matplotlib() -> None:
    pytest.importorskip("matplotlib")


@pytest.mark.usefixtures("matplotlib")
@settings(max_examples=4, deadline=None)
@given(tenths, tenths)
def test_det_curves_of_any_scores(tmp_path_factory: pytest.TempPathFactory, targets: Any, nontargets: Any) -> None:
    """With high and low error rates, one trial, and none between the classes."""
    curve = det([5, *targets], [-5, *nontargets])
    try:
        result = calibrate(curve, "m", "eer", **OPERATING)
    except SpeechZooError:
        return
    path = tmp_path_factory.mktemp("det") / "det.png"
    calibration_plot.draw_det(curve, result, path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("matplotlib")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("known", [None, example()])
@pytest.mark.parametrize(("score", "threshold"), [(0.5, 0.47), (1.0, 0.99), (-1.0, -0.98), (-1.0, 1.0)])
def test_pictures_of_a_score(tmp_path: Path, known: Calibration | None, score: float, threshold: float) -> None:
    names = (f"$x_ {'long' * 30} 漢字 \U0001fae8.wav", "of/\udcff.wav")
    result = Verification(score, score >= threshold, threshold)
    calibration_plot.draw_score(result, names, "checkpoint", known, tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_where_no_picture_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(typer.BadParameter, match=r"end in \.png"):
        check_plot(tmp_path / "a.jpg")
    monkeypatch.setattr("speech_zoo.plots.figure.find_spec", lambda name: None)
    with pytest.raises(SpeechZooError, match=r"pip install 'matplotlib>=3\.8'"):
        check_plot(tmp_path / "a.png")
    monkeypatch.setattr("speech_zoo.plots.figure.find_spec", lambda name: name)
    check_plot(tmp_path / "a.png")
    with pytest.raises(SpeechZooError, match="there is no folder"):
        check_plot(tmp_path / "nowhere" / "a.png")
