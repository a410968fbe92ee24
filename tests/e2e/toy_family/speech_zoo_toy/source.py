"""Recognise the published form: one `.npz`."""

from speech_zoo_core.audio.front_end import WESPEAKER
from speech_zoo_core.checkpoint.source import Recognised, Source, shape_of
from speech_zoo_core.config import to_dict


def recognise(source: Source) -> Recognised | None:
    """Tell whether a source is of this family, by its tensor names."""
    weights = source.checkpoint.tensors
    if not {"frame.weight", "norm.running_var", "embedding.weight"} <= weights.keys():
        return None
    config = {
        "model_type": "toy_xvector",
        "embed_dim": shape_of(weights, "embedding.weight", 2)[0],
        "width": shape_of(weights, "frame.weight", 2)[0],
        "front_end": to_dict(WESPEAKER),
        "threshold": 0.5,
    }
    return Recognised(config, weights, "toy npz")
