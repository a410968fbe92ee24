"""How `check` compares: clips through the original and through the converted checkpoint, nothing shared between."""

import json
import os
import platform
import sys
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError, safe_open
from speech_zoo_core import registry
from speech_zoo_core.audio.decode import load_audio
from speech_zoo_core.checkpoint.source import USUAL_NAMES, Source, checkpoint_names
from speech_zoo_core.errors import AudioError, CheckpointError, ConfigError, HubError
from speech_zoo_core.hub import REPO_ID
from speech_zoo_core.loader import find, read_model, sha256
from speech_zoo_core.oracle import NoOracle
from speech_zoo_core.tiles import on_cpu
from tqdm import tqdm

from . import load
from .catalogue.entries import entries, entry_of, resolve
from .parity import Clip, Parity, hashes, limits_of

RATE = 16000
VOICES = Path(__file__).parent / "data" / "voices"
GOLDENS = Path(__file__).parent / "goldens"
FEW = ("1 s", "0.5 s", "noise")  # also in half precision on a CPU, which computes in float32 by default
TIE = 1e-6  # of the largest logit: below, float32 has no say in the order
CONVERT_FIRST = ": convert it first, check takes what speech-zoo convert wrote"
HALF = {mx.float16: "float16", mx.bfloat16: "bfloat16"}

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Signal:
    """A clip at 16 kHz: where it is, or nowhere; its samples (N,) float32 in [-1, 1]; whether somebody speaks."""

    name: str
    samples: Array
    path: Path | None = None
    speech: bool = True

    def at(self, rate: int) -> Array:
        """The samples at another rate."""
        return self.samples if rate == RATE else np.array(load_audio((self.samples, RATE), rate))


@dataclass(frozen=True)
class Expected:
    """What the original gives for a clip: features (T, F) or None, and its embedding (D,) or scores (L,)."""

    features: Array | None
    output: Array


@dataclass(frozen=True)
class Original:
    """The original's results.

    Attributes:
        facts: name, version, features and from, as in `Parity.oracle`.
        results: by the name of the clip.
        log_probs: whether its scores are log-probabilities.
    """

    facts: dict[str, str | None]
    results: dict[str, Expected]
    log_probs: bool = False


def signals() -> list[Signal]:
    """The nine bundled voices, one second and half a second of two, digital silence, full-scale seeded noise."""
    voices = []
    for path in sorted(VOICES.glob("*.wav")):
        with wave.open(str(path)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(32768)
        voices.append(Signal(path.stem, samples, path))
    noise = (np.random.PCG64(0).random_raw(3 * RATE) >> np.uint64(48)).astype(np.uint16).view(np.int16)
    return [
        *voices,
        Signal("1 s", voices[1].samples[RATE : 2 * RATE]),
        Signal("0.5 s", voices[2].samples[RATE : RATE + RATE // 2]),
        Signal("silence", np.zeros(3 * RATE, np.float32), speech=False),
        Signal("noise", noise / np.float32(32768), speech=False),
    ]


def compare(checkpoint: str | os.PathLike[str], reference: str | os.PathLike[str] | None) -> tuple[Parity, Path | None]:
    """What `check` found, and the local folder that it may write into; arguments and errors as `check`."""
    converted = Converted(checkpoint)
    original = Reference(converted, reference)
    clips = signals()
    notes: list[str] = []
    expected = _live(converted, original, clips, notes) or _recorded(converted, notes)
    limits = limits_of(converted.config.task, converted.precision)
    rows: list[Clip] = []
    if expected is not None:
        rows = list(_rows(converted, [clip for clip in clips if clip.name in expected.results], expected, notes))
        if converted.config.task == "speaker-embedding" and "cosine" not in limits:
            notes.append(
                f"embeddings with a limit: in {converted.precision} they have none, their cosines are measured only"
            )
    held = [row.passed for row in rows if row.passed is not None]
    parity = Parity(
        checkpoint=hashes(converted.source.folder),
        precision=converted.precision,
        task=converted.config.task,
        oracle=None if expected is None else expected.facts,
        reference={} if expected is None else original.facts(),
        limits=limits,
        clips=rows,
        not_compared=notes,
        passed=all(held) if held else None,
        machine=_machine(expected is not None and expected.facts["from"] == "live"),
    )
    return parity, converted.source.folder if converted.local else None


class Converted:
    """The checkpoint that is checked.

    Raises:
        CheckpointError, ConfigError: it is no converted checkpoint, or does not say what it was converted from.
    """

    def __init__(self, ref: str | os.PathLike[str]) -> None:
        self.name = os.fspath(ref)
        bundled = self.name in registry.bundled()
        if self.name in entries() and not bundled:
            raise CheckpointError(f"{self.name} is a source{CONVERT_FIRST}")
        self.source = find(self.name)
        self.local = self.source.repo is None and not bundled
        if not self.source.path.is_dir():
            raise CheckpointError(f"{self.name} is a file; check takes the folder that it lies in")
        self.spec, self.config, weights, form = read_model(self.source)
        if form != "converted":
            raise CheckpointError(f"{self.name} is a source ({form}){CONVERT_FIRST}")
        given = (self.config.source or {}).get("sha256")
        if not isinstance(given, dict) or not given or not isinstance(self.config.source.get("form"), str):
            raise ConfigError(f"{self.name}: its config.json does not say what it was converted from; convert it again")
        self.hashes: dict[str, str] = given
        types = {value.dtype for value in weights.values() if mx.issubdtype(value.dtype, mx.floating)}
        self.half = next((name for dtype, name in HALF.items() if dtype in types), None)
        quantization = self.config.quantization
        self.precision = f"{quantization.bits}-bit" if quantization else self.half or "float32"
        self.source.release()


class Reference:
    """The original files, fetched when asked for."""

    def __init__(self, converted: Converted, ref: str | os.PathLike[str] | None) -> None:
        self.converted = converted
        self.given = None if ref is None else os.fspath(ref)
        if self.given is not None and not self._remote:
            self.source  # noqa: B018 (a wrong one is refused, whether the original is installed or not)

    @property
    def _remote(self) -> bool:
        """Whether the user named what must be fetched."""
        given = str(self.given)
        if os.path.exists(given):  # noqa: PTH110 (Path.exists raises for a name that is too long)
            return False
        return given in entries() or REPO_ID.fullmatch(given.partition("@")[0]) is not None

    @cached_property
    def source(self) -> Source:
        """The original, with the hashes that the checkpoint names.

        Raises:
            NoOracle: nothing says where it is, or the Hub cannot be reached for what the user did not name.
            SpeechZooError: it is not there, or not what the checkpoint was converted from.
        """
        provenance = self.converted.config.source
        repo, revision = provenance.get("repo"), provenance.get("revision")
        if self.given is not None:
            repo, _, revision = self.given.partition("@") if self._remote else (self.given, "", "")
            found = find(resolve(repo), revision or None)
        else:
            if repo is None and (entry := entry_of(provenance)) is not None:
                repo = entry[1].repo
            if repo is None:
                raise NoOracle("the original is not at hand; --reference names its folder, file or Hub repo")
            try:
                found = find(repo, revision)
            except HubError as error:
                raise NoOracle(f"the original is not at hand: {error}") from error
        return self._verified(found)

    def _verified(self, found: Source) -> Source:
        wanted = self.converted.hashes
        what = f"{self.given or found.repo} is not what {self.converted.name} was converted from"
        if not found.path.is_dir() and len(wanted) == 1:  # a file may have got another name
            if sha256(found.path) not in wanted.values():
                raise CheckpointError(f"{what}: its sha256 differs")
            return found
        for name, digest in wanted.items():
            path = found.folder / name
            if not path.is_file():
                raise CheckpointError(f"{what}: it lacks {name}")
            if sha256(path) != digest:
                raise CheckpointError(f"{what}: the sha256 of {name} differs")
        names = checkpoint_names(list(wanted))
        main = next((name for name in names if len(names) == 1 or name in USUAL_NAMES), None)
        return found if main is None else Source(found.folder / main, found.repo, found.revision)

    def facts(self) -> dict[str, Any]:
        """As in `Parity.reference`."""
        where = vars(self).get("source")  # if it was fetched
        provenance = self.converted.config.source
        facts = {
            "repo": where.repo if where else provenance.get("repo"),
            "revision": where.revision if where else provenance.get("revision"),
            "sha256": dict(sorted(self.converted.hashes.items())),
        }
        return {key: value for key, value in facts.items() if value is not None}


def _live(converted: Converted, original: Reference, clips: list[Signal], notes: list[str]) -> Original | None:
    """The original's results; None, and a note, where it cannot be run."""
    try:
        if converted.spec.oracle is None:
            raise NoOracle(f"{converted.spec.model_type} names no original implementation")
        oracle = converted.spec.oracle(converted.config, lambda: original.source)
    except NoOracle as error:
        notes.append(str(error))
        return None
    results = {}
    for clip in tqdm(clips, desc=oracle.name, unit="clip", disable=None, leave=False):
        waveform = clip.at(oracle.sample_rate)
        features = None if oracle.features is None else np.asarray(oracle.features(waveform))
        results[clip.name] = Expected(features, np.asarray(oracle.output(waveform), np.float64))
    if oracle.features is None:
        notes.append(f"features: {oracle.name} shows none")
    if oracle.sample_rate != RATE:
        notes.append(f"resampling from {RATE} Hz to {oracle.sample_rate} Hz, which both share")
    facts = {"name": oracle.name, "version": oracle.version, "features": oracle.features_by, "from": "live"}
    return Original(facts, results, oracle.log_probs)


def _recorded(converted: Converted, notes: list[str]) -> Original | None:
    """The original's outputs on the nine voices that ship for a catalogue entry; None if there are none."""
    entry = entry_of(converted.config.source)
    path = GOLDENS / f"{entry[0]}.safetensors" if entry is not None else None
    if path is None or not path.is_file():
        notes.append("recorded outputs of the original: none ship for this checkpoint")
        return None
    try:
        with safe_open(path, "np") as file:
            facts, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if json.loads(facts["sha256"]) != converted.hashes:
        notes.append("recorded outputs of the original: those that ship are of other files")
        return None
    notes.append("features, short clips, silence and noise: the recorded outputs of the original are of nine voices")
    results = {name: Expected(None, np.asarray(value, np.float64)) for name, value in tensors.items()}
    return Original({"name": facts["name"], "version": facts["version"], "features": None, "from": "goldens"}, results)


def _rows(converted: Converted, clips: list[Signal], expected: Original, notes: list[str]) -> Iterator[Clip]:
    """Every clip in float32, and where the weights are stored in half precision, clips in that too."""
    limits = limits_of(converted.config.task, converted.precision)
    runs = [("float32", clips)]
    if converted.half is not None:
        few = [clip for clip in clips if clip.name in FEW] or clips[:1]
        runs.append((converted.half, few if on_cpu() else clips))
    for computed, chosen in runs:
        model = load(converted.source.folder, dtype=computed)
        front_end = model.config.front_end
        labels = None if model.config.task == "speaker-embedding" else model.labels
        for clip in tqdm(chosen, desc=f"this checkpoint, {computed}", unit="clip", disable=None, leave=False):
            waveform = mx.array(clip.at(front_end.sample_rate))
            if front_end.num_frames(waveform.size) < model.min_frames:
                notes.append(f"{clip.name}: it is too short for this checkpoint")
                continue
            features, output = np.array(front_end(waveform)), _output(model, clip, waveform)
            yield _row(clip, computed, features, output, expected, limits, labels)
        del model


def _output(model: Any, clip: Signal, waveform: mx.array) -> Array | str:
    """The embedding or the logits by the way that users take, or what is wrong; silence goes around its refusal."""
    audio: Any = clip.path or (clip.samples, RATE)
    try:
        if clip.name == "silence":
            found = model(model.config.front_end(waveform)[None])[0].astype(mx.float32)
        else:
            found = model.embed(audio) if model.config.task == "speaker-embedding" else model.logits(audio)
    except AudioError as error:
        return str(error)
    return np.array(found, np.float64)


def _row(
    clip: Signal,
    computed: str,
    features: Array,
    output: Array | str,
    expected: Original,
    limits: dict[str, float],
    labels: list[str] | None,
) -> Clip:
    """One clip against the original."""
    theirs = expected.results[clip.name]
    facts: dict[str, Any] = {"clip": clip.name, "seconds": round(clip.samples.size / RATE, 3), "computed": computed}
    for what, ours, right in (("features", features, theirs.features), ("output", output, theirs.output)):
        if isinstance(ours, str):
            return Clip(**facts, problem=ours, passed=False)
        if right is not None and (ours.shape != right.shape or not np.isfinite(ours).all()):
            wrong = f"of shape {ours.shape} instead of {right.shape}" if ours.shape != right.shape else "not finite"
            return Clip(**facts, problem=f"{what} {wrong}", passed=False)
        if right is not None and not np.isfinite(right).all():
            return Clip(**facts, problem=f"{what} of the original not finite", passed=False)
    assert not isinstance(output, str)
    passed: list[bool] = []
    if theirs.features is not None:
        error = float(np.abs(features - theirs.features).max())
        facts["features"] = float(f"{error:.3g}")
        passed.append(error <= limits["features"])
    if labels is None:
        cosine = _cosine(output, theirs.output)
        facts["cosine"] = round(cosine, 10)
        if "cosine" in limits:
            passed.append(cosine >= limits["cosine"])
    else:
        ours = output - _log_sum(output) if expected.log_probs else output
        scale = float(np.abs(theirs.output).max())
        error = float(np.abs(ours - theirs.output).max()) / scale if scale else float(np.abs(ours).max())
        top1, top5 = _same_order(ours, theirs.output, 1), _same_order(ours, theirs.output, 5)
        first = labels[int(theirs.output.argmax())] if len(labels) == ours.size else ""
        facts |= {"logits": float(f"{error:.3g}"), "top1": first, "same_top1": top1, "same_top5": top5}
        if "logits" in limits:
            passed += [error <= limits["logits"], top5]
        elif clip.speech:  # what is said of silence and noise is arbitrary: rounding may change it
            passed.append(top1)
    return Clip(**facts, passed=all(passed) if passed else None)


def _cosine(a: Array, b: Array) -> float:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else float(np.array_equal(a, b))


def _log_sum(logits: Array) -> float:
    top = logits.max()
    return float(top + np.log(np.exp(logits - top).sum()))


def _same_order(ours: Array, theirs: Array, count: int) -> bool:
    """Whether the first places are the same, but for the order of what the original scores alike."""
    first = np.argsort(-ours, kind="stable")[:count], np.argsort(-theirs, kind="stable")[:count]
    scores = theirs[first[0]], theirs[first[1]]
    return bool((np.abs(scores[0] - scores[1]) <= TIE * np.abs(theirs).max()).all())


def _machine(live: bool) -> dict[str, Any]:
    packages = ["mlx", "mlx-audio", "mlx-speech-zoo-core", "numpy"]
    packages += [name for name in ("torch", "onnxruntime") if live and name in sys.modules]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "device": mx.default_device().type.name,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }
