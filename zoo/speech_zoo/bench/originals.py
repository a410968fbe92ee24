"""The originals as contenders of `speech-zoo bench`: torch, onnxruntime, kaldi-native-fbank.

Features are computed as each original does; then all clips go through the original module as one batch.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_campplus.oracle import SPEAKERLAB
from speech_zoo_core.audio.front_end import VARIANCE_EPS
from speech_zoo_core.checkpoint.source import Source
from speech_zoo_core.oracle import (
    KALDI,
    ONNXRUNTIME,
    TORCH,
    WESPEAKER,
    NoOracle,
    Package,
    fill,
    kaldi_features,
    read_tensors,
    require,
    wespeaker,
)
from speech_zoo_ecapa_tdnn.oracle import SPEECHBRAIN, SPEECHBRAIN_NEEDS, speechbrain_module
from speech_zoo_wav2vec2_cls.oracle import TRANSFORMERS

from .contender import RATE, Array, Contender
from .weights import CAMPPLUS, ECAPA, RESNET34

FBANK: dict[str, dict[str, Any]] = {  # arguments of kaldi_features
    "fbank": {"window": "hamming", "scale": 32768.0, "cmn": False},
    "resnet34": {"window": "hamming", "scale": 32768.0},
    "campplus": {"window": "povey", "scale": 1.0},
}
NEEDS = {  # the first one computes
    "fbank": (KALDI,),
    "resnet34": (WESPEAKER, TORCH, KALDI),
    "ecapa": (SPEECHBRAIN, TORCH, *SPEECHBRAIN_NEEDS),
    "campplus": (SPEAKERLAB, TORCH, KALDI),
    "mms": (TRANSFORMERS, TORCH),
}
EXPORTER = (Package("onnx", "onnx"), Package("onnxscript", "onnxscript"))


def check(contender: str, model: str) -> None:
    """Raises NoOracle, which says why, unless the contender can run that model here."""
    if contender == "onnxruntime":
        if model == "fbank":
            raise NoOracle("there is no network to export")
        if model == "ecapa":
            raise NoOracle("SpeechBrain computes its features in torch")
        require(ONNXRUNTIME, *NEEDS[model], *EXPORTER)
    elif not contender.startswith(("ours", "stock")):
        if model == "ecapa" and "float16" in contender:
            raise NoOracle("SpeechBrain's ECAPA-TDNN mixes float32 into float16 and stops")
        require(*NEEDS[model])


def kaldi(model: str, _: Path) -> Contender:
    """kaldi-native-fbank, one clip after another."""
    return Contender(lambda clips: _fbank(model, clips), str(KALDI), "CPU", 1)


def _fbank(model: str, clips: Array) -> Array:
    """(B, N) to (B, T, 80)."""
    return np.stack([kaldi_features(clip, **FBANK[model]) for clip in clips])


def original(model: str, folder: Path, gpu: bool, half: bool) -> Contender:
    """The original on torch; on a GPU where torch has one, with `half` in float16 and compiled.

    Raises:
        NoOracle: float16 is for a GPU.
    """
    import torch

    device = "cpu"
    if gpu:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if half and device == "cpu":
        raise NoOracle("this torch has no GPU")
    module = _module(model, folder).to(device, torch.float16 if half else torch.float32)
    inputs = _inputs(model, folder, device)
    forward = torch.compile(module) if half else module

    def run(clips: Array) -> Array:
        with torch.inference_mode():
            tensors = [x.to(device) for x in inputs(clips)]
            out = _raw(forward(*(x.half() if half and x.is_floating_point() else x for x in tensors)))
            return np.asarray(out.float().cpu().numpy())

    name = torch.cuda.get_device_name() if device == "cuda" else device.upper()
    return Contender(run, f"{NEEDS[model][0]} on {TORCH}", name, torch.get_num_threads())


def _module(model: str, folder: Path) -> Any:
    """The original module with the weights of the folder, in inference mode."""
    if model == "mms":
        from transformers import Wav2Vec2ForSequenceClassification

        return Wav2Vec2ForSequenceClassification.from_pretrained(folder, local_files_only=True).float().eval()
    file = Source(folder).main_file
    if model == "resnet34":
        module = wespeaker("resnet").ResNet34(RESNET34.feat_dim, RESNET34.embed_dim, "TSTP", two_emb_layer=False)
    elif model == "campplus":
        from speakerlab.models.campplus.DTDNN import CAMPPlus

        module = CAMPPlus(CAMPPLUS.feat_dim, CAMPPLUS.embed_dim)
    else:
        module = speechbrain_module("lobes.models.ECAPA_TDNN").ECAPA_TDNN(
            ECAPA.feat_dim,
            channels=ECAPA.channels,
            kernel_sizes=ECAPA.kernel_sizes,
            dilations=ECAPA.dilations,
            attention_channels=ECAPA.attention_channels,
            lin_neurons=ECAPA.embed_dim,
        )
    return fill(module, read_tensors(file)[0], file.name)


def _inputs(model: str, folder: Path, device: str) -> Callable[[Array], list[Any]]:
    """Clips (B, N) to what the original module takes."""
    import torch

    if model == "mms":
        from transformers import Wav2Vec2FeatureExtractor

        extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)

        def extracted(clips: Array) -> list[Any]:
            found = extractor(list(clips), sampling_rate=RATE, return_tensors="pt", padding=True)
            return [found["input_values"], found["attention_mask"]]

        return extracted
    if model == "ecapa":
        fbank = speechbrain_module("lobes.features").Fbank(n_mels=ECAPA.feat_dim).to(device)
        normalise = speechbrain_module("processing.features").InputNormalization(norm_type="sentence", std_norm=False)

        def features(clips: Array) -> list[Any]:
            lengths = torch.ones(len(clips), device=device)
            return [normalise(fbank(torch.from_numpy(clips).to(device)), lengths), lengths]

        return features
    return lambda clips: [torch.from_numpy(_fbank(model, clips))]


def _raw(out: Any) -> Any:
    """The embeddings or logits (B, D) among what an original returns."""
    out = getattr(out, "logits", out[-1] if isinstance(out, tuple) else out)
    return out.reshape(len(out), -1)


def export(model: str, folder: Path, path: Path) -> None:
    """Write the original as ONNX: features (B, T, 80), or normalised waveforms (B, N), to raw outputs (B, D)."""
    import torch

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = _module(model, folder)

        def forward(self, x: Any) -> Any:
            out = self.module(x)
            return getattr(out, "logits", out[-1] if isinstance(out, tuple) else out)

    example = torch.zeros(1, RATE) if model == "mms" else torch.zeros(1, 200, 80)
    axes = {"in": {0: "B", 1: "T"}, "out": {0: "B"}}
    path.parent.mkdir()
    with torch.no_grad():
        torch.onnx.export(
            Plain().eval(),
            (example,),
            str(path),
            input_names=["in"],
            output_names=["out"],
            dynamic_axes=axes,
            dynamo=False,  # exports these models exactly, and ten times faster
        )


def onnx(model: str, folder: Path) -> Contender:
    """onnxruntime on what `export` wrote, with its own default of threads."""
    import onnxruntime

    before = _threads()
    session = onnxruntime.InferenceSession(str(onnx_file(folder)), providers=["CPUExecutionProvider"])
    after = _threads()

    def run(clips: Array) -> Array:
        if model == "mms":
            deviation = np.sqrt(clips.var(axis=1, keepdims=True) + VARIANCE_EPS)
            x = (clips - clips.mean(axis=1, keepdims=True)) / deviation
        else:
            x = _fbank(model, clips)
        return np.asarray(session.run(None, {"in": x})[0])

    # It starts one thread fewer than it computes with and does not tell how many.
    threads = None if before is None or after is None else after - before + 1
    return Contender(run, str(ONNXRUNTIME), "CPU", threads)


def onnx_file(folder: Path) -> Path:
    """Where the export of a source folder lies: beside it."""
    return folder.with_name(f"{folder.name}-onnx") / "model.onnx"


def _threads() -> int | None:
    """Threads of this process, where the system tells."""
    return len(os.listdir("/proc/self/task")) if sys.platform == "linux" else None  # noqa: PTH208
