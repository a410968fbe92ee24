"""Recognise transformers' Wav2Vec2 classifiers: a Hugging Face folder with `config.json`."""

from dataclasses import fields
from typing import Any

from speech_zoo_core.audio.front_end import WaveformFrontEnd
from speech_zoo_core.checkpoint.source import Recognised, Source, expect, shape_of
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import CheckpointError, ConfigError, shown
from speech_zoo_core.tasks.iso639 import all_languages
from speech_zoo_core.tasks.language import check_labels

from .model import ModelConfig

ARCHITECTURE = "Wav2Vec2ForSequenceClassification"
HEADLESS = "a classifier has projector.weight and classifier.weight"
# Settings of `Wav2Vec2Config` that concern training, other heads, or the tokenizer.
UNUSED = set(
    """
    hidden_dropout activation_dropout attention_dropout feat_proj_dropout feat_quantizer_dropout final_dropout
    layerdrop feat_extract_dropout hidden_dropout_prob initializer_range vocab_size apply_spec_augment
    mask_time_prob mask_time_length mask_time_min_masks mask_feature_prob mask_feature_length mask_feature_min_masks
    mask_channel_length mask_channel_min_space mask_channel_other mask_channel_prob mask_channel_selection
    mask_time_min_space mask_time_other mask_time_selection num_codevectors_per_group num_codevector_groups
    contrastive_logits_temperature num_negatives codevector_dim proj_codevector_dim diversity_loss_weight
    ctc_loss_reduction ctc_zero_infinity tdnn_dim tdnn_kernel tdnn_dilation xvector_output_dim pad_token_id
    bos_token_id eos_token_id sep_token_id decoder_start_token_id freeze_feat_extract_train no_mask_channel_overlap
    no_mask_time_overlap gradient_checkpointing num_ctc_classes
    """.split()
)
# Settings of every transformers config: names, and how `generate` and outputs behave.
GENERIC = set(
    """
    architectures model_type transformers_version torch_dtype dtype _name_or_path _commit_hash finetuning_task
    tokenizer_class prefix task_specific_params label2id id2label return_dict output_hidden_states output_attentions
    torchscript use_bfloat16 tf_legacy_loss tie_word_embeddings chunk_size_feed_forward is_encoder_decoder
    is_decoder cross_attention_hidden_size add_cross_attention tie_encoder_decoder max_length min_length do_sample
    early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty
    length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences
    output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens _attn_implementation_autoset use_cache
    num_labels num_feat_extract_layers pruned_heads problem_type
    """.split()
)
OWN = {"model_type", "task", "front_end", "id2label", "attention_mask", "window", "single_pass", "sum_final_norm"}
ARCHITECTURAL = {item.name for item in fields(ModelConfig)} - OWN - {"quantization", "source"}
PREPROCESSOR = {"feature_extractor_type", "processor_class", "padding_side", "padding_value", "feature_size"}


def recognise(source: Source) -> Recognised | None:
    """Tell whether a source is a Wav2Vec2 classifier of transformers, by its `config.json` or its tensor names.

    Raises:
        ConfigError: its settings contradict its tensors, or ask for something unsupported.
        CheckpointError: it has no classification head, or its `config.json` is missing.
    """
    settings = source.settings("config.json") or {}
    if settings.get("model_type") != "wav2vec2":
        if settings or not any("encoder.pos_conv_embed." in name for name in source.checkpoint.tensors):
            return None
        raise CheckpointError(f"{source.main_file} is a Wav2Vec2; put its config.json beside it")
    where = str(source.folder / "config.json")
    weights = source.checkpoint.tensors
    holds = ", ".join(map(str, settings.get("architectures") or []))
    if holds and holds != ARCHITECTURE:
        raise CheckpointError(f"{source.folder} holds a {holds}, not a {ARCHITECTURE}")
    if missing := [name for name in ("projector.weight", "classifier.weight") if name not in weights]:
        raise CheckpointError(f"{source.main_file} has no {missing[0]}: {HEADLESS}")
    known = ARCHITECTURAL | UNUSED | GENERIC
    if unknown := sorted(settings.keys() - known):
        raise ConfigError(f"{where}: {unknown[0]} = {shown(settings[unknown[0]])} is not supported")
    expect(settings, where, {"pruned_heads": {}})
    if settings.get("problem_type") not in (None, "single_label_classification"):
        raise ConfigError(f"{where}: problem_type = {shown(settings['problem_type'])} is not supported")
    classes = shape_of(weights, "classifier.weight", 2)[0]
    labels = _labels(settings, classes, where)
    if len(labels) != classes:
        raise ConfigError(f"{where}: id2label names {len(labels)} labels, the classifier has {classes} classes")
    front_end, attention_mask = _preprocessor(source, settings)
    config = {
        "model_type": "wav2vec2_cls",
        "task": "language-identification" if all_languages(list(labels.values())) else "audio-classification",
        "id2label": labels,
        "front_end": to_dict(front_end),
        "attention_mask": attention_mask,
        **{key: settings[key] for key in sorted(ARCHITECTURAL) if settings.get(key) is not None},
    }
    version = str(settings.get("transformers_version") or "").partition(".")[0]
    if config.get("use_weighted_layer_sum") and version.isdecimal() and int(version) < 5:
        config["sum_final_norm"] = True
    if not config.get("add_adapter"):
        config.pop("output_hidden_size", None)  # transformers writes it always, and reads it for the adapter only
    return Recognised(config, weights, f"transformers {ARCHITECTURE}")


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


def _preprocessor(source: Source, settings: dict[str, Any]) -> tuple[WaveformFrontEnd, bool]:
    """What `preprocessor_config.json` says about the waveform and about masks; transformers' usage without one."""
    file = "preprocessor_config.json"
    given = source.settings(file)
    if given is None:
        return WaveformFrontEnd(), settings.get("feat_extract_norm", "group") == "layer"
    expect(given, file, {"feature_size": 1, "padding_side": "right", "padding_value": 0})
    values = {"do_normalize": True, "return_attention_mask": False, "sampling_rate": 16000} | given
    if unknown := sorted(given.keys() - PREPROCESSOR - {"do_normalize", "return_attention_mask", "sampling_rate"}):
        raise ConfigError(f"{file}: {unknown[0]} = {shown(given[unknown[0]])} is not supported")
    for key in ("do_normalize", "return_attention_mask"):
        if not isinstance(values[key], bool):
            raise ConfigError(f"{file}: {key} must be true or false, not {shown(values[key])}")
    return WaveformFrontEnd(sample_rate=values["sampling_rate"], normalise=values["do_normalize"]), values[
        "return_attention_mask"
    ]
