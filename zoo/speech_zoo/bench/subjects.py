"""What `speech-zoo bench` measures: the features alone, an example of a registered family, or any checkpoint."""

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
from speech_zoo_core import registry
from speech_zoo_core.checkpoint.writer import write_checkpoint
from speech_zoo_core.config import read_json, to_dict
from speech_zoo_core.errors import CheckpointError
from speech_zoo_core.hub import REPO_ID
from speech_zoo_core.layers import parameters
from speech_zoo_core.loader import find, read_model
from speech_zoo_core.oracle import NoOracle
from speech_zoo_core.registry import Example, ModelSpec

from ..catalogue.entries import entries, resolve
from .contender import FBANK, RATE
from .process import Worker

LAYERS = "num_hidden_layers"  # of a transformer's config


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        name: as the user calls it.
        ref: what `load` takes.
        task: of the checkpoint; that of `FBANK` is its name.
        rate: of the clips, in Hz.
        size: of the files, in bytes.
        single_pass: seconds above which our model cuts a clip into windows.
        layers: how many of how many transformer layers an example has.
        seeded: whether its weights are random.
        alone: why no original can run next to it.
    """

    name: str
    ref: str
    task: str
    rate: int = RATE
    size: int = 0
    single_pass: float = math.inf
    layers: tuple[int, int] | None = None
    seeded: bool = False
    alone: str | None = None


def examples() -> dict[str, tuple[ModelSpec, Example]]:
    """The examples of the registered families, by their names."""
    return {spec.example.name: (spec, spec.example) for spec in registry.specs() if spec.example is not None}


def known(name: str) -> bool:
    """Whether there may be something of that name to measure."""
    if name in (FBANK, *examples(), *registry.model_types(), *entries(), *registry.bundled()):
        return True
    return os.path.exists(name) or REPO_ID.fullmatch(name) is not None  # noqa: PTH110 (Path raises for a long name)


def subject(name: str, layers: int, scratch: Path) -> Subject:
    """What the name stands for, ready to be loaded; an example is written into `scratch`.

    Args:
        layers: that an example's transformer has at most.

    Raises:
        SpeechZooError: there is no such checkpoint, or the family has neither an example nor a bundled one.
    """
    if name == FBANK:
        return Subject(FBANK, FBANK, FBANK)
    own = next((own for own, (spec, _) in examples().items() if name in (own, spec.model_type)), None)
    if own is None:
        if name in registry.model_types() and not os.path.exists(name):  # noqa: PTH110 (as above)
            for bundled, folder in registry.bundled().items():
                if read_json(folder / "config.json").get("model_type") == name:
                    return _described(name, bundled)
            raise CheckpointError(f"{name} has no example to measure; name one of its checkpoints")
        return _described(name, str(resolve(name)))
    folder = scratch / "example"
    worker = Worker("example", name, own, folder, layers=layers)
    worker.close()
    cut = (worker.facts["layers"], getattr(examples()[own][1].config, LAYERS)) if worker.facts["layers"] else None
    return replace(_described(name, str(folder)), layers=cut, seeded=True, alone=worker.facts["alone"])


def _described(name: str, ref: str) -> Subject:
    source = find(ref)
    _, config, _, _ = read_model(source)
    front_end = config.front_end
    if front_end is None:
        raise CheckpointError(f"{name} takes no audio; bench measures models from the waveform on")
    size = sum(file.stat().st_size for file in source.files)
    return Subject(name, ref, config.task, front_end.sample_rate, size, getattr(config, "single_pass", math.inf))


def write_example(name: str, folder: Path, layers: int) -> dict[str, Any]:
    """Write an example: as its original is published, or where that is not installed, as we convert it.

    Returns:
        `layers` of its transformer, None if it has none; `alone`, why its original cannot run here, else None.
    """
    spec, example = examples()[name]
    config, alone = example.config, None
    if hasattr(config, LAYERS):
        config = replace(config, **{LAYERS: min(layers, getattr(config, LAYERS))})
    folder.mkdir()
    try:
        if example.write is None:
            raise NoOracle(f"{spec.model_type} names no original implementation")
        example.write(config, folder)
    except NoOracle as error:
        alone = str(error)
        _write_seeded(spec, config, folder)
    return {"layers": getattr(config, LAYERS, None), "alone": alone}


def _write_seeded(spec: ModelSpec, config: Any, folder: Path) -> None:
    """A converted checkpoint with seeded weights that keep the scale of the input, a tensor at a time."""
    mx.random.seed(0)
    weights = {}
    for name, value in parameters(spec.model(config)).items():
        if value.ndim > 1:
            weights[name] = mx.random.normal(value.shape) * math.sqrt(1.5 * len(value) / value.size)
        else:
            weights[name] = mx.random.normal(value.shape) * 0.1 + (0 if name.endswith("bias") else 0.75)
    (folder / "config.json").write_text(json.dumps(to_dict(config)), encoding="utf-8")
    for _ in write_checkpoint(folder, weights):
        pass
