"""Seeded random weights in the form that the originals have, and their ECAPA-TDNN under WeSpeaker's names.

Names and shapes are those of WeSpeaker's ResNet, of CAM++ (3D-Speaker and WeSpeaker agree on them), of SpeechBrain's
ECAPA-TDNN, x-vector and ResNet and of 3D-Speaker's ERes2Net; BatchNorm statistics are random too. Written without
PyTorch.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

CAMPPLUS_LAYERS = (12, 24, 16)
HEAD_CHANNELS = 32
WESPEAKER_NAMES = (  # what turns SpeechBrain's names into WeSpeaker's, one after the other
    (r"\b(conv\d?|norm|asp_bn|fc)\.(?:conv|norm)\.", r"\1."),
    (r"^blocks\.0\.", "layer1."),
    *((rf"^blocks\.{i}\.", f"layer{i + 1}.se_res2block.") for i in (1, 2, 3)),
    (r"\.tdnn1\.", ".0."),
    (r"\.res2net_block\.blocks\.(\d+)\.(conv|norm)\.", r".1.\2s.\1."),
    (r"\.tdnn2\.", ".2."),
    (r"\.se_block\.conv", ".3.linear"),
    (r"\.norm(s?)\.", r".bn\1."),
    (r"^mfa\.", ""),
    (r"^asp\.tdnn\.conv\.", "pool.linear1."),
    (r"^asp\.conv\.", "pool.linear2."),
    (r"^asp\.", "pool."),  # another pooling
    (r"^asp_bn\.", "bn."),
    (r"^fc\.", "linear."),
)


class _Weights(dict[str, "np.ndarray[Any, Any]"]):
    """A state dict that grows layer by layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def layer(self, name: str, *shape: int, bias: bool = False) -> None:
        """A convolution or linear layer whose output keeps the scale of its input."""
        scale = np.sqrt(2 / np.prod(shape[1:]))
        self[f"{name}.weight"] = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        if bias:
            self[f"{name}.bias"] = (self.rng.standard_normal(shape[0]) * 0.1).astype(np.float32)

    def norm(self, name: str, channels: int, affine: bool = True) -> None:
        """A BatchNorm."""
        if affine:
            self[f"{name}.weight"] = self.rng.uniform(0.5, 1.5, channels).astype(np.float32)
            self[f"{name}.bias"] = (self.rng.standard_normal(channels) * 0.1).astype(np.float32)
        self[f"{name}.running_mean"] = (self.rng.standard_normal(channels) * 0.1).astype(np.float32)
        self[f"{name}.running_var"] = self.rng.uniform(0.5, 1.5, channels).astype(np.float32)
        self[f"{name}.num_batches_tracked"] = np.array(1000)


def source_weights(config: Any, seed: int = 0, projection: bool = False) -> dict[str, "np.ndarray[Any, Any]"]:
    """The state dict of the original module that `config` (a package's ModelConfig) describes.

    Args:
        config: of one of the families below.
        seed: of every number.
        projection: add the layer of the training loss, as WeSpeaker's `avg_model.pt` does.
    """
    families = {
        "resnet34": _resnet34,
        "campplus": _campplus,
        "ecapa_tdnn": _ecapa,
        "eres2net": _eres2net,
        "xvector": _xvector,
        "se_resnet": _se_resnet,
        "redimnet": _redimnet,
    }
    weights = families[config.model_type](config, _Weights(seed))
    if projection:
        weights.layer("projection", 100, config.embed_dim)
    return dict(weights)


def _resnet34(config: Any, weights: _Weights) -> _Weights:
    expansion = {"bottleneck": 4, "res2net": 2}.get(config.block, 1)
    width = in_planes = config.m_channels
    weights.layer("conv1", width, 1, 3, 3)
    weights.norm("bn1", width)
    for stage, count in enumerate(config.num_blocks):
        planes = width * 2**stage
        if config.block == "inverted":
            weights.layer(f"layer{stage + 1}.0.conv", planes, in_planes, 3, 3)
            weights.norm(f"layer{stage + 1}.0.bn", planes)
            in_planes = planes
        for i in range(count):
            stride, name = 2 if stage and not i else 1, f"layer{stage + 1}.{i}"
            if config.block == "inverted":
                _inverted_bottleneck(weights, f"layer{stage + 1}.{i + 1}", planes)
            elif config.block == "res2net":
                _res2net_block(weights, name, in_planes, planes, stride)
            else:
                _residual_block(weights, name, expansion, in_planes, planes, stride)
            in_planes = planes * expansion
    _pooled(weights, "pool", config, in_planes * (config.feat_dim // (16 if config.block == "inverted" else 8)))
    if config.two_emb_layer:
        weights.norm("seg_bn_1", config.embed_dim, affine=False)
        weights.layer("seg_2", config.embed_dim, config.embed_dim, bias=True)
    return weights


def _pooled(weights: _Weights, name: str, config: Any, width: int, layer: str = "seg_1", context: int = 1) -> None:
    """WeSpeaker's pooling of frames `width` wide, and the linear layer after it."""
    if config.pooling_func in ("ASTP", "ASP"):
        if config.pooling_func == "ASP":
            weights.norm(f"{name}.norm", 128)
        weights.layer(f"{name}.linear1", 128, context * width, 1, bias=True)
        weights.layer(f"{name}.linear2", width, 128, 1, bias=True)
    heads, queries = {"MHASTP": (2, [f"{name}."]), "MQMHASTP": (8, [f"{name}.n_query.{i}." for i in (0, 1)])}.get(
        config.pooling_func, (1, [])
    )
    for query in queries:
        for i in range(heads):
            head = f"{query}heads_att_trans.{i}.att"
            weights.layer(f"{head}_0", 64, width // heads, 1, bias=True)
            weights.layer(f"{head}_1", 1 if heads == 2 else width // heads, 64, 1, bias=True)
    values = {"TAP": 1, "TSDP": 1, "MQMHASTP": 4}.get(config.pooling_func, 2)
    if layer == "linear":
        weights.norm("bn", values * width)
    weights.layer(layer, config.embed_dim, values * width, *[1] * layer.startswith("xvector"), bias=layer[0] != "x")


def _residual_block(weights: _Weights, name: str, expansion: int, in_planes: int, planes: int, stride: int) -> None:
    out = planes * expansion
    convolutions = (
        [(planes, in_planes, 3, 3), (planes, planes, 3, 3)]
        if expansion == 1
        else [(planes, in_planes, 1, 1), (planes, planes, 3, 3), (out, planes, 1, 1)]
    )
    for k, shape in enumerate(convolutions, 1):
        weights.layer(f"{name}.conv{k}", *shape)
        weights.norm(f"{name}.bn{k}", shape[0])
    if stride != 1 or in_planes != out:
        weights.layer(f"{name}.shortcut.0", out, in_planes, 1, 1)
        weights.norm(f"{name}.shortcut.1", out)


def _res2net_block(weights: _Weights, name: str, in_planes: int, planes: int, stride: int) -> None:
    width = planes // 2
    _pointwise(weights, f"{name}.conv1", f"{name}.bn1", 2 * width, in_planes)
    weights.layer(f"{name}.convs.0", width, width, 3, 3)
    weights.norm(f"{name}.bns.0", width)
    _pointwise(weights, f"{name}.conv3", f"{name}.bn3", 2 * planes, 2 * width)
    if stride != 1 or in_planes != 2 * planes:
        _pointwise(weights, f"{name}.shortcut.0", f"{name}.shortcut.1", 2 * planes, in_planes)


def _inverted_bottleneck(weights: _Weights, name: str, channels: int) -> None:
    _pointwise(weights, f"{name}.conv1", f"{name}.bn1", 4 * channels, channels)
    weights.layer(f"{name}.conv2", 4 * channels, 1, 3, 3)
    weights.norm(f"{name}.bn2", 4 * channels)
    _pointwise(weights, f"{name}.conv3", f"{name}.bn3", channels, 4 * channels)


def _campplus(config: Any, weights: _Weights) -> _Weights:
    _campplus_head(weights)
    channels, growth = config.init_channels, config.growth_rate
    width = config.bn_size * growth
    weights.layer("xvector.tdnn.linear", channels, HEAD_CHANNELS * config.feat_dim // 8, 5)
    weights.norm("xvector.tdnn.nonlinear.batchnorm", channels)
    for block, count in enumerate(CAMPPLUS_LAYERS, 1):
        for i in range(1, count + 1):
            name = f"xvector.block{block}.tdnnd{i}"
            weights.norm(f"{name}.nonlinear1.batchnorm", channels)
            weights.layer(f"{name}.linear1", width, channels, 1)
            weights.norm(f"{name}.nonlinear2.batchnorm", width)
            weights.layer(f"{name}.cam_layer.linear_local", growth, width, 3)
            weights.layer(f"{name}.cam_layer.linear1", width // 2, width, 1, bias=True)
            weights.layer(f"{name}.cam_layer.linear2", growth, width // 2, 1, bias=True)
            channels += growth
        weights.norm(f"xvector.transit{block}.nonlinear.batchnorm", channels)
        weights.layer(f"xvector.transit{block}.linear", channels // 2, channels, 1)
        channels //= 2
    weights.norm("xvector.out_nonlinear.batchnorm", channels)
    _pooled(weights, "pool", config, channels, "xvector.dense.linear")
    weights.norm("xvector.dense.nonlinear.batchnorm", config.embed_dim, affine=False)
    return weights


def _campplus_head(weights: _Weights) -> None:
    width = HEAD_CHANNELS
    weights.layer("head.conv1", width, 1, 3, 3)
    weights.norm("head.bn1", width)
    for name in ("head.layer1.0", "head.layer1.1", "head.layer2.0", "head.layer2.1"):
        for k in (1, 2):
            weights.layer(f"{name}.conv{k}", width, width, 3, 3)
            weights.norm(f"{name}.bn{k}", width)
        if name.endswith("0"):
            weights.layer(f"{name}.shortcut.0", width, width, 1, 1)
            weights.norm(f"{name}.shortcut.1", width)
    weights.layer("head.conv2", width, width, 3, 3)
    weights.norm("head.bn2", width)


def _ecapa(config: Any, weights: _Weights) -> _Weights:
    """Under SpeechBrain's names, which wrap each layer once more; a language classifier's follow `classifier.`."""
    width, last, chunk = config.channels[0], config.channels[-1], config.channels[0] // config.res2net_scale
    _tdnn(weights, "blocks.0", width, config.feat_dim, config.kernel_sizes[0])
    for i, kernel in enumerate(config.kernel_sizes[1:-1], 1):
        _tdnn(weights, f"blocks.{i}.tdnn1", width, width, 1)
        for k in range(config.res2net_scale - 1):
            _tdnn(weights, f"blocks.{i}.res2net_block.blocks.{k}", chunk, chunk, kernel)
        _tdnn(weights, f"blocks.{i}.tdnn2", width, width, 1)
        weights.layer(f"blocks.{i}.se_block.conv1.conv", config.se_channels, width, 1, bias=True)
        weights.layer(f"blocks.{i}.se_block.conv2.conv", width, config.se_channels, 1, bias=True)
    inner = width * (len(config.channels) - 2)
    _tdnn(weights, "mfa", last, inner, config.kernel_sizes[-1], norm=config.aggregation_norm)
    context = last * (3 if config.global_context else 1)
    if config.pooling_func == "ASTP":
        _tdnn(weights, "asp.tdnn", config.attention_channels, context, 1, norm=config.aggregation_norm)
        weights.layer("asp.conv.conv", last, config.attention_channels, 1, bias=True)
        weights.norm("asp_bn.norm", 2 * last)
        weights.layer("fc.conv", config.embed_dim, 2 * last, 1, bias=True)
    else:  # of WeSpeaker
        _pooled(weights, "asp", config, last, "fc.conv")
        weights.norm("asp_bn.norm", weights["fc.conv.weight"].shape[1])
        weights["fc.conv.weight"] = weights["fc.conv.weight"][..., None]
    if config.id2label is not None:
        neurons = config.classifier_neurons
        weights.norm("classifier.norm.norm", config.embed_dim)
        weights.layer("classifier.DNN.block_0.linear.w", neurons, config.embed_dim, bias=True)
        weights.norm("classifier.DNN.block_0.norm.norm", neurons)
        weights.layer("classifier.out.w", len(config.id2label), neurons, bias=True)
    return weights


def _tdnn(weights: _Weights, name: str, out: int, inner: int, kernel: int, norm: bool = True) -> None:
    weights.layer(f"{name}.conv.conv", out, inner, kernel, bias=True)
    if norm:
        weights.norm(f"{name}.norm.norm", out)


def _eres2net(config: Any, weights: _Weights) -> _Weights:
    """Under 3D-Speaker's names."""
    in_planes, sizes = config.m_channels, []
    weights.layer("conv1", in_planes, 1, 3, 3)
    weights.norm("bn1", in_planes)
    for stage, count in enumerate(config.num_blocks):
        planes = config.m_channels * 2**stage
        width, out = planes * config.base_width // 64, planes * config.expansion
        for i in range(count):
            name = f"layer{stage + 1}.{i}"
            _pointwise(weights, f"{name}.conv1", f"{name}.bn1", width * config.scale, in_planes)
            for k in range(config.scale):
                weights.layer(f"{name}.convs.{k}", width, width, 3, 3)
                weights.norm(f"{name}.bns.{k}", width)
                if k and stage > 1:
                    _fusion(weights, f"{name}.fuse_models.{k - 1}", width)
            _pointwise(weights, f"{name}.conv3", f"{name}.bn3", out, width * config.scale)
            if (stage and not i) or in_planes != out:
                _pointwise(weights, f"{name}.shortcut.0", f"{name}.shortcut.1", out, in_planes)
            in_planes = out
        sizes.append(out)
    names = {1: ("layer1_downsample", "fuse_mode12"), 2: ("layer2_downsample", "fuse_mode123")}
    names[3] = ("layer3_downsample", "fuse_mode1234")
    for stage, (down, fuse) in ({3: ("layer3_ds", "fuse34")} if config.variant == "ERes2NetV2" else names).items():
        weights.layer(down, sizes[stage], sizes[stage - 1], 3, 3)
        _fusion(weights, fuse, sizes[stage])
    _pooled(weights, "pool", config, in_planes * (config.feat_dim // 8))
    if config.two_emb_layer:
        weights.norm("seg_bn_1", config.embed_dim, affine=False)
        weights.layer("seg_2", config.embed_dim, config.embed_dim, bias=True)
    return weights


def _pointwise(weights: _Weights, layer: str, norm: str, out: int, inner: int, bias: bool = False) -> None:
    weights.layer(layer, out, inner, 1, 1, bias=bias)
    weights.norm(norm, out)


def _fusion(weights: _Weights, name: str, channels: int) -> None:
    name = f"{name}.local_att"
    _pointwise(weights, f"{name}.0", f"{name}.1", channels // 4, 2 * channels, bias=True)
    _pointwise(weights, f"{name}.3", f"{name}.4", channels, channels // 4, bias=True)


def _xvector(config: Any, weights: _Weights) -> _Weights:
    """Under SpeechBrain's names: convolution, activation and BatchNorm of a layer are numbered one by one."""
    inner, i = config.feat_dim, 0
    for out, kernel in zip(config.channels, config.kernel_sizes, strict=True):
        weights.layer(f"blocks.{i}.conv", out, inner, kernel, bias=True)
        weights.norm(f"blocks.{i + 2}.norm", out)
        inner, i = out, i + 3
    weights.layer(f"blocks.{i + 1}.w", config.embed_dim, 2 * inner, bias=True)
    return weights


def _se_resnet(config: Any, weights: _Weights) -> _Weights:
    inner = config.channels[0]
    weights.layer("conv1", inner, 1, 3, 3)
    weights.norm("bn1", inner)
    for stage, (out, count) in enumerate(zip(config.channels, config.block_sizes, strict=True)):
        for i in range(count):
            name, stride = f"layer{stage + 1}.{i}", 1 if i else config.strides[stage]
            weights.norm(f"{name}.bn1", inner)
            weights.layer(f"{name}.conv1", out, inner, 3, 3)
            weights.norm(f"{name}.bn2", out)
            weights.layer(f"{name}.conv2", out, out, 3, 3)
            weights.norm(f"{name}.bn3", out)
            weights.layer(f"{name}.conv3", out, out, 1, 1)
            if stage < 2:
                weights.layer(f"{name}.se.fc.0", out, out, bias=True)
                weights.layer(f"{name}.se.fc.2", out, out, bias=True)
            if stride != 1 or inner != out:
                _pointwise(weights, f"{name}.downsample.0", f"{name}.downsample.1", out, inner)
            inner = out
    pooled = inner * config.rows
    weights.layer("attention.0", 128, pooled, 1, bias=True)
    weights.norm("attention.2", 128)
    weights.layer("attention.3", pooled, 128, 1, bias=True)
    weights.norm("norm_stats", 2 * pooled)
    weights.layer("fc_embed", config.embed_dim, 2 * pooled, bias=True)
    weights.norm("norm_embed", config.embed_dim)
    return weights


def _redimnet(config: Any, weights: _Weights) -> _Weights:
    """Under IDRnD's names."""
    if config.is_redimnet2:
        return _redimnet2(config, weights)
    width, channels = config.width, config.C
    weights.layer("backbone.stem.0", channels, 1, 3, 3, bias=True)
    _layer_norm(weights, "backbone.stem.1", channels)
    weights["backbone.stage0.0.w"] = np.ones((1, 1, 1, 1), np.float32)
    for i, stage in enumerate(config.stages_setup):
        name, inner, k = f"backbone.stage{i}", channels * stage.stride, 3
        wide = inner * stage.conv_exp
        if i:
            weights[f"{name}.0.w"] = weights.rng.standard_normal((1, i + 1, width, 1)).astype(np.float32)
        weights.layer(f"{name}.2", wide, channels, stage.stride, 1, bias=True)
        for _ in range(stage.num_blocks):
            _redimnet_block(weights, f"{name}.{k}.conv_block", config, wide, config.rows(i))
            k += 1
        if stage.conv_exp != 1:
            weights.layer(f"{name}.{k}.0", inner, wide // (inner // config.group_divisor), 3, 3, bias=True)
            weights.norm(f"{name}.{k}.1", inner)
            weights.layer(f"{name}.{k}.3", inner, inner, 1, 1, bias=True)
            k += 1
        if stage.att_block_red is not None:
            _time_context(weights, f"{name}.{k + 1}", width, width // stage.att_block_red)
        channels = inner
    weights["backbone.fin_wght1d.w"] = weights.rng.standard_normal((1, i + 2, width, 1)).astype(np.float32)
    out = width
    if config.out_channels is not None:
        out = config.out_channels
        weights.layer("backbone.mfa.0", out, width, 1, bias=True)
        weights.norm("backbone.mfa.1", out)
    _pooled(weights, "pool", config, out, "linear", context=3 if config.global_context_att else 1)
    if config.two_emb_layer:
        weights.norm("seg_bn_1", config.embed_dim, affine=False)
        weights.layer("seg_2", config.embed_dim, config.embed_dim, bias=True)
    return weights


def _redimnet2(config: Any, weights: _Weights) -> _Weights:
    """Under PalabraAI's names."""
    width, channels, step, outputs = config.width, config.C, 1, 1
    weights.layer("backbone.stem.0", channels, 1, 3, 3, bias=True)
    _layer_norm(weights, "backbone.stem.1", channels)
    if config.agg_gnorm:
        _layer_norm(weights, "backbone.stem_gnorm", width)
    for i, stage in enumerate(config.stages_setup):
        split = config.dual_agg and stage.att_block_red is not None
        name, inner, k = f"backbone.stage{i}" + ("_pre" if split else ""), channels * stage.stride, 3
        wide, step = int(inner * stage.conv_exp), step * stage.time_stride
        shares = weights.rng.standard_normal((1, outputs, width, 1)).astype(np.float32)
        weights[f"{name}.0.w"] = shares if i else np.ones((1, 1, 1, 1), np.float32)
        weights.layer(f"{name}.2", wide, channels // math.gcd(channels, wide), stage.stride, step, bias=True)
        for _ in range(stage.num_blocks):
            _redimnet_block(weights, f"{name}.{k}.conv_block", config, wide, config.rows(i), stage.kernel_size)
            k += 1
        if stage.conv_exp != 1:
            weights.layer(f"{name}.{k}.0", inner, wide, 1, 1, bias=True)
            weights.norm(f"{name}.{k}.1", inner)
            k += 1
        if stage.att_block_red is not None:
            context = f"backbone.stage{i}_1d" if split else f"{name}.{k + 1}"
            _time_context(weights, context, width, width // stage.att_block_red)
            k += 1
        if config.agg_gnorm:
            ends = [f"backbone.stage{i}_up_{kind}.1" for kind in ("2d", "1d")] if split else [f"{name}.{k + 2}"]
            for end in ends:
                _layer_norm(weights, end, width)
        channels, outputs = inner, outputs + (2 if split else 1)
    weights["backbone.fin_wght1d.w"] = weights.rng.standard_normal((1, outputs, width, 1)).astype(np.float32)
    out = width
    if config.out_channels is not None:
        image = config.return_2d_output
        out = config.out_channels * (config.rows(i) if image else 1)
        sizes = (channels, 1, 1) if image else (width, 1)
        weights.layer("backbone.head", config.out_channels, *sizes, bias=True)
    _pooled(weights, "pool", config, out, "linear", context=3 if config.global_context_att else 1)
    return weights


def _redimnet_block(
    weights: _Weights, name: str, config: Any, channels: int, rows: int, kernel: Sequence[int] = (3, 3)
) -> None:
    inner = channels // (channels // config.group_divisor)
    if config.block_2d_type == "convnext_like":
        weights.layer(f"{name}.dwconvs.0", channels, inner, *kernel, bias=True)
        weights.norm(f"{name}.norm", channels)
        weights.layer(f"{name}.pwconv1", channels, channels, 1, 1, bias=True)
        return
    for i in (1, 2):
        weights.layer(f"{name}.conv{i}", channels, inner, 3, 3)
        weights.layer(f"{name}.conv{i}pw", channels, channels, 1, 1, bias=True)
        weights.norm(f"{name}.bn{i}", channels)
    if config.block_2d_type.endswith("fwse"):
        hidden = min(64, max(channels, 32))
        weights.layer(f"{name}.se.squeeze", hidden, rows, bias=True)
        weights.layer(f"{name}.se.exitation", rows, hidden, bias=True)


def _time_context(weights: _Weights, name: str, channels: int, width: int) -> None:
    weights.layer(f"{name}.red_dim_conv.0", width, channels, 1, bias=True)
    _layer_norm(weights, f"{name}.red_dim_conv.1", width)
    for i, kernel in enumerate((7, 19, 31, 59)):
        weights.layer(f"{name}.tcm.{i}.dwconvs.0", width, 1, kernel, bias=True)
        weights.norm(f"{name}.tcm.{i}.norm", width)
        weights.layer(f"{name}.tcm.{i}.pwconv1", width, width, 1, bias=True)
    for part in ("attention.k_proj", "attention.v_proj", "attention.q_proj", "attention.out_proj"):
        weights.layer(f"{name}.tcm.4.{part}", width, width, bias=True)
    _layer_norm(weights, f"{name}.tcm.4.layer_norm", width)
    weights.layer(f"{name}.tcm.4.feed_forward.intermediate_dense", width, width, bias=True)
    weights.layer(f"{name}.tcm.4.feed_forward.output_dense", width, width, bias=True)
    _layer_norm(weights, f"{name}.tcm.4.final_layer_norm", width)
    weights.layer(f"{name}.exp_dim_conv", channels, width, 1, bias=True)


def _layer_norm(weights: _Weights, name: str, channels: int) -> None:
    weights[f"{name}.weight"] = weights.rng.uniform(0.5, 1.5, channels).astype(np.float32)
    weights[f"{name}.bias"] = (weights.rng.standard_normal(channels) * 0.1).astype(np.float32)


def wespeaker_ecapa(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of an ECAPA-TDNN as WeSpeaker has them: its names, and two axes where it has a linear layer."""
    renamed = {}
    for name, x in weights.items():
        new = name
        for pattern, replacement in WESPEAKER_NAMES:
            new = re.sub(pattern, replacement, new)
        linear = new.startswith("linear.") or ".3.linear" in new
        renamed[new] = x[..., 0] if linear and x.ndim == 3 else x
    return renamed
