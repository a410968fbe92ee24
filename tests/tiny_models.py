"""Small models of every family and variant, and their source checkpoints on disk, from seeded random weights."""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import yaml
from random_weights import source_weights
from speech_zoo_campplus import ModelConfig as CamPlusConfig
from speech_zoo_core import registry
from speech_zoo_core.front_end import THREE_D_SPEAKER, WESPEAKER
from speech_zoo_core.loader import build
from speech_zoo_resnet34 import ModelConfig as ResNetConfig
from torch_files import save_zip, state_dict

RATE = 16000

RESNET = ResNetConfig(
    model_type="resnet34",
    embed_dim=8,
    front_end=replace(WESPEAKER, n_mels=16),
    block="basic",
    num_blocks=[3, 4, 6, 3],
    m_channels=2,
    feat_dim=16,
    threshold=0.3,
)
CAMPPLUS = CamPlusConfig(
    model_type="campplus",
    embed_dim=8,
    front_end=replace(WESPEAKER, n_mels=16),
    feat_dim=16,
    growth_rate=4,
    bn_size=2,
    init_channels=16,
    pool_eps=1e-7,
    threshold=0.3,
)
CONFIGS: dict[str, Any] = {
    "basic": replace(RESNET, num_blocks=[1, 2, 1, 1]),
    "bottleneck": replace(RESNET, block="bottleneck", num_blocks=[1, 1, 2, 1]),
    "two_emb_layer": replace(RESNET, num_blocks=[1, 1, 1, 1], two_emb_layer=True),
    "square": replace(RESNET, num_blocks=[1, 1, 1, 1], m_channels=3),  # 3x3 convolutions of 3 channels
    "campplus": CAMPPLUS,
    "campplus_3dspeaker": replace(
        CAMPPLUS, feat_dim=80, front_end=THREE_D_SPEAKER, init_channels=32, growth_rate=8, pool_eps=0.0
    ),
}


@cache
def tiny_source(name: str) -> dict[str, np.ndarray]:
    """The source tensors of one of CONFIGS; copy before changing."""
    return source_weights(CONFIGS[name])


@cache
def tiny_model(name: str) -> Any:
    """The model of one of CONFIGS, loaded from its source tensors; do not change it."""
    return model_of(CONFIGS[name], tiny_source(name))


def model_of(config: Any, weights: dict[str, np.ndarray]) -> Any:
    return build(registry.get(config.model_type), config, to_mx(weights), "the weights")


def to_mx(weights: dict[str, np.ndarray]) -> dict[str, mx.array]:
    return {name: mx.array(x) for name, x in weights.items()}


def voice(n: int, seed: int = 0) -> np.ndarray:
    """`n` samples at 16 kHz that no model takes for silence."""
    return (np.random.default_rng(seed).standard_normal(n) * 0.1).astype(np.float32)


def wespeaker_yaml(config: Any, model: str) -> dict[str, Any]:
    """The `config.yaml` that WeSpeaker's training writes."""
    front_end = config.front_end
    return {
        "model": model,
        "model_args": {"feat_dim": config.feat_dim, "embed_dim": config.embed_dim, "pooling_func": "TSTP"}
        | ({"two_emb_layer": config.two_emb_layer} if config.model_type == "resnet34" else {}),
        "dataset_args": {
            "cmvn": True,
            "cmvn_args": {"norm_mean": True, "norm_var": False},
            "resample_rate": front_end.sample_rate,
            "fbank_args": {
                "num_mel_bins": front_end.n_mels,
                "frame_length": int(front_end.frame_length),
                "frame_shift": int(front_end.frame_shift),
                "dither": 1.0,
            },
            "speed_perturb": True,
        },
        "seed": 42,
    }


@cache
def _avg_model(model_type: str) -> bytes:
    """The `avg_model.pt` of RESNET or CAMPPLUS."""
    config = {"resnet34": RESNET, "campplus": CAMPPLUS}[model_type]
    with tempfile.TemporaryDirectory() as folder:
        weights = source_weights(config, projection=True)
        return save_zip(Path(folder) / "avg_model.pt", state_dict(weights)).read_bytes()


def wespeaker_folder(
    folder: Path, config: Any, weights: dict[str, np.ndarray] | None = None, settings: Any = None
) -> Path:
    """`avg_model.pt` and `config.yaml`; `settings` replaces the usual ones, as data or as text."""
    folder.mkdir(parents=True, exist_ok=True)
    if weights is not None:
        save_zip(folder / "avg_model.pt", state_dict(weights))
    elif config in (RESNET, CAMPPLUS):
        (folder / "avg_model.pt").write_bytes(_avg_model(config.model_type))
    else:
        save_zip(folder / "avg_model.pt", state_dict(source_weights(config, projection=True)))
    if settings is None:
        settings = wespeaker_yaml(config, {"resnet34": "ResNet34", "campplus": "CAMPPlus"}[config.model_type])
    text = settings if isinstance(settings, str) else yaml.safe_dump(settings)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return folder
