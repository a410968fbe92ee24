"""The figures in the PR.md files: PYTHONPATH=TREE:tests/helpers python upstream/measure.py a, before and after.

Needs what `nox -s parity` installs; for a, g and i, SPEECH_ZOO_CAMPPLUS_PT names 3D-Speaker's campplus_cn_en_common.pt.
"""

import importlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from parity_oracles import HAMMING, POVEY, real_campplus, resnet, seeded, state_dict
from signals import voices
from speech_zoo_core.oracle import kaldi_features
from speech_zoo_core.oracle_speechbrain import speechbrain_features, speechbrain_module
from transformers_oracles import LAYER, TINY, Classifier

Array = np.ndarray[Any, Any]
CLIPS: list[Array] = list(voices().values())


def tensors(oracle: Any) -> dict[str, mx.array]:
    return {name: mx.array(x.numpy()) for name, x in state_dict(oracle).items()}


def compare(what: str, embed: Callable[[mx.array], Any], expected: list[Array], samples: int | None = None) -> None:
    """Cosines to the expected embeddings of the first clips."""
    cosines = []
    for clip, output in zip(CLIPS, expected, strict=False):
        a, b = np.array(embed(mx.array(clip[:samples])), np.float64).ravel(), output.astype(np.float64).ravel()
        cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    print(f"{what}: cosine to the original, {len(cosines)} voices: worst {min(cosines):.10f}, best {max(cosines):.10f}")


def chatterbox() -> None:
    expected = [real_campplus()(kaldi_features(clip, **POVEY)) for clip in CLIPS]
    for module in ("chatterbox.s3gen.xvector", "chatterbox_turbo.models.s3gen.xvector"):
        model = importlib.import_module(f"mlx_audio.tts.models.{module}").CAMPPlus()
        model.load_weights(list(model.sanitize(tensors(real_campplus())).items()), strict=True)
        model.eval()
        turbo = "turbo" in module
        compare(module, lambda x, m=model, t=turbo: m.inference([x] if t else x), expected)  # type: ignore[misc]


def fbank() -> None:
    from mlx_audio.dsp import compute_fbank_kaldi

    settings = {"sample_rate": 16000, "win_len": 400, "win_inc": 160, "num_mels": 80, "dither": 0.0}
    for window in ("povey", "hamming"):
        for scale in (1.0, 32768.0):
            worst = 0.0
            for clip in CLIPS:
                features = np.array(compute_fbank_kaldi(mx.array(clip * scale), win_type=window, **settings))
                worst = max(worst, float(np.abs(features - kaldi_features(clip, window, scale, cmn=False)).max()))
            print(f"{window}, samples times {scale}: log-mel off by at most {worst:.4f}")

    def embed(clip: mx.array) -> Array:
        x = np.array(compute_fbank_kaldi(clip, win_type="povey", **settings))
        return real_campplus()(x - x.mean(0))

    compare("CAM++ on these features", embed, [real_campplus()(kaldi_features(clip, **POVEY)) for clip in CLIPS])


def ecapa_lid() -> None:
    import torch
    from mlx_audio.lid.models.ecapa_tdnn import Model, ModelConfig
    from mlx_audio.lid.models.ecapa_tdnn.mel import compute_mel_spectrogram

    original = seeded(speechbrain_module("lobes.models.ECAPA_TDNN").ECAPA_TDNN(60, lin_neurons=256), 0)
    model = Model(ModelConfig())
    named = {f"embedding_model.{name}": mx.array(x.numpy()) for name, x in original.state_dict().items()}
    weights = {name: x.swapaxes(1, 2) if x.ndim == 3 else x for name, x in model.sanitize(named).items()}
    model.load_weights(list(weights.items()), strict=False)
    model.eval()
    expected, worst = [], 0.0
    for clip in (clip[:32000] for clip in CLIPS[:3]):
        x = speechbrain_features(clip, {"n_mels": 60}, None, "float32")
        worst = max(worst, float(np.abs(np.array(compute_mel_spectrogram(mx.array(clip))) - x).max()))
        with torch.no_grad():
            expected.append(original(torch.tensor(x - x.mean(0))[None]).numpy())
    print(f"features: off by at most {worst:.4f} dB")
    normal = model.sentence_mean_normalize
    compare("embedding", lambda x: model.embedding_model(normal(compute_mel_spectrogram(x))), expected, 32000)


def wespeaker() -> None:
    from mlx_audio.codec.models.wespeaker_resnet import ModelConfig, WeSpeakerResNet

    bottleneck: dict[str, Any] = {"block": "bottleneck", "num_blocks": [3, 8, 36, 3], "two_emb_layer": True}
    for name, settings in {"ResNet34": dict[str, Any](), "ResNet152": bottleneck}.items():
        original = resnet(name, seed=0, two_emb_layer="two_emb_layer" in settings)
        model = WeSpeakerResNet(ModelConfig(**settings))
        model.load_weights(list(model.sanitize(tensors(original)).items()), strict=True)
        model.eval()
        expected = [original(kaldi_features(clip[:32000], **HAMMING)) for clip in CLIPS[:3]]
        compare(name, model.encode, expected, 32000)


def wav2vec2() -> None:
    """Classifiers with seeded weights as transformers saves them: one clip, converted, two clips in a batch."""
    from mlx_audio.convert import convert
    from mlx_audio.lid import load

    clips = [CLIPS[0][:48000], CLIPS[1][:30000]]
    kinds = {"layer norm": LAYER, "group norm": dict[str, Any](), "layer sum": {"use_weighted_layer_sum": True}}
    for kind, settings in kinds.items():
        original = Classifier(masked=kind == "layer norm", **TINY, **settings)
        one, both = original.batch(clips[:1]), original.batch(clips)
        inputs = original.extractor(clips, sampling_rate=16000, return_tensors="np", padding=True)
        batch = {name: mx.array(x) for name, x in inputs.items()}

        def off(model: Any, expected: Array, **inputs: mx.array) -> str:
            difference = np.abs(np.array(model(**inputs)) - expected).max() / np.ptp(expected)
            return f"logits off by {difference:.1e} of their range"

        with tempfile.TemporaryDirectory(prefix="mms-lid-") as folder:
            original.save(folder)  # type: ignore[arg-type]
            alone = {"input_values": batch["input_values"][:1]}
            reported(f"{kind}: load", lambda: off(load(folder, strict=True), one, **alone))  # noqa: B023
            reported(f"{kind}: convert", lambda: convert(folder, f"{folder}/mlx", model_domain="lid") or "done")
            reported(f"{kind}: load it", lambda: off(load(f"{folder}/mlx"), one, **alone))  # noqa: B023
            reported(f"{kind}: batch", lambda: off(load(folder), both, **batch))  # noqa: B023


def reported(what: str, attempt: Callable[[], Any]) -> None:
    """Print what an attempt gives, or how it ends."""
    try:
        print(f"{what}: {attempt()}")
    except Exception as error:
        print(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:160]}")


NAMES = {
    **dict.fromkeys("ai", chatterbox),
    **dict.fromkeys("bcdh", wav2vec2),
    **dict.fromkeys("ef", ecapa_lid),
    "g": fbank,
    "j": wespeaker,
}

if __name__ == "__main__":
    NAMES[sys.argv[1]]()
