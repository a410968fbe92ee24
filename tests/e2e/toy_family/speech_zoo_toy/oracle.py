"""The original, in NumPy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from speech_zoo_core.audio.front_end import WESPEAKER
from speech_zoo_core.checkpoint.source import Source
from speech_zoo_core.oracle import Oracle
from speech_zoo_core.registry import Example

from .model import ModelConfig


def oracle(config: Any, original: Callable[[], Source]) -> Oracle:
    """See `ModelSpec.oracle`."""
    w = {name: x.astype(np.float64) for name, x in np.load(original().main_file).items()}

    def output(waveform: np.ndarray) -> np.ndarray:
        frames = np.array(WESPEAKER(mx.array(waveform))) @ w["frame.weight"].T + w["frame.bias"]
        frames = (frames - w["norm.running_mean"]) / np.sqrt(w["norm.running_var"] + 1e-5)
        frames = np.maximum(frames * w["norm.weight"] + w["norm.bias"], 0)
        pooled = np.concatenate([frames.mean(axis=0), frames.std(axis=0)])
        return pooled @ w["embedding.weight"].T + w["embedding.bias"]

    return Oracle("toy-original", "1.0", output)


def write_example(config: Any, folder: Path) -> None:
    """See `Example.write`."""
    random = np.random.default_rng(0)

    def layer(name: str, out: int, width: int) -> dict[str, np.ndarray]:
        return {
            f"{name}.weight": random.normal(0, width**-0.5, (out, width)),
            f"{name}.bias": random.normal(0, 0.1, out),
        }

    norm = {name: random.normal(0, 0.1, config.width) for name in ("running_mean", "bias")}
    norm |= {name: random.uniform(0.5, 1.5, config.width) for name in ("running_var", "weight")}
    weights = layer("frame", config.width, config.front_end.n_mels) | layer(
        "embedding", config.embed_dim, 2 * config.width
    )
    weights |= {f"norm.{name}": x for name, x in norm.items()}
    np.savez(folder / "toy.npz", **{name: x.astype(np.float32) for name, x in weights.items()})


EXAMPLE = Example(
    "toy", ModelConfig(model_type="toy_xvector", embed_dim=24, width=64, front_end=WESPEAKER), write_example
)
