"""Recognise PyanNet as pyannote publishes it: a PyTorch Lightning checkpoint with its hyper-parameters."""

import re
from typing import Any

from speech_zoo_core.audio.front_end import WaveformFrontEnd
from speech_zoo_core.checkpoint.source import Recognised, Source, expect, mapping, shape_of
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import CheckpointError, ConfigError
from speech_zoo_core.tasks.segmentation import powerset

MAX_OVERLAP = 2  # speakers at the same time, in every powerset that pyannote published; those are of 3 speakers or more
LSTM = {"bidirectional": True, "monolithic": True, "batch_first": True}
STRIDE = 10  # of the sinc filters, where nothing says it


def recognise(source: Source) -> Recognised | None:
    """Tell whether a source is a PyanNet, by its tensor names.

    Raises:
        ConfigError: its hyper-parameters contradict its tensors, or ask for something unsupported.
        CheckpointError: its classes are no powerset of speakers.
    """
    weights = source.checkpoint.tensors
    if not {"sincnet.conv1d.0.filterbank.low_hz_", "lstm.weight_ih_l0", "classifier.weight"} <= weights.keys():
        return None
    linear = sorted(name for name in weights if re.fullmatch(r"linear\.\d+\.weight", name))
    shape: dict[str, Any] = {
        "max_speakers": _speakers(shape_of(weights, "classifier.weight", 2)[0]),
        "max_overlap": MAX_OVERLAP,
        "hidden_size": shape_of(weights, "lstm.weight_hh_l0", 2)[1],
        "num_layers": sum(re.fullmatch(r"lstm\.weight_hh_l\d+", name) is not None for name in weights),
        "linear_layers": len(linear),
    }
    if linear:
        shape["linear_size"] = shape_of(weights, linear[0], 2)[0]
    shape["stride"] = _stride(mapping(source.checkpoint.extra, "hyper_parameters", "the checkpoint"), shape)
    # pyannote/audio/core/io.py resamples with torchaudio and mixes down.
    front_end = to_dict(WaveformFrontEnd(normalise=False, resampler="torchaudio"))
    config = {"model_type": "pyannet", "front_end": front_end, "task": "speaker-segmentation", **shape}
    return Recognised(config, weights, "Lightning checkpoint (pyannote PyanNet)")


def _speakers(classes: int) -> int:
    """The number of speakers whose sets are so many."""
    speakers = next((n for n in range(3, 17) if len(powerset(n, MAX_OVERLAP)) == classes), None)
    if speakers is None:
        raise CheckpointError(f"a PyanNet with {classes} classes is not supported: they are no sets of 1 or 2 speakers")
    return speakers


def _stride(params: dict[str, Any], shape: dict[str, Any]) -> int:
    """The stride, of which tensors say nothing; what they do say, hyper-parameters must not contradict."""
    where = "the checkpoint's hyper_parameters"
    sincnet, lstm, linear = (mapping(params, part, where) for part in ("sincnet", "lstm", "linear"))
    expect(params, where, {"sample_rate": 16000, "num_channels": 1})
    expect(sincnet, f"{where} sincnet", {"sample_rate": 16000})
    expect(lstm, f"{where} lstm", {key: shape[key] for key in ("hidden_size", "num_layers")} | LSTM)
    expect(linear, f"{where} linear", {"num_layers": shape["linear_layers"]})
    stride = sincnet.get("stride", STRIDE)
    if isinstance(stride, bool) or not isinstance(stride, int):
        raise ConfigError(f"{where} sincnet: stride must be a whole number, not {stride!r}")
    return stride
