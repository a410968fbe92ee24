"""What WeSpeaker's and 3D-Speaker's `config.yaml` and pyannote's hyper-parameters say about the features.

Reference: wespeaker/cli/speaker.py and its recipes' conf/*.yaml; pyannote/audio/models/embedding/wespeaker.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ..audio.front_end import THREE_D_SPEAKER, WESPEAKER, FrontEnd
from ..config import MAX_NUMBER
from ..errors import ConfigError, shown
from ..pooling import PoolingName
from .source import Source, expect, mapping

# Not measured here (no published weights within reach of the tests): pyannote's diarization pipeline, tuned with the
# ResNet34-LM weights, joins speakers up to a cosine distance of 0.7046.
THRESHOLD = 0.30
FBANK_KEYS = {"num_mel_bins", "frame_length", "frame_shift", "dither", "use_energy"}  # dither: training only
# The names of a pooling's tensors; a pooling without any is told by the settings.
POOLING_TENSORS = r"pool\.(linear[12]|(n_query\.\d\.)?heads_att_trans\.\d\.att_[01])\.(weight|bias)"
POOLING_STARTS: dict[str, PoolingName] = {
    "pool.linear1.": "ASTP",
    "pool.heads_att_trans.": "MHASTP",
    "pool.n_query.": "MQMHASTP",
}
WITHOUT_TENSORS: tuple[PoolingName, ...] = ("TSTP", "TAP", "TSDP")
PYANNOTE_KEYS = {"sample_rate", "num_channels", "window_type", "fbank_centering_span"}


def wespeaker_settings(source: Source) -> dict[str, Any] | None:
    """WeSpeaker's `config.yaml`, beside the checkpoint or one folder up, where training keeps it (exp/X/models/…).

    None if there is none that names a model.
    """
    return settings_near(source, ("config.yaml", "../config.yaml"), lambda values: isinstance(values.get("model"), str))


def settings_near(
    source: Source, names: tuple[str, ...], fits: Callable[[dict[str, Any]], bool]
) -> dict[str, Any] | None:
    """The first of some files that holds the settings of this checkpoint; None if none does."""
    for name in names:
        above = name.startswith("..")
        try:
            settings = source.settings(name)
        except ConfigError:
            if not above or source.folder.resolve().name == "models":
                raise
            settings = None  # of something else
        if settings is not None and fits(settings):
            return settings
        if above:
            source.files.discard(source.folder / name)
    return None


def pooling_of(names: Iterable[str], settings: dict[str, Any] | None) -> PoolingName:
    """The pooling that tensors of these names belong to; where they tell none, the one in `config.yaml`, or TSTP."""
    for name in names:
        if found := next((POOLING_STARTS[start] for start in POOLING_STARTS if name.startswith(start)), None):
            return found
    said = mapping(settings or {}, "model_args", "config.yaml").get("pooling_func")
    return next((name for name in WITHOUT_TENSORS if name == said), "TSTP")


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
    rate = data.get("resample_rate", WESPEAKER.sample_rate)
    return _kaldi(fbank, rate, cmn=bool(data.get("cmvn", True)) and bool(cmvn.get("norm_mean", True)))


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
    front_end = _kaldi(params, params.get("sample_rate", WESPEAKER.sample_rate), cmn=True)
    return replace(front_end, channel="mean")  # pyannote/audio/core/io.py mixes down


def _kaldi(fbank: dict[str, Any], rate: Any, cmn: bool) -> FrontEnd:
    """The front end of arguments of Kaldi's fbank, under their names in torchaudio."""
    fields = {
        "sample_rate": rate,
        "n_mels": fbank.get("num_mel_bins", WESPEAKER.n_mels),
        "frame_length": fbank.get("frame_length", WESPEAKER.frame_length),
        "frame_shift": fbank.get("frame_shift", WESPEAKER.frame_shift),
    }
    return _number_fields(fields, cmn)


def three_d_speaker_settings(source: Source) -> dict[str, Any]:
    """Arguments of 3D-Speaker's `FBank`: `n_mels`, `sample_rate`, `mean_nor`, as far as they are given.

    From `config.yaml` beside the checkpoint or up to two folders up, where training keeps it (exp/X/models/CKPT-…), or
    from ModelScope's `configuration.json`.

    Raises:
        ConfigError: they describe another kind of features.
    """
    names = tuple("../" * up + "config.yaml" for up in range(3))
    settings = settings_near(source, names, lambda values: "feature_extractor" in values)
    if settings is not None:
        features = mapping(settings, "feature_extractor", "config.yaml")
        expect(features, "config.yaml feature_extractor", {"obj": "speakerlab.process.processor.FBank"})
        args = mapping(features, "args", "config.yaml feature_extractor")
        _only(args, "config.yaml feature_extractor", {"n_mels", "sample_rate", "mean_nor"})
        options = {"mean_nor": False} | args
        for key, value in options.items():
            if isinstance(value, str) and value[:1] == "<":  # a reference to another entry
                options[key] = settings.get(value.strip("<>"))
        return options
    model = mapping(source.settings("configuration.json") or {}, "model", "configuration.json")
    facts = mapping(model, "model_config", "configuration.json")
    known = {"n_mels": facts.get("fbank_dim"), "sample_rate": facts.get("sample_rate")}
    return {key: value for key, value in known.items() if value is not None}


def three_d_speaker_front_end(source: Source, n_mels: int) -> FrontEnd:
    """The front end of a 3D-Speaker checkpoint; absent settings have 3D-Speaker's usual values.

    Raises:
        ConfigError: they ask for features that are not supported.
    """
    given = {"n_mels": n_mels, "sample_rate": THREE_D_SPEAKER.sample_rate, "mean_nor": True}
    given |= three_d_speaker_settings(source)
    if not isinstance(given["mean_nor"], bool):
        raise ConfigError(f"mean_nor must be true or false, not {shown(given['mean_nor'])}")
    fields = {"n_mels": given["n_mels"], "sample_rate": given["sample_rate"]}
    return _number_fields(fields, given["mean_nor"], THREE_D_SPEAKER)


def _number_fields(fields: dict[str, Any], cmn: bool, usual: FrontEnd = WESPEAKER) -> FrontEnd:
    for key, value in fields.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not abs(value) <= MAX_NUMBER:
            raise ConfigError(f"{key} must be a number in its range, not {shown(value)}")
        fields[key] = type(getattr(usual, key))(value)
        if fields[key] != value:
            raise ConfigError(f"{key} must be a whole number, not {shown(value)}")
    return replace(usual, **fields, cmn=cmn)


def _only(settings: dict[str, Any], where: str, known: set[str]) -> None:
    if unknown := sorted(settings.keys() - known):
        raise ConfigError(f"{where}: {', '.join(unknown)} is not supported")
