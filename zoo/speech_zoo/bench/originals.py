"""The originals as contenders of `speech-zoo bench`, from the oracles of the families: torch, onnxruntime, Kaldi.

Features are computed as each original does; then all clips go through the original module as one batch.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.checkpoint.source import Source
from speech_zoo_core.errors import CheckpointError, ConfigError
from speech_zoo_core.loader import find, read_model
from speech_zoo_core.oracle import KALDI, ONNXRUNTIME, NoOracle, Oracle, Package, kaldi_features, output_of, require

from ..engines.ort import refusals
from ..publish.originals import Converted, Reference
from .contender import Array, Contender

OPENVINO = Package("openvino", "openvino")
AS_EXPORTED = 1e-3  # of the largest value, by which an export may differ from the module
EXPORTER = (Package("onnx", "onnx"), Package("onnxscript", "onnxscript"))


def kaldi() -> Contender:
    """kaldi-native-fbank, one clip after another."""
    require(KALDI)

    def run(clips: Array) -> Array:
        return np.stack([kaldi_features(clip, "hamming", 32768.0, cmn=False) for clip in clips])

    return Contender(run, str(KALDI), "CPU", 1)


def oracle_of(ref: str) -> Oracle:
    """The original of what `load` takes.

    Raises:
        NoOracle: it cannot be run here, or is not at hand; says why.
    """
    source = find(ref)
    spec, config, _, form = read_model(source)
    if spec.oracle is None:
        raise NoOracle(f"{spec.model_type} names no original implementation")
    if form != "converted":
        source.release()
        return spec.oracle(replace(config, source={"form": form}), lambda: source)
    try:
        converted = Converted(ref)
    except (CheckpointError, ConfigError) as error:
        raise NoOracle(str(error)) from error

    def original() -> Source:
        try:
            return Reference(converted, None).source
        except NoOracle as error:
            raise NoOracle("the original is not at hand; name the source instead of what was made of it") from error

    return spec.oracle(converted.config, original)


def original(ref: str, gpu: bool, half: bool, eager: bool = False) -> Contender:
    """The original; on a GPU where torch has one, with `half` in float16, and compiled unless `eager`.

    Raises:
        NoOracle: it cannot be run here; float16 is for a GPU.
    """
    oracle = oracle_of(ref)
    name = f"{oracle.name} {oracle.version}"
    if oracle.module is None or oracle.inputs is None:
        if half:
            raise NoOracle(f"{oracle.name} is no torch module, which could be compiled")
        return Contender(lambda clips: np.stack([oracle.output(clip) for clip in clips]), name, "CPU", None)
    import torch

    device = "cpu"
    if gpu:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if half and device == "cpu":
        raise NoOracle("this torch has no GPU")
    module = oracle.module().to(device, torch.float16 if half else torch.float32)

    def inputs(clips: Array) -> list[Any]:
        assert oracle.inputs is not None
        with torch.inference_mode(), torch.device(device):
            found = [torch.as_tensor(x, device=device) for x in oracle.inputs(clips)]
            found = [x.half() if half and x.is_floating_point() else x for x in found]
            if device == "cuda":
                torch.cuda.synchronize()
            return found

    def through(forward: Callable[..., Any], given: list[Any]) -> Array:
        with torch.inference_mode(), torch.device(device):
            return np.asarray(output_of(forward(*given)).float().cpu().numpy())

    if half:
        try:
            through(module, inputs(_noise(oracle)))
        except RuntimeError as error:
            raise NoOracle(f"{oracle.name} does not run in float16: {str(error)[:200]}") from error
    forward = torch.compile(module) if half and not eager else module
    place = torch.cuda.get_device_name() if device == "cuda" else device.upper()
    return Contender(
        lambda clips: through(forward, inputs(clips)),
        f"{name} on torch {torch.__version__}",
        place,
        torch.get_num_threads(),
        inputs=inputs,
        network=partial(through, forward),
    )


def _noise(oracle: Oracle, clips: int = 1, seconds: int = 1) -> Array:
    """Clips (B, N) float32."""
    return np.random.default_rng(0).uniform(-0.1, 0.1, (clips, seconds * oracle.sample_rate)).astype(np.float32)


def export(ref: str, path: Path) -> None:
    """Write the original's module as ONNX: its inputs `in0`, … to its output `out`, for any number and length of clips.

    Raises:
        NoOracle: it cannot be exported; says why.
    """
    require(ONNXRUNTIME, *EXPORTER)
    oracle = oracle_of(ref)
    if oracle.module is None or oracle.inputs is None:
        raise NoOracle(f"{oracle.name} is no torch module, which could be exported")
    example = oracle.inputs(_noise(oracle))
    import torch

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = oracle.module() if oracle.module else None

        def forward(self, *inputs: Any) -> Any:
            return output_of(self.module(*inputs)) if self.module else None

    names = [f"in{i}" for i in range(len(example))]
    axes = {name: dict(enumerate("BT"[: x.ndim])) for name, x in zip(names, example, strict=True)} | {"out": {0: "B"}}
    try:
        with torch.no_grad():
            torch.onnx.export(
                Plain().eval(),
                tuple(map(torch.as_tensor, example)),
                str(path),
                input_names=names,
                output_names=["out"],
                dynamic_axes=axes,
                dynamo=False,  # exports these models exactly, and ten times faster
            )
    except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
        raise NoOracle(f"torch cannot export {oracle.name}'s module: {str(error)[:200]}") from error
    import onnxruntime

    others = oracle.inputs(_noise(oracle, clips=2, seconds=2))
    with torch.no_grad():
        expected = output_of(oracle.module()(*map(torch.as_tensor, others))).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    try:
        found = session.run(None, _given([entry.name for entry in session.get_inputs()], others))[0]
    except refusals():
        found = np.zeros(0)
    if found.shape != expected.shape or np.abs(found - expected).max() > AS_EXPORTED * np.abs(expected).max():
        path.unlink()  # or the next that takes it would find it
        raise NoOracle(f"{oracle.name}'s module, as torch exports it, is right for one length only")


def onnx(ref: str, path: Path) -> Contender:
    """onnxruntime on what `export` wrote, with its own default of threads; torch is here where features need it."""
    import onnxruntime

    oracle = oracle_of(ref)
    before = _threads()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    after = _threads()
    names = [entry.name for entry in session.get_inputs()]

    def run(clips: Array) -> Array:
        assert oracle.inputs is not None
        return np.asarray(session.run(None, _given(names, oracle.inputs(clips)))[0])

    # It starts one thread fewer than it computes with and does not tell how many.
    threads = None if before is None or after is None else after - before + 1
    return Contender(run, str(ONNXRUNTIME), "CPU", threads)


def openvino(ref: str, path: Path) -> Contender:
    """OpenVINO on what `export` wrote, in float32, with its own default of threads."""
    require(OPENVINO)
    import openvino as ov

    oracle = oracle_of(ref)
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = ov.compile_model(str(path), "CPU", settings)
    names = [entry.any_name for entry in model.inputs]

    def run(clips: Array) -> Array:
        assert oracle.inputs is not None
        return np.asarray(model(_given(names, oracle.inputs(clips)))[0])

    return Contender(run, str(OPENVINO), "CPU", model.get_property("INFERENCE_NUM_THREADS"))


def _given(names: list[str], inputs: tuple[Any, ...]) -> dict[str, Array]:
    """What the exported module takes: an input that it has no use for is gone."""
    given = {f"in{i}": np.asarray(x) for i, x in enumerate(inputs)}
    return {name: given[name] for name in names}


def _threads() -> int | None:
    """Threads of this process, where the system tells."""
    return len(os.listdir("/proc/self/task")) if sys.platform == "linux" else None  # noqa: PTH208
