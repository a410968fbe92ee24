"""A tiny Wav2Vec2 classifier in the form that transformers writes it, from seeded weights; needs no PyTorch."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from signals import seeded_weights
from speech_zoo_core.audio.front_end import WaveformFrontEnd
from speech_zoo_core.layers import parameters
from speech_zoo_wav2vec2_cls import Model, ModelConfig

# The variants that the goldens compare.
VARIANTS: dict[str, dict[str, Any]] = {
    "wav2vec2-layer-norm": {},
    "wav2vec2-group-norm-sum": {
        "feat_extract_norm": "group",
        "do_stable_layer_norm": False,
        "use_weighted_layer_sum": True,
    },
}
POS_CONV = "wav2vec2.encoder.pos_conv_embed.conv"
SETTINGS: dict[str, Any] = {
    "architectures": ["Wav2Vec2ForSequenceClassification"],
    "model_type": "wav2vec2",
    "id2label": {"0": "eng", "1": "fra", "2": "cmn"},
    "label2id": {"eng": 0, "fra": 1, "cmn": 2},
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [8] * 7,
    "conv_bias": True,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 32,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "mask_time_prob": 0.05,
    "output_hidden_size": 32,
    "transformers_version": "5.23.0",
}
PREPROCESSOR = {
    "do_normalize": True,
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
    "sampling_rate": 16000,
}


def config(**changes: Any) -> ModelConfig:
    known = {key: value for key, value in SETTINGS.items() if key in ModelConfig.__dataclass_fields__}
    known |= {"model_type": "wav2vec2_cls", "front_end": WaveformFrontEnd()}
    return ModelConfig(**(known | changes))


@cache
def source_tensors(spelling: str = "original", **changes: Any) -> dict[str, np.ndarray]:
    """The tensors of SETTINGS and changes in PyTorch's layout, weight norm in one of its two spellings."""
    shapes = {name: value.shape for name, value in parameters(Model(config(**changes))).items()}
    out, taps, width = shapes.pop(f"{POS_CONV}.weight")
    names = {
        "original": ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        "old": ("weight_g", "weight_v"),
    }[spelling]
    shapes = {
        name: (shape[0], shape[2], shape[1]) if ".conv_layers." in name and len(shape) == 3 else shape
        for name, shape in shapes.items()
    }
    weights = seeded_weights(shapes, 1)
    for name in shapes:
        if "norm" in name:
            weights[name] = weights[name] * 0.1 + (1 if name.endswith("weight") else 0)
    norm = seeded_weights({"g.weight": (1, 1, taps), "v.weight": (out, width, taps)}, 2)
    weights[f"{POS_CONV}.{names[0]}"] = np.abs(norm["g.weight"]) + 0.5
    weights[f"{POS_CONV}.{names[1]}"] = norm["v.weight"]
    return {name: value.astype(np.float32) for name, value in weights.items()}


def hf_folder(
    folder: Path, tensors: dict[str, np.ndarray] | None = None, preprocessor: Any = PREPROCESSOR, **changes: Any
) -> Path:
    folder.mkdir(parents=True)
    save_file(source_tensors() if tensors is None else tensors, folder / "model.safetensors")
    kept = {key: value for key, value in (SETTINGS | changes).items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder
