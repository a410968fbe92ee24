"""The families that `measure.py` looks at: checkpoints of a published size, with seeded weights."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx
from pyannet_files import lightning, source_tensors
from speech_zoo.bench.subjects import Subject, examples, subject
from speech_zoo.engines.choice import cores
from speech_zoo_core import device
from speech_zoo_core.errors import SpeechZooError
from speech_zoo_core.tasks import audio_model

Finding: TypeAlias = "tuple[str, dict[str, Any], bool | None]"  # case, figures, whether a limit or a goal is met
LAYERS = 4  # of the transformer
PUBLISHED = {"hidden_size": 128, "num_layers": 4, "linear_size": 128, "linear_layers": 2, "stride": 10}  # PyanNet


def as_on_a_gpu() -> None:
    """Clips go the way of a GPU on a CPU, too; not compiled, which takes a C++ compiler long."""
    audio_model.on_cpu = device.on_cpu = lambda: False
    mx.disable_compile()


def families(models: list[str], cpu: bool) -> list[str]:
    return models or (["xvector", "pyannet"] if cpu else [*examples(), "pyannet"])


def made(name: str, scratch: Path) -> Subject:
    """A family's checkpoint with seeded weights, of a published size."""
    if name != "pyannet":
        return subject(name, LAYERS, scratch)
    lstm = {"hidden_size": PUBLISHED["hidden_size"], "num_layers": PUBLISHED["num_layers"]}
    linear = {"hidden_size": PUBLISHED["linear_size"], "num_layers": PUBLISHED["linear_layers"]}
    file = lightning(scratch / "pytorch_model.bin", source_tensors(**PUBLISHED), lstm=lstm, linear=linear)
    return subject(str(file), LAYERS, scratch)


def each(work: Callable[..., Iterator[Finding]], models: list[str], cpu: bool) -> Iterator[Finding]:
    """What `work` finds of each family, some at a time; one that fails stops no other."""

    def found(name: str) -> list[Finding]:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                return list(work(name, Path(scratch), cpu))
            except (SpeechZooError, OSError, subprocess.CalledProcessError) as error:
                said = getattr(error, "stderr", None) or str(error)
                return [(name, {"failed": said.strip().splitlines()[-1][:300]}, False)]

    with ThreadPoolExecutor(1 if cpu else cores() // 3 or 1) as pool:
        for done in as_completed([pool.submit(found, name) for name in families(models, cpu)]):
            yield from done.result()
