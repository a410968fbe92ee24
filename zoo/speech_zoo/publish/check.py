"""How `check` compares: clips through the original and through the converted checkpoint, nothing shared between."""

import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from speech_zoo_core import tf32
from speech_zoo_core.atomic import written_beside
from speech_zoo_core.device import on_cpu
from speech_zoo_core.errors import AudioError, ConfigError
from speech_zoo_core.progress import progress

from ..engines.choice import Name, chosen
from ..models import load
from .originals import Converted, Original, Reference, live, recorded
from .parity import FILE, Clip, Parity, hashes, limits_of
from .signals import RATE, Array, Signal, signals

# Clips also by the other engine, and on a CPU, which takes float32 by itself, in half precision.
FEW = ("1 s", "0.5 s", "noise")
ONNX_RUNTIME = all(find_spec(name) for name in ("onnxruntime", "onnx"))
FEATURE_UNITS = {"kaldi_fbank": "natural log", "speechbrain_fbank": "dB", "waveform": "of unit variance"}
METHODS = {  # logits of others
    "speaker-embedding": "embed",
    "speaker-segmentation": "log_probs",
    "audio-regression": "measure",
}
NO_LABELS = ("speaker-embedding", "speaker-segmentation")
TIE = 1e-6  # of the largest logit: below, float32 has no say in the order


def check(
    checkpoint: str | os.PathLike[str],
    reference: str | os.PathLike[str] | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    engine: Name = "auto",
) -> Parity:
    """Compare a converted checkpoint with its original, from the waveform to the output, and write `parity.json`.

    Runs the original implementation where it is installed; else compares with its recorded outputs where those ship.

    Args:
        checkpoint: a converted folder; `parity.json` is written into it. A bundled name or a Hub repo too, where
            nothing is written.
        reference: the original: a folder, a file, a Hub repo (org/name, or org/name@revision) or a catalogue name.
            Default: where the checkpoint's config says that it came from.
        output: where to write the result instead.
        engine: this one alone, where the result is written only to `output`; Core ML has the limits of float16, in
            which it computes. "auto": all that are here, but for Core ML.

    Returns:
        What was found; `passed` is False where a limit is missed, None where nothing was compared.

    Raises:
        SpeechZooError: the checkpoint or the reference cannot be read, the reference is not what the checkpoint was
            converted from, or the result cannot be written.
    """
    chosen(engine)
    parity, folder = compare(checkpoint, reference, engine)
    target = Path(output) if output is not None else None if folder is None or engine != "auto" else folder / FILE
    if target is not None:
        with written_beside(target) as beside:
            beside.write_text(parity.to_json(), encoding="utf-8")
    return parity


def compare(
    checkpoint: str | os.PathLike[str], reference: str | os.PathLike[str] | None, engine: Name = "auto"
) -> tuple[Parity, Path | None]:
    """The result of `check`, and the local folder that it may write into; arguments and errors as `check`."""
    converted = Converted(checkpoint)
    original = Reference(converted, reference)
    clips = signals()
    notes: list[str] = []
    expected = live(converted, original, clips, notes) or recorded(converted, notes)
    precision = "float16" if engine == "coreml" and converted.precision == "float32" else converted.precision
    limits = limits_of(converted.config.task, precision)
    rows: list[Clip] = []
    if expected is not None:
        rows = list(
            _rows(converted, [clip for clip in clips if clip.name in expected.results], expected, limits, engine, notes)
        )
        if converted.config.task == "speaker-embedding" and "cosine" not in limits:
            notes.append(f"embeddings with a limit: in {precision} they have none, their cosines are measured only")
    verdicts = [row.passed for row in rows if row.passed is not None]
    parity = Parity(
        checkpoint=hashes(converted.source.folder),
        precision=precision,
        task=converted.config.task,
        oracle=None if expected is None else expected.facts,
        reference={} if expected is None else original.facts(),
        limits=limits,
        clips=rows,
        not_compared=notes,
        passed=all(verdicts) if verdicts else None,
        features_unit=FEATURE_UNITS.get(getattr(converted.config.front_end, "kind", ""), ""),
        machine=_machine(expected is not None and expected.facts["from"] == "live"),
    )
    return parity, converted.source.folder if converted.local else None


def _rows(
    converted: Converted,
    clips: list[Signal],
    expected: Original,
    limits: dict[str, float],
    engine: Name,
    notes: list[str],
) -> Iterator[Clip]:
    """Every clip in float32, by the engine that this machine takes and some by the other; where the weights are stored
    in half precision, clips in that too. By one engine alone, every clip.
    """
    few = [clip for clip in clips if clip.name in FEW] or clips[:1]
    engines = _engines(converted, notes) if engine == "auto" else [engine]
    runs: list[tuple[str, Name, list[Signal]]] = [("float32", engines[0], clips)]
    runs += [("float32", other, few) for other in engines[1:]]
    if converted.half is not None and engine in ("auto", "mlx"):
        runs.append((converted.half, "mlx", few if on_cpu() else clips))
    for dtype, by, some in runs:
        model = load(converted.source.folder, dtype=dtype, engine=by)
        computed = "float16" if by == "coreml" and model.half_precision else dtype
        front_end = model.config.front_end
        labels = None if model.config.task in NO_LABELS else model.labels
        for clip in progress(some, desc=f"this checkpoint, {computed}, {by}", unit="clip"):
            waveform = mx.array(clip.at(front_end.sample_rate, front_end.resampler))
            if front_end.num_frames(waveform.size) < model.min_frames:
                notes.append(f"{clip.name}: it is too short for this checkpoint")
                continue
            features, output = np.array(front_end(waveform)), _output(model, clip, waveform)
            yield _row(clip, (computed, by), features, output, expected, limits, labels)
        del model


def _engines(converted: Converted, notes: list[str]) -> list[Name]:
    """Those that are here and can compute the checkpoint; first the one that this machine takes by itself."""
    if not ONNX_RUNTIME:
        return ["mlx"]
    if converted.config.front_end is None:
        return ["mlx"]
    model = load(converted.source.folder, dtype="float32", engine="onnxruntime")
    try:
        model(mx.zeros((1, max(100, model.min_frames), model.feature_width)))
    except ConfigError as error:
        notes.append(f"the engine onnxruntime: {error}")
        return ["mlx"]
    return ["onnxruntime", "mlx"] if on_cpu() else ["mlx", "onnxruntime"]


def _output(model: Any, clip: Signal, waveform: mx.array) -> Array | str:
    """The embedding or the logits by the way that users take, or what is wrong; silence goes around its refusal."""
    audio: Any = clip.path or (clip.samples, RATE)
    try:
        if clip.name == "silence":
            output = model(model.config.front_end(waveform)[None])[0].astype(mx.float32)
        else:
            method = METHODS.get(model.config.task, "logits")
            output = getattr(model, method)(audio, **({} if method == "log_probs" else {"vad": False}))
    except AudioError as error:
        return str(error)
    return np.array(output, np.float64)


def _row(
    clip: Signal,
    how: tuple[str, Name],
    features: Array,
    output: Array | str,
    expected: Original,
    limits: dict[str, float],
    labels: list[str] | None,
) -> Clip:
    """One clip against the original."""
    original = expected.results[clip.name]
    facts: dict[str, Any] = {"clip": clip.name, "seconds": round(clip.samples.size / RATE, 3)}
    facts["computed"], facts["engine"] = how
    for what, converted, wanted in (("features", features, original.features), ("output", output, original.output)):
        if isinstance(converted, str):
            return Clip(**facts, problem=converted, passed=False)
        if wanted is not None and (converted.shape != wanted.shape or not np.isfinite(converted).all()):
            wrong = (
                f"of shape {converted.shape} instead of {wanted.shape}"
                if converted.shape != wanted.shape
                else "not finite"
            )
            return Clip(**facts, problem=f"{what} {wrong}", passed=False)
        if wanted is not None and not np.isfinite(wanted).all():
            return Clip(**facts, problem=f"{what} of the original not finite", passed=False)
    assert not isinstance(output, str)
    passed: list[bool] = []
    if original.features is not None:
        error = float(np.abs(features - original.features).max())
        facts["features"] = float(f"{error:.3g}")
        passed.append(error <= limits["features"])
    if output.ndim == 2:  # frame by frame
        error = _difference(output, original.output)
        same = float((output.argmax(1) == original.output.argmax(1)).mean())
        facts |= {"logits": float(f"{error:.3g}"), "frames": round(same, 6)}
        if "logits" in limits:
            passed.append(error <= limits["logits"])
        elif clip.speech:
            passed.append(same >= limits["frames"])
    elif labels is None:
        cosine = _cosine(output, original.output)
        facts["cosine"] = round(cosine, 10)
        if "cosine" in limits:
            passed.append(cosine >= limits["cosine"])
    else:
        scores = output - _log_sum(output) if expected.log_probs else output
        error = _difference(scores, original.output)
        facts["logits"] = float(f"{error:.3g}")
        if "logits" in limits:
            passed.append(error <= limits["logits"])
        if "top" in limits:  # labels that are ranked
            top1, top5 = _same_order(scores, original.output, 1), _same_order(scores, original.output, 5)
            first = labels[int(original.output.argmax())] if len(labels) == scores.size else ""
            facts |= {"top1": first, "same_top1": top1, "same_top5": top5}
            if "logits" in limits:
                passed.append(top5)
            elif clip.speech:  # what is said of silence and noise is arbitrary: rounding may change it
                passed.append(top1)
    return Clip(**facts, passed=all(passed) if passed else None)


def _cosine(a: Array, b: Array) -> float:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else float(np.array_equal(a, b))


def _difference(converted: Array, original: Array) -> float:
    """The largest, relative to the original's largest value."""
    scale = float(np.abs(original).max())
    return float(np.abs(converted - original).max()) / (scale or 1.0)


def _log_sum(logits: Array) -> float:
    top = logits.max()
    return float(top + np.log(np.exp(logits - top).sum()))


def _same_order(converted: Array, original: Array, count: int) -> bool:
    """Whether the first places are the same, but for the order of what the original scores alike."""
    first = np.argsort(-converted, kind="stable")[:count], np.argsort(-original, kind="stable")[:count]
    scores = original[first[0]], original[first[1]]
    return bool((np.abs(scores[0] - scores[1]) <= TIE * np.abs(original).max()).all())


def _machine(live: bool) -> dict[str, Any]:
    packages = ["mlx", "mlx-audio", "mlx-speech-zoo-core", "numpy"]
    packages += [name for name in ("torch",) if live and name in sys.modules]
    packages += [name for name in ("onnxruntime", "coremltools") if name in sys.modules]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "device": mx.default_device().type.name,
        "tf32": tf32.state(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }
