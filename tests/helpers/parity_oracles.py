"""The originals that the zoo is held against, and the checkpoint forms that they are published in. Needs PyTorch."""

import dataclasses
import enum
import importlib
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import yaml
from signals import raw_bits, seeded_weights, waveforms
from speech_zoo_core.audio.front_end import REDIMNET2 as TF_MEL
from speech_zoo_core.oracle import kaldi_features, wespeaker
from speech_zoo_redimnet.oracle import redimnet2_module, tf_mel_banks
from tiny_models import REDIMNET2_IMAGE
from torch import nn

HAMMING = {"window": "hamming", "scale": 32768.0}  # WeSpeaker
POVEY = {"window": "povey", "scale": 1.0}  # 3D-Speaker
REAL_CAMPPLUS = Path(os.environ.get("SPEECH_ZOO_CAMPPLUS_PT", "campplus_cn_en_common.pt"))


class Oracle:
    """An original module behind the original's features; remembers its embeddings."""

    def __init__(self, module: nn.Module, name: str, front_end: dict[str, Any]) -> None:
        self.module, self.name, self.front_end = module.eval(), name, front_end
        self._known: dict[str, np.ndarray] = {}

    def embed(self, signal: str) -> np.ndarray:
        """The embedding of a test signal, before normalisation."""
        if signal not in self._known:
            self._known[signal] = self(kaldi_features(waveforms()[signal], **self.front_end))
        return self._known[signal]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features (T, F) to the embedding (D,)."""
        with torch.no_grad():
            out = self.module(torch.from_numpy(np.ascontiguousarray(features))[None])
        return (out[-1] if isinstance(out, tuple) else out)[0].numpy()


class OnnxOracle(Oracle):
    """onnxruntime on an exported file."""

    def __init__(self, path: Path, front_end: dict[str, Any]) -> None:
        super().__init__(nn.Identity(), f"onnxruntime {version('onnxruntime')}", front_end)
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return self.session.run(None, {self.session.get_inputs()[0].name: features[None]})[0][0]


def seeded(module: nn.Module, seed: int) -> nn.Module:
    """The module in inference mode with seeded weights and BatchNorm statistics."""
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    weights = {name: torch.from_numpy(value) for name, value in seeded_weights(shapes, seed).items()}
    module.load_state_dict(weights)
    return module.eval()


def resnet(name: str, seed: int, feat_dim: int = 80, embed_dim: int = 256, two_emb_layer: bool = False) -> Oracle:
    """WeSpeaker's ResNet of that name with seeded weights."""
    module = getattr(wespeaker("resnet"), name)(feat_dim=feat_dim, embed_dim=embed_dim, two_emb_layer=two_emb_layer)
    return Oracle(seeded(module, seed), f"wespeaker-unofficial {version('wespeaker-unofficial')}", HAMMING)


def custom_resnet(block: str, num_blocks: list[int], m_channels: int, embed_dim: int, two: bool, seed: int) -> Oracle:
    """WeSpeaker's ResNet class with any size; `block` is "basic" or "bottleneck"."""
    source = wespeaker("resnet")
    kind = {"basic": source.BasicBlock, "bottleneck": source.Bottleneck}[block]
    module = source.ResNet(kind, num_blocks, m_channels, feat_dim=80, embed_dim=embed_dim, two_emb_layer=two)
    return Oracle(seeded(module, seed), f"wespeaker-unofficial {version('wespeaker-unofficial')}", HAMMING)


def small_relative(kind: str, seed: int) -> Oracle:
    """WeSpeaker's SimAM-ResNet ("simam") or DF-ResNet ("inverted") of a few channels, with seeded weights."""
    if kind == "simam":
        module = wespeaker("samresnet").SimAM_ResNet34_ASP(in_planes=4, embed_dim=64)
    else:
        source = wespeaker("gemini_dfresnet")
        module = source.Gemini_DF_ResNet([1, 2, 1, 1], [8, 8, 16, 32, 64], feat_dim=80, embed_dim=64)
    return Oracle(seeded(module, seed), f"wespeaker-unofficial {version('wespeaker-unofficial')}", HAMMING)


def wespeaker_campplus(seed: int, embed_dim: int = 512, pooling_func: str = "TSTP") -> Oracle:
    """WeSpeaker's CAM++ with seeded weights."""
    module = wespeaker("campplus").CAMPPlus(feat_dim=80, embed_dim=embed_dim, pooling_func=pooling_func)
    return Oracle(seeded(module, seed), f"wespeaker-unofficial {version('wespeaker-unofficial')}", HAMMING)


def wespeaker_ecapa(name: str, seed: int, emb_bn: bool = False) -> Oracle:
    """WeSpeaker's ECAPA-TDNN with seeded weights; `name` is "c512", "GLOB_c512", "c1024" or "GLOB_c1024"."""
    module = getattr(wespeaker("ecapa_tdnn"), f"ECAPA_TDNN_{name}")(feat_dim=80, embed_dim=192, emb_bn=emb_bn)
    return Oracle(seeded(module, seed), f"wespeaker-unofficial {version('wespeaker-unofficial')}", HAMMING)


def custom_ecapa(channels: int, seed: int) -> Oracle:
    """WeSpeaker's ECAPA-TDNN of any width, with global context and a BatchNorm after the embedding."""
    kind = wespeaker("ecapa_tdnn").ECAPA_TDNN
    module = kind(channels=channels, feat_dim=80, embed_dim=192, global_context_att=True, emb_bn=True)
    return Oracle(seeded(module, seed), f"wespeaker-unofficial {version('wespeaker-unofficial')}", HAMMING)


def eres2net(module: str, seed: int, **sizes: Any) -> Oracle:
    """3D-Speaker's model of `speakerlab.models.eres2net.<module>` with seeded weights."""
    source = importlib.import_module(f"speakerlab.models.eres2net.{module}")
    kind = getattr(source, module.removesuffix("_huge"))
    return Oracle(seeded(kind(feat_dim=80, **sizes), seed), f"speakerlab {version('speakerlab')}", POVEY)


def wespeaker_eres2net(seed: int, embed_dim: int = 192) -> Oracle:
    """WeSpeaker's ERes2Net34_Base with seeded weights."""
    module = wespeaker("eres2net").ERes2Net34_Base(feat_dim=80, embed_dim=embed_dim)
    return Oracle(seeded(module, seed), f"wespeaker-unofficial {version('wespeaker-unofficial')}", HAMMING)


def redimnet(size: str, seed: int, **sizes: Any) -> Oracle:
    """WeSpeaker's ReDimNet of a size, "B0" to "B6", or "" for its class, with seeded weights."""
    module = getattr(wespeaker("redimnet"), f"ReDimNet{size}")(**sizes)
    front_end = HAMMING | {"n_mels": module.backbone.F}
    return Oracle(seeded(module, seed), f"wespeaker-unofficial {version('wespeaker-unofficial')}", front_end)


class Redimnet2Oracle(Oracle):
    """WeSpeaker's ReDimNet2 behind WeSpeaker's own features."""

    def embed(self, signal: str) -> np.ndarray:
        if signal not in self._known:
            self._known[signal] = self(tf_mel_banks(waveforms()[signal], self.front_end["n_mels"]))
        return self._known[signal]


def redimnet2(config: Any, seed: int) -> Oracle:
    """WeSpeaker's ReDimNet2 of a config, with seeded weights."""
    name = f"wespeaker-unofficial {version('wespeaker-unofficial')}"
    return Redimnet2Oracle(seeded(redimnet2_module(config), seed), name, {"n_mels": config.feat_dim})


TINY_REDIMNET = {
    "feat_dim": 24,
    "C": 4,
    "block_2d_type": "basic_resnet_fwse",
    "stages_setup": [(1, 1, 2, [(3, 3)], 12), (2, 2, 1, [(3, 3)], None), (3, 1, 1, [(3, 3)], 8)],
    "group_divisor": 2,
    "embed_dim": 48,
}


TINY_REDIMNET2 = replace(REDIMNET2_IMAGE, front_end=replace(TF_MEL, n_mels=16), embed_dim=48)


@cache
def real_campplus() -> Oracle:
    """3D-Speaker's CAM++ with the published weights."""
    from speakerlab.models.campplus.DTDNN import CAMPPlus

    module = CAMPPlus(feat_dim=80, embedding_size=192)
    module.load_state_dict(torch.load(REAL_CAMPPLUS, weights_only=True))
    return Oracle(module, f"speakerlab {version('speakerlab')}", POVEY)


def state_dict(oracle: Oracle, prefix: str = "", dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """The module's tensors, detached, with a prefix and in another type if wanted."""
    return {
        prefix + name: value.detach().to(dtype) if dtype and value.is_floating_point() else value.detach().clone()
        for name, value in oracle.module.state_dict().items()
    }


def save_state(path: Path, oracle: Oracle) -> Path:
    """The state dict as `torch.save` writes it."""
    torch.save(state_dict(oracle), path)
    return path


def with_weights_of(oracle: Oracle, make: Any, dtype: torch.dtype) -> Oracle:
    """The oracle of `make()` with `oracle`'s weights rounded to `dtype`, computed in float32."""
    other: Oracle = make()
    other.module.load_state_dict(state_dict(oracle, dtype=dtype))
    return other


def save_wespeaker(folder: Path, oracle: Oracle, model: str, **model_args: Any) -> Path:
    """WeSpeaker's form: `avg_model.pt`, with the training loss's `projection.*`, and `config.yaml`."""
    folder.mkdir(parents=True)
    embed_dim = model_args["embed_dim"]
    projection = torch.from_numpy(seeded_weights({"weight": (10, embed_dim)}, 99)["weight"])
    torch.save({**state_dict(oracle), "projection.weight": projection}, folder / "avg_model.pt")
    settings = {
        "model": model,
        "model_args": {"feat_dim": 80, "pooling_func": "TSTP", **model_args},
        "model_init": None,
        "projection_args": {"project_type": "arc_margin", "scale": 32.0},
        "dataset_args": {
            "cmvn": True,
            "fbank_args": {"dither": 1.0, "frame_length": 25, "frame_shift": 10, "num_mel_bins": 80},
            "resample_rate": 16000,
            "spec_aug": False,
        },
        "num_epochs": 150,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


@contextmanager
def pyannote_stand_ins() -> Iterator[types.ModuleType]:
    """pyannote's record classes under their real names, so that pickles name them."""

    class Problem(enum.Enum):
        MONO_LABEL_CLASSIFICATION = 1
        REPRESENTATION = 4

    class Resolution(enum.Enum):
        FRAME = 1
        CHUNK = 2

    @dataclasses.dataclass
    class Specifications:
        problem: Problem
        resolution: Resolution
        duration: float
        min_duration: float | None = None
        warm_up: tuple[float, float] | None = (0.0, 0.0)
        classes: list[str] | None = None
        permutation_invariant: bool = False

    name = "pyannote.audio.core.task"
    parts = name.split(".")
    modules = {".".join(parts[: i + 1]): types.ModuleType(".".join(parts[: i + 1])) for i in range(len(parts))}
    for cls in (Problem, Resolution, Specifications):
        cls.__module__, cls.__qualname__ = name, cls.__name__
        setattr(modules[name], cls.__name__, cls)
    real = {name: module for name, module in sys.modules.items() if name in modules}  # where pyannote is an oracle too
    sys.modules.update(modules)
    try:
        yield modules[name]
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(real)


def save_pyannote(path: Path, oracle: Oracle, **options: Any) -> Path:
    """pyannote's form: a Lightning checkpoint with records of its own classes."""
    with pyannote_stand_ins() as task:
        content = {
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": "1.9.0",
            "state_dict": state_dict(oracle, "resnet."),
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 0}}}},
            "optimizer_states": [],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": {
                "sample_rate": 16000,
                "num_channels": 1,
                "num_mel_bins": 80,
                "frame_length": 25,
                "frame_shift": 10,
                "dither": 0.0,
                "window_type": "hamming",
                "use_energy": False,
            },
            "pyannote.audio": {
                "versions": {"torch": "1.13.1", "pyannote.audio": "2.1.1"},
                "architecture": {"module": "pyannote.audio.models.embedding.wespeaker", "class": "WeSpeakerResNet34"},
                "specifications": task.Specifications(
                    problem=task.Problem.REPRESENTATION, resolution=task.Resolution.CHUNK, duration=5.0
                ),
            },
        }
        torch.save(content, path, **options)
    return path


class MinusMean(nn.Module):
    """What WeSpeaker's `bin/export_onnx.py` exports: the embedding less the training set's mean."""

    def __init__(self, module: nn.Module, mean: np.ndarray) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("mean_vec", torch.from_numpy(mean))

    def forward(self, feats: torch.Tensor) -> torch.Tensor:
        out = self.module(feats)
        return (out[-1] if isinstance(out, tuple) else out) - self.mean_vec


def minus_mean(oracle: Oracle, embed_dim: int, seed: int = 7) -> Oracle:
    """The oracle less a seeded mean vector."""
    mean = raw_bits(seed, embed_dim, 24).astype(np.float32) * np.float32(2**-24) - np.float32(0.5)
    return Oracle(MinusMean(oracle.module, mean), oracle.name, oracle.front_end)


def export_onnx(path: Path, oracle: Oracle, **options: Any) -> Path:
    """Export with input `feats` (B, T, 80) and output `embs` (B, D), as WeSpeaker does."""
    dynamic = {"feats": {0: "B", 1: "T"}, "embs": {0: "B"}}
    torch.onnx.export(
        oracle.module,
        (torch.ones(1, 200, 80),),
        str(path),
        input_names=["feats"],
        output_names=["embs"],
        dynamic_axes=dynamic,
        **options,
    )
    return path


def renamed_onnx(path: Path) -> Path:
    """The same graph in `renamed.onnx`: initialisers in another order and every value under a meaningless name."""
    model = onnx.load(str(path))
    graph = model.graph
    values = [item.name for item in graph.initializer] + [name for node in graph.node for name in node.output]
    names = {name: f"{(i * 7919) % len(values)}" for i, name in enumerate(values)}
    assert len(set(names.values())) == len(values)
    for node in graph.node:
        node.name = ""
        for names_of in (node.input, node.output):
            names_of[:] = [names.get(name, name) for name in names_of]
    for item in (*graph.initializer, *graph.output, *graph.value_info):
        item.name = names.get(item.name, item.name)
    shuffled = sorted(graph.initializer, key=lambda item: item.name)
    del graph.initializer[:]
    graph.initializer.extend(shuffled)
    onnx.checker.check_model(model)
    renamed = path.with_name("renamed.onnx")
    onnx.save(model, str(renamed))
    return renamed
