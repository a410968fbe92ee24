"""ReDimNet and ReDimNet2: the names of WeSpeaker, IDRnD and PalabraAI, settings beside a checkpoint and in it, what is
refused; features.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import yaml
from redimnet2_settings import arguments, palabra_arguments
from speech_zoo_core.audio.front_end import REDIMNET as FEATURES
from speech_zoo_core.audio.front_end import REDIMNET2 as FEATURES_2
from speech_zoo_core.audio.front_end import WESPEAKER, FrontEnd
from speech_zoo_core.errors import CheckpointError, ConfigError, InputError, SpeechZooError
from speech_zoo_core.loader import load
from speech_zoo_redimnet.model import Stage
from speech_zoo_redimnet.oracle import config_of, redimnet2_config_of
from speech_zoo_redimnet.sizes import SIZES, SIZES_2
from tiny_models import CONFIGS, REDIMNET, REDIMNET2, tiny_model, tiny_source, voice
from torch_files import save_zip, state_dict

NAMES = ["redimnet", "redimnet_resnet", "redimnet_fwse"]
NAMES_2 = ["redimnet2", "redimnet2_image", "redimnet2_plain"]


def wespeaker_names(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """IDRnD's tensors as WeSpeaker has them: the shares in a list, no BatchNorm before the embedding."""
    renamed, last = {}, len({name.split(".")[1] for name in weights if name.startswith("backbone.stage")})
    for name, x in weights.items():
        new = re.sub(r"^(backbone\.stage\d+\.)(\d+)(?=\.)", lambda m: f"{m[1]}{int(m[2]) - 2}", name)
        if shares := re.fullmatch(r"backbone\.stage(\d+)\.0\.w", name):
            new = f"backbone.inputs_weights.{shares[1]}"
        new = new.replace("backbone.fin_wght1d.w", f"backbone.inputs_weights.{last}")
        if not name.startswith("bn."):
            renamed[re.sub(r"^linear\.", "seg_1.", new)] = x
    return renamed


def idrnd(path: Path, name: str, **changes: Any) -> Path:
    """IDRnD's file: the tensors and `model_config`; None leaves an entry out."""
    config = CONFIGS[name]
    settings = {
        "F": config.feat_dim,
        "C": config.C,
        "block_1d_type": "conv+att",
        "block_2d_type": config.block_2d_type,
        "stages_setup": [[s.stride, s.num_blocks, s.conv_exp, [[3, 3]], s.att_block_red] for s in config.stages_setup],
        "group_divisor": config.group_divisor,
        "out_channels": config.out_channels,
        "embed_dim": config.embed_dim,
        "num_classes": 5994,
        "feat_type": "pt",
        "global_context_att": config.global_context_att,
        "spec_params": {"do_spec_aug": True, "freq_mask_width": [0, 6]},
    } | changes
    settings = {key: value for key, value in settings.items() if value is not None or key == "out_channels"}
    tensors = dict(tiny_source(name)) | {"cls_head.2.weight": np.ones((3, 8), np.float32)}
    return save_zip(path, {"state_dict": state_dict(tensors), "model_config": settings})


def refusal(path: Path, error: type[SpeechZooError]) -> str:
    with pytest.raises(error) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_idrnd(tmp_path: Path, name: str) -> None:
    config = load(idrnd(tmp_path / "b0-vox2-ft_lm.pt", name)).config
    expected = replace(CONFIGS[name], front_end=replace(FEATURES, n_mels=16))
    assert replace(config, source=None) == expected


@pytest.mark.parametrize("name", NAMES)
def test_wespeaker_without_settings(tmp_path: Path, name: str) -> None:
    path = save_zip(tmp_path / "avg_model.pt", state_dict(wespeaker_names(tiny_source(name))))
    assert replace(load(path).config, source=None) == CONFIGS[name]


@pytest.fixture(scope="module")
def b0() -> dict[str, np.ndarray]:
    from source_weights import source_weights

    return wespeaker_names(source_weights(config_of("B0", feat_dim=60)))


def wespeaker(folder: Path, weights: dict[str, np.ndarray], **args: Any) -> Path:
    save_zip(folder / "avg_model.pt", state_dict(weights))
    settings: dict[str, Any] = {"model": args.pop("model", "ReDimNetB0")}
    settings["model_args"] = {"feat_dim": 60, "embed_dim": 192, "pooling_func": "ASTP", "two_emb_layer": False} | args
    settings["dataset_args"] = {"fbank_args": {"num_mel_bins": 60, "frame_length": 25, "frame_shift": 10}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def test_wespeaker(tmp_path: Path, b0: dict[str, np.ndarray]) -> None:
    config = load(wespeaker(tmp_path, b0)).config
    assert replace(config, source=None) == replace(config_of("B0", feat_dim=60), threshold=0.3)
    assert config.front_end == replace(WESPEAKER, n_mels=60)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"model": "ReDimNetB1"}, "C = 12, the tensors say 10"),
        ({"model": "ReDimNet9"}, "is not in this family (ReDimNetB0 to ReDimNetB6)"),
        ({"embed_dim": 9}, "embed_dim = 9, the tensors say 192"),
        ({"pooling_func": "TSTP"}, "pooling_func = 'TSTP', the tensors say 'ASTP'"),
        ({"dropout": 0.1}, "dropout is not supported"),
    ],
)
def test_settings_that_contradict(tmp_path: Path, b0: dict[str, np.ndarray], args: dict[str, Any], named: str) -> None:
    assert named in refusal(wespeaker(tmp_path, b0, **args), ConfigError)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"F": 72}, "feat_dim = 72, the tensors say 16"),
        ({"group_divisor": 4}, "group_divisor = 4, the tensors say 2"),
        ({"stages_setup": [[1, 1, 1, [[3, 3]], 8]]}, "stages_setup = "),
        ({"feat_type": "tf"}, "feat_type = 'tf' is not supported (only 'pt')"),
        ({"block_1d_type": "att"}, "block_1d_type = 'att' is not supported"),
        ({"hop_length": 80}, "hop_length = 80 is not supported"),
        ({"spec_params": {"norm_signal": True}}, "norm_signal = True is not supported"),
        ({"spec_params": {"eps": 1}}, "eps is not supported"),
        ({"tf_optimized_arch": True}, "tf_optimized_arch = True is not supported"),
        ({"return_2d_output": True}, "return_2d_output is not supported"),
    ],
)
def test_a_model_config_that_contradicts(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    assert named in refusal(idrnd(tmp_path / "b0.pt", "redimnet", **changes), ConfigError)


def test_idrnd_without_its_config(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "b0.pt", state_dict(tiny_source("redimnet")))
    assert "without its model_config, which tells its features" in refusal(path, CheckpointError)


def test_tensors_that_none_has(tmp_path: Path) -> None:
    weights = wespeaker_names(tiny_source("redimnet")) | {"backbone.stage0.9.gru.weight": np.ones(2, np.float32)}
    path = save_zip(tmp_path / "avg_model.pt", state_dict(weights))
    assert "1 tensors that none has: backbone.stage0.11.gru.weight" in refusal(path, CheckpointError)


@pytest.mark.parametrize(
    "changes",
    [
        {"C": 0},
        {"stages_setup": []},
        {"stages_setup": [Stage(stride=3, num_blocks=1)]},
        {"stages_setup": [Stage(stride=1, num_blocks=1, att_block_red=60)]},
        {"group_divisor": 3, "C": 7},
        {"feat_dim": 24},
    ],
    ids=str,
)
def test_configs_that_give_no_model(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(REDIMNET, **changes)


def test_sizes() -> None:
    assert [config_of(size, **({"feat_dim": 60} if size == "B0" else {})).embed_dim for size in SIZES] == [192] * 7


# ReDimNet2


def palabra(path: Path, name: str, **changes: Any) -> Path:
    constants = {"spec.torchfbank.2.melbanks_pt": np.ones((16, 256, 1), np.float32)}
    tensors, settings = dict(tiny_source(name)) | constants, palabra_arguments(CONFIGS[name], **changes)
    return save_zip(path, {"state_dict": state_dict(tensors), "model_config": settings})


def wespeaker_2(folder: Path, name: str, data: dict[str, Any] | None = None, **changes: Any) -> Path:
    features = {"n_mels": 16, "hop_length": 160, "f_max": 7600, "norm_signal": True, "eps": 1e-8}
    settings = {"model": changes.pop("model", "ReDimNet2Custom"), "model_args": arguments(CONFIGS[name], **changes)}
    data = {"frontend": "tfmel", "tfmel_args": features, "resample_rate": 16000, "cmvn": False} | (data or {})
    constants = {"frontend.spec.torchfbank.2.melbanks_pt": np.ones((16, 256, 1), np.float32)}
    save_zip(folder / "avg_model.pt", state_dict(dict(tiny_source(name)) | constants))
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | {"dataset_args": data}))
    return folder


@pytest.mark.parametrize("form", [palabra, wespeaker_2])
@pytest.mark.parametrize("name", NAMES_2)
def test_redimnet2(tmp_path: Path, name: str, form: Any) -> None:
    model = load(form(tmp_path / "b0-vox2-lm.pt" if form is palabra else tmp_path, name))
    assert replace(model.config, source=None) == replace(CONFIGS[name], front_end=replace(FEATURES_2, n_mels=16))


def test_redimnet2_without_settings(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "avg_model.pt", state_dict(tiny_source("redimnet2")))
    assert load(path).config.front_end == replace(FEATURES_2, n_mels=16)
    constants = {"spec.torchfbank.2.melbanks_pt": np.ones((16, 256, 1), np.float32)}
    path = save_zip(tmp_path / "b0.pt", state_dict(dict(tiny_source("redimnet2")) | constants))
    assert "without its model_config, which tells its features" in refusal(path, CheckpointError)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"F": 72}, "feat_dim = 72, the tensors say 16"),
        ({"stages_setup": [[1, 1, 1, [[3, 3]], 8]]}, "stages_setup = "),
        ({"feat_type": "pt"}, "feat_type = 'pt' is not supported (only 'tf')"),
        ({"feat_type": None}, "feat_type = None is not supported"),
        ({"causal": "full"}, "causal = 'full' is not supported"),
        ({"before_pool_offset": 3}, "before_pool_offset = 3 is not supported"),
        ({"spec_params": {}}, "norm_signal = None is not supported"),
        ({"spec_params": {"norm_signal": True, "f_max": 8000}}, "f_max = 8000 is not supported"),
        ({"agg_gnorm": True}, "agg_gnorm = True, the tensors say False"),
        ({"return_2d_output": True}, "return_2d_output = True, the tensors say False"),
        ({"se_ratio": 8}, "se_ratio is not supported"),
    ],
)
def test_redimnet2_model_configs_that_contradict(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    assert named in refusal(palabra(tmp_path / "b0.pt", "redimnet2", **changes), ConfigError)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "ReDimNet2B0"}, "stages_setup = "),
        ({"model": "ReDimNet2B7"}, "is not in this family (ReDimNet2B0 to ReDimNet2B6)"),
        ({"spec": "pt"}, "spec = 'pt' is not supported"),
        ({"data": {"frontend": "fbank"}}, "frontend = 'fbank' is not supported (only 'tfmel')"),
        ({"data": {"cmvn": True}}, "cmvn = True is not supported"),
        ({"data": {"tfmel_args": {"norm_signal": True}}}, "n_mels = None is not supported (only 16)"),
    ],
)
def test_redimnet2_settings_that_contradict(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    if "model" in changes:
        changes = changes | {"stages_setup": None}
    assert named in refusal(wespeaker_2(tmp_path, "redimnet2", **changes), ConfigError)


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "ReDimNet"},
        {"stages_setup": [Stage(stride=1, num_blocks=1, time_stride=0)]},
        {"stages_setup": [Stage(stride=1, num_blocks=1, kernel_size=[3, 4])]},
        {"stages_setup": [Stage(stride=1, num_blocks=1, conv_exp=0.1)]},
    ],
    ids=str,
)
def test_redimnet2_configs_that_give_no_model(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(REDIMNET2, **changes)


def test_what_is_of_redimnet2_alone() -> None:
    for changes in ({"agg_gnorm": True}, {"return_2d_output": True}, {"dual_agg": True}):
        with pytest.raises(ConfigError, match="of ReDimNet2 alone"):
            replace(REDIMNET, **changes)


def test_redimnet2_sizes() -> None:
    sizes = {size: redimnet2_config_of(size) for size in SIZES_2}
    assert {config.time_stride(6) for config in sizes.values()} == {4}
    assert [config.pooled for config in sizes.values()] == [64, 64, 64, 64, 2304, 256, 2016]


def test_a_rest_after_the_strides_is_dropped() -> None:
    model = tiny_model("redimnet2")
    x = mx.random.normal((1, 43, 16), key=mx.random.key(0))
    assert model.min_frames == 4
    assert mx.array_equal(model(x), model(x[:, :40]))
    assert not mx.allclose(model(x), model(x[:, :36]))
    with pytest.raises(InputError, match="T of 4 or more"):
        model(x[:, :3])


# The features


def test_the_features_against_a_plain_computation() -> None:
    clip = voice(4000).astype(np.float64)
    x = clip - 0.97 * np.concatenate([clip[1:2], clip[:-1]])
    padded = np.concatenate([x[256:0:-1], x, x[-2:-258:-1]])
    window = np.pad(0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 400), 56)
    power = np.array([np.abs(np.fft.rfft(padded[i : i + 512] * window)) ** 2 for i in range(0, 4001, 160)])
    ours = np.array(replace(FEATURES, cmn=False)(mx.array(voice(4000))))
    assert ours.shape == (26, 72) == (FEATURES.num_frames(4000), 72)
    mel = 2595 * np.log10(1 + np.array([20, 7600]) / 700)
    edges = 700 * (10 ** (np.linspace(*mel, 74) / 2595) - 1)
    for k in (0, 30, 71):
        triangle = np.interp(np.arange(257) * 31.25, edges[k : k + 3], [0, 1, 0])
        assert ours[:, k] == pytest.approx(np.log(power @ triangle + 1e-6), abs=1e-3)


def test_the_features_of_redimnet2_against_a_plain_computation() -> None:
    clip = voice(4000).astype(np.float64)
    x = (clip - clip.mean()) / clip.std()
    x = np.pad(x - 0.97 * np.concatenate([x[1:2], x[:-1]]), 80)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)
    power = np.array([np.abs(np.fft.rfft(x[i : i + 400] * window, 512))[:256] ** 2 for i in range(0, 3700, 160)])
    ours = np.array(replace(FEATURES_2, cmn=False)(mx.array(voice(4000))))
    assert ours.shape == (24, 72) == (FEATURES_2.num_frames(4000), 72)
    mels = 2595 * np.log10(1 + np.linspace(0, 8000, 256) / 700)
    edges = np.linspace(*(2595 * np.log10(1 + np.array([20, 7600]) / 700)), 74)
    for k in (0, 30, 71):
        triangle = np.interp(mels, edges[k : k + 3], [0, 1, 0])
        assert ours[:, k] == pytest.approx(np.log(np.maximum(power, 1e-8) @ triangle + 1e-8), abs=1e-3)
    assert (FEATURES_2.num_frames(239), FEATURES_2.num_frames(240), FEATURES_2.seconds(2)) == (0, 1, 0.025)


def test_short_and_padded_waveforms() -> None:
    front_end = FrontEnd("redimnet_fbank", n_mels=16, scale=1.0)
    assert (front_end.num_frames(256), front_end.num_frames(257)) == (0, 2)
    assert front_end.seconds(2) == 257 / 16000
    with pytest.raises(InputError, match="depend on where a clip ends"):
        front_end(mx.array(voice(4000)), 20)
