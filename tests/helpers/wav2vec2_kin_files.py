"""Tiny checkpoints of Wav2Vec2's kin and of x-vectors in the form that transformers writes them; needs no PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
from signals import seeded_weights
from speech_zoo_core.layers import parameters
from speech_zoo_wav2vec2_cls import Model
from wav2vec2_files import config, hf_folder

KIN: dict[str, tuple[str, dict[str, Any]]] = {  # model_type: what its classes are called, settings
    "wav2vec2": ("Wav2Vec2", {}),
    "hubert": ("Hubert", {"conv_pos_batch_norm": True, "feat_proj_layer_norm": False}),
    "unispeech": ("UniSpeech", {}),
    "unispeech-sat": ("UniSpeechSat", {"feat_extract_norm": "group", "do_stable_layer_norm": False}),
    "wavlm": ("WavLM", {"num_buckets": 16, "max_bucket_distance": 40}),
    "data2vec-audio": ("Data2VecAudio", {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 3}),
}
X_VECTOR: dict[str, Any] = {
    "tdnn_dim": [8, 8, 12],
    "tdnn_kernel": [8, 3, 1],  # eight taps of eight channels: PyTorch's and MLX's layout have the same shape
    "tdnn_dilation": [1, 2, 1],
    "xvector_output_dim": 6,
}
X_VECTORS = ("wav2vec2", "unispeech-sat", "wavlm")


def kin_tensors(kind: str, **settings: Any) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, under the names and in the layout that transformers has."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in parameters(Model(config(**settings))).items():
        shapes |= _published(name.replace("wav2vec2.", f"{kind.replace('-', '_')}.", 1), value.shape)
    if settings.get("task") == "speaker-embedding":
        shapes |= {"objective.weight": (6, 9), "classifier.weight": (6, 6), "classifier.bias": (6,)}
    weights = seeded_weights(shapes, 3)
    for name in shapes:
        if "layer_norm" in name:
            weights[name] = weights[name] * 0.1 + (1 if name.endswith("weight") else 0)
        elif name.endswith("original0"):
            weights[name] = np.abs(weights[name]) + 0.5
    return weights


def _published(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    if ".rel_attn_embed." in name:
        return {name.replace(".rel_attn_embed.", ".layers.0.attention.rel_attn_embed."): shape}
    if ".gru_rel_pos_linear." in name:
        return {name: (8, *shape[1:])}
    if name.endswith("batch_norm.weight"):
        owner = name.removesuffix("weight")
        return {name: shape, f"{owner}running_mean": shape, f"{owner}running_var": shape}
    if len(shape) != 3:
        return {name: shape}
    out, taps, inner = shape
    if name.startswith("tdnn."):
        return {name: (out, taps * inner)}
    if name.endswith("pos_conv_embed.conv.weight") and not name.startswith("hubert."):
        owner = name.replace("conv.weight", "conv.parametrizations.weight.original")
        return {f"{owner}0": (1, 1, taps), f"{owner}1": (out, inner, taps)}
    return {name: (out, inner, taps)}


def kin_folder(folder: Path, kind: str, x_vector: bool = False, **changes: Any) -> Path:
    """A tiny checkpoint of a model_type of transformers, a classifier of languages or an x-vector."""
    name, special = KIN[kind]
    settings = {**special, **(X_VECTOR if x_vector else {})}
    own = {key: value for key, value in settings.items() if key != "xvector_output_dim"}
    if x_vector:
        own |= {"task": "speaker-embedding", "id2label": None, "embed_dim": X_VECTOR["xvector_output_dim"]}
    if kind == "data2vec-audio":
        own["do_stable_layer_norm"] = False
    head = "ForXVector" if x_vector else "ForSequenceClassification"
    settings |= {"model_type": kind, "architectures": [name + head], **changes}
    return hf_folder(folder, kin_tensors(kind, **own), **settings)
