"""A source checkpoint: a folder or a single file, with the settings that lie beside it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import mlx.core as mx
import yaml

from ..config import read_json
from ..errors import CheckpointError, ConfigError, shown
from .reader import Checkpoint, read_checkpoint

T = TypeVar("T")
# Best first: where a folder holds the same weights in several forms, the first one is read.
FORMS = (
    (".safetensors.index.json",),
    (".safetensors",),
    (".npz",),
    (".bin.index.json",),
    (".pt", ".pth", ".bin", ".ckpt"),
    (".onnx",),
)
SETTINGS: tuple[str, ...] = (".json", ".yaml", ".yml", ".txt")
# Wrappers of training frameworks, nested: DataParallel, Lightning, torch.compile, SpeechBrain's and pyannote's modules.
PREFIX = re.compile(r"((module|model|_orig_mod|embedding_model|net|resnet)\.)+")
MAX_YAML_NODES = 10_000
MAX_YAML = 100_000  # characters: PyYAML takes seconds for them
MAX_TEXT = 10_000_000  # bytes
# The state of a training beside a model: transformers' Trainer, accelerate, Lightning, WeSpeaker.
TRAINING = re.compile(
    r"(optim|sched|scaler|rng_state|random_states|training_|trainer_state|lr_sched).*\.(pt|pth|bin|ckpt|safetensors)"
)
COMPANIONS = {"embedding_model.ckpt": ("classifier.ckpt",)}  # SpeechBrain
USUAL_NAMES = ("model.safetensors", "weights.npz", "avg_model.pt", "pytorch_model.bin", "embedding_model.ckpt")


def checkpoint_names(names: list[str]) -> list[str]:
    """The checkpoint files of a folder in its best form, without the state of a training; shards go by their index."""
    top = [name for name in names if len(PurePosixPath(name).parts) == 1 and not TRAINING.fullmatch(name)]
    for endings in FORMS:
        if checkpoints := sorted(name for name in top if name.endswith(endings)):
            return checkpoints
    return []


def main_name(names: list[str]) -> str | None:
    """Which of the checkpoint files in a folder is the model; None where none has a usual name among several."""
    usual = [name for name in names if name in USUAL_NAMES]
    if len(names) > 1 and len(usual) != 1:
        return None
    return next(iter(usual or names), None)


def needed_names(names: list[str]) -> list[str]:
    """The files of a repo to fetch: the model in its best form, with what belongs to it, and the settings.

    None without a checkpoint; all of a form where none of them has a usual name.
    """
    top = [name for name in names if "/" not in name]
    best = checkpoint_names(top)
    main = main_name(best)
    if main is None:
        return best and best + [name for name in top if name.endswith(SETTINGS) and name not in best]
    needed = [main, *COMPANIONS.get(main, ())]
    if main.endswith(".index.json"):  # model.safetensors.index.json: model-00001-of-00002.safetensors
        stem, ending = main.removesuffix(".index.json").rsplit(".", 1)
        needed += [name for name in top if name.startswith(f"{stem}-") and name.endswith(f".{ending}")]
    if main.endswith(".onnx"):
        needed += [f"{main}.data", f"{main}_data", f"{main.removesuffix('.onnx')}.data"]
    wanted = [name for name in top if name in needed or name.endswith(SETTINGS)]
    return [name for name in wanted if name in needed or not name.endswith(".index.json")]


@dataclass
class Recognised:
    """What a package made of a source.

    Attributes:
        config: the plain `config.json`, without provenance.
        weights: tensors that `Model.sanitize` understands.
        form: what it was, for people: "WeSpeaker avg_model.pt", say.
    """

    config: dict[str, Any]
    weights: dict[str, mx.array]
    form: str


@dataclass
class Source:
    """A folder, or one file of it.

    Attributes:
        path: what the user named.
        folder: where it is.
        files: every checkpoint and settings file that was read.
    """

    path: Path
    repo: str | None = None
    revision: str | None = None
    files: set[Path] = field(default_factory=set)

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def main_file(self) -> Path:
        """The checkpoint file.

        Raises:
            CheckpointError: there is none, or there are several and none has a usual name.
        """
        if not self.path.is_dir():
            return self.path
        names = checkpoint_names([item.name for item in self.path.iterdir() if item.is_file()])
        if not names:
            raise CheckpointError(f"{self.path} holds no checkpoint (safetensors, npz, PyTorch or ONNX)")
        if (name := main_name(names)) is None:
            raise CheckpointError(f"{self.path} holds several checkpoints ({', '.join(names)}); name the file itself")
        return self.path / name

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The content of `main_file`."""
        checkpoint = read_checkpoint(self.main_file)
        self.files.update([self.main_file, *checkpoint.shards])
        return checkpoint

    def release(self) -> None:
        """Forget the tensors, so that their memory goes with their last user."""
        self.__dict__.pop("checkpoint", None)

    def beside(self, name: str) -> Checkpoint | None:
        """Another checkpoint file in the folder; None if there is none."""
        path = self.folder / name
        if not path.is_file():
            return None
        self.files.add(path)
        return read_checkpoint(path)

    def text(self, name: str) -> str | None:
        """A text file beside the checkpoint; None if there is none.

        Raises:
            ConfigError: it is there but cannot be read.
        """
        path = self.folder / name
        if not path.is_file():
            return None
        self.files.add(path)
        try:
            if path.stat().st_size > MAX_TEXT:
                raise ConfigError(f"{path} is too large for a file of settings")
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error

    def settings(self, name: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> dict[str, Any] | None:
        """A JSON or YAML file beside the checkpoint as plain data; None if there is none.

        Args:
            name: of the file.
            loader: reads YAML that has tags of its own.

        Raises:
            ConfigError: it is there but cannot be read.
        """
        path = self.folder / name
        if path.suffix == ".json":
            if not path.is_file():
                return None
            self.files.add(path)
            return read_json(path)
        text = self.text(name)
        if text is None:
            return None
        if len(text) > MAX_YAML:
            raise ConfigError(f"{path} is too large for a file of settings")
        try:
            data = _parse_yaml(text, loader)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} cannot be read: {str(error)[:300]}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{path} must hold a mapping, not {type(data).__name__}")
        return data


def _parse_yaml(text: str, loader_class: type[yaml.SafeLoader]) -> Any:
    """Parse YAML whose aliases do not blow it up: they count as often as they stand there."""
    loader = loader_class(text)
    sizes: dict[int, float] = {}

    def size(node: yaml.Node) -> float:
        if id(node) not in sizes:
            sizes[id(node)] = float("inf")  # for an alias inside of what it stands for
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            pairs = [part if isinstance(part, tuple) else (part,) for part in parts]
            sizes[id(node)] = 1 + sum(size(item) for pair in pairs for item in pair)
        return sizes[id(node)]

    try:
        root = loader.get_single_node()
        if root is not None and size(root) > MAX_YAML_NODES:
            raise ValueError("it holds too much, its aliases counted")
        return None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()


def mapping(settings: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """A part of settings that must be a mapping with names as keys; empty if it is absent.

    Raises:
        ConfigError: it is something else.
    """
    part = settings.get(key)
    if part is None:
        return {}
    if not isinstance(part, dict) or not all(isinstance(name, str) for name in part):
        raise ConfigError(f"{where}: {key} must be a mapping")
    return part


def shape_of(weights: dict[str, mx.array], name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor that a source must have.

    Raises:
        CheckpointError: it is missing, empty or of another rank.
    """
    if name not in weights:
        raise CheckpointError(f"the checkpoint lacks {name}")
    shape = weights[name].shape
    if len(shape) != rank or 0 in shape:
        raise CheckpointError(f"{name} has shape {shape}, {rank} dimensions were expected")
    return shape


def without_prefix(tensors: Mapping[str, T], *markers: str) -> dict[str, T]:
    """The tensors without the names of wrappers, where the tensors `markers` have such names before theirs.

    Raises:
        CheckpointError: a name would stand twice.
    """
    starts = {name.removesuffix(markers[0]) for name in tensors if name.endswith(markers[0])}
    for start in sorted(starts, key=len):
        if (not start or PREFIX.fullmatch(start)) and all(f"{start}{marker}" in tensors for marker in markers):
            break
    else:
        return dict(tensors)
    renamed: dict[str, T] = {}
    for name, value in tensors.items():
        wrapped = PREFIX.match(name)
        short = name.removeprefix(start) if name.startswith(start) else name[wrapped.end() if wrapped else 0 :]
        if start and short in renamed:
            raise CheckpointError(f"{short} stands twice in the checkpoint, with and without {start}")
        renamed[short if start else name] = value
    return renamed


def expect(settings: dict[str, Any], where: str, values: dict[str, Any]) -> None:
    """Refuse settings that differ from the only values that are supported; absent ones are fine.

    Raises:
        ConfigError: names the setting.
    """
    for key, value in values.items():
        if key in settings and settings[key] != value:
            raise ConfigError(f"{where}: {key} = {shown(settings[key])} is not supported (only {shown(value)})")
