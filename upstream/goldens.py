"""The numbers in the exported tests: what our own packages give for the same tiny checkpoints."""

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

COUNT = 8  # values of an output that a test compares
DIGITS = 6

FBANK = {"n_mels": 24, "frame_length": 25.0, "frame_shift": 10.0, "sample_rate": 16000}
WESPEAKER = {"kind": "kaldi_fbank", "window": "hamming", "scale": 32768.0, "cmn": True, **FBANK}
SPEECHBRAIN = {"kind": "speechbrain_fbank", "window": "hamming", "scale": 1.0, "cmn": True, **FBANK}
THREE_D = {**WESPEAKER, "window": "povey", "scale": 1.0}
LANGUAGES = {"0": "ab: Abkhazian", "1": "af: Afrikaans", "2": "am: Amharic", "3": "ar: Arabic"}
SPEAKER = {"task": "speaker-embedding", "embed_dim": 16, "feat_dim": 24}
RESNET = {"model_type": "resnet34", **SPEAKER, "front_end": WESPEAKER, "m_channels": 4}
ECAPA = {"model_type": "ecapa_tdnn", **SPEAKER, "attention_channels": 8, "se_channels": 8, "res2net_scale": 4}
WAV2VEC2 = {
    "model_type": "wav2vec2_cls",
    "front_end": {"kind": "waveform", "sample_rate": 16000, "normalise": True},
    "id2label": {"0": "eng", "1": "fra", "2": "deu"},
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16, 16, 16],
    "conv_stride": [5, 4, 4],
    "conv_kernel": [10, 4, 4],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 16,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "resnet34_basic": {**RESNET, "block": "basic", "num_blocks": [2, 1, 1, 1]},
    "resnet34_bottleneck": {**RESNET, "block": "bottleneck", "num_blocks": [1, 2, 1, 1], "two_emb_layer": True},
    "campplus": {
        "model_type": "campplus",
        **SPEAKER,
        "front_end": THREE_D,
        "growth_rate": 8,
        "bn_size": 4,
        "init_channels": 16,
        "threshold": 0.5,
    },
    "ecapa_speechbrain": {**ECAPA, "front_end": SPEECHBRAIN, "channels": [16, 16, 16, 16, 48]},
    "ecapa_wespeaker": {
        **ECAPA,
        "front_end": WESPEAKER,
        "channels": [16, 16, 16, 16, 48],
        "padding": "zeros",
        "res2net_skip": "last",
        "aggregation_norm": False,
        "moments": "raw",
    },
    "ecapa_lid": {
        **ECAPA,
        "task": "language-identification",
        "front_end": SPEECHBRAIN,
        "channels": [16, 16, 16, 16, 48],
        "classifier_neurons": 12,
        "id2label": LANGUAGES,
    },
    "wav2vec2_stable": {
        **WAV2VEC2,
        "task": "language-identification",
        "feat_extract_norm": "layer",
        "conv_bias": True,
        "do_stable_layer_norm": True,
        "adapter_attn_dim": 4,
    },
    "wav2vec2_group": {
        **WAV2VEC2,
        "task": "audio-classification",
        "attention_mask": False,
        "use_weighted_layer_sum": True,
    },
}


class Goldens:
    """Numbers by the keys that the test templates give: `<name of a config>.config`, `.expected`, `features.<kind>`."""

    def __init__(self) -> None:
        import speech_zoo_core  # noqa: F401  (brings the BLAS, before mlx)

        self.tiny = _tiny()
        self._features: dict[str, Callable[[], Any]] = {
            "kaldi": lambda: self._front_end(n_mels=80),
            "speechbrain": lambda: self._front_end("speechbrain_fbank", n_mels=60, scale=1.0),
        }

    @cache  # noqa: B019 (there is one)
    def __getitem__(self, key: str) -> Any:
        name, _, what = key.partition(".")
        if name == "features":
            return _rounded(self._features[what]()[::4, ::16].ravel(), digits=4)
        return CONFIGS[name] if what == "config" else _rounded(self.output(name)[:COUNT])

    def model(self, name: str) -> Any:
        """Our model of a config, with the weights that the test draws."""
        from speech_zoo_core.config import from_dict

        config = CONFIGS[name]
        package = importlib.import_module(f"speech_zoo_{config['model_type']}.model")
        model = package.Model(from_dict(package.ModelConfig, config))
        model.load_weights(list(self.tiny.random_weights(model).items()))
        return model.eval()

    def output(self, name: str) -> Any:
        """Its embedding or logits on the test's clip, float32."""
        import numpy as np

        model = self.model(name)
        speaker = CONFIGS[name]["task"] == "speaker-embedding"
        return np.array((model.embed if speaker else model.logits)(self.tiny.clip(), sample_rate=self.tiny.RATE))

    def _front_end(self, *arguments: Any, **settings: Any) -> Any:
        import mlx.core as mx
        import numpy as np
        from speech_zoo_core.audio.front_end import FrontEnd

        return np.array(FrontEnd(*arguments, **settings)(mx.array(self.tiny.clip(0.1))))


@cache
def goldens() -> Goldens:
    """The numbers, each computed once."""
    return Goldens()


def _rounded(values: Any, digits: int = DIGITS) -> list[float]:
    return [round(float(value), digits) for value in values]


def _tiny() -> ModuleType:
    """The helper of the exported tests, which draws clips and weights."""
    path = Path(__file__).resolve().parent / "templates/mlx_audio/voice_id/tests/tiny.py"
    spec = importlib.util.spec_from_file_location("upstream_tiny", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
