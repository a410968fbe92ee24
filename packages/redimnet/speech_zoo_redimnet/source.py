"""Recognise ReDimNet and ReDimNet2 as published: the checkpoints of IDRnD and of PalabraAI with their `model_config`,
WeSpeaker's `avg_model.pt`.
"""

import re
from typing import Any

import mlx.core as mx
from speech_zoo_core.audio.front_end import REDIMNET, REDIMNET2, FrontEnd
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

from .sizes import SIZES, SIZES_2

FINAL = "backbone.fin_wght1d.w"  # IDRnD's name; WeSpeaker numbers the shares: backbone.inputs_weights.6
NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
BLOCK_TYPES = {"dwconvs.0.weight": "convnext_like", "conv1.weight": "basic_resnet"}
# What may stand in IDRnD's model_config without changing the embedding of a clip.
FREE = {"num_classes", "class_dropout", "feat_agg_dropout", "head_activation", "emb_bn", "stages_setup"}
FREE_2 = FREE | {"two_emb_layer", "feat_type", "spec", "spec_params"}
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
    if _is_redimnet2(weights):
        return _redimnet2(source, weights)
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


def _is_redimnet2(weights: dict[str, mx.array]) -> bool:
    """Whether tensors are those of ReDimNet2, whose convolutions with strides have groups."""
    if "backbone.stage0_pre.2.weight" in weights:
        return True
    return shape_of(weights, "backbone.stage0.2.weight", 4)[1] != shape_of(weights, "backbone.stem.0.weight", 4)[0]


def _redimnet2(source: Source, weights: dict[str, mx.array]) -> Recognised:
    """A ReDimNet2, whose tensors have the same names from everyone."""
    extra = mapping(source.checkpoint.extra, "model_config", "the checkpoint")
    settings = None if extra else wespeaker_settings(source)
    if not extra and settings is None and any(name.startswith("spec.") for name in weights):
        raise CheckpointError(
            f"{source.main_file} holds a ReDimNet2 without its model_config, which tells its features"
        )
    said = {"model_args": extra} if extra else settings
    sizes = _sizes(weights, said)
    form = "WeSpeaker ReDimNet2 state dict"
    if extra:
        form, where = "PalabraAI ReDimNet2", f"{source.main_file}: model_config"
        _usual(extra, where, {"feat_type": ("tf", "tf_mel")}, required=True)
        _features_2(mapping(extra, "spec_params", where), f"{where}: spec_params")
        _compare_2(sizes, extra, where)
    elif settings is not None:
        form = f"WeSpeaker {settings['model']}"
        args = mapping(settings, "model_args", "config.yaml")
        _wespeaker_2(settings, sizes["feat_dim"])
        _usual(args, "config.yaml", {"spec": (None, "fbank")})
        _compare_2(sizes, _claimed_2(settings["model"]) | args, "config.yaml")
    front_end = FrontEnd(REDIMNET2.kind, n_mels=sizes["feat_dim"], scale=1.0)
    config = {"model_type": "redimnet", **sizes, "front_end": to_dict(front_end), "threshold": THRESHOLD}
    return Recognised(config, weights, form)


def _known(name: str) -> bool:
    """Whether a ReDimNet of this kind has a tensor of this name."""
    stage, context_alone = r"backbone\.stage\d+(_pre)?\.\d+\.", r"backbone\.stage\d+_1d\."
    block = rf"conv_block\.(dwconvs\.0|pwconv1|conv[12](pw)?|norm|bn[12]|se\.(squeeze|exitation))\.{NORM}"
    context = rf"(red_dim_conv\.[01]|tcm\.[0-3]\.(dwconvs\.0|norm|pwconv1)|exp_dim_conv)\.{NORM}"
    encoder = (
        r"tcm\.4\.(attention\.[qkv]_proj|attention\.out_proj|layer_norm|final_layer_norm|"
        r"feed_forward\.(intermediate|output)_dense)\.(weight|bias)"
    )
    pattern = (
        rf"{stage}(w|{NORM}|[013]\.{NORM}|{block}|{context}|{encoder})|backbone\.fin_wght1d\.w"
        rf"|{context_alone}({context}|{encoder})|backbone\.(stem_gnorm|stage\d+_up_[12]d\.1|head)\.(weight|bias)"
        rf"|backbone\.(stem|mfa)\.[01]\.{NORM}|{POOLING_TENSORS}|(bn|bn2|seg_bn_1|linear|seg_2)\.{NORM}"
        r"|(spec|frontend|cls_head|projection)\..*"
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
    stages: list[dict[str, Any]] = []
    kinds, groups, redimnet2 = set(), {}, _is_redimnet2(weights)
    c, step, outputs = channels, 1, 1
    while outputs < count:
        stage, wide, kind, group = _stage_sizes(weights, len(stages), c, step, width)
        stages.append(stage)
        kinds.add(kind)
        groups[wide] = group
        c, step = c * stage["stride"], step * stage["time_stride"]
        outputs += 2 if f"backbone.stage{len(stages) - 1}_pre.2.weight" in weights else 1
    fits = [d for d in {*groups.values()} if all(x // d and x // (x // d) == inner for x, inner in groups.items())]
    if len(kinds) != 1 or not fits:
        raise CheckpointError(f"its blocks ({', '.join(sorted(kinds))}), or their groups of channels, give no ReDimNet")
    embed_dim, taken = shape_of(weights, "linear.weight", 2)
    pooling, head = pooling_of(weights, settings), "backbone.head.weight" if redimnet2 else "backbone.mfa.0.weight"
    pooled, out_channels, image = width, None, False
    if head in weights:
        image = redimnet2 and weights[head].ndim == 4
        out_channels = shape_of(weights, head, 4 if image else 3)[0]
        pooled = out_channels * (width // c if image else 1)
    elif redimnet2:  # without a head a map and a sequence have the same tensors
        image = mapping(settings or {}, "model_args", "config.yaml").get("return_2d_output") is True
    if taken != VALUES[pooling] * pooled:
        raise CheckpointError(f"linear takes {taken} values, which {pooling} of {pooled} channels does not give")
    attentive = pooling == "ASTP"
    sizes = {
        "C": channels,
        "feat_dim": width // channels,
        "stages_setup": stages,
        "block_2d_type": kinds.pop(),
        "group_divisor": min(fits),
        "out_channels": out_channels,
        "embed_dim": embed_dim,
        "pooling_func": pooling,
        "global_context_att": attentive and shape_of(weights, "pool.linear1.weight", 3)[1] == 3 * pooled,
        "two_emb_layer": "seg_2.weight" in weights,
    }
    if redimnet2:
        sizes |= {"variant": "ReDimNet2", "return_2d_output": image, "dual_agg": outputs > len(stages) + 1}
        sizes["agg_gnorm"] = "backbone.stem_gnorm.weight" in weights
    return sizes


def _stage_sizes(
    weights: dict[str, mx.array], i: int, channels: int, step: int, width: int
) -> tuple[dict[str, Any], int, str, int]:
    """A stage after so many channels and strides: its settings, its channels, what its blocks are, and their groups."""
    name = f"backbone.stage{i}_pre" if f"backbone.stage{i}_pre.2.weight" in weights else f"backbone.stage{i}"
    wide, _, stride, steps = shape_of(weights, f"{name}.2.weight", 4)
    c = channels * stride
    inside = {key.removeprefix(f"{name}."): x for key, x in weights.items() if key.startswith(f"{name}.")}
    context = rf"backbone\.stage{i}(\.\d+|_1d)\.red_dim_conv\.0\.weight"
    reduced = [x.shape[0] for key, x in weights.items() if re.fullmatch(context, key)]
    part = next((part for part in BLOCK_TYPES if f"3.conv_block.{part}" in inside), None)
    whole = wide % c == 0
    if (
        not (whole or _is_redimnet2(weights))
        or part is None
        or not 0 < min(reduced, default=1) <= width
        or steps % step
    ):
        raise CheckpointError(f"{name} has no blocks that are known, or widths that give no ReDimNet")
    conv = shape_of(weights, f"{name}.3.conv_block.{part}", 4)
    stage = {
        "stride": stride,
        "num_blocks": len({m[1] for key in inside if (m := re.match(r"(\d{1,3})\.conv_block\.", key))}),
        "conv_exp": wide // c if whole else wide / c,
        "att_block_red": width // reduced[0] if reduced else None,
        "time_stride": steps // step,
        "kernel_size": list(conv[2:]),
    }
    kind = BLOCK_TYPES[part] + ("_fwse" if "3.conv_block.se.squeeze.weight" in inside else "")
    return stage, wide, kind, conv[1]


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
    _usual(given, where, usual)
    _features(mapping(given, "spec_params", where), f"{where}: spec_params", {"norm_signal": False, "spec_norm": "mn"})
    claimed = {key: value for key, value in given.items() if key not in FREE | usual.keys() | {"spec_params"}}
    if "F" in claimed:
        claimed["feat_dim"] = claimed.pop("F")
    if "stages_setup" in given:
        rows = [(stage[0], stage[1], stage[2], stage[4]) for stage in given["stages_setup"] if len(stage) == 5]
        claimed["stages_setup"] = _stages(rows)
    _compare(sizes, claimed, where)


def _compare_2(sizes: dict[str, Any], given: dict[str, Any], where: str) -> None:
    """Hold the arguments of a ReDimNet2 against the tensors."""
    usual: dict[str, tuple[Any, ...]] = {"causal": ("none", False), "spec_in_channels": (1,)}
    usual |= {"block_1d_type": ("conv+att",), "compress_tconvs": (True,), "use_freq_pos_enc": (False,)}
    usual |= {"fm_weigthing_type": ("NC",), "hop_length": (160,), "return_all_outputs": (False,)}
    usual |= {"pad_right_samples": (None,), "before_pool_offset": (None,)}
    _usual(given, where, usual)
    claimed = {key: value for key, value in given.items() if key not in FREE_2 | usual.keys()}
    if claimed.get("feat_dim") is None:
        claimed["feat_dim"] = claimed.get("F", sizes["feat_dim"])
    claimed.pop("F", None)
    if sizes["pooling_func"] != "ASTP":  # nothing else looks at it
        claimed.pop("global_context_att", None)
    if "stages_setup" in given:
        claimed["stages_setup"] = _stages_2(given["stages_setup"], sizes["block_2d_type"] == "convnext_like")
    _compare(sizes, claimed, where)


def _claimed_2(model: str) -> dict[str, Any]:
    """The arguments that WeSpeaker's name of a ReDimNet2 stands for."""
    if model in ("ReDimNet2Custom", "ReDimNet2Wrap"):
        return {}
    size = model.removeprefix("ReDimNet2")
    if size not in SIZES_2 or not model.startswith("ReDimNet2"):
        raise ConfigError(f"config.yaml: model {shown(model)} is not in this family (ReDimNet2B0 to ReDimNet2B6)")
    c, out_channels, image, stages = SIZES_2[size]
    rows = [[strides, blocks, exp, [kernel], red] for strides, blocks, exp, kernel, red in stages]
    return {"C": c, "out_channels": out_channels, "return_2d_output": image, "stages_setup": rows}


def _stages_2(rows: Any, with_kernels: bool) -> Any:
    """`stages_setup` of ReDimNet2 as the config has it; blocks that are not convnext_like take no notice of kernels."""
    try:
        return [
            {
                "stride": strides[0],
                "num_blocks": blocks,
                "conv_exp": exp,
                "att_block_red": red,
                "time_stride": strides[1],
                "kernel_size": list(kernels[0]) if with_kernels else [3, 3],
            }
            for strides, blocks, exp, kernels, red in rows
        ]
    except (TypeError, ValueError, IndexError):
        return rows  # which the tensors contradict


def _wespeaker_2(settings: dict[str, Any], feat_dim: int) -> None:
    """Raises ConfigError unless WeSpeaker's `config.yaml` asks for the features that the front end has."""
    data = mapping(settings, "dataset_args", "config.yaml")
    usual = {"frontend": ("tfmel",), "cmvn": (False,), "resample_rate": (16000,)}
    _usual(data, "config.yaml", usual, required=True)
    args = mapping(data, "tfmel_args", "config.yaml")
    _usual(args, "config.yaml tfmel_args", {"n_mels": (feat_dim,)}, required=True)
    _features_2({key: value for key, value in args.items() if key != "n_mels"}, "config.yaml tfmel_args")


def _features_2(given: dict[str, Any], where: str) -> None:
    _usual(given, where, {"norm_signal": (True,)}, required=True)
    _features(given, where, {"norm_signal": True, "eps": 1e-8})


def _features(given: dict[str, Any], where: str, own: dict[str, Any]) -> None:
    """Raises ConfigError for features other than those with these settings of their own."""
    values = own | {"do_preemph": True, "n_fft": 512, "win_length": 400, "hop_length": 160}
    values |= {"f_min": 20, "f_max": 7600, "sample_rate": 16000}
    expect(given, where, values)
    if unknown := sorted(given.keys() - values.keys() - AUGMENTATION):
        raise ConfigError(f"{where}: {', '.join(unknown)} is not supported")


def _usual(given: dict[str, Any], where: str, usual: dict[str, tuple[Any, ...]], required: bool = False) -> None:
    """Raises ConfigError for other values than these; absent ones are fine unless they are required."""
    for key, values in usual.items():
        value = given.get(key) if required else given.get(key, values[0])
        if value not in values:
            raise ConfigError(f"{where}: {key} = {shown(value)} is not supported (only {shown(values[0])})")


def _stages(rows: list[tuple[int, int, int, int | None]]) -> list[dict[str, Any]]:
    names = ("stride", "num_blocks", "conv_exp", "att_block_red")
    return [dict(zip(names, row, strict=True)) | {"time_stride": 1, "kernel_size": [3, 3]} for row in rows]


def _compare(sizes: dict[str, Any], claimed: dict[str, Any], where: str) -> None:
    for key, value in claimed.items():
        if key not in sizes:
            raise ConfigError(f"{where}: {key} is not supported")
        if sizes[key] != value:
            raise ConfigError(f"{where} says {key} = {shown(value)}, the tensors say {shown(sizes[key])}")
