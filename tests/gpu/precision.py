"""Whether the families compute the right thing: next to a CPU, and next to their originals."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import speech_zoo
from families import Finding, as_on_a_gpu, made
from speech_zoo.publish.check import _cosine, _difference, _same_order
from speech_zoo.publish.parity import limits_of
from speech_zoo.settings import VOICES
from speech_zoo_core.audio import load_audio

DTYPES = {"0": ["float32", "float16", "bfloat16"], "1": ["float32"]}  # by MLX_ENABLE_TF32; 1 is how MLX comes
CLI = "import sys; from speech_zoo.cli.main import main; main()"


def parity(name: str, scratch: Path, cpu: bool) -> Iterator[Finding]:
    """Three voices in every precision, against float32 on the CPU; all in processes of their own."""
    model = made(name, scratch)

    def computed(tf32: str, dtypes: list[str], **where: Any) -> dict[str, Any]:
        file = scratch / "outputs.npz"
        request = {"ref": model.ref, "file": str(file), "dtypes": dtypes, "short": cpu, **where}
        command = [sys.executable, str(Path(__file__).with_name("measure.py")), "--only", json.dumps(request)]
        env = os.environ | {"MLX_ENABLE_TF32": tf32}
        subprocess.run(command, env=env, check=True, stderr=subprocess.PIPE, text=True)
        return dict(np.load(file))

    wanted = computed("0", ["float32"], engine="onnxruntime", on_cpu=True)
    for tf32, dtypes in DTYPES.items():
        got = computed(tf32, dtypes, engine="mlx", on_cpu=False)
        for dtype in dtypes:
            pairs = [(got[f"{dtype} {i}"], wanted[f"float32 {i}"]) for i in range(3)]
            figures, passed = compared(model.task, dtype, pairs)
            yield f"{name} {dtype}{', TF32' if tf32 == '1' else ''}", figures, None if tf32 == "1" else passed


def outputs(ref: str, file: str, dtypes: list[str], short: bool, engine: Any, on_cpu: bool) -> None:
    """Write the raw outputs of three voices, in one batch, as a model computes them in each precision."""
    if on_cpu:
        mx.set_default_device(mx.cpu)
    elif short:
        as_on_a_gpu()
    found = {}
    for dtype in dtypes:
        model = speech_zoo.load(ref, dtype=dtype, engine=engine)
        clips = [np.array(load_audio(path, model.sample_rate)) for path in sorted(VOICES.glob("*.wav"))[:3]]
        clips = [clip[: 6000 + 2000 * i] if short else clip for i, clip in enumerate(clips)]
        rows = model._outputs(clips, "parity", model.sample_rate, None, vad=False)
        found |= {f"{dtype} {i}": np.array(row.astype(mx.float32), np.float64) for i, row in enumerate(rows)}
    np.savez(file, **found)


def compared(task: str, dtype: str, pairs: list[tuple[Any, Any]]) -> tuple[dict[str, Any], bool]:
    """The worst figure of some outputs, and whether all are within the limits."""
    limits = limits_of(task, dtype)
    if "cosine" in limits:
        cosine = min(_cosine(got, wanted) for got, wanted in pairs)
        return {"1 - cosine": f"{1 - cosine:.1e}"}, cosine >= limits["cosine"]
    error = max(_difference(got, wanted) for got, wanted in pairs)
    first = min((got.argmax(-1) == wanted.argmax(-1)).mean() for got, wanted in pairs)
    figures = {"difference": f"{error:.1e}", "same first": f"{first:.3f}"}
    if "logits" not in limits:
        return figures, bool(first >= limits.get("frames", 1.0))
    in_order = "top" not in limits or all(_same_order(*pair, 5) for pair in pairs)
    return figures, error <= limits["logits"] and in_order


def checked(name: str, scratch: Path, cpu: bool) -> Iterator[Finding]:
    """What `speech-zoo check` says of the conversion to float16."""
    source, out = made(name, scratch).ref, str(scratch / "converted")
    speech_zoo.convert(source, out, dtype="float16")
    engine = [] if cpu else ["--engine", "mlx"]
    command = [sys.executable, "-c", CLI, "check", out, "--reference", source, *engine]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    yield f"{name} check", {"said": (done.stdout + done.stderr).strip().splitlines()[-1][:300]}, not done.returncode
