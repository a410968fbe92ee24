"""Make the golden files in this folder with the original implementations (oracles) and PyTorch.

    pip install torch transformers onnx onnxruntime kaldi-native-fbank pyyaml hyperpyyaml requests scipy
    pip install --no-deps speakerlab wespeaker-unofficial speechbrain
    PYTHONPATH=tests/helpers SPEECH_ZOO_CAMPPLUS_PT=campplus_cn_en_common.pt python tests/goldens/make_goldens.py

Deterministic, but for torch's legacy form, which holds memory addresses. `test_goldens.py` compares with these files
and needs none of the above:

- `features.safetensors`: log-mel features of kaldi-native-fbank and SpeechBrain, without CMN, as "front end/signal".
- `embeddings.safetensors`: the oracles' embeddings before normalisation, as "case/signal" and "file/signal"; of
  `ecapa-lid` the log-probabilities, of `wav2vec2-*` the logits, of `speaker-proxy` the embeddings of unit length.
- `silero.safetensors`: the probabilities of speech of Silero's ONNX file, as "signal".
- `seeded.json`: names and shapes of the state dicts that the tests fill by `signals.seeded_weights`.
- `tiny/`: small ResNets in the file forms that torch writes, and an ERes2Net as ONNX.

`zoo/speech_zoo/goldens/` ships the originals' outputs on the nine bundled voices, as "voice", for `speech-zoo check`.
"""

import hashlib
import json
import shutil
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import speech_zoo
import torch
from parity_oracles import (
    HAMMING,
    POVEY,
    REAL_CAMPPLUS,
    TINY_REDIMNET,
    TINY_REDIMNET2,
    Oracle,
    custom_ecapa,
    custom_resnet,
    eres2net,
    export_onnx,
    kaldi_features,
    minus_mean,
    real_campplus,
    redimnet,
    redimnet2,
    resnet,
    save_pyannote,
    state_dict,
    wespeaker_campplus,
    with_weights_of,
)
from safetensors.numpy import save
from signals import ALL, RATE, waveforms
from silero_oracles import silero_probabilities
from speechbrain_files import SMALL, SMALL_PROXY
from speechbrain_oracles import Proxy, SpeechBrain, speechbrain_features
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification
from wav2vec2_files import SETTINGS, VARIANTS, source_tensors

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "zoo" / "speech_zoo" / "goldens"
FEATURE_SIGNALS = ("1 s", "0.3 s", "silence", "noise")
SPEECHBRAIN_SIGNALS = ("1 s", "0.5 s", "0.3 s")
SOME = ("voice 01", "voice 02", "voice 03", "0.3 s", "silence", "noise")
TINY_SIGNAL = "voice 01"
SILERO_SIGNALS = ("voice 01", "voice 03", "0.3 s", "silence", "noise")
WAV2VEC2_SIGNALS = ("voice 01", "0.3 s", "noise")


def seeded_cases() -> dict[str, tuple[int, Oracle, tuple[str, ...]]]:
    """Case to seed, oracle and signals."""
    return {
        "resnet34": (1, resnet("ResNet34", 1), ALL),
        "resnet34-two-layers": (2, resnet("ResNet34", 2, two_emb_layer=True), SOME),
        "bottleneck": (3, custom_resnet("bottleneck", [1, 2, 2, 1], 16, 192, False, seed=3), SOME),
        "bottleneck-two-layers": (4, custom_resnet("bottleneck", [2, 1, 1, 1], 16, 128, True, seed=4), SOME),
        "campplus-wespeaker": (5, wespeaker_campplus(5), SOME),
        "ecapa-wespeaker-glob": (6, custom_ecapa(64, 6), SOME),
        "ecapa-speechbrain": (7, SpeechBrain(SMALL["ecapa-speechbrain"], 7), SOME),
        "ecapa-lid": (8, SpeechBrain(SMALL["ecapa-lid"], 8), SOME),
        "eres2net": (10, eres2net("ERes2Net", 10, num_blocks=[1, 2, 1, 2], m_channels=8, embedding_size=64), SOME),
        "eres2netv2": (11, eres2net("ERes2NetV2", 11, num_blocks=[1, 1, 2, 1], m_channels=8, embedding_size=64), SOME),
        "xvector": (13, SpeechBrain(SMALL["xvector"], 13), SOME),
        "se-resnet": (14, SpeechBrain(SMALL["se-resnet"], 14), SOME),
        "redimnet": (15, redimnet("", 15, **TINY_REDIMNET), SOME),
        "redimnet2": (16, redimnet2(TINY_REDIMNET2, 16), SOME),
        "speaker-proxy": (9, Proxy(9, **SMALL_PROXY), ("50 frames", "12 frames", "5 frames")),
    }


def tiny(two: bool = False) -> Oracle:
    """A ResNet whose files stay below 100 kB; a width of 3, so that PyTorch's and MLX's layout have the same shape."""
    return custom_resnet("basic", [1, 1, 1, 1], 3, 16, two, seed=6)


def views(oracle: Oracle) -> dict[str, torch.Tensor]:
    """The state dict as views into one storage: at offsets, transposed, every second item; counters shared."""
    tensors = state_dict(oracle)
    floats = {name: value for name, value in tensors.items() if value.is_floating_point()}
    flat = torch.cat([(value.T if value.ndim == 2 else value).flatten() for value in floats.values()])
    out, start = {}, 0
    for name, value in floats.items():
        part = flat[start : start + value.numel()]
        out[name] = part.view(value.T.shape).T if value.ndim == 2 else part.view(value.shape)
        start += value.numel()
    out["bn1.weight"] = torch.stack([out["bn1.weight"], torch.zeros(3)], dim=1).flatten()[::2]
    counter = torch.tensor(1000)
    out |= {name: counter for name in tensors if name not in floats}
    assert all(torch.equal(out[name], value) for name, value in tensors.items())
    return out


def write_tiny(folder: Path) -> dict[str, Oracle]:
    """Write the small checkpoints; returns the oracle of each."""
    one, two = tiny(), tiny(two=True)
    torch.save(state_dict(one), folder / "zip.pt")
    torch.save(state_dict(two), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    save_pyannote(folder / "lightning.ckpt", one)
    save_pyannote(folder / "lightning_legacy.ckpt", one, _use_new_zipfile_serialization=False)
    torch.save(views(one), folder / "views.pt")
    torch.save(views(one), folder / "views_legacy.pt", _use_new_zipfile_serialization=False)
    oracles = dict.fromkeys(("zip.pt", "lightning.ckpt", "lightning_legacy.ckpt", "views.pt", "views_legacy.pt"), one)
    oracles["legacy.pt"] = two
    for dtype in (torch.bfloat16, torch.float16):
        name = f"{dtype}.pt".removeprefix("torch.")
        torch.save(state_dict(one, dtype=dtype), folder / name)
        oracles[name] = with_weights_of(one, tiny, dtype)
    legacy = {"dynamo": False, "opset_version": 14}
    kept = {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
    for name, oracle, options in (("folded.onnx", minus_mean(one, 16), {}), ("kept.onnx", minus_mean(two, 16), kept)):
        export_onnx(folder / name, oracle, **legacy, **options)
        oracles[name] = oracle
    oracles["eres2net.onnx"] = eres2net("ERes2Net", 12, num_blocks=[1, 1, 1, 1], m_channels=2, embedding_size=16)
    export_onnx(folder / "eres2net.onnx", oracles["eres2net.onnx"], **legacy)
    return oracles


def wav2vec2_logits(variant: str, signal: str) -> np.ndarray:
    """transformers on the tensors that the tests make again."""
    changes = VARIANTS[variant]
    module = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**{**SETTINGS, **changes})).eval()
    weights = {name: torch.from_numpy(value) for name, value in source_tensors(**changes).items()}
    loading = module.load_state_dict(weights, strict=False)
    assert (loading.missing_keys, loading.unexpected_keys) == (["wav2vec2.masked_spec_embed"], [])
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    inputs = extractor(waveforms()[signal], sampling_rate=RATE, return_tensors="pt", padding=True)
    with torch.no_grad():
        return module(**inputs).logits[0].numpy()


def write_shipped(folder: Path) -> None:
    """The original's embeddings of the bundled voices, with its name and version and the hash of its weights."""
    voices = sorted((Path(speech_zoo.__file__).parent / "data" / "voices").glob("*.wav"))
    embeddings = {path.stem: real_campplus().embed(f"voice {path.name[6:8]}") for path in voices}
    metadata = {
        "name": "speakerlab",
        "version": version("speakerlab"),
        "features": f"kaldi-native-fbank {version('kaldi-native-fbank')}",
        "sha256": json.dumps({"campplus_cn_en_common.pt": hashlib.sha256(REAL_CAMPPLUS.read_bytes()).hexdigest()}),
    }
    folder.mkdir(exist_ok=True)
    (folder / "campplus-zh-en.safetensors").write_bytes(save(embeddings, metadata))


def main() -> None:
    if not REAL_CAMPPLUS.is_file():
        sys.exit("error: SPEECH_ZOO_CAMPPLUS_PT must name campplus_cn_en_common.pt")
    warnings.simplefilter("ignore")  # torch's legacy ONNX exporter is deprecated
    features = {
        f"{window}/{signal}": kaldi_features(waveforms()[signal], cmn=False, **settings)
        for window, settings in (("hamming", HAMMING), ("povey", POVEY))
        for signal in FEATURE_SIGNALS
    }
    for n_mels in (60, 80):
        for signal in SPEECHBRAIN_SIGNALS:
            spectrum = speechbrain_features(waveforms()[signal], n_mels, mean_norm=False, dtype=torch.float64)
            features[f"speechbrain {n_mels}/{signal}"] = spectrum.astype("float32")
    embeddings = {f"campplus-zh-en/{signal}": real_campplus().embed(signal) for signal in ALL}
    shapes = {}
    for case, (seed, oracle, signals) in seeded_cases().items():
        output = oracle.log_probs if case == "ecapa-lid" else oracle.embed
        embeddings |= {f"{case}/{signal}": output(signal) for signal in signals}
        tensors = {name: list(value.shape) for name, value in sorted(oracle.module.state_dict().items())}
        shapes[case] = {"seed": seed, "shapes": tensors}
    embeddings |= {
        f"{case}/{signal}": wav2vec2_logits(case, signal) for case in VARIANTS for signal in WAV2VEC2_SIGNALS
    }
    shutil.rmtree(HERE / "tiny", ignore_errors=True)
    (HERE / "tiny").mkdir()
    for file, oracle in write_tiny(HERE / "tiny").items():
        embeddings[f"{file}/{TINY_SIGNAL}"] = oracle.embed(TINY_SIGNAL)
    write_shipped(SHIPPED)
    probabilities = {signal: silero_probabilities(waveforms()[signal]) for signal in SILERO_SIGNALS}
    made_by = {"made_with": f"silero-vad {version('silero-vad')}, onnxruntime {version('onnxruntime')}"}
    (HERE / "silero.safetensors").write_bytes(save(probabilities, made_by))
    packages = (
        "torch",
        "speakerlab",
        "wespeaker-unofficial",
        "kaldi-native-fbank",
        "onnx",
        "speechbrain",
        "transformers",
    )
    made_with = {"made_with": ", ".join(f"{package} {version(package)}" for package in packages)}
    (HERE / "features.safetensors").write_bytes(save(features, made_with))
    (HERE / "embeddings.safetensors").write_bytes(save(embeddings, made_with))
    (HERE / "seeded.json").write_text(json.dumps(shapes, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
