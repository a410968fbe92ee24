"""Seeded random weights in the form that the originals have: what `speech-zoo bench` and the tests convert and load.

Names and shapes are those of WeSpeaker's ResNet, of CAM++ (3D-Speaker and WeSpeaker agree on them), of SpeechBrain's
ECAPA-TDNN and of transformers' Wav2Vec2; BatchNorm statistics are random too. Written without PyTorch.
"""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from safetensors.numpy import save_file

RESNET34 = SimpleNamespace(  # WeSpeaker's ResNet34-LM
    model_type="resnet34",
    block="basic",
    num_blocks=[3, 4, 6, 3],
    m_channels=32,
    feat_dim=80,
    embed_dim=256,
    two_emb_layer=False,
)
CAMPPLUS = SimpleNamespace(  # 3D-Speaker's zh-en
    model_type="campplus", feat_dim=80, embed_dim=192, growth_rate=32, bn_size=4, init_channels=128
)
ECAPA = SimpleNamespace(  # speechbrain/spkrec-ecapa-voxceleb
    model_type="ecapa_tdnn",
    feat_dim=80,
    embed_dim=192,
    channels=[1024, 1024, 1024, 1024, 3072],
    kernel_sizes=[5, 3, 3, 3, 1],
    dilations=[1, 2, 3, 4, 1],
    attention_channels=128,
    res2net_scale=8,
    se_channels=128,
    global_context=True,
    aggregation_norm=True,
    id2label=None,
)
MMS = {  # of facebook/mms-lid-256, but for the number of layers
    "hidden_size": 1280,
    "num_attention_heads": 16,
    "intermediate_size": 5120,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
    "classifier_proj_size": 1024,
}
MMS_LAYERS, MMS_CLASSES = 48, 256
# The last BatchNorm of a residual branch.
BRANCH_END = re.compile(r"(layer\d\.\d+\.bn2|blocks\.\d\.tdnn2\.norm\.norm)\.(weight|bias)$")
SHARD_BYTES = 1e9
POS_CONV = "wav2vec2.encoder.pos_conv_embed.conv.weight"
WESPEAKER_CONFIG = """\
model: ResNet34
model_args: {feat_dim: 80, embed_dim: 256, pooling_func: TSTP, two_emb_layer: false}
dataset_args: {fbank_args: {num_mel_bins: 80, frame_length: 25, frame_shift: 10, dither: 1.0}, resample_rate: 16000}
"""
SPEECHBRAIN_HYPERPARAMS = f"""\
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: {ECAPA.feat_dim}
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: {ECAPA.feat_dim}
    channels: {ECAPA.channels}
    kernel_sizes: {ECAPA.kernel_sizes}
    dilations: {ECAPA.dilations}
    attention_channels: {ECAPA.attention_channels}
    lin_neurons: {ECAPA.embed_dim}
"""
CAMPPLUS_LAYERS = (12, 24, 16)
HEAD_CHANNELS = 32


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
        config: of `resnet34`, `campplus` or `ecapa_tdnn`.
        seed: of every number.
        projection: add the layer of the training loss, as WeSpeaker's `avg_model.pt` does.
    """
    families = {"resnet34": _resnet34, "campplus": _campplus, "ecapa_tdnn": _ecapa}
    weights = families[config.model_type](config, _Weights(seed))
    if projection:
        weights.layer("projection", 100, config.embed_dim)
    return dict(weights)


def _resnet34(config: Any, weights: _Weights) -> _Weights:
    expansion = {"basic": 1, "bottleneck": 4}[config.block]
    width = in_planes = config.m_channels
    weights.layer("conv1", width, 1, 3, 3)
    weights.norm("bn1", width)
    for stage, count in enumerate(config.num_blocks):
        planes = width * 2**stage
        for i in range(count):
            stride = 2 if stage and not i else 1
            _residual_block(weights, f"layer{stage + 1}.{i}", expansion, in_planes, planes, stride)
            in_planes = planes * expansion
    weights.layer("seg_1", config.embed_dim, 2 * in_planes * (config.feat_dim // 8), bias=True)
    if config.two_emb_layer:
        weights.norm("seg_bn_1", config.embed_dim, affine=False)
        weights.layer("seg_2", config.embed_dim, config.embed_dim, bias=True)
    return weights


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
    weights.layer("xvector.dense.linear", config.embed_dim, 2 * channels, 1)
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
    _tdnn(weights, "asp.tdnn", config.attention_channels, context, 1, norm=config.aggregation_norm)
    weights.layer("asp.conv.conv", last, config.attention_channels, 1, bias=True)
    weights.norm("asp_bn.norm", 2 * last)
    weights.layer("fc.conv", config.embed_dim, 2 * last, 1, bias=True)
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


def write(model: str, folder: Path, layers: int = MMS_LAYERS) -> Path:
    """The folder of a model of `speech-zoo bench` with seeded weights, as its original is published; made here.

    Args:
        model: "resnet34", "ecapa", "campplus" or "mms".
        folder: does not exist yet.
        layers: of the transformer, for "mms".
    """
    if model == "mms":
        return _write_mms(folder, layers)
    config, file, settings = {
        "resnet34": (RESNET34, "avg_model.safetensors", {"config.yaml": WESPEAKER_CONFIG}),
        "campplus": (CAMPPLUS, "campplus_cn_en_common.safetensors", {}),
        "ecapa": (ECAPA, "embedding_model.safetensors", {"hyperparams.yaml": SPEECHBRAIN_HYPERPARAMS}),
    }[model]
    weights = source_weights(config)
    for name in filter(BRANCH_END.search, weights):  # else activations grow from block to block, beyond float16
        weights[name] *= np.float32(0.25)
    folder.mkdir(parents=True)
    save_file(weights, folder / file, metadata={"format": "pt"})
    for name, text in settings.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _write_mms(folder: Path, layers: int) -> Path:
    """A folder as transformers writes it, in shards, with the shapes of MMS-LID-256 and seeded weights."""
    from speech_zoo_core.audio.front_end import WaveformFrontEnd
    from speech_zoo_core.layers import parameters
    from speech_zoo_wav2vec2_cls import Model, ModelConfig

    labels = {str(i): f"l{i:03}" for i in range(MMS_CLASSES)}
    architecture: dict[str, Any] = {**MMS, "num_hidden_layers": layers}
    config = ModelConfig(
        model_type="wav2vec2_cls",
        task="audio-classification",
        front_end=WaveformFrontEnd(),
        id2label=labels,
        **architecture,
    )
    shapes = {name: value.shape for name, value in parameters(Model(config)).items()}
    out, taps, width = shapes.pop(POS_CONV)
    shapes |= {f"{POS_CONV}_g": (1, 1, taps), f"{POS_CONV}_v": (out, width, taps)}
    shapes["wav2vec2.masked_spec_embed"] = (config.hidden_size,)
    rng = np.random.default_rng(0)
    shard: dict[str, Any] = {}
    weight_map: dict[str, str] = {}
    folder.mkdir(parents=True)

    def flush() -> None:
        file = f"model-{len(set(weight_map.values())) + 1:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
        shard.clear()

    for name, shape in sorted(shapes.items()):
        if ".conv_layers." in name and len(shape) == 3:
            shape = (shape[0], shape[2], shape[1])  # noqa: PLW2901 (PyTorch's layout)
        values = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("_g") or ("norm" in name and name.endswith("weight")):
            shard[name] = 1 + 0.2 * values
        else:
            shard[name] = values * np.float32(0.05 if values.ndim == 1 else 1 / np.sqrt(np.prod(shape[1:])))
        if sum(part.nbytes for part in shard.values()) > SHARD_BYTES:
            flush()
    flush()
    settings = {
        "architectures": ["Wav2Vec2ForSequenceClassification"],
        "model_type": "wav2vec2",
        "id2label": labels,
        **architecture,
    }
    preprocessor = {"do_normalize": True, "return_attention_mask": True, "sampling_rate": 16000}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder
