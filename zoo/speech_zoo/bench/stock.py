"""Stock MLX as a contender of `speech-zoo bench`: the same wheel without our part in its speed."""

import json
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from .contender import Array, Contender, blas, mlx_device, ours

VARIANCE_EPS = 1e-7  # mlx_audio/lid/models/wav2vec2/wav2vec_lid.py, predict
SPEECHBRAIN = "embedding_model.safetensors"


def stock(ref: str, scratch: Path) -> Contender:
    """mlx-audio's model where it has one that loads these files, else ours in MLX.

    Args:
        ref: what `load` takes.
        scratch: a folder to write into.

    """
    folder = Path(ref)
    try:
        run = _speaker(folder, scratch) if (folder / SPEECHBRAIN).is_file() else _languages(folder)
        by = f"mlx-audio {version('mlx-audio')}"
    except (LookupError, ImportError):  # no such model, in this version
        found = ours(ref, engine="mlx")
        run, by = found.run, f"{found.by} in MLX"
    return Contender(run, by, mlx_device(), *blas())


def _languages(folder: Path) -> Callable[[Array], Array]:
    """Classifiers of transformers.

    Raises:
        LookupError: the folder holds none.
    """
    config = folder / "config.json"
    if not config.is_file() or json.loads(config.read_text(encoding="utf-8")).get("model_type") != "wav2vec2":
        raise LookupError
    import mlx.core as mx
    from mlx_audio.lid import load

    model = load(folder)

    def run(clips: Array) -> Array:
        x = mx.array(clips)
        x = (x - mx.mean(x, axis=-1, keepdims=True)) / mx.sqrt(mx.var(x, axis=-1, keepdims=True) + VARIANCE_EPS)
        return np.array(model(x))

    return run


def _speaker(folder: Path, scratch: Path) -> Callable[[Array], Array]:
    """SpeechBrain's tensors are first written in MLX's layout, under the names that mlx-audio reads.

    Raises:
        LookupError: they are not of an ECAPA-TDNN.
    """
    import mlx.core as mx
    from mlx_audio.codec.models.ecapa_tdnn.speaker import EcapaSpeakerEmbeddingExtractor

    weights = {}
    tensors: dict[str, mx.array] = mx.load(str(folder / SPEECHBRAIN))  # type: ignore[assignment]
    if not any(name.startswith("asp_bn.") for name in tensors):
        raise LookupError
    for name, value in tensors.items():
        new = re.sub(r"\b(conv\d?|norm|asp_bn|fc)\.(?:conv|norm)\.", r"\1.", re.sub(r"^blocks\.", "block", name))
        if not name.endswith("num_batches_tracked"):
            weights[new] = value.swapaxes(1, 2) if value.ndim == 3 else value
    written = scratch / "mlx-audio"
    written.mkdir()
    mx.save_safetensors(str(written / "model.safetensors"), weights)
    model = EcapaSpeakerEmbeddingExtractor.from_pretrained(written)
    return lambda clips: np.stack([np.array(model.encode(mx.array(clip))) for clip in clips])
