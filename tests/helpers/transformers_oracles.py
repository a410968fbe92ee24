"""transformers' Wav2Vec2 and its kin with seeded weights, and the folders that they are published in. Needs PyTorch."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from signals import RATE, seeded_weights, waveforms
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

NAME = f"transformers {version('transformers')}"
LANGUAGES = ("eng", "fra", "deu", "spa", "ita", "cmn", "jpn", "rus", "swh", "ara")
TINY = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [64] * 7,
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 8,
    "classifier_proj_size": 48,
}
TINY_X_VECTOR = {"tdnn_dim": [64, 64, 64, 64, 96], "xvector_output_dim": 48}
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}  # of MMS and other large ones
MMS = {
    **LAYER,
    "hidden_size": 1280,
    "num_attention_heads": 16,
    "intermediate_size": 5120,
    "classifier_proj_size": 1024,
    "num_hidden_layers": 2,
}


class Original:
    """An original behind the original's feature extractor; `masked` tells whether batches come with a mask."""

    head = ""

    def __init__(self, masked: bool, seed: int = 0, kind: str = "Wav2Vec2", **config: Any) -> None:
        self.config = getattr(transformers, f"{kind}Config")(**config)
        self.module = _seeded(getattr(transformers, f"{kind}{self.head}")(self.config), seed)
        self.extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=masked)
        self.name = NAME

    def output(self, clips: Sequence[np.ndarray]) -> Any:
        """Of clips that are padded to the longest."""
        inputs = self.extractor(list(clips), sampling_rate=RATE, return_tensors="pt", padding=True)
        with torch.no_grad():
            return self.module(**inputs)

    def save(self, folder: Path, **options: Any) -> Path:
        """As transformers writes it."""
        self.module.save_pretrained(folder, **options)
        self.extractor.save_pretrained(folder)
        return folder

    def save_bin(self, folder: Path, old_names: bool) -> Path:
        """`pytorch_model.bin`, with weight norm in its old spelling if wanted."""
        self.save(folder)
        (folder / "model.safetensors").unlink()
        old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        tensors = {}
        for name, value in self.module.state_dict().items():
            for new, spelling in old.items():
                name = name.replace(new, spelling) if old_names else name  # noqa: PLW2901
            tensors[name] = value
        torch.save(tensors, folder / "pytorch_model.bin")
        return folder


class Classifier(Original):
    """A classifier; its labels are languages unless others are given."""

    head = "ForSequenceClassification"

    def __init__(self, masked: bool, labels: Sequence[str] = LANGUAGES, **config: Any) -> None:
        names = dict(enumerate(labels))
        super().__init__(masked, id2label=names, label2id={label: i for i, label in names.items()}, **config)

    def logits(self, signal: str) -> np.ndarray:
        return self.batch([waveforms()[signal]])[0]

    def batch(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Logits of clips that are padded to the longest, (B, L)."""
        return self.output(clips).logits.numpy()


class XVector(Original):
    """An x-vector."""

    head = "ForXVector"

    def embed(self, signal: str) -> np.ndarray:
        """(D,)."""
        return self.output([waveforms()[signal]]).embeddings[0].numpy()


class WithAdapter(Classifier):
    """`Wav2Vec2Model` with adapters under the same head; transformers' own class refuses adapters."""

    def __init__(self, masked: bool, **config: Any) -> None:
        super().__init__(masked, **config)
        self.config = Wav2Vec2Config(**{**self.config.to_dict(), "add_adapter": True, **config})
        self.body = _seeded(Wav2Vec2Model(self.config), 1)
        self.module.wav2vec2 = self.body
        width = self.config.output_hidden_size
        self.module.projector = _seeded(torch.nn.Linear(width, self.config.classifier_proj_size), 2)
        self.module.config = self.config


def _seeded(module: torch.nn.Module, seed: int) -> Any:
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    norms = {name for name in shapes if "layer_norm" in name or name.startswith("norm")}
    weights = seeded_weights({name: shape for name, shape in shapes.items() if name not in norms}, seed)
    for name, shape in shapes.items():
        if name in norms:  # LayerNorm and GroupNorm; around 1 and 0
            part = seeded_weights({name.rpartition(".")[0] + ".bias": shape}, seed)
            weights[name] = next(iter(part.values())) * 3 + (1 if name.endswith("weight") else 0)
        elif name.endswith("original0"):
            weights[name] = np.abs(weights[name]) + 0.5
    module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return module.eval()
