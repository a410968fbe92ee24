"""Recognise ReDimNet as published: IDRnD's checkpoints with their `model_config`, WeSpeaker's `avg_model.pt`."""

import re
from typing import Any

import mlx.core as mx
from speech_zoo_core.audio.front_end import REDIMNET, FrontEnd
from speech_zoo_core.checkpoint.source import Recognised, Source, expect, mapping, shape_of, without_prefix
from speech_zoo_core.checkpoint.wespeaker import (
    POOLING_TENSORS,
    THRESHOLD,
    front_end_of,
    pooling_of,
    wespeaker_settings,
)
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import CheckpointError, ConfigError, shown
from speech_zoo_core.pooling import VALUES

FINAL = "backbone.fin_wght1d.w"  # IDRnD's name; WeSpeaker numbers the shares: backbone.inputs_weights.6
NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
BLOCK_TYPES = {"dwconvs.0.weight": "convnext_like", "conv1.weight": "basic_resnet"}
# WeSpeaker's sizes: C, block_2d_type, group_divisor, and of each stage stride, num_blocks, conv_exp, att_block_red.
SIZES: dict[str, tuple[int, str, int, list[tuple[int, int, int, int | None]]]] = {
    "B0": (10, "basic_resnet", 1, [(1, 2, 1, 30), (2, 3, 2, 30), (1, 3, 3, 30), (2, 4, 2, 10), (1, 3, 1, 10)]),
    "B1": (12, "convnext_like", 8, [(1, 2, 1, None), (2, 3, 1, None), (3, 4, 1, 12), (2, 5, 1, 12), (2, 3, 1, 8)]),
    "B2": (
        16,
        "convnext_like",
        4,
        [(1, 2, 1, 12), (2, 2, 1, 12), (1, 3, 1, 12), (2, 4, 1, 8), (1, 4, 1, 8), (2, 4, 1, 4)],
    ),
    "B3": (
        16,
        "basic_resnet_fwse",
        1,
        [(1, 6, 4, 32), (2, 6, 2, 32), (1, 8, 2, 32), (2, 10, 2, 16), (1, 10, 1, 16), (2, 8, 1, 16)],
    ),
    "B4": (
        32,
        "basic_resnet_fwse",
        1,
        [(1, 4, 2, 48), (2, 4, 2, 48), (1, 6, 2, 48), (2, 6, 1, 32), (1, 8, 1, 24), (2, 4, 1, 16)],
    ),
    "B5": (
        32,
        "basic_resnet_fwse",
        16,
        [(1, 4, 2, 48), (2, 4, 2, 48), (1, 6, 2, 48), (2, 6, 1, 32), (1, 8, 1, 24), (2, 4, 1, 16)],
    ),
    "B6": (
        32,
        "basic_resnet",
        32,
        [(1, 4, 4, 32), (2, 6, 2, 32), (1, 6, 2, 24), (3, 8, 1, 24), (1, 8, 1, 16), (2, 8, 1, 16)],
    ),
}
# What may stand in IDRnD's model_config without changing the embedding of a clip.
FREE = {"num_classes", "class_dropout", "feat_agg_dropout", "head_activation", "emb_bn", "stages_setup"}
AUGMENTATION = {"do_spec_aug", "freq_mask_width", "time_mask_width", "freq_start_bin", "num_apply_spec_aug"}


def recognise(source: Source) -> Recognised | None:
    """Tell whether a source is a ReDimNet, by its tensor names.

    Raises:
        ConfigError: the settings beside it contradict its tensors, or ask for something unsupported.
        CheckpointError: it is one, but what tells its features is missing, or a tensor.
    """
    checkpoint = source.checkpoint
    if checkpoint.graph is not None:
        return None
    weights = without_prefix(checkpoint.tensors, "backbone.stem.0.weight")
    of_wespeaker = "backbone.inputs_weights.0" in weights
    if not of_wespeaker and FINAL not in weights:
        return None
    if of_wespeaker:
        weights = as_idrnd(weights)
    if others := [name for name in weights if not _known(name)]:
        listed = ", ".join(name[:80] for name in others[:5])
        raise CheckpointError(
            f"{source.main_file} looks like a ReDimNet, but has {len(others)} tensors that none has: {listed}"
        )
    settings = wespeaker_settings(source) if of_wespeaker else None
    sizes = _sizes(weights, settings)
    if of_wespeaker:
        if settings is not None:
            _compare_wespeaker(sizes, settings)
        front_end = FrontEnd(n_mels=sizes["feat_dim"]) if settings is None else front_end_of(settings)
        form = f"WeSpeaker {settings['model']}" if settings else "WeSpeaker ReDimNet state dict"
    else:
        _compare_idrnd(sizes, weights, mapping(checkpoint.extra, "model_config", "the checkpoint"), source)
        front_end, form = FrontEnd(REDIMNET.kind, n_mels=sizes["feat_dim"], scale=1.0), "IDRnD ReDimNet"
    config = {"model_type": "redimnet", **sizes, "front_end": to_dict(front_end), "threshold": THRESHOLD}
    return Recognised(config, weights, form)


def _known(name: str) -> bool:
    """Whether a ReDimNet of this kind has a tensor of this name."""
    stage = r"backbone\.stage\d+\.\d+\."
    block = rf"conv_block\.(dwconvs\.0|pwconv1|conv[12](pw)?|norm|bn[12]|se\.(squeeze|exitation))\.{NORM}"
    context = rf"(red_dim_conv\.[01]|tcm\.[0-3]\.(dwconvs\.0|norm|pwconv1)|exp_dim_conv)\.{NORM}"
    encoder = (
        r"tcm\.4\.(attention\.[qkv]_proj|attention\.out_proj|layer_norm|final_layer_norm|"
        r"feed_forward\.(intermediate|output)_dense)\.(weight|bias)"
    )
    pattern = (
        rf"{stage}(w|{NORM}|[013]\.{NORM}|{block}|{context}|{encoder})|backbone\.fin_wght1d\.w"
        rf"|backbone\.(stem|mfa)\.[01]\.{NORM}|{POOLING_TENSORS}|(bn|bn2|seg_bn_1|linear|seg_2)\.{NORM}"
        r"|(spec|cls_head|projection)\..*"
    )
    return re.fullmatch(pattern, name) is not None


def as_idrnd(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """WeSpeaker's tensors under IDRnD's names: there, a stage begins with its shares and a change of shape."""
    renamed: dict[str, mx.array] = {}
    last = max(int(m[1]) for name in weights if (m := re.fullmatch(r"backbone\.inputs_weights\.(\d{1,3})", name)))
    for name, x in weights.items():
        new = re.sub(r"^(backbone\.stage\d+\.)(\d{1,3})(?=\.)", lambda match: f"{match[1]}{int(match[2]) + 2}", name)
        if found := re.fullmatch(r"backbone\.inputs_weights\.(\d{1,3})", name):
            i = int(found[1])
            new = FINAL if i == last else f"backbone.stage{i}.0.w"
        renamed[re.sub(r"^seg_1\.", "linear.", new)] = x
    return renamed


def _sizes(weights: dict[str, mx.array], settings: dict[str, Any] | None) -> dict[str, Any]:
    """The architecture that tensors under IDRnD's names belong to."""
    channels = shape_of(weights, "backbone.stem.0.weight", 4)[0]
    _, count, width, _ = shape_of(weights, FINAL, 4)
    if width % channels:
        raise CheckpointError(f"{FINAL} has {width} channels, no multiple of the stem's {channels}")
    stages, kinds, groups, c = [], set(), {}, channels
    for i in range(count - 1):
        name, (wide, _, stride, _) = f"backbone.stage{i}", shape_of(weights, f"backbone.stage{i}.2.weight", 4)
        c *= stride
        inside = {key.removeprefix(f"{name}."): x for key, x in weights.items() if key.startswith(f"{name}.")}
        reduced = [x.shape[0] for key, x in inside.items() if re.fullmatch(r"\d+\.red_dim_conv\.0\.weight", key)]
        part = next((part for part in BLOCK_TYPES if f"3.conv_block.{part}" in inside), None)
        if wide % c or part is None or not 0 < min(reduced, default=1) <= width:
            raise CheckpointError(f"{name} has no blocks that are known, or widths that give no ReDimNet")
        stages.append(
            {
                "stride": stride,
                "num_blocks": len({m[1] for key in inside if (m := re.match(r"(\d{1,3})\.conv_block\.", key))}),
                "conv_exp": wide // c,
                "att_block_red": width // reduced[0] if reduced else None,
            }
        )
        groups[wide] = shape_of(weights, f"{name}.3.conv_block.{part}", 4)[1]
        kinds.add(BLOCK_TYPES[part] + ("_fwse" if "3.conv_block.se.squeeze.weight" in inside else ""))
    fits = [d for d in {*groups.values()} if all(x // d and x // (x // d) == inner for x, inner in groups.items())]
    if len(kinds) != 1 or not fits:
        raise CheckpointError(f"its blocks ({', '.join(sorted(kinds))}), or their groups of channels, give no ReDimNet")
    embed_dim, taken = shape_of(weights, "linear.weight", 2)
    mfa, pooling = "backbone.mfa.0.weight" in weights, pooling_of(weights, settings)
    pooled = shape_of(weights, "backbone.mfa.0.weight", 3)[0] if mfa else width
    if taken != VALUES[pooling] * pooled:
        raise CheckpointError(f"linear takes {taken} values, which {pooling} of {pooled} channels does not give")
    attentive = pooling == "ASTP"
    return {
        "C": channels,
        "feat_dim": width // channels,
        "stages_setup": stages,
        "block_2d_type": kinds.pop(),
        "group_divisor": min(fits),
        "out_channels": pooled if mfa else None,
        "embed_dim": embed_dim,
        "pooling_func": pooling,
        "global_context_att": attentive and shape_of(weights, "pool.linear1.weight", 3)[1] == 3 * pooled,
        "two_emb_layer": "seg_2.weight" in weights,
    }


def _compare_wespeaker(sizes: dict[str, Any], settings: dict[str, Any]) -> None:
    """Hold WeSpeaker's `config.yaml` against the tensors."""
    name, args = settings["model"], mapping(settings, "model_args", "config.yaml")
    if name.removeprefix("ReDimNet") not in SIZES or not name.startswith("ReDimNet"):
        raise ConfigError(f"config.yaml: model {shown(name)} is not in this family (ReDimNetB0 to ReDimNetB6)")
    c, kind, divisor, stages = SIZES[name.removeprefix("ReDimNet")]
    claimed = {"C": c, "block_2d_type": kind, "group_divisor": divisor, "stages_setup": _stages(stages)}
    claimed |= {"pooling_func": "ASTP"} | args
    if sizes["pooling_func"] != "ASTP":  # nothing else looks at it
        claimed.pop("global_context_att", None)
    _compare(sizes, claimed, "config.yaml")


def _compare_idrnd(sizes: dict[str, Any], weights: dict[str, mx.array], given: dict[str, Any], source: Source) -> None:
    """Hold IDRnD's `model_config` against the tensors; without it, the tensors of the features must be there."""
    where = f"{source.main_file}: model_config"
    if not given:
        if not any(name.startswith("spec.torchfbank.2.") for name in weights):
            raise CheckpointError(
                f"{source.main_file} holds a ReDimNet without its model_config, which tells its features"
            )
        return
    usual: dict[str, tuple[Any, ...]] = {
        "feat_type": ("pt", "pt_mel"),
        "block_1d_type": ("conv+att",),
        "pooling_func": ("ASTP",),
    }
    usual |= {"hop_length": (160,), "return_all_outputs": (False,), "tf_optimized_arch": (False,)}
    for key, values in usual.items():
        if given.get(key, values[0]) not in values:
            raise ConfigError(f"{where}: {key} = {shown(given[key])} is not supported (only {shown(values[0])})")
    spec = mapping(given, "spec_params", where)
    features = {"norm_signal": False, "do_preemph": True, "spec_norm": "mn", "n_fft": 512, "win_length": 400}
    features |= {"f_min": 20, "f_max": 7600, "sample_rate": 16000, "hop_length": 160}
    expect(spec, f"{where}: spec_params", features)
    if unknown := sorted(spec.keys() - features.keys() - AUGMENTATION):
        raise ConfigError(f"{where}: spec_params: {', '.join(unknown)} is not supported")
    claimed = {key: value for key, value in given.items() if key not in FREE | usual.keys() | {"spec_params"}}
    if "F" in claimed:
        claimed["feat_dim"] = claimed.pop("F")
    if "stages_setup" in given:
        rows = [(stage[0], stage[1], stage[2], stage[4]) for stage in given["stages_setup"] if len(stage) == 5]
        claimed["stages_setup"] = _stages(rows)
    _compare(sizes, claimed, where)


def _stages(rows: list[tuple[int, int, int, int | None]]) -> list[dict[str, Any]]:
    return [dict(zip(("stride", "num_blocks", "conv_exp", "att_block_red"), row, strict=True)) for row in rows]


def _compare(sizes: dict[str, Any], claimed: dict[str, Any], where: str) -> None:
    for key, value in claimed.items():
        if key not in sizes:
            raise ConfigError(f"{where}: {key} is not supported")
        if sizes[key] != value:
            raise ConfigError(f"{where} says {key} = {shown(value)}, the tensors say {shown(sizes[key])}")
