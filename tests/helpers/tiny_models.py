"""Small models of every family and variant, and their source checkpoints on disk, from seeded random weights."""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import yaml
from signals import voices
from source_weights import source_weights, wespeaker_ecapa
from speech_zoo_campplus import ModelConfig as CamPlusConfig
from speech_zoo_core import registry
from speech_zoo_core.audio.front_end import SPEECHBRAIN, THREE_D_SPEAKER, WESPEAKER
from speech_zoo_core.loader import build
from speech_zoo_core.pooling import PoolingName
from speech_zoo_ecapa_tdnn import ModelConfig as EcapaConfig
from speech_zoo_ecapa_tdnn import proxy_config
from speech_zoo_eres2net import ModelConfig as ERes2NetConfig
from speech_zoo_redimnet import ModelConfig as ReDimNetConfig
from speech_zoo_redimnet.model import Stage
from speech_zoo_resnet34 import ModelConfig as ResNetConfig
from speech_zoo_se_resnet import ModelConfig as SEResNetConfig
from speech_zoo_xvector import ModelConfig as XVectorConfig
from speechbrain_files import write_folder
from torch_files import save_zip, state_dict

RATE = 16000

RESNET = ResNetConfig(
    model_type="resnet34",
    embed_dim=8,
    front_end=replace(WESPEAKER, n_mels=16),
    block="basic",
    num_blocks=[3, 4, 6, 3],
    m_channels=2,
    feat_dim=16,
    threshold=0.3,
)
CAMPPLUS = CamPlusConfig(
    model_type="campplus",
    embed_dim=8,
    front_end=replace(WESPEAKER, n_mels=16),
    feat_dim=16,
    growth_rate=4,
    bn_size=2,
    init_channels=16,
    pool_eps=1e-7,
    threshold=0.3,
)
ECAPA = EcapaConfig(
    model_type="ecapa_tdnn",
    embed_dim=8,
    front_end=replace(SPEECHBRAIN, n_mels=16),
    feat_dim=16,
    channels=[32, 32, 32, 32, 48],
    attention_channels=8,
    se_channels=8,
    threshold=0.25,
)
LABELS = ("en: English", "sw: Swahili", "iw: Hebrew", "jw: Javanese", "zh: Chinese", "nn: Norwegian Nynorsk")
LID = replace(
    ECAPA,
    task="language-identification",
    threshold=None,
    classifier_neurons=12,
    id2label={str(i): label for i, label in enumerate(LABELS)},
)
ECAPA_WESPEAKER = replace(
    ECAPA,
    front_end=replace(WESPEAKER, n_mels=16),
    padding="zeros",
    res2net_skip="last",
    aggregation_norm=False,
    moments="raw",
    threshold=0.3,
)
ERES2NET = ERes2NetConfig(
    model_type="eres2net",
    embed_dim=8,
    front_end=replace(THREE_D_SPEAKER, n_mels=16),
    variant="ERes2Net",
    num_blocks=[1, 2, 1, 2],
    m_channels=4,
    base_width=32,
    scale=2,
    expansion=2,
    feat_dim=16,
    threshold=0.365,
)
XVECTOR = XVectorConfig(
    model_type="xvector",
    embed_dim=8,
    front_end=replace(SPEECHBRAIN, n_mels=16),
    feat_dim=16,
    channels=[32, 32, 32, 32, 48],
    threshold=0.25,
)
SE_RESNET = SEResNetConfig(
    model_type="se_resnet",
    embed_dim=8,
    front_end=replace(SPEECHBRAIN, n_mels=16),
    feat_dim=16,
    channels=[4, 4, 8, 8],
    block_sizes=[1, 2, 1, 1],
    threshold=0.25,
)
REDIMNET = ReDimNetConfig(
    model_type="redimnet",
    embed_dim=8,
    front_end=replace(WESPEAKER, n_mels=16),
    feat_dim=16,
    C=4,
    block_2d_type="convnext_like",
    group_divisor=2,
    stages_setup=[
        Stage(stride=1, num_blocks=1, att_block_red=8),
        Stage(stride=2, num_blocks=2, conv_exp=2),
        Stage(stride=2, num_blocks=1, att_block_red=4),
    ],
    threshold=0.3,
)
REDIMNET2 = replace(
    REDIMNET,
    variant="ReDimNet2",
    stages_setup=[
        Stage(stride=1, num_blocks=1, conv_exp=2, att_block_red=8, kernel_size=[3, 5]),
        Stage(stride=2, num_blocks=2, time_stride=2, kernel_size=[5, 7]),
        Stage(stride=2, num_blocks=1, conv_exp=0.5, att_block_red=4, time_stride=2),
    ],
    out_channels=24,
)
REDIMNET2_IMAGE = replace(
    REDIMNET2,
    block_2d_type="basic_resnet",
    stages_setup=[replace(stage, kernel_size=[3, 3]) for stage in REDIMNET2.stages_setup],
    out_channels=6,
    return_2d_output=True,
    agg_gnorm=True,
    dual_agg=True,
)
POOLINGS: tuple[PoolingName, ...] = ("ASTP", "TAP", "TSDP", "MHASTP", "MQMHASTP")
PROXY = proxy_config(input_dim=24, embed_dim=8, channels=16)
CONFIGS: dict[str, Any] = {
    "basic": replace(RESNET, num_blocks=[1, 2, 1, 1]),
    "bottleneck": replace(RESNET, block="bottleneck", num_blocks=[1, 1, 2, 1]),
    "two_emb_layer": replace(RESNET, num_blocks=[1, 1, 1, 1], two_emb_layer=True),
    "square": replace(RESNET, num_blocks=[1, 1, 1, 1], m_channels=3),  # 3x3 convolutions of 3 channels
    **{f"basic_{name.lower()}": replace(RESNET, num_blocks=[1, 1, 1, 1], pooling_func=name) for name in POOLINGS},
    "simam": replace(RESNET, block="simam", num_blocks=[1, 2, 1, 1], pooling_func="ASP"),
    "res2net": replace(RESNET, block="res2net", num_blocks=[1, 2, 1, 1], two_emb_layer=True),
    "inverted": replace(RESNET, block="inverted", num_blocks=[1, 2, 1, 1]),
    "campplus": CAMPPLUS,
    "campplus_mqmhastp": replace(CAMPPLUS, pooling_func="MQMHASTP"),
    "campplus_3dspeaker": replace(
        CAMPPLUS, feat_dim=80, front_end=THREE_D_SPEAKER, init_channels=32, growth_rate=8, pool_eps=0.0
    ),
    "ecapa_speechbrain": ECAPA,
    "ecapa_square": replace(ECAPA, channels=[24, 24, 24, 24, 16]),  # in Res2Net, three taps of 3 channels
    "ecapa_lid": LID,
    "ecapa_wespeaker": ECAPA_WESPEAKER,
    "ecapa_wespeaker_plain": replace(ECAPA_WESPEAKER, global_context=False),
    "ecapa_mhastp": replace(ECAPA_WESPEAKER, pooling_func="MHASTP", global_context=False),
    "ecapa_tsdp": replace(ECAPA_WESPEAKER, pooling_func="TSDP", global_context=False),
    "eres2net": ERES2NET,
    "eres2net_two_emb_layer": replace(ERES2NET, scale=3, expansion=4, two_emb_layer=True),
    "eres2netv2": replace(ERES2NET, variant="ERes2NetV2", m_channels=8, base_width=26),
    "eres2net_tap": replace(ERES2NET, pooling_func="TAP", pool_eps=1e-7),
    "xvector": XVECTOR,
    "se_resnet": SE_RESNET,
    "redimnet": REDIMNET,
    "redimnet_resnet": replace(REDIMNET, block_2d_type="basic_resnet", group_divisor=1, two_emb_layer=True),
    "redimnet_fwse": replace(
        REDIMNET, block_2d_type="basic_resnet_fwse", out_channels=24, global_context_att=False, group_divisor=4
    ),
    "redimnet_tstp": replace(REDIMNET, pooling_func="TSTP", global_context_att=False),
    "redimnet2": REDIMNET2,
    "redimnet2_image": REDIMNET2_IMAGE,
    "redimnet2_plain": replace(REDIMNET2_IMAGE, out_channels=None, dual_agg=False, group_divisor=1),
    "speaker_proxy": PROXY,
}
AUDIO = [name for name, config in CONFIGS.items() if config.front_end is not None]
SPEAKERS = [name for name in AUDIO if CONFIGS[name].task == "speaker-embedding"]


@cache
def tiny_source(name: str) -> dict[str, np.ndarray]:
    """The source tensors of one of CONFIGS; copy before changing."""
    return source_weights(CONFIGS[name])


@cache
def tiny_model(name: str) -> Any:
    """The model of one of CONFIGS, loaded from its source tensors; do not change it."""
    return model_of(CONFIGS[name], tiny_source(name))


def model_of(config: Any, weights: dict[str, np.ndarray]) -> Any:
    return build(registry.get(config.model_type), config, to_mx(weights), "the weights")


def to_mx(weights: dict[str, np.ndarray]) -> dict[str, mx.array]:
    return {name: mx.array(x) for name, x in weights.items()}


def voice(n: int, seed: int = 0) -> np.ndarray:
    """`n` samples at 16 kHz of somebody who speaks without a pause, over and over; another voice for another seed."""
    clip = voices()[f"voice {(8, 5, 6)[seed % 3]:02}"][4000:-4000]
    return np.resize(np.roll(clip, -7919 * seed), n)


def noise(n: int, seed: int = 0) -> np.ndarray:
    """`n` samples of noise, for which tiny models give moderate scores; with `vad=False` or `all_is_speech`."""
    return (np.random.default_rng(seed).standard_normal(n) * 0.1).astype(np.float32)


def wespeaker_yaml(config: Any, model: str) -> dict[str, Any]:
    """The `config.yaml` that WeSpeaker's training writes."""
    front_end = config.front_end
    more: dict[str, Any] = {"pooling_func": config.pooling_func}
    if config.model_type == "resnet34":
        more["two_emb_layer"] = config.two_emb_layer
    if config.model_type == "ecapa_tdnn":
        more = {"pooling_func": config.pooling_func, "channels": config.channels[0]}
    return {
        "model": model,
        "model_args": {"feat_dim": config.feat_dim, "embed_dim": config.embed_dim} | more,
        "dataset_args": {
            "cmvn": True,
            "cmvn_args": {"norm_mean": True, "norm_var": False},
            "resample_rate": front_end.sample_rate,
            "fbank_args": {
                "num_mel_bins": front_end.n_mels,
                "frame_length": int(front_end.frame_length),
                "frame_shift": int(front_end.frame_shift),
                "dither": 1.0,
            },
            "speed_perturb": True,
        },
        "seed": 42,
    }


@cache
def _avg_model(family: str) -> bytes:
    """The `avg_model.pt` of one of TINY."""
    with tempfile.TemporaryDirectory() as folder:
        weights = source_weights(TINY[family], projection=True)
        named = wespeaker_ecapa(weights) if TINY[family] is ECAPA_WESPEAKER else weights
        return save_zip(Path(folder) / "avg_model.pt", state_dict(named)).read_bytes()


TINY = {"resnet34": RESNET, "campplus": CAMPPLUS, "ecapa_tdnn": ECAPA_WESPEAKER}  # published in WeSpeaker's form
WESPEAKER_NAMES = {"resnet34": "ResNet34", "campplus": "CAMPPlus", "ecapa_tdnn": "ECAPA_TDNN_GLOB_c512"}


def wespeaker_folder(
    folder: Path, config: Any, weights: dict[str, np.ndarray] | None = None, settings: Any = None
) -> Path:
    """`avg_model.pt` and `config.yaml`; `settings` replaces the usual ones, as data or as text."""
    folder.mkdir(parents=True, exist_ok=True)
    if weights is not None:
        save_zip(folder / "avg_model.pt", state_dict(weights))
    elif config == TINY[config.model_type]:
        (folder / "avg_model.pt").write_bytes(_avg_model(config.model_type))
    else:
        weights = source_weights(config, projection=True)
        named = wespeaker_ecapa(weights) if config.model_type == "ecapa_tdnn" else weights
        save_zip(folder / "avg_model.pt", state_dict(named))
    if settings is None:
        settings = wespeaker_yaml(config, WESPEAKER_NAMES[config.model_type])
    text = settings if isinstance(settings, str) else yaml.safe_dump(settings)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return folder


HYPERPARAMS = """\
# ################################
# Pretrained: ECAPA-TDNN
# ################################

pretrained_path: org/tiny
sample_rate: 16000
n_mels: {mels}
emb_dim: {dim}
out_n_neurons: {classes}

compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>

mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: {channels}
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: {attention}
    lin_neurons: !ref <emb_dim>

{classifier}
mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False

modules:
    compute_features: !ref <compute_features>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>

label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""
SPEAKER_CLASSIFIER = """\
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: !ref <emb_dim>
    out_neurons: !ref <out_n_neurons>
"""
LANGUAGE_CLASSIFIER = """\
classifier: !new:speechbrain.lobes.models.Xvector.Classifier
    input_shape: [null, null, !ref <emb_dim>]
    activation: !name:torch.nn.LeakyReLU
    lin_blocks: 1
    lin_neurons: {neurons}
    out_neurons: !ref <out_n_neurons>
"""


FEATURES = """\
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: {feat_dim}

mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
"""
SPEECHBRAIN_MODELS = {
    "xvector": f"""{FEATURES}
embedding_model: !new:speechbrain.lobes.models.Xvector.Xvector
    in_channels: {{feat_dim}}
    activation: !name:torch.nn.LeakyReLU
    tdnn_blocks: 5
    tdnn_channels: {{channels}}
    tdnn_kernel_sizes: {{kernel_sizes}}
    tdnn_dilations: {{dilations}}
    lin_neurons: {{embed_dim}}
""",
    "se_resnet": f"""{FEATURES}
embedding_model: !new:speechbrain.lobes.models.ResNet.ResNet
    input_size: {{feat_dim}}
    channels: {{channels}}
    strides: {{strides}}
    block_sizes: {{block_sizes}}
    lin_neurons: {{embed_dim}}
""",
}


def hyperparams(config: Any) -> str:
    """The `hyperparams.yaml` that SpeechBrain publishes."""
    if config.model_type != "ecapa_tdnn":
        return SPEECHBRAIN_MODELS[config.model_type].format_map(vars(config))
    lid = config.id2label is not None
    return HYPERPARAMS.format(
        mels=config.feat_dim,
        dim=config.embed_dim,
        classes=len(config.id2label) if lid else 20,
        channels=config.channels,
        attention=config.attention_channels,
        classifier=LANGUAGE_CLASSIFIER.format(neurons=config.classifier_neurons) if lid else SPEAKER_CLASSIFIER,
    )


def speechbrain_folder(folder: Path, config: Any, weights: dict[str, np.ndarray] | None = None) -> Path:
    """What SpeechBrain publishes: two `.ckpt`, `hyperparams.yaml`, `label_encoder.txt` and a `config.json`."""
    weights = source_weights(config) if weights is None else weights
    names = {name: name if name.startswith("classifier.") else f"embedding_model.{name}" for name in weights}
    classes = getattr(config, "id2label", None)
    tensors = {"classifier.weight": np.ones((20, config.embed_dim), np.float32)} if not classes else {}
    tensors |= {names[name]: x for name, x in weights.items()}
    labels = list(classes.values()) if classes else [f"id{i:05}" for i in range(20)]
    write_folder(folder, hyperparams(config), tensors, lambda path, part: save_zip(path, state_dict(part)), labels)
    (folder / "config.json").write_text('{"speechbrain_interface": "EncoderClassifier"}', encoding="utf-8")
    return folder


def proxy_file(path: Path, weights: dict[str, np.ndarray] | None = None, **changes: Any) -> Path:
    """A speaker proxy as it is published; `changes` are other values of its `config`, None leaves a value out."""
    settings = {
        "input_dim": PROXY.feat_dim,
        "embed_dim": PROXY.embed_dim,
        "channels": PROXY.channels[0],
        "num_blocks": len(PROXY.channels) - 2,
    }
    settings = {key: value for key, value in (settings | changes).items() if value is not None}
    tensors = state_dict(source_weights(PROXY) if weights is None else weights)
    return save_zip(path, {"model_state_dict": tensors, "config": settings, "epoch": 140, "val_separation": 0.8141})
