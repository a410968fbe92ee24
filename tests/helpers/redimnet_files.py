"""ReDimNet as IDRnD publishes it: its features, head and names, on WeSpeaker's backbone; ReDimNet2 as WeSpeaker and
PalabraAI write it. Needs PyTorch.
"""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from parity_oracles import Oracle, seeded
from redimnet2_settings import palabra_arguments
from signals import waveforms
from speech_zoo_redimnet.oracle import config_of, idrnd_module, mel_banks
from speech_zoo_redimnet.source import FINAL


class IdrndOracle(Oracle):
    """From the waveform on."""

    def __init__(self, module: torch.nn.Module, config: Any) -> None:
        super().__init__(module, f"wespeaker-unofficial {version('wespeaker-unofficial')}", {})
        self.config = config

    def embed(self, signal: str) -> np.ndarray:
        if signal not in self._known:
            self._known[signal] = self(mel_banks(waveforms()[signal], self.config.feat_dim))
        return self._known[signal]


def idrnd(size: str, seed: int, emb_bn: bool = False, **sizes: Any) -> IdrndOracle:
    """One of the sizes with seeded weights."""
    config = config_of(size, **sizes)
    return IdrndOracle(seeded(idrnd_module(config, emb_bn), seed), config)


def idrnd_names(oracle: IdrndOracle) -> dict[str, torch.Tensor]:
    """The tensors under IDRnD's names."""
    last, tensors = len(oracle.config.stages_setup), {}
    for name, x in oracle.module.state_dict().items():
        new = re.sub(r"^(backbone\.stage\d+\.)(\d+)(?=\.)", lambda m: f"{m[1]}{int(m[2]) + 2}", name)
        if shares := re.fullmatch(r"backbone\.inputs_weights\.(\d+)", name):
            new = FINAL if int(shares[1]) == last else f"backbone.stage{shares[1]}.0.w"
        tensors[re.sub(r"^seg_1\.", "linear.", new)] = x
    return tensors


def model_config(oracle: IdrndOracle) -> dict[str, Any]:
    """What a checkpoint says of its model."""
    config = oracle.config
    return {
        "F": config.feat_dim,
        "C": config.C,
        "block_1d_type": "conv+att",
        "block_2d_type": config.block_2d_type,
        "stages_setup": [(s.stride, s.num_blocks, s.conv_exp, [(3, 3)], s.att_block_red) for s in config.stages_setup],
        "group_divisor": config.group_divisor,
        "out_channels": None,
        "embed_dim": config.embed_dim,
        "num_classes": None,
        "hop_length": 160,
        "pooling_func": "ASTP",
        "feat_type": "pt",
        "global_context_att": True,
        "emb_bn": False,
        "spec_params": {"do_spec_aug": False, "freq_mask_width": (0, 6), "time_mask_width": (0, 8)},
    }


def save_idrnd(path: Path, oracle: IdrndOracle, **changes: Any) -> Path:
    """The state dict, with the constants of the features, and `model_config`."""
    constants = {"spec.torchfbank.1.flipped_filter": torch.tensor([[[-0.97, 1.0]]])}
    torch.save({"state_dict": idrnd_names(oracle) | constants, "model_config": model_config(oracle) | changes}, path)
    return path


# As in WeSpeaker's recipe for VoxCeleb.
TF_MEL = {"n_mels": 72, "hop_length": 160, "win_length": 400, "n_fft": 512, "f_min": 20, "f_max": 7600}
TF_MEL |= {"do_preemph": True, "norm_signal": True, "do_spec_aug": False, "eps": 1e-8}


def save_wespeaker_2(folder: Path, oracle: Oracle, model: str) -> Path:
    """WeSpeaker's form of a ReDimNet2: `avg_model.pt`, with constants of the features, and `config.yaml`."""
    folder.mkdir(parents=True)
    constants = {"frontend.spec.torchfbank.1.flipped_filter": torch.tensor([[[-0.97, 1.0]]])}
    torch.save(oracle.module.state_dict() | constants, folder / "avg_model.pt")
    settings = {
        "model": model,
        "model_args": {"feat_dim": 72, "embed_dim": 192, "pooling_func": "ASTP"},
        "dataset_args": {"frontend": "tfmel", "tfmel_args": TF_MEL, "resample_rate": 16000, "cmvn": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def save_palabra(path: Path, oracle: Oracle, config: Any) -> Path:
    """PalabraAI's form: the state dict, with constants of the features, and `model_config`."""
    constants = {"spec.torchfbank.1.flipped_filter": torch.tensor([[[-0.97, 1.0]]])}
    torch.save({"state_dict": oracle.module.state_dict() | constants, "model_config": palabra_arguments(config)}, path)
    return path
