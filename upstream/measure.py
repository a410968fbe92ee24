"""The figures in the PR.md files: `PYTHONPATH=TREE python upstream/measure.py NAME`, on a tree before and after.

Needs torch, transformers, kaldi-native-fbank, speakerlab, speechbrain and wespeaker-unofficial; SPEECH names a folder
of 16 kHz WAV files, CAMPPLUS the checkpoint campplus_cn_en_common.pt of 3D-Speaker.
"""

import importlib
import importlib.machinery
import os
import sys
import tempfile
import types
import wave
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch

Array = np.ndarray[Any, Any]


@cache
def clips() -> list[Array]:
    """The voices, float32 in [-1, 1]."""
    voices = []
    for path in sorted(Path(os.environ["SPEECH"]).glob("*.wav")):
        with wave.open(str(path)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        voices.append(samples.astype(np.float32) / 32768)
    return voices


def cosine(a: Any, b: Any) -> float:
    a, b = (np.asarray(x, np.float64).ravel() for x in (a, b))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def kaldi_fbank(clip: Array, window: str) -> Array:
    """kaldi-native-fbank's log-mel of 80 bands, without dither."""
    import kaldi_native_fbank as knf

    options = knf.FbankOptions()
    options.frame_opts.dither, options.frame_opts.window_type, options.mel_opts.num_bins = 0.0, window, 80
    fbank = knf.OnlineFbank(options)
    fbank.accept_waveform(16000, clip.tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


def seeded(module: Any, seed: int = 0) -> Any:
    """A module of torch with random weights and BatchNorm statistics that keep signals at their size."""
    torch.manual_seed(seed)
    for name, x in [*module.named_parameters(), *module.named_buffers()]:
        if x.is_floating_point() and x.ndim < 2:
            spread = 0.1 * torch.randn_like(x)
            x.data = spread.abs() + 1 if "var" in name else spread + (name.endswith("weight") or 0.0)
    return module.eval()


def tensors(module: Any) -> dict[str, mx.array]:
    return {name: mx.array(x.detach().numpy()) for name, x in module.state_dict().items()}


def original(name: str) -> Any:
    """A module of speechbrain, which imports torchaudio and uses nothing of it, or of wespeaker without its package."""
    for stand_in in ("torchaudio", "torchaudio.transforms"):
        module = types.ModuleType(stand_in)
        module.__spec__ = importlib.machinery.ModuleSpec(stand_in, None, is_package=True)
        module.__version__ = "2.9.0"  # type: ignore[attr-defined]
        sys.modules.setdefault(stand_in, module)
    if name.startswith("wespeaker."):
        package = sys.modules.setdefault("wespeaker", types.ModuleType("wespeaker"))
        package.__path__ = [os.path.join(path, "wespeaker") for path in sys.path]  # noqa: PTH118
    return importlib.import_module(name)


@cache
def campplus_reference() -> tuple[dict[str, mx.array], list[Array]]:
    """3D-Speaker's tensors, and its embeddings of the voices."""
    from speakerlab.models.campplus.DTDNN import CAMPPlus

    state = torch.load(os.environ["CAMPPLUS"], map_location="cpu", weights_only=True)
    model = CAMPPlus(feat_dim=80, embedding_size=192)
    model.load_state_dict(state)
    model.eval()
    with torch.no_grad():
        features = [kaldi_fbank(clip, "povey") for clip in clips()]
        outputs = [model(torch.tensor(x - x.mean(0))[None])[0].numpy() for x in features]
    return tensors(model), outputs


def compare(what: str, embed: Callable[[mx.array], mx.array], expected: list[Array], samples: int = 1 << 30) -> None:
    cosines = [cosine(embed(mx.array(clip[:samples])), output) for clip, output in zip(clips(), expected, strict=False)]
    print(f"{what}: cosine to the original, {len(cosines)} voices: worst {min(cosines):.9f}, best {max(cosines):.9f}")


def chatterbox() -> None:
    weights, expected = campplus_reference()
    for module in ("chatterbox.s3gen.xvector", "chatterbox_turbo.models.s3gen.xvector"):
        model = importlib.import_module(f"mlx_audio.tts.models.{module}").CAMPPlus()
        model.load_weights(list(model.sanitize(weights).items()), strict=True)
        model.eval()
        turbo = "turbo" in module
        compare(module.split(".")[0], lambda x, m=model, t=turbo: m.inference([x] if t else x), expected)  # type: ignore[misc]


def fbank() -> None:
    from mlx_audio.dsp import compute_fbank_kaldi

    settings = {"sample_rate": 16000, "win_len": 400, "win_inc": 160, "num_mels": 80, "dither": 0.0}
    for window in ("povey", "hamming"):
        for scale in (1, 32768):
            worst = 0.0
            for clip in clips():
                features = np.array(compute_fbank_kaldi(mx.array(clip * scale), win_type=window, **settings))
                worst = max(worst, float(np.abs(features - kaldi_fbank(clip * scale, window)).max()))
            print(f"{window}, samples times {scale}: log-mel off by at most {worst:.4f}")
    from speakerlab.models.campplus.DTDNN import CAMPPlus

    model = CAMPPlus(feat_dim=80, embedding_size=192).eval()
    model.load_state_dict(torch.load(os.environ["CAMPPLUS"], map_location="cpu", weights_only=True))

    def embed(clip: mx.array) -> Any:
        x = torch.tensor(np.array(compute_fbank_kaldi(clip, win_type="povey", **settings)))
        with torch.no_grad():
            return model((x - x.mean(0))[None]).numpy()

    compare("CAM++ on these features", embed, campplus_reference()[1])


def ecapa_lid() -> None:
    from mlx_audio.lid.models.ecapa_tdnn import Model, ModelConfig
    from mlx_audio.lid.models.ecapa_tdnn.mel import compute_mel_spectrogram

    features = original("speechbrain.lobes.features").Fbank(n_mels=60)
    embedding = seeded(original("speechbrain.lobes.models.ECAPA_TDNN").ECAPA_TDNN(60, lin_neurons=256))
    model = Model(ModelConfig())
    named = {f"embedding_model.{name}": x for name, x in tensors(embedding).items()}
    weights = {name: x.swapaxes(1, 2) if x.ndim == 3 else x for name, x in model.sanitize(named).items()}
    model.load_weights(list(weights.items()), strict=False)
    model.eval()
    expected, worst = [], 0.0
    with torch.no_grad():
        for clip in (clip[:32000] for clip in clips()[:3]):
            x = features(torch.tensor(clip)[None])
            worst = max(worst, float(np.abs(np.array(compute_mel_spectrogram(mx.array(clip))) - x.numpy()).max()))
            expected.append(embedding(x - x.mean(1, keepdim=True)).numpy())
    print(f"features: off by at most {worst:.3f} dB")
    normal = model.sentence_mean_normalize
    compare("embedding", lambda x: model.embedding_model(normal(compute_mel_spectrogram(x))), expected, 32000)


def wespeaker() -> None:
    from mlx_audio.codec.models.wespeaker_resnet import ModelConfig, WeSpeakerResNet

    bottleneck: dict[str, Any] = {"block": "bottleneck", "num_blocks": [3, 8, 36, 3], "two_emb_layer": True}
    for name, settings in {"ResNet34": dict[str, Any](), "ResNet152": bottleneck}.items():
        two = "two_emb_layer" in settings
        resnet = getattr(original("wespeaker.models.resnet"), name)
        reference = seeded(resnet(80, 256, pooling_func="TSTP", two_emb_layer=two))
        model = WeSpeakerResNet(ModelConfig(**settings))
        model.load_weights(list(model.sanitize(tensors(reference)).items()), strict=True)
        model.eval()
        expected = []
        with torch.no_grad():
            for clip in clips()[:3]:
                x = kaldi_fbank(clip[:32000] * 32768, "hamming")
                expected.append(reference(torch.tensor(x - x.mean(0))[None])[-1].numpy())
        compare(name, model.encode, expected, 32000)


def reported(what: str, attempt: Callable[[], Any]) -> None:
    """Print what an attempt gives, or how it ends."""
    try:
        print(f"{what}: {attempt()}")
    except Exception as error:
        print(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:160]}")


def off(logits: Any, expected: Any) -> str:
    logits, expected = (np.array(x, np.float64) for x in (logits, expected))
    return f"logits off by {np.abs(logits - expected).max() / np.ptp(expected):.1e} of their range"


def wav2vec2() -> None:
    """Classifiers with random weights, saved as transformers does; two clips of different length in a batch."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    size: dict[str, Any] = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "conv_dim": [64] * 7}
    size |= {"intermediate_size": 256, "id2label": {str(i): f"label{i}" for i in range(9)}}
    stable = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    audio = np.stack([clips()[0][:48000], np.pad(clips()[1][:30000], (0, 18000))])
    mask = np.arange(48000) < np.array([[48000], [30000]])
    for name, more in {"stable": stable, "group": dict[str, Any](), "sum": {"use_weighted_layer_sum": True}}.items():
        model = seeded(Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**size, **more)))
        if name == "sum":
            model.layer_weights.data = torch.linspace(2, -2, 5)
        with tempfile.TemporaryDirectory(prefix="mms-lid-") as folder:
            model.save_pretrained(f"{folder}/lid")
            compare_classifier(name, model, Path(folder), audio, mask if name == "stable" else None)


def compare_classifier(name: str, model: Any, folder: Path, audio: Array, mask: Array | None) -> None:
    from mlx_audio.convert import convert
    from mlx_audio.lid import load

    with torch.no_grad():
        one = model(torch.tensor(audio[:1])).logits
        both = model(torch.tensor(audio), None if mask is None else torch.tensor(mask, dtype=torch.int64)).logits

    def batch() -> str:
        masked = {} if mask is None else {"attention_mask": mx.array(mask)}
        return off(load(f"{folder}/lid")(mx.array(audio), **masked), both)

    reported(f"{name}: load", lambda: off(load(f"{folder}/lid", strict=True)(mx.array(audio[:1])), one))
    reported(f"{name}: convert", lambda: convert(f"{folder}/lid", f"{folder}/lid-mlx", model_domain="lid") or "done")
    reported(f"{name}: load it", lambda: off(load(f"{folder}/lid-mlx")(mx.array(audio[:1])), one))
    reported(f"{name}: batch", batch)


NAMES = {
    **dict.fromkeys("ai", chatterbox),
    **dict.fromkeys("bcdh", wav2vec2),
    **dict.fromkeys("ef", ecapa_lid),
    "g": fbank,
    "j": wespeaker,
}

if __name__ == "__main__":
    NAMES[sys.argv[1]]()
