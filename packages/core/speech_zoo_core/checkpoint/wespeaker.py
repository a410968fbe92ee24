"""What WeSpeaker's `config.yaml` and pyannote's hyper-parameters say about the features.

Reference: wespeaker/cli/speaker.py and its recipes' conf/*.yaml; pyannote/audio/models/embedding/wespeaker.
"""

from dataclasses import replace
from typing import Any

from ..audio.front_end import WESPEAKER, FrontEnd
from ..config import MAX_NUMBER
from ..errors import ConfigError, shown
from .source import Source, expect, mapping

# Not measured here (no published weights within reach of the tests): pyannote's diarization pipeline, tuned with the
# ResNet34-LM weights, joins speakers up to a cosine distance of 0.7046.
THRESHOLD = 0.30
FBANK_KEYS = {"num_mel_bins", "frame_length", "frame_shift", "dither", "use_energy"}  # dither: training only
PYANNOTE_KEYS = {"sample_rate", "num_channels", "window_type", "fbank_centering_span"}


def wespeaker_settings(source: Source) -> dict[str, Any] | None:
    """WeSpeaker's `config.yaml` beside the checkpoint; None if there is none that names a model."""
    settings = source.settings("config.yaml")
    return settings if settings is not None and isinstance(settings.get("model"), str) else None


def front_end_of(settings: dict[str, Any]) -> FrontEnd:
    """The front end that a WeSpeaker `config.yaml` describes; absent settings have WeSpeaker's defaults.

    Raises:
        ConfigError: it asks for features that are not supported.
    """
    data = mapping(settings, "dataset_args", "config.yaml")
    fbank, cmvn = mapping(data, "fbank_args", "config.yaml"), mapping(data, "cmvn_args", "config.yaml")
    expect(data, "config.yaml", {"frontend": "fbank", "feat_type": "fbank", "wavform_norm": False})
    expect(cmvn, "config.yaml cmvn_args", {"norm_var": False, "window_size": None})
    expect(fbank, "config.yaml fbank_args", {"use_energy": False})
    _only(fbank, "config.yaml fbank_args", FBANK_KEYS)
    return _number_fields(
        {
            "sample_rate": data.get("resample_rate", WESPEAKER.sample_rate),
            "n_mels": fbank.get("num_mel_bins", WESPEAKER.n_mels),
            "frame_length": fbank.get("frame_length", WESPEAKER.frame_length),
            "frame_shift": fbank.get("frame_shift", WESPEAKER.frame_shift),
        },
        cmn=bool(data.get("cmvn", True)) and bool(cmvn.get("norm_mean", True)),
    )


def lightning_front_end(extra: dict[str, Any]) -> FrontEnd:
    """The front end that pyannote's hyper-parameters describe; absent ones have its defaults.

    Raises:
        ConfigError: they ask for features that are not supported.
    """
    params = mapping(extra, "hyper_parameters", "the checkpoint")
    expect(
        params,
        "the checkpoint's hyper_parameters",
        {"num_channels": 1, "use_energy": False, "window_type": "hamming", "fbank_centering_span": None},
    )
    _only(params, "the checkpoint's hyper_parameters", FBANK_KEYS | PYANNOTE_KEYS)
    fields = {
        "sample_rate": params.get("sample_rate", WESPEAKER.sample_rate),
        "n_mels": params.get("num_mel_bins", WESPEAKER.n_mels),
        "frame_length": params.get("frame_length", WESPEAKER.frame_length),
        "frame_shift": params.get("frame_shift", WESPEAKER.frame_shift),
    }
    return replace(_number_fields(fields, cmn=True), channel="mean")  # pyannote/audio/core/io.py mixes down


def _number_fields(fields: dict[str, Any], cmn: bool) -> FrontEnd:
    for key, value in fields.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not abs(value) <= MAX_NUMBER:
            raise ConfigError(f"{key} must be a number in its range, not {shown(value)}")
        fields[key] = type(getattr(WESPEAKER, key))(value)
        if fields[key] != value:
            raise ConfigError(f"{key} must be a whole number, not {shown(value)}")
    return replace(WESPEAKER, **fields, cmn=cmn)


def _only(settings: dict[str, Any], where: str, known: set[str]) -> None:
    if unknown := sorted(settings.keys() - known):
        raise ConfigError(f"{where}: {', '.join(unknown)} is not supported")
