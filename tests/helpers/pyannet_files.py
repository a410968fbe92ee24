"""PyanNet's Lightning checkpoint, small or as published, from seeded weights; without PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
from signals import seeded_weights
from torch_files import save_zip, state_dict

SMALL: dict[str, Any] = {"hidden_size": 12, "num_layers": 2, "linear_size": 10, "linear_layers": 1, "stride": 10}
BANK = "sincnet.conv1d.0.filterbank."


def source_shapes(hidden_size: int, num_layers: int, linear_size: int, linear_layers: int, **_: Any) -> dict[str, Any]:
    """Names and shapes of the original's state dict, but for the filter bank."""
    shapes: dict[str, Any] = {"sincnet.wav_norm1d.weight": (1,), "sincnet.wav_norm1d.bias": (1,)}
    for i, (size, channels) in enumerate(((1, 80), (80, 60), (60, 60))):
        shapes |= {f"sincnet.norm1d.{i}.{part}": (channels,) for part in ("weight", "bias")}
        if i:
            shapes |= {f"sincnet.conv1d.{i}.weight": (channels, size, 5), f"sincnet.conv1d.{i}.bias": (channels,)}
    for i in range(num_layers):
        size = 2 * hidden_size if i else 60
        for way in ("", "_reverse"):
            shapes |= {f"lstm.weight_ih_l{i}{way}": (4 * hidden_size, size)}
            shapes |= {f"lstm.weight_hh_l{i}{way}": (4 * hidden_size, hidden_size)}
            shapes |= {f"lstm.bias_{part}_l{i}{way}": (4 * hidden_size,) for part in ("ih", "hh")}
    size = 2 * hidden_size
    for i in range(linear_layers):
        shapes |= {f"linear.{i}.weight": (linear_size, size), f"linear.{i}.bias": (linear_size,)}
        size = linear_size
    return shapes | {"classifier.weight": (7, size), "classifier.bias": (7,)}


def source_tensors(seed: int = 0, **sizes: Any) -> dict[str, np.ndarray]:
    """The original's state dict with seeded weights, and its filter bank as it is initialised."""
    edges = 700 * (10 ** (np.linspace(46.0, 2830.0, 41) / 2595) - 1)  # on the mel scale, from 30 to 7900 Hz
    return seeded_weights(source_shapes(**(sizes or SMALL)), seed) | {
        BANK + "low_hz_": edges[:-1, None].astype(np.float32),
        BANK + "band_hz_": np.diff(edges)[:, None].astype(np.float32),
        BANK + "window_": np.hamming(251)[:125].astype(np.float32),
        BANK + "n_": (2 * np.pi * np.arange(-125.0, 0.0)[None] / 16000).astype(np.float32),
    }


def lightning(path: Path, tensors: dict[str, np.ndarray] | None = None, **changes: Any) -> Path:
    """The file that Lightning writes; `changes` are other hyper-parameters, by part."""
    params: dict[str, Any] = {
        "sample_rate": 16000,
        "num_channels": 1,
        "sincnet": {"stride": SMALL["stride"], "sample_rate": 16000},
        "lstm": {"hidden_size": SMALL["hidden_size"], "num_layers": SMALL["num_layers"], "bidirectional": True}
        | {"monolithic": True, "dropout": 0.5, "batch_first": True},
        "linear": {"hidden_size": SMALL["linear_size"], "num_layers": SMALL["linear_layers"]},
    }
    for part, value in changes.items():
        params[part] = params[part] | value if isinstance(value, dict) else value
    weights = state_dict(source_tensors() if tensors is None else tensors)
    return save_zip(path, {"state_dict": weights, "hyper_parameters": params, "pytorch-lightning_version": "2.0.2"})
