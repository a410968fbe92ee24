"""Speed and memory of MMS-LID-256 on this machine, on seeded random weights: `speech-zoo bench`."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file
from speech_zoo_core.audio import load_audio
from speech_zoo_core.errors import SpeechZooError

ARCHITECTURE = {  # of facebook/mms-lid-256, but for the number of layers
    "hidden_size": 1280,
    "num_attention_heads": 16,
    "intermediate_size": 5120,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
    "classifier_proj_size": 1024,
}
ALL_LAYERS, CLASSES, RATE = 48, 256, 16000
SHARD_BYTES = 1e9
POS_CONV = "wav2vec2.encoder.pos_conv_embed.conv.weight"
AGREEMENT = 1e-4  # of the largest logit
CHILD = """
import json, resource, sys, time
start = time.perf_counter()
import speech_zoo
{work}
if sys.platform == "linux":  # whose ru_maxrss starts at the peak of the process that started this one
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps(dict(seconds=time.perf_counter() - start, peak_bytes=peak)))
"""


def write_mms(folder: Path, layers: int) -> Path:
    """A folder as transformers writes it, in shards, with the shapes of MMS-LID-256 and seeded weights."""
    from speech_zoo_core.front_end import WaveformFrontEnd
    from speech_zoo_core.layers import parameters
    from speech_zoo_wav2vec2_cls import Model, ModelConfig

    labels = {str(i): f"l{i:03}" for i in range(CLASSES)}
    architecture: dict[str, Any] = {**ARCHITECTURE, "num_hidden_layers": layers}
    config = ModelConfig(
        model_type="wav2vec2_cls",
        task="audio-classification",
        front_end=WaveformFrontEnd(),
        id2label=labels,
        **architecture,
    )
    shapes = {name: value.shape for name, value in parameters(Model(config)).items()}
    out, taps, width = shapes.pop(POS_CONV)
    shapes |= {f"{POS_CONV}_g": (1, 1, taps), f"{POS_CONV}_v": (out, width, taps)}
    shapes["wav2vec2.masked_spec_embed"] = (config.hidden_size,)
    rng = np.random.default_rng(0)
    shard: dict[str, Any] = {}
    weight_map: dict[str, str] = {}
    folder.mkdir(parents=True)

    def flush() -> None:
        file = f"model-{len(set(weight_map.values())) + 1:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
        shard.clear()

    for name, shape in sorted(shapes.items()):
        if ".conv_layers." in name and len(shape) == 3:
            shape = (shape[0], shape[2], shape[1])  # noqa: PLW2901 (PyTorch's layout)
        values = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("_g") or ("norm" in name and name.endswith("weight")):
            shard[name] = 1 + 0.2 * values
        else:
            shard[name] = values * np.float32(0.05 if values.ndim == 1 else 1 / np.sqrt(np.prod(shape[1:])))
        if sum(part.nbytes for part in shard.values()) > SHARD_BYTES:
            flush()
    flush()
    settings = {
        "architectures": ["Wav2Vec2ForSequenceClassification"],
        "model_type": "wav2vec2",
        "id2label": labels,
        **architecture,
    }
    preprocessor = {"do_normalize": True, "return_attention_mask": True, "sampling_rate": RATE}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def speed(folder: Path, seconds: float, repeats: int) -> list[dict[str, Any]]:
    """Median seconds of one clip, contenders in turn; what is not installed has none.

    Raises:
        SpeechZooError: the contenders' logits differ.
    """
    import speech_zoo

    from .demo import VOICES

    voices = [np.array(load_audio(file, RATE)) for file in sorted(VOICES.glob("*.wav"))]
    clip = np.resize(np.concatenate(voices), int(seconds * RATE))
    model = speech_zoo.load(folder)
    contenders: dict[str, Callable[[], Any]] = {"ours": lambda: np.array(model.logits(clip, RATE))}
    if find_spec("torch") and find_spec("transformers"):
        contenders["torch"] = _torch(folder, clip)
    logits = {name: run() for name, run in contenders.items()}  # warms up, too
    for name, found in logits.items():
        if np.abs(found - logits["ours"]).max() > AGREEMENT * np.abs(logits["ours"]).max():
            raise SpeechZooError(f"bench: the logits of {name} differ from ours")
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(found) for name, found in times.items()}
    return [
        {"contender": name, "seconds": medians.get(name), "ratio": _ratio(medians, name)} for name in ("ours", "torch")
    ]


def _ratio(medians: dict[str, float], name: str) -> float | None:
    return medians[name] / medians["ours"] if name in medians else None


def _torch(folder: Path, clip: "np.ndarray[Any, Any]") -> Callable[[], Any]:
    import torch
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    model = Wav2Vec2ForSequenceClassification.from_pretrained(folder).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)

    def run() -> Any:
        with torch.inference_mode():
            inputs = extractor(clip, sampling_rate=RATE, return_tensors="pt", padding=True)
            return model(**inputs).logits[0].numpy()

    return run


def memory(folder: Path, scratch: Path) -> list[dict[str, Any]]:
    """Peak resident memory of converting and of loading, each in a process of its own."""
    half, eight = scratch / "float16", scratch / "8-bit"
    jobs = {
        "convert to float16": f"speech_zoo.convert({str(folder)!r}, {str(half)!r}, dtype='float16')",
        "convert to 8-bit": f"speech_zoo.convert({str(folder)!r}, {str(eight)!r}, bits=8)",
        "load 8-bit": f"speech_zoo.load({str(eight)!r})",
    }
    rows = []
    for job, work in jobs.items():
        rows.append({"job": job, **measured(job, work)})
    return rows


def measured(job: str, work: str) -> dict[str, Any]:
    """Seconds and peak resident bytes of a process that imports speech_zoo and does the work.

    Raises:
        SpeechZooError: it failed.
    """
    done = subprocess.run([sys.executable, "-c", CHILD.format(work=work)], capture_output=True, text=True)  # noqa: PLW1510
    if done.returncode:
        raise SpeechZooError(f"bench: {job} failed: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def machine() -> str:
    """What the figures were measured on."""
    packages = []
    for package in ("mlx", "torch", "transformers"):
        try:
            packages.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            packages.append(f"{package} -")
    device = "CPU" if mx.default_device().type == mx.DeviceType.cpu else "GPU"
    return f"{platform.platform()}, {os.cpu_count()} cores, MLX on {device}, Python {platform.python_version()}, " + (
        ", ".join(packages)
    )


def run(layers: int, seconds: float, repeats: int, as_json: bool) -> None:
    """Measure and print; the table goes to stdout, as JSON if wanted."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_mms(Path(scratch) / "source", layers)
        size = sum(file.stat().st_size for file in folder.iterdir())
        result: dict[str, Any] = {
            "machine": machine(),
            "model": f"MMS-LID-256, {layers} of {ALL_LAYERS} layers, {size / 1e9:.2f} GB of float32",
            "memory": memory(folder, Path(scratch)),
            "clip_seconds": seconds,
            "speed": speed(folder, seconds, repeats),
        }
    if as_json:
        print(json.dumps(result))
        return
    print(result["machine"])
    print(result["model"])
    for row in result["memory"]:
        print(f"{row['job']:20} {row['peak_bytes'] / 1e9:6.2f} GB peak {row['seconds']:8.1f} s")
    for row in result["speed"]:
        time_taken = "-" if row["seconds"] is None else f"{row['seconds']:.3f} s, {row['ratio']:.2f} x ours"
        print(f"{seconds:g} s of audio, {row['contender']:6} {time_taken}")
