"""Both sides of a comparison: the converted checkpoint, and what its original gives, live or recorded."""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError, safe_open
from speech_zoo_core import registry
from speech_zoo_core.checkpoint.source import USUAL_NAMES, Source, checkpoint_names
from speech_zoo_core.errors import CheckpointError, ConfigError, HubError, shown
from speech_zoo_core.hub import REPO_ID
from speech_zoo_core.loader import find, read_model, sha256
from speech_zoo_core.oracle import NoOracle
from speech_zoo_core.progress import progress

from ..catalogue.entries import entries, entry_of, resolve
from .signals import RATE, Array, Signal

GOLDENS = Path(__file__).parents[1] / "goldens"
CONVERT_FIRST = ": convert it first, check takes what speech-zoo convert wrote"
HALF = {mx.float16: "float16", mx.bfloat16: "bfloat16"}


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
            source = find(resolve(repo), revision or None)
        else:
            if repo is None and (entry := entry_of(provenance)) is not None:
                repo = entry[1].repo
            if repo is None:
                raise NoOracle("the original is not at hand; --reference names its folder, file or Hub repo")
            if not isinstance(repo, str) or not REPO_ID.fullmatch(repo):
                raise ConfigError(f"{self.converted.name}: its config.json names {shown(repo)}, which is no Hub repo")
            if not isinstance(revision, str | None):
                raise ConfigError(f"{self.converted.name}: its config.json names the revision {shown(revision)}")
            try:
                source = find(repo, revision)
            except HubError as error:
                raise NoOracle(f"the original is not at hand: {error}") from error
        return self._verified(source)

    def _verified(self, source: Source) -> Source:
        wanted = self.converted.hashes
        what = f"{self.given or source.repo} is not what {self.converted.name} was converted from"
        if not source.path.is_dir() and len(wanted) == 1:  # a file may have got another name
            if sha256(source.path) not in wanted.values():
                raise CheckpointError(f"{what}: its sha256 differs")
            return source
        for name, digest in wanted.items():
            places = [source.folder, *source.folder.resolve().parents[:2]]  # settings of a training lie further up
            paths = [place / name for place in places if (place / name).is_file()]
            if not paths:
                raise CheckpointError(f"{what}: it lacks {name}")
            if digest not in map(sha256, paths):
                raise CheckpointError(f"{what}: the sha256 of {name} differs")
        names = checkpoint_names(list(wanted))
        main = next((name for name in names if len(names) == 1 or name in USUAL_NAMES), None)
        return source if main is None else Source(source.folder / main, source.repo, source.revision)

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


def live(converted: Converted, original: Reference, clips: list[Signal], notes: list[str]) -> Original | None:
    """The original's results; None, and a note, where it cannot be run."""
    try:
        if converted.spec.oracle is None:
            raise NoOracle(f"{converted.spec.model_type} names no original implementation")
        oracle = converted.spec.oracle(converted.config, lambda: original.source)
        results = {}
        for clip in progress(clips, desc=oracle.name, unit="clip"):
            waveform = clip.at(oracle.sample_rate, converted.config.front_end.resampler)
            features = None if oracle.features is None else np.asarray(oracle.features(waveform))
            results[clip.name] = Expected(features, np.asarray(oracle.output(waveform), np.float64))
    except NoOracle as error:
        notes.append(str(error))
        return None
    if oracle.features is None:
        notes.append(f"features: {oracle.name} shows none")
    if oracle.sample_rate != RATE:
        notes.append(f"resampling from {RATE} Hz to {oracle.sample_rate} Hz, which both share")
    facts = {"name": oracle.name, "version": oracle.version, "features": oracle.features_by, "from": "live"}
    return Original(facts, results, oracle.log_probs)


def recorded(converted: Converted, notes: list[str]) -> Original | None:
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
