"""Recognise ECAPA-TDNN as published: SpeechBrain's folder, WeSpeaker's `avg_model.pt` and ONNX, the speaker proxy."""

import re
from typing import Any

import mlx.core as mx
from speech_zoo_core.audio.front_end import WESPEAKER, FrontEnd
from speech_zoo_core.checkpoint import Checkpoint
from speech_zoo_core.checkpoint.source import Recognised, Source, mapping, shape_of, without_prefix
from speech_zoo_core.checkpoint.speechbrain import (
    LABEL_FILES,
    arguments,
    check_activation,
    class_of,
    hyperparams,
    read_labels,
    speechbrain_front_end,
)
from speech_zoo_core.checkpoint.speechbrain import THRESHOLD as SPEECHBRAIN_THRESHOLD
from speech_zoo_core.checkpoint.wespeaker import THRESHOLD, front_end_of, pooling_of, wespeaker_settings
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import CheckpointError, ConfigError, shown
from speech_zoo_core.pooling import VALUES
from speech_zoo_core.tasks.iso639 import all_languages, are_names

from .graph import from_graph
from .proxy import PROXY_CONFIG_KEYS, proxy_config

ECAPA = "speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN"
# Cosines to the training speakers, which are dropped, or to languages, accents, emotions.
COSINE_HEAD = "speechbrain.lobes.models.ECAPA_TDNN.Classifier"
CLASSES = re.compile("lang|accent|dialect|emotion")  # in the names of settings
LANGUAGE_HEAD = "speechbrain.lobes.models.Xvector.Classifier"
WESPEAKER_DIALECT = {"padding": "zeros", "res2net_skip": "last", "aggregation_norm": False, "moments": "raw"}
WESPEAKER_NAMES = {f"ECAPA_TDNN_{glob}c{width}": (width, bool(glob)) for glob in ("", "GLOB_") for width in (512, 1024)}
# WeSpeaker's names to SpeechBrain's, by their beginnings; `Model.sanitize` knows the rest.
RENAMED = {
    "layer1.": "blocks.0.",
    **{
        f"layer{i + 1}.se_res2block.{old}": f"blocks.{i}.{new}"
        for i in (1, 2, 3)
        for old, new in (("0.", "tdnn1."), ("1.", "res2net_block."), ("2.", "tdnn2."), ("3.linear", "se_block.conv"))
    },
    "conv.": "mfa.conv.",
    "pool.linear1.": "asp.tdnn.conv.",
    "pool.linear2.": "asp.conv.",
    "pool.": "asp.",  # of other poolings
    "bn.": "asp_bn.",
    "linear.": "fc.",
    "bn2.": "fc_bn.",
}


def recognise(source: Source) -> Recognised | None:
    """Tell whether a source is an ECAPA-TDNN, by its settings, its graph or its tensor names.

    Raises:
        ConfigError: its settings contradict its tensors, describe another model, or ask for something unsupported.
        CheckpointError: a file or a tensor that its form has is missing.
    """
    checkpoint = source.checkpoint
    if checkpoint.graph is not None:
        weights = from_graph(checkpoint.graph)
        if weights is None:
            return None
        settings = wespeaker_settings(source)
        n_mels = shape_of(weights, "layer1.conv.weight", 3)[1]
        front_end = FrontEnd(n_mels=n_mels) if settings is None else front_end_of(settings)
        return _wespeaker(weights, front_end, "WeSpeaker ONNX", settings)
    proxy = checkpoint.extra.get("config")
    if isinstance(proxy, dict) and proxy.keys() >= PROXY_CONFIG_KEYS:
        return _proxy(checkpoint, str(source.main_file))
    weights = without_prefix(checkpoint.tensors, "layer1.conv.weight", "linear.weight")
    if {"layer1.conv.weight", "layer2.se_res2block.0.conv.weight", "linear.weight"} <= weights.keys():
        settings = wespeaker_settings(source)
        front_end = WESPEAKER if settings is None else front_end_of(settings)
        form = "WeSpeaker ECAPA-TDNN state dict" if settings is None else f"WeSpeaker {settings['model']}"
        if settings is None:
            front_end = FrontEnd(n_mels=shape_of(weights, "layer1.conv.weight", 3)[1])
        recognised = _wespeaker(weights, front_end, form, settings)
        if settings is not None:
            _compare(recognised.config, settings, "bn2.running_var" in weights)
        return recognised
    return _speechbrain(source, checkpoint.tensors)


def _widths(weights: dict[str, mx.array], wrapped: str = "", pooling: str = "ASTP") -> dict[str, Any]:
    """The widths that tensors under SpeechBrain's names have."""
    conv, norm = (f"{part}{wrapped and '.' + part}" for part in ("conv", "norm"))
    layers = 1 + max((int(m[1]) for name in weights if (m := re.match(r"blocks\.(\d{1,3})\.", name))), default=0)
    se, fc = f"blocks.1.se_block.conv1{wrapped}.weight", f"fc{wrapped}.weight"
    for name in (se, fc):  # linear layers in WeSpeaker, convolutions of one tap in SpeechBrain
        if name not in weights or weights[name].ndim < 2:
            raise CheckpointError(f"the checkpoint lacks {name}, or it is no matrix")
    first, feat_dim, kernel = shape_of(weights, f"blocks.0.{conv}.weight", 3)
    if layers < 2:
        raise CheckpointError("the checkpoint has no SE-Res2Net blocks (blocks.1 and on)")
    width, _, block_kernel = shape_of(weights, f"blocks.1.res2net_block.blocks.0.{conv}.weight", 3)
    last, _, last_kernel = shape_of(weights, f"mfa.{conv}.weight", 3)
    attention: dict[str, Any] = {"global_context": False}  # of another pooling than ASTP
    context = last
    if pooling == "ASTP":
        neurons, context = shape_of(weights, f"asp.tdnn.{conv}.weight", 3)[:2]
        attention = {"attention_channels": neurons, "global_context": context != last}
    if width > first or context not in (last, 3 * last):
        raise CheckpointError(f"widths {first}, {width}, {last} and {context} of the layers give no ECAPA-TDNN")
    return {
        "feat_dim": feat_dim,
        "channels": [first] * layers + [last],
        "kernel_sizes": [kernel] + [block_kernel] * (layers - 1) + [last_kernel],
        **attention,
        "res2net_scale": first // width,
        "se_channels": weights[se].shape[0],
        "aggregation_norm": f"mfa.{norm}.weight" in weights,
    }


def _renamed(name: str) -> str:
    old = next((old for old in RENAMED if name.startswith(old)), "")
    name = RENAMED.get(old, "") + name.removeprefix(old)
    return re.sub(r"\b(conv|bn)s\.(\d+)\.", r"blocks.\2.\1.", name).replace(".bn.", ".norm.")


def _wespeaker(
    weights: dict[str, mx.array], front_end: FrontEnd, form: str, settings: dict[str, Any] | None
) -> Recognised:
    renamed, pooling = {_renamed(name): value for name, value in weights.items()}, pooling_of(weights, settings)
    taken, frames = shape_of(renamed, "fc.weight", 2)[1], shape_of(renamed, "mfa.conv.weight", 3)[0]
    if taken != VALUES[pooling] * frames:
        more = "" if settings else "; put its config.yaml beside it, which tells its pooling"
        raise CheckpointError(f"linear takes {taken} values, which {pooling} of {frames} channels does not give{more}")
    config = {
        "model_type": "ecapa_tdnn",
        "embed_dim": renamed["fc.weight"].shape[0],
        **_widths(renamed, pooling=pooling),
        "pooling_func": pooling,
        **WESPEAKER_DIALECT,
        "front_end": to_dict(front_end),
        "threshold": THRESHOLD,
    }
    return Recognised(config, renamed, form)


def _compare(config: dict[str, Any], settings: dict[str, Any], emb_bn: bool) -> None:
    """Hold the architecture in `config.yaml` against the tensors."""
    name, args = settings["model"], mapping(settings, "model_args", "config.yaml")
    if name not in WESPEAKER_NAMES:
        raise ConfigError(f"config.yaml: model {shown(name)} is not in this family ({', '.join(WESPEAKER_NAMES)})")
    channels, global_context = WESPEAKER_NAMES[name]
    tensors = {
        "channels": config["channels"][0],
        "global_context_att": config["global_context"],
        "feat_dim": config["feat_dim"],
        "embed_dim": config["embed_dim"],
        "pooling_func": config["pooling_func"],
        "emb_bn": emb_bn,
    }
    claimed = {"channels": channels, "global_context_att": global_context, "pooling_func": "ASTP", "emb_bn": False}
    if config["pooling_func"] != "ASTP":  # nothing else looks at it
        del tensors["global_context_att"], claimed["global_context_att"]
        args = {key: value for key, value in args.items() if key != "global_context_att"}
    for key, value in {**claimed, **args}.items():
        if key not in tensors:
            raise ConfigError(f"config.yaml: model_args.{key} is not supported")
        if tensors[key] != value:
            raise ConfigError(f"config.yaml says {key} = {shown(value)}, the tensors say {tensors[key]}")


def _speechbrain(source: Source, weights: dict[str, mx.array]) -> Recognised | None:
    settings = hyperparams(source)
    weights = without_prefix(weights, "blocks.0.conv.conv.weight", "asp.conv.conv.weight")
    ecapa = "blocks.0.conv.conv.weight" in weights and "asp.conv.conv.weight" in weights
    if settings is None or "embedding_model" not in settings:
        if not ecapa:
            return None
        raise CheckpointError(
            f"{source.main_file} is a SpeechBrain ECAPA-TDNN; put its hyperparams.yaml beside it, which tells its "
            "features and its task"
        )
    if (described := class_of(settings, "embedding_model")) != ECAPA:
        if not ecapa:  # of another family
            return None
        raise ConfigError(f"{source.folder / 'hyperparams.yaml'} describes {described}, not {ECAPA}")
    if not ecapa:
        raise CheckpointError(f"{source.main_file} does not hold the ECAPA-TDNN of its hyperparams.yaml")
    config, front_end = _architecture(settings), speechbrain_front_end(settings)
    widths = _widths(weights, ".conv")
    for key, value in widths.items():
        if config.get(key, value) != value:
            raise ConfigError(f"hyperparams.yaml says {key} = {shown(config[key])}, the tensors say {value}")
    embed_dim = shape_of(weights, "fc.conv.weight", 3)[0]
    if config.pop("lin_neurons") != embed_dim:
        raise ConfigError(f"hyperparams.yaml: embedding_model: lin_neurons is not the {embed_dim} of the tensors")
    config = {
        "model_type": "ecapa_tdnn",
        "embed_dim": embed_dim,
        **widths,
        **config,
        "front_end": to_dict(front_end),
    }
    head = class_of(settings, "classifier")
    if head not in (None, COSINE_HEAD, LANGUAGE_HEAD):
        raise ConfigError(f"hyperparams.yaml: classifier is a {head}, which is not supported")
    if head is None or (head == COSINE_HEAD and _of_speakers(source, settings)):
        return Recognised({**config, "threshold": SPEECHBRAIN_THRESHOLD}, weights, "SpeechBrain speaker ECAPA-TDNN")
    facts, classifier = _cosines(source, settings, embed_dim) if head == COSINE_HEAD else _classifier(source, settings)
    what = "language identification" if facts["task"] == "language-identification" else "classification"
    return Recognised({**config, **facts}, {**weights, **classifier}, f"SpeechBrain {what} ECAPA-TDNN")


def _of_speakers(source: Source, settings: dict[str, Any]) -> bool:
    """Whether the classes are the training speakers: their names have digits, those of languages and accents none."""
    if any((source.folder / name).is_file() for name in LABEL_FILES):
        speakers = any(character.isdigit() for label in read_labels(source) for character in label)
        if speakers:
            source.files -= {source.folder / name for name in LABEL_FILES}
        return speakers
    return not any(CLASSES.search(name) for name in settings)


def _cosines(source: Source, settings: dict[str, Any], embed_dim: int) -> tuple[dict[str, Any], dict[str, mx.array]]:
    """The configuration and the tensors of a classifier by cosines."""
    given = arguments(
        settings, "classifier", {"lin_blocks": (0,)}, {"input_size", "out_neurons", "lin_neurons", "device"}
    )
    weights = _head(source, "weight")
    labels = read_labels(source)
    classes, width = shape_of(weights, "weight", 2)
    if width != embed_dim:
        raise CheckpointError(f"classifier.ckpt takes embeddings of {width} values, the model gives {embed_dim}")
    for key, value in (("input_size", width), ("out_neurons", classes), ("labels", classes)):
        if (given | {"labels": len(labels)}).get(key, value) != value:
            expected = len(labels) if key == "labels" else given[key]
            raise ConfigError(f"classifier.ckpt has {value} for {key}, the settings beside it {shown(expected)}")
    languages = all_languages(labels) or are_names(labels)
    facts = {
        "task": "language-identification" if languages else "audio-classification",
        "classifier": "cosine",
        "id2label": {str(i): label for i, label in enumerate(labels)},
    }
    return facts, {f"classifier.{name}": value for name, value in weights.items()}


def _head(source: Source, marker: str) -> dict[str, mx.array]:
    """The tensors of `classifier.ckpt`."""
    head = source.beside("classifier.ckpt")
    if head is None:
        raise CheckpointError(f"{source.folder} holds no classifier.ckpt, which tells the classes apart")
    return without_prefix(head.tensors, marker)


def _architecture(settings: dict[str, Any]) -> dict[str, Any]:
    """What `hyperparams.yaml` says about the embedding model, with SpeechBrain's defaults."""
    sizes = {"channels", "kernel_sizes", "dilations", "attention_channels", "res2net_scale", "se_channels"}
    given = arguments(
        settings,
        "embedding_model",
        {"groups": ([1, 1, 1, 1, 1],)},
        {*sizes, "input_size", "lin_neurons", "global_context", "activation", "dropout", "device"},
    )
    check_activation(given, "embedding_model", "torch.nn.ReLU")
    if not isinstance(given.get("input_size"), int):
        raise ConfigError("hyperparams.yaml: embedding_model: input_size must be a number")
    return {
        "feat_dim": given["input_size"],
        "channels": [512, 512, 512, 512, 1536],
        "dilations": [1, 2, 3, 4, 1],
        "lin_neurons": given.get("lin_neurons", 192),
        **{key: given[key] for key in (*sizes, "global_context") if key in given},
    }


def _classifier(source: Source, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, mx.array]]:
    """The configuration and the tensors of the language classifier."""
    given = arguments(
        settings, "classifier", {"lin_blocks": (1,)}, {"input_shape", "activation", "lin_neurons", "out_neurons"}
    )
    check_activation(given, "classifier", "torch.nn.LeakyReLU")
    weights = _head(source, "out.w.weight")
    labels = read_labels(source)
    neurons, _ = shape_of(weights, "DNN.block_0.linear.w.weight", 2)
    classes, _ = shape_of(weights, "out.w.weight", 2)
    if len(labels) != classes:
        raise CheckpointError(f"the classifier has {classes} classes, label_encoder.txt {len(labels)} labels")
    for key, value in (("lin_neurons", neurons), ("out_neurons", classes)):
        if given.get(key, value) != value:
            raise ConfigError(f"hyperparams.yaml says classifier {key} = {shown(given[key])}, the tensors say {value}")
    facts = {
        "task": "language-identification",
        "classifier_neurons": neurons,
        "id2label": {str(i): label for i, label in enumerate(labels)},
    }
    return facts, {f"classifier.{name}": value for name, value in weights.items()}


def _proxy(checkpoint: Checkpoint, where: str) -> Recognised:
    """The speaker proxy: its code is not public, so its names and widths must be SpeechBrain's."""
    weights = without_prefix(checkpoint.tensors, "blocks.0.conv.weight", "fc.weight")
    weights = without_prefix(weights, "blocks.0.conv.conv.weight", "fc.conv.weight")
    wrapped = ".conv" if "blocks.0.conv.conv.weight" in weights else ""
    fc = f"fc{wrapped}.weight"
    needed = [f"blocks.0.conv{wrapped}.weight", f"blocks.1.tdnn1.conv{wrapped}.weight", f"mfa.conv{wrapped}.weight"]
    needed += [f"asp.tdnn.conv{wrapped}.weight", f"asp.conv{wrapped}.weight", fc]
    if missing := [name for name in needed if name not in weights]:
        raise CheckpointError(
            f"{where} is a speaker proxy under other names than SpeechBrain's: it lacks {', '.join(missing)}; "
            f"it has {', '.join(sorted(weights))}"
        )
    widths, given = _widths(weights, wrapped), checkpoint.extra["config"]
    tensors = {
        "input_dim": widths["feat_dim"],
        "embed_dim": weights[fc].shape[0],
        "channels": widths["channels"][0],
        "num_blocks": len(widths["channels"]) - 2,
    }
    known = {"dropout": given.get("dropout"), **widths, **tensors}  # dropout is for training
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"{where}: its config has {key}, of which nothing is known")
        if known[key] != (list(value) if isinstance(value, tuple) else value):
            raise ConfigError(f"{where}: its config says {key} = {shown(value)}, its tensors say {known[key]}")
    return Recognised({**to_dict(proxy_config(**tensors)), **widths}, weights, "speaker proxy")
