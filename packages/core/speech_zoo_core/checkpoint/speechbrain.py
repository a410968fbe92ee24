"""SpeechBrain's files as data: `hyperparams.yaml`, which would build Python objects, and `label_encoder.txt`."""

import ast
import re
from typing import Any

import yaml

from ..audio.front_end import SPEECHBRAIN, FrontEnd
from ..errors import CheckpointError, ConfigError, shown
from .source import Source

THRESHOLD = 0.25  # of SpeakerRecognition.verify_batch in speechbrain/inference/speaker.py
REF = re.compile(r"<(\w+)>")
LABEL_FILES = ("label_encoder.txt", "label_encoder.ckpt")  # the second is what SpeechBrain's own cache calls it


class Tagged(dict[str, Any]):
    """What a tag such as `!new:module.Class` stands on: its arguments, and the tag's name."""

    def __init__(self, tag: str, value: Any) -> None:
        super().__init__(value if isinstance(value, dict) else {"": value})
        self.tag = tag


class _Loader(yaml.SafeLoader):
    """SafeLoader that keeps every tag as a `Tagged` record; constructs nothing else."""


def _tagged(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Tagged:
    if isinstance(node, yaml.MappingNode):
        return Tagged(tag, loader.construct_mapping(node, deep=True))
    if isinstance(node, yaml.SequenceNode):
        return Tagged(tag, loader.construct_sequence(node, deep=True))
    return Tagged(tag, loader.construct_scalar(node))  # type: ignore[arg-type]


_Loader.add_multi_constructor("!", _tagged)


def hyperparams(source: Source) -> dict[str, Any] | None:
    """`hyperparams.yaml` as plain data; None if there is none.

    References (`!ref <name>`) that stand for a whole value, an argument or an item of it are replaced.

    Raises:
        ConfigError: it cannot be read, or references go in a circle.
    """
    settings = source.settings("hyperparams.yaml", _Loader)
    if settings is None:
        return None
    entries: dict[str, Any] = {}
    for key, value in settings.items():
        entry = _named(value, settings)
        if isinstance(entry, Tagged):
            entry = Tagged(entry.tag, {name: _items(_named(item, settings), settings) for name, item in entry.items()})
        entries[str(key)] = entry
    return entries


def _named(value: Any, settings: dict[str, Any]) -> Any:
    """What a reference names; a path or arithmetic stays as text, nothing here needs it."""
    seen = 0
    while isinstance(value, Tagged) and value.tag == "ref":
        name = REF.fullmatch(str(value.get("")).strip())
        if name is None or name[1] not in settings:
            return value.get("")
        value, seen = settings[name[1]], seen + 1
        if seen > len(settings):
            raise ConfigError("hyperparams.yaml: references go in a circle")
    return value


def _items(value: Any, settings: dict[str, Any]) -> Any:
    return [_named(item, settings) for item in value] if isinstance(value, list) else value


def class_of(settings: dict[str, Any], key: str) -> str | None:
    """The class that an entry would build, without its module; None if there is no such entry.

    Raises:
        ConfigError: the entry is something else.
    """
    value = settings.get(key)
    if value is None:
        return None
    if not isinstance(value, Tagged) or not value.tag.startswith("new:"):
        raise ConfigError(f"hyperparams.yaml: {key} is not a !new: entry")
    return value.tag.removeprefix("new:")


def arguments(
    settings: dict[str, Any], key: str, supported: dict[str, tuple[Any, ...]], free: set[str]
) -> dict[str, Any]:
    """The arguments of an entry, after those that change the result have been checked.

    Args:
        settings: of `hyperparams.yaml`.
        key: of the entry.
        supported: arguments that change the result, and the values that are supported.
        free: arguments that are read by the caller, or do not change the result.

    Raises:
        ConfigError: names the argument.
    """
    given = dict(settings.get(key) or {})
    if given.pop("", None):
        raise ConfigError(f"hyperparams.yaml: {key} has arguments without names, which is not supported")
    for name, value in given.items():
        if name in supported and value not in supported[name]:
            raise ConfigError(
                f"hyperparams.yaml: {key}: {name} must be {shown(supported[name][0])}, not {shown(value)}"
            )
        if name not in supported and name not in free:
            raise ConfigError(f"hyperparams.yaml: {key}: {name} is not supported")
    return {name: value for name, value in given.items() if name in free}


def check_activation(given: dict[str, Any], key: str, name: str) -> None:
    """Raises ConfigError unless the activation of an entry is absent or the class `name`, without arguments."""
    value = given.get("activation")
    if value is not None and (getattr(value, "tag", "") != f"name:{name}" or dict(value) not in ({}, {"": ""})):
        raise ConfigError(f"hyperparams.yaml: {key}: only the activation {name} without arguments is supported")


def read_labels(source: Source) -> list[str]:
    """The labels of `label_encoder.txt` in the order of their numbers: lines such as `'ab: Abkhazian' => 0`.

    Raises:
        CheckpointError: there is no such file.
        ConfigError: a line cannot be read, or the numbers are not 0 to the last.
    """
    labels: dict[int, str] = {}
    for name in LABEL_FILES:
        if (text := source.text(name)) is not None:
            break
    else:
        raise CheckpointError(f"{source.folder} holds no {LABEL_FILES[0]}, which names the languages")
    for line in text.splitlines():
        if line.startswith("===="):  # what follows describes the encoder
            break
        literal, arrow, number = line.rpartition(" => ")
        try:
            label, index = ast.literal_eval(literal), int(number)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            raise ConfigError(f"{name}: cannot read the line {line[:80]!r}") from error
        if not arrow or not isinstance(label, str) or index in labels:
            raise ConfigError(f"{name}: the line {line[:80]!r} is no label, or its number stands twice")
        labels[index] = label
    if sorted(labels) != list(range(len(labels))) or not labels:
        raise ConfigError(f"{name}: the numbers of its {len(labels)} labels do not run from 0 without gaps")
    return [labels[i] for i in range(len(labels))]


def speechbrain_front_end(settings: dict[str, Any]) -> FrontEnd:
    """The features that `hyperparams.yaml` describes.

    Raises:
        ConfigError: it asks for features that are not supported.
    """
    for key, wanted in (
        ("compute_features", "speechbrain.lobes.features.Fbank"),
        ("mean_var_norm", "speechbrain.processing.features.InputNormalization"),
    ):
        if (described := class_of(settings, key)) != wanted:
            raise ConfigError(f"hyperparams.yaml: {key} must be a {wanted}, not {described}")
    supported: dict[str, tuple[Any, ...]] = {
        "deltas": (False,),
        "context": (False,),
        "f_min": (0,),
        "f_max": (8000, None),
        "n_fft": (400,),
        "sample_rate": (SPEECHBRAIN.sample_rate,),
        "filter_shape": ("triangular",),
        "win_length": (25,),
        "hop_length": (10,),
    }
    if settings.get("sample_rate", SPEECHBRAIN.sample_rate) != SPEECHBRAIN.sample_rate:
        raise ConfigError(f"hyperparams.yaml: sample_rate must be 16000, not {shown(settings['sample_rate'])}")
    training = {"requires_grad", "param_change_factor", "param_rand_factor", "left_frames", "right_frames"}
    given = arguments(settings, "compute_features", supported, {"n_mels", *training})
    n_mels = given.get("n_mels", 40)
    arguments(
        settings,
        "mean_var_norm",
        {"norm_type": ("sentence",), "std_norm": (False,), "mean_norm": (True,)},
        {"update_until_epoch", "avoid_padding_norm"},
    )
    normalisation = settings["mean_var_norm"]
    if "norm_type" not in normalisation or "std_norm" not in normalisation:
        raise ConfigError("hyperparams.yaml: mean_var_norm must set norm_type to sentence and std_norm to False")
    if isinstance(n_mels, bool) or not isinstance(n_mels, int) or n_mels < 1:
        raise ConfigError(f"hyperparams.yaml: n_mels must be a positive number, not {shown(n_mels)}")
    return FrontEnd("speechbrain_fbank", scale=1.0, n_mels=n_mels)
