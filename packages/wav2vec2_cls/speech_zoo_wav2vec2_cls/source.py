"""Recognise classifiers and x-vectors of transformers on Wav2Vec2 and its kin: a folder with `config.json`."""

from dataclasses import fields
from typing import Any

from speech_zoo_core.audio.front_end import WaveformFrontEnd
from speech_zoo_core.checkpoint.source import Recognised, Source, expect, shape_of, without_prefix
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import CheckpointError, ConfigError, shown
from speech_zoo_core.tasks.iso639 import all_languages
from speech_zoo_core.tasks.language import check_labels

from .config import ModelConfig

KINDS = {  # model_type of transformers: what its classes are called
    "wav2vec2": "Wav2Vec2",
    "hubert": "Hubert",
    "unispeech": "UniSpeech",
    "unispeech-sat": "UniSpeechSat",
    "wavlm": "WavLM",
    "data2vec-audio": "Data2VecAudio",
}
CLASSIFIER, X_VECTOR = "ForSequenceClassification", "ForXVector"
HEADS = {  # tensors that each head has
    CLASSIFIER: ("projector.weight", "classifier.weight"),
    X_VECTOR: ("projector.weight", "tdnn.0.kernel.weight", "feature_extractor.weight"),
}
X_VECTOR_DIM = 512  # where the config has no say
SINGLE = "single_label_classification"
PROBLEMS = {"multi_label_classification": "audio-tagging", "regression": "audio-regression"}  # transformers', our tasks
# Cosines from which the model cards, and transformers' documentation of Wav2Vec2ForXVector, say "the same speaker".
THRESHOLDS = {"wav2vec2": 0.7, "wavlm": 0.86, "unispeech-sat": 0.89}
OWN = {"model_type", "task", "front_end", "id2label", "attention_mask", "window", "single_pass", "sum_final_norm"}
OWN |= {"embed_dim", "threshold", "threshold_seconds", "quantization", "source"}
SPECIAL = {  # keys that the others do not read
    "hubert": {"feat_proj_layer_norm", "conv_pos_batch_norm"},
    "wavlm": {"num_buckets", "max_bucket_distance"},
    "data2vec-audio": {"conv_pos_kernel_size"},
}
UNREAD = {  # keys that these do not read
    "wavlm": {"adapter_attn_dim"},
    "data2vec-audio": {"adapter_attn_dim", "feat_extract_norm", "do_stable_layer_norm"},
}
DEFAULTS: dict[str, dict[str, Any]] = {  # that differ from those of Wav2Vec2
    "wavlm": {"num_buckets": 320},
    "data2vec-audio": {"feat_extract_norm": "layer", "conv_pos_kernel_size": 19, "num_conv_pos_embeddings": 5},
}
SETTINGS = {item.name for item in fields(ModelConfig)} - OWN
# What changes the result and is not supported; whatever else stands in a config, training, other heads or nobody reads.
UNSUPPORTED: dict[str, Any] = {"pruned_heads": {}, "quantization_config": None, "auto_map": None}
EXTRACTORS = (("processor_config.json", "feature_extractor"), ("processor_config.json", "audio_processor"))


def recognise(source: Source) -> Recognised | None:
    """Tell whether a source is one of transformers' classifiers or x-vectors, by its `config.json` or its tensor names.

    Raises:
        ConfigError: its settings contradict its tensors, or ask for something unsupported.
        CheckpointError: it has no head, another one, or its `config.json` is missing.
    """
    graph = source.checkpoint.graph
    if graph is not None:
        names = (*graph.constants, *(name for node in graph.nodes for name in node.outputs))
        if not any("wav2vec2" in name for name in names):
            return None
        raise CheckpointError(f"{source.main_file} looks like a Wav2Vec2, which is read from transformers' files only")
    settings = source.settings("config.json") or {}
    kind = settings.get("model_type")
    if kind not in KINDS:
        if settings or not any("encoder.pos_conv_embed." in name for name in source.checkpoint.tensors):
            return None
        raise CheckpointError(f"{source.main_file} is a Wav2Vec2; put its config.json beside it")
    where = str(source.folder / "config.json")
    name, head, weights = _head(source, settings)
    expect({key: value for key, value in settings.items() if value is not None}, where, UNSUPPORTED)
    front_end, attention_mask = _preprocessor(source, settings)
    config: dict[str, Any] = {"model_type": "wav2vec2_cls", "front_end": front_end, "attention_mask": attention_mask}
    config |= _x_vector_facts(settings) if head == X_VECTOR else _classifier_facts(settings, weights, where)
    config |= DEFAULTS.get(kind, {})
    read = SETTINGS.difference(*SPECIAL.values()) | SPECIAL.get(kind, set())
    config |= {key: settings[key] for key in sorted(read - UNREAD.get(kind, set())) if settings.get(key) is not None}
    version = str(settings.get("transformers_version") or "").partition(".")[0]
    if config.get("use_weighted_layer_sum") and version.isdecimal() and int(version) < 5:
        config["sum_final_norm"] = True
    if not config.get("add_adapter"):
        config.pop("output_hidden_size", None)  # transformers writes it always, and reads it for the adapter only
    return Recognised(config, weights, f"transformers {name}")


def _head(source: Source, settings: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """The name of the class, which head it has, and the tensors.

    Raises:
        CheckpointError: the head is another one, or its tensors are missing.
    """
    kind = KINDS[settings["model_type"]]
    known = {f"{kind}{head}": head for head in HEADS if head == CLASSIFIER or settings["model_type"] in THRESHOLDS}
    tensors = source.checkpoint.tensors
    holds = settings.get("architectures") or [f"{kind}{CLASSIFIER}"]
    if not isinstance(holds, list) or len(holds) != 1 or holds[0] not in known:
        raise CheckpointError(f"{source.folder} holds a {_listed(holds)}, not a {' or '.join(known)}")
    needed = HEADS[known[holds[0]]]
    weights = without_prefix(tensors, *needed)
    if missing := [name for name in needed if name not in weights]:
        raise CheckpointError(f"{source.main_file} has no {missing[0]}: a {holds[0]} has {' and '.join(needed)}")
    return holds[0], known[holds[0]], weights


def _x_vector_facts(settings: dict[str, Any]) -> dict[str, Any]:
    dim = settings.get("xvector_output_dim")
    return {
        "task": "speaker-embedding",
        "embed_dim": X_VECTOR_DIM if dim is None else dim,
        "threshold": THRESHOLDS[settings["model_type"]],
    }


def _classifier_facts(settings: dict[str, Any], weights: dict[str, Any], where: str) -> dict[str, Any]:
    """What a classifier is for, and its labels.

    Raises:
        ConfigError: its labels are not those of its classes.
    """
    problem = settings.get("problem_type") or SINGLE
    if problem not in (SINGLE, *PROBLEMS):
        raise ConfigError(f"{where}: problem_type {shown(problem)} is unknown")
    classes = shape_of(weights, "classifier.weight", 2)[0]
    labels = _labels(settings, classes, where)
    if len(labels) != classes:
        raise ConfigError(f"{where}: id2label names {len(labels)} labels, the classifier has {classes} classes")
    of_one = "language-identification" if all_languages(list(labels.values())) else "audio-classification"
    return {"task": PROBLEMS.get(problem, of_one), "id2label": labels}


def _labels(settings: dict[str, Any], classes: int, where: str) -> dict[str, str]:
    labels = settings.get("id2label")
    if labels is None:
        count = settings.get("num_labels", 2)  # transformers' default
        if count != classes:
            raise ConfigError(f"{where}: num_labels is {shown(count)}, the classifier has {classes} classes")
        labels = {str(i): f"LABEL_{i}" for i in range(classes)}
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        raise ConfigError(f"{where}: id2label must map numbers to names")
    check_labels(labels)
    return {str(i): labels[str(i)] for i in range(len(labels))}


def _listed(names: Any) -> str:
    plain = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return ", ".join(names)[:200] if plain else shown(names)


def _preprocessor(source: Source, settings: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """What the feature extractor's settings say about the waveform and about masks; transformers' usage without any.

    As AutoFeatureExtractor finds them: within `processor_config.json`, where transformers 5 writes them, before
    `preprocessor_config.json`.
    """
    file, given = "preprocessor_config.json", source.settings("preprocessor_config.json")
    for name, key in reversed(EXTRACTORS):
        nested = (source.settings(name) or {}).get(key)
        if nested is not None:
            file, given = f"{name}: {key}", nested
    if given is None:
        layer_norm = settings["model_type"] == "data2vec-audio" or settings.get("feat_extract_norm") == "layer"
        return to_dict(WaveformFrontEnd()), layer_norm
    if not isinstance(given, dict):
        raise ConfigError(f"{file} must be a JSON object, not {shown(given)}")
    fixed = {"feature_size": 1, "padding_side": "right", "padding_value": 0, "auto_map": None}
    expect(given, file, fixed | {"feature_extractor_type": "Wav2Vec2FeatureExtractor"})
    values: dict[str, Any] = {"do_normalize": True, "return_attention_mask": False, "sampling_rate": 16000} | given
    for key in ("do_normalize", "return_attention_mask"):
        if not isinstance(values[key], bool):
            raise ConfigError(f"{file}: {key} must be true or false, not {shown(values[key])}")
    front_end = {"kind": "waveform", "sample_rate": values["sampling_rate"], "normalise": values["do_normalize"]}
    return front_end, values["return_attention_mask"]
