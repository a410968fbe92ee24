"""ECAPA-TDNN against SpeechBrain and WeSpeaker, in every form that it is published in, and beside mlx-audio."""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_audio.lid.models.ecapa_tdnn as mlx_audio_ecapa
import numpy as np
import pytest
import speech_zoo
import torch
from mlx.utils import tree_flatten
from mlx_audio.lid.models.ecapa_tdnn.mel import compute_mel_spectrogram
from parity_oracles import Oracle, export_onnx, minus_mean, renamed_onnx, save_wespeaker, state_dict, wespeaker_ecapa
from signals import (
    BRIEF,
    COSINE,
    ECAPA,
    LOG_PROBS,
    RATE,
    UNIT,
    VOICES,
    best,
    cosine,
    cosines,
    ecapa_signals_for,
    in_words,
    log_probs,
    relative,
    rvq_sums,
    waveforms,
)
from speech_zoo_ecapa_tdnn.model import Frames
from speechbrain_files import LANGUAGES
from speechbrain_oracles import (
    SPEECHBRAIN,
    Proxy,
    SpeechBrain,
    save_proxy,
    save_speechbrain,
    speechbrain_languages,
    speechbrain_speaker,
)

Compare = Callable[..., None]
PRECISIONS = ["float32", "float16", "8-bit"]
GRADIENT = 1e-4  # the most that a gradient may differ, relative to the largest
NAMES = ["c512", "GLOB_c512", "c1024", "GLOB_c1024"]


@cache
def speaker() -> SpeechBrain:
    return speechbrain_speaker(seed=1)


@cache
def languages() -> SpeechBrain:
    """With a seed whose first languages are not the same for all signals, and never close to each other."""
    return speechbrain_languages(seed=8)


@cache
def wespeaker(name: str, emb_bn: bool = False) -> Oracle:
    return wespeaker_ecapa(name, NAMES.index(name) + 3, emb_bn)


@cache
def proxy() -> Proxy:
    return Proxy(seed=7)


@pytest.fixture(scope="module")
def speaker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_speechbrain(tmp_path_factory.mktemp("speaker") / "sb", speaker())


@pytest.fixture(scope="module")
def language_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_speechbrain(tmp_path_factory.mktemp("languages") / "sb", languages())


@pytest.fixture(scope="module")
def proxy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_proxy(tmp_path_factory.mktemp("proxy") / "speaker_proxy_10k_best.pt", proxy())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_speaker(precision: str, speaker_folder: Path, at_precision: Any, compare: Compare) -> None:
    model = at_precision(speaker_folder, precision)
    compare(model, speaker(), "ECAPA SpeechBrain speaker", "hyperparams.yaml", precision, ecapa_signals_for(precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_languages(precision: str, language_folder: Path, at_precision: Any, record: Callable[..., None]) -> None:
    model = at_precision(language_folder, precision)
    compare_languages(model, "hyperparams.yaml", precision, ecapa_signals_for(precision), record)


def compare_languages(
    model: Any, form: str, precision: str, signals: Sequence[str], record: Callable[..., None]
) -> None:
    """In float32 the log-probabilities and the first five languages, otherwise the first language."""
    ours, theirs = ({s: of(s) for s in signals} for of in (lambda s: log_probs(model, s), languages().log_probs))
    errors = {s: relative(ours[s], theirs[s]) for s in signals}
    worst, centred = max(errors, key=errors.__getitem__), min(cosines(ours, theirs)[1].values())
    limit, places = (str(LOG_PROBS), 5) if precision == "float32" else ("same first", 1)
    figures = f"{errors[worst]:.1e} ({worst})", "", f"{max(0.0, 1 - centred):.1e}"
    record("ECAPA LID log-probs", form, precision, in_words(signals), *figures, limit, SPEECHBRAIN)
    for signal in signals:
        assert best(ours[signal], places) == best(theirs[signal], places), signal
    if precision == "float32":
        assert errors[worst] <= LOG_PROBS, errors
        assert centred >= COSINE[precision]


def test_predict(language_folder: Path) -> None:
    """Codes, names and scores as SpeechBrain's log-probabilities and the published labels have them."""
    model = speech_zoo.load(language_folder)
    assert model.labels == [label.split(": ")[0] for label in LANGUAGES]
    names = ("1 s", "0.5 s", "noise")
    rows = [model.predict(waveforms()["1 s"], sample_rate=RATE)]
    rows += model.predict_batch([waveforms()[name] for name in names[1:]], sample_rate=RATE, vad=False)
    for name, row in zip(names, rows, strict=True):
        theirs = languages().log_probs(name)
        first = best(theirs, 5)
        assert [f"{prediction.label}: {prediction.name}" for prediction in row] == [LANGUAGES[i] for i in first]
        assert [prediction.score for prediction in row] == pytest.approx(np.exp(theirs[first]), rel=1e-3)


def test_converted_speaker_folder(speaker_folder: Path, tmp_path: Path, compare: Compare) -> None:
    model = speech_zoo.load(speech_zoo.convert(speaker_folder, tmp_path / "zoo"))
    compare(model, speaker(), "ECAPA SpeechBrain speaker", "converted folder", signals=BRIEF)


def test_converted_language_folder(language_folder: Path, tmp_path: Path, record: Callable[..., None]) -> None:
    model = speech_zoo.load(speech_zoo.convert(language_folder, tmp_path / "zoo"))
    compare_languages(model, "converted folder", "float32", BRIEF, record)


def unequal() -> tuple[np.ndarray, np.ndarray]:
    """Four clips (B, N) with zeros after the shorter ones, and their lengths relative to N."""
    seconds = {"voice 02": 1.37, "voice 04": 2.2, "voice 06": 0.6, "voice 09": 1.9}
    clips = [waveforms()[name][: round(duration * RATE)] for name, duration in seconds.items()]
    longest = max(map(len, clips))
    lengths = np.array([len(clip) / longest for clip in clips], np.float32)
    return np.stack([np.pad(clip, (0, longest - len(clip))) for clip in clips]), lengths


def test_own_batches_of_speechbrain_speakers(speaker_folder: Path, record: Callable[..., None]) -> None:
    """SpeechBrain's batches take relative lengths, and the padding changes the shorter clips."""
    clips, lengths = unequal()
    ours = dict(enumerate(np.array(speech_zoo.load(speaker_folder)(mx.array(clips), mx.array(lengths)))))
    theirs = dict(enumerate(speaker().batch(clips, lengths)[0]))
    shortest = int(lengths.argmin())
    clip = clips[shortest, : round(0.6 * RATE)][None]
    assert cosine(speaker().batch(clip, np.ones(1, np.float32))[0], theirs[shortest]) < COSINE["float32"]
    plain, centred = cosines(ours, theirs)
    worst, limit = min(plain.values()), COSINE["float32"]
    figures = f"{worst:.9f}", *(f"{max(0.0, 1 - x):.1e}" for x in (worst, min(centred.values())))
    what = f"{len(clips)} clips"
    record("ECAPA SpeechBrain speaker", "its batches", "float32", what, *figures, str(limit), SPEECHBRAIN)
    assert worst >= limit, plain
    assert min(centred.values()) >= limit, centred


def test_own_batches_of_speechbrain_languages(language_folder: Path, record: Callable[..., None]) -> None:
    clips, lengths = unequal()
    logits = np.array(speech_zoo.load(language_folder)(mx.array(clips), mx.array(lengths)), np.float64)
    ours = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    _, theirs = languages().batch(clips, lengths)
    error = max(relative(mine, right) for mine, right in zip(ours, theirs, strict=True))
    what = f"{len(clips)} clips"
    record("ECAPA LID log-probs", "its batches", "float32", what, f"{error:.1e}", "", "", str(LOG_PROBS), SPEECHBRAIN)
    assert error <= LOG_PROBS
    assert [best(mine, 5) for mine in ours] == [best(right, 5) for right in theirs]


def save_ecapa(folder: Path, name: str, emb_bn: bool = False) -> Path:
    oracle = wespeaker(name, emb_bn)
    return save_wespeaker(folder, oracle, f"ECAPA_TDNN_{name}", embed_dim=192, pooling_func="ASTP", emb_bn=emb_bn)


def described(name: str, emb_bn: bool) -> str:
    return f"ECAPA WeSpeaker {name}" + (", emb_bn" if emb_bn else "")


@pytest.mark.parametrize("emb_bn", [False, True], ids=["no emb_bn", "emb_bn"])
@pytest.mark.parametrize("name", NAMES)
def test_wespeaker(name: str, emb_bn: bool, tmp_path: Path, compare: Compare) -> None:
    signals = ECAPA if (name, emb_bn) in (("c1024", False), ("GLOB_c512", True)) else BRIEF
    model = speech_zoo.load(save_ecapa(tmp_path / "ws", name, emb_bn))
    compare(model, wespeaker(name, emb_bn), described(name, emb_bn), "avg_model.pt + config.yaml", signals=signals)


@pytest.mark.parametrize("precision", ["float16", "8-bit"])
def test_wespeaker_precisions(precision: str, tmp_path: Path, at_precision: Any, compare: Compare) -> None:
    model, form = at_precision(save_ecapa(tmp_path / "ws", "GLOB_c512", True), precision), "avg_model.pt + config.yaml"
    signals = ecapa_signals_for(precision)
    compare(model, wespeaker("GLOB_c512", True), described("GLOB_c512", True), form, precision, signals)


@pytest.mark.parametrize("form", ["converted folder", "torch.save, zip"])
def test_wespeaker_forms(form: str, tmp_path: Path, compare: Compare) -> None:
    """Without `config.yaml` the tensors say it all."""
    oracle = wespeaker("GLOB_c512", True)
    if form == "converted folder":
        source = speech_zoo.convert(save_ecapa(tmp_path / "ws", "GLOB_c512", True), tmp_path / "zoo")
    else:
        source = tmp_path / "ecapa.pt"
        torch.save(state_dict(oracle), source)
    compare(speech_zoo.load(source), oracle, described("GLOB_c512", True), form, signals=BRIEF)


TORCHSCRIPT = {"dynamo": False, "opset_version": 14}
EXPORTS: dict[str, dict[str, Any]] = {"ONNX, TorchScript": TORCHSCRIPT, "ONNX, dynamo": {"dynamo": True}}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", EXPORTS)
@pytest.mark.parametrize("emb_bn", [False, True], ids=["no emb_bn", "emb_bn"])
@pytest.mark.parametrize("name", ["c512", "GLOB_c512"])
def test_onnx(name: str, emb_bn: bool, form: str, tmp_path: Path, compare_onnx: Compare) -> None:
    if "dynamo" in form:
        pytest.importorskip("onnxscript")
    oracle = minus_mean(wespeaker(name, emb_bn), 192)
    path = export_onnx(tmp_path / "ecapa.onnx", oracle, **EXPORTS[form])
    compare_onnx(path, oracle, described(name, emb_bn), form)


@pytest.mark.filterwarnings("ignore")
def test_onnx_with_other_names(tmp_path: Path, compare_onnx: Compare) -> None:
    oracle = minus_mean(wespeaker("GLOB_c512", True), 192)
    path = renamed_onnx(export_onnx(tmp_path / "ecapa.onnx", oracle, **TORCHSCRIPT))
    compare_onnx(path, oracle, described("GLOB_c512", True), "ONNX, renamed")


@pytest.mark.parametrize("frames", [5, 250])
def test_speaker_proxy(frames: int, proxy_file: Path, record: Callable[..., None]) -> None:
    sums = np.stack([rvq_sums(2 * frames, 2048)[:frames], rvq_sums(2 * frames, 2048)[frames:] * np.float32(3)])
    ours = np.array(speech_zoo.load(proxy_file)(mx.array(sums)))
    with torch.no_grad():
        theirs = proxy().unit(torch.from_numpy(sums)).numpy()
    error, what = float(np.abs(ours - theirs).max()), f"2 inputs of {frames} frames"
    record("speaker proxy", "unit embeddings", "float32", what, f"{error:.1e}", "", "", str(UNIT), SPEECHBRAIN)
    assert ours.shape == theirs.shape == (2, 192)
    assert error <= UNIT


def test_gradient_of_the_speaker_proxy(proxy_file: Path, record: Callable[..., None]) -> None:
    """Of a cosine loss with respect to the input, against torch's autograd."""
    sums = rvq_sums(100, 2048).reshape(2, 50, 2048)
    other = proxy().unit(torch.from_numpy(-sums)).detach()
    right = torch.from_numpy(sums).requires_grad_()
    (1 - (proxy().unit(right) * other).sum(-1)).mean().backward()
    theirs = right.grad.numpy()
    model, target = speech_zoo.load(proxy_file), mx.array(other.numpy())
    ours = np.array(mx.grad(lambda x: mx.mean(1 - mx.sum(model(x) * target, axis=-1)))(mx.array(sums)))
    error = relative(ours, theirs)
    what, limit = "2 inputs of 50 frames", str(GRADIENT)
    record("speaker proxy", "gradient of the input", "float32", what, f"{error:.1e}", "", "", limit, SPEECHBRAIN)
    assert np.abs(theirs).max(axis=-1).min() > 0  # every frame matters
    assert error <= GRADIENT


def mlx_audio_languages() -> Any:
    """mlx-audio's model with the oracle's weights, convolutions in MLX's layout; loaded as its own loader does."""
    model = mlx_audio_ecapa.Model(mlx_audio_ecapa.ModelConfig())
    tensors = {name: x.movedim(1, -1) if x.ndim == 3 else x for name, x in state_dict(languages()).items()}
    weights = model.sanitize({name: mx.array(x.contiguous().numpy()) for name, x in tensors.items()})
    unset = dict(tree_flatten(model.parameters())).keys() - weights.keys()
    assert all(name.startswith("embedding_model.blocks.") for name in unset)  # a second name of block1 to block3
    model.load_weights(list(weights.items()), strict=False)
    model.eval()
    return model


def test_embeddings_beside_mlx_audio(language_folder: Path, record: Callable[..., None]) -> None:
    """The same weights in mlx-audio's model behind mlx-audio's features: what a port can lose. Its row is no test."""
    model, other = speech_zoo.load(language_folder), mlx_audio_languages()
    ours, beside = {}, {}
    for name in VOICES:
        clip = mx.array(waveforms()[name])
        ours[name] = np.array(model._embedding(model.config.front_end(clip)[None], Frames("reflect"))[0])
        features = other.sentence_mean_normalize(compute_mel_spectrogram(clip))
        beside[name] = np.array(other.embedding_model(features)[0])
    theirs = {name: languages().embed(name) for name in VOICES}
    limit, lowest = COSINE["float32"], {}
    for form, vectors, wanted in (
        ("this zoo", ours, str(limit)),
        (f"mlx-audio {version('mlx-audio')}, for comparison", beside, "none"),
    ):
        plain, centred = cosines(vectors, theirs)
        worst = min(plain, key=plain.__getitem__)
        lowest[form] = plain[worst], min(centred.values())
        figures = f"{plain[worst]:.9f} ({worst})", *(f"{max(0.0, 1 - x):.1e}" for x in lowest[form])
        record("ECAPA LID embedding", form, "float32", "nine voices", *figures, wanted, SPEECHBRAIN)
    assert min(lowest["this zoo"]) >= limit
