"""The originals of ReDimNet and ReDimNet2: wespeaker.models.redimnet, for IDRnD's checkpoints with their features and
head, and wespeaker.models.redimnet2.
"""

import re
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.audio.front_end import REDIMNET2
from speech_zoo_core.audio.front_end import WESPEAKER as WESPEAKER_FEATURES
from speech_zoo_core.checkpoint.source import Source, without_prefix
from speech_zoo_core.oracle import (
    KALDI,
    TORCH,
    WESPEAKER,
    Oracle,
    Package,
    fbank_oracle,
    fill,
    read_tensors,
    require,
    save_state,
    seeded,
    torch_oracle,
    wespeaker,
    wespeaker_fbank,
)
from speech_zoo_core.registry import Example

from .model import ModelConfig, Stage
from .sizes import SIZES, SIZES_2
from .source import FINAL

TRANSFORMERS = Package("transformers", "transformers>=5")  # for its mel filters, those of torchaudio
EXAMPLE_SETTINGS = """\
model: ReDimNetB2
model_args: {feat_dim: 72, embed_dim: 192, pooling_func: ASTP, two_emb_layer: false}
dataset_args: {fbank_args: {num_mel_bins: 72, frame_length: 25, frame_shift: 10, dither: 1.0}, resample_rate: 16000}
"""


def oracle(config: Any, original: Callable[[], Source]) -> Oracle:
    """See `ModelSpec.oracle`."""
    if config.is_redimnet2:
        return _redimnet2(config, original)
    if not config.source["form"].startswith("WeSpeaker"):
        return _idrnd(config, original)
    require(TORCH, KALDI, WESPEAKER)
    source = original()

    def module() -> Any:
        tensors, _ = read_tensors(source.main_file)
        return fill(_redimnet(config), tensors, source.main_file.name, dropped=("projection.",))

    return fbank_oracle(WESPEAKER, module, wespeaker_fbank(source, config.feat_dim))


def _redimnet2(config: Any, original: Callable[[], Source]) -> Oracle:
    """WeSpeaker's ReDimNet2, whose names PalabraAI's checkpoints have, too, on WeSpeaker's own features."""
    require(TORCH, WESPEAKER)
    source = original()

    def module() -> Any:
        tensors = without_prefix(read_tensors(source.main_file)[0], "backbone.stem.0.weight", FINAL)
        whole = redimnet2_module(config, any(name.startswith("bn2.") for name in tensors))
        return fill(whole, tensors, source.main_file.name, ("projection.", "spec.", "frontend.", "cls_head."))

    def features(waveform: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        return tf_mel_banks(waveform, config.feat_dim)

    def inputs(clips: "np.ndarray[Any, Any]") -> tuple[Any, ...]:
        return (np.stack([features(clip) for clip in clips]),)

    return torch_oracle(WESPEAKER, module, inputs, features=features, features_by=str(WESPEAKER))


def redimnet2_module(config: Any, emb_bn: bool = False) -> Any:
    """WeSpeaker's ReDimNet2, which takes features (B, T, F) here."""
    original = wespeaker("redimnet2").ReDimNet2Wrap

    class TimeFirst(original):  # type: ignore[misc, valid-type]
        def forward(self, x: Any) -> Any:
            return super().forward(x.permute(0, 2, 1))

    with redirect_stdout(StringIO()):  # it prints its width
        return TimeFirst(
            config.feat_dim,
            config.C,
            embed_dim=config.embed_dim,
            pooling_func=config.pooling_func,
            out_channels=config.out_channels,
            block_2d_type=config.block_2d_type,
            return_2d_output=config.return_2d_output,
            stages_setup=redimnet2_stages(config),
            group_divisor=config.group_divisor,
            dual_agg=config.dual_agg,
            agg_gnorm=config.agg_gnorm,
            global_context_att=config.global_context_att,
            emb_bn=emb_bn,
        )


def redimnet2_stages(config: Any) -> list[list[Any]]:
    """`stages_setup` as ReDimNet2 writes it."""
    return [
        [[s.stride, s.time_stride], s.num_blocks, s.conv_exp, [s.kernel_size], s.att_block_red]
        for s in config.stages_setup
    ]


def tf_mel_banks(waveform: "np.ndarray[Any, Any]", n_mels: int) -> "np.ndarray[Any, Any]":
    """The features (T, F) of wespeaker/frontend/tfmel.py, `TFMelBanks`."""
    import torch

    banks = wespeaker("redimnet2").TFMelBanks(n_mels=n_mels, norm_signal=True).eval()
    with warnings.catch_warnings():  # torch.cuda.amp.autocast is deprecated
        warnings.simplefilter("ignore", FutureWarning)
        return banks(torch.tensor(waveform)[None])[0].numpy().T  # type: ignore[no-any-return]


def _idrnd(config: Any, original: Callable[[], Source]) -> Oracle:
    """IDRnD's own package is not on PyPI: WeSpeaker's backbone and pooling, and between them and the embedding IDRnD's
    BatchNorms; its features from PyTorch's STFT.
    """
    require(TORCH, TRANSFORMERS, WESPEAKER)
    source = original()

    def module() -> Any:
        tensors = without_prefix(read_tensors(source.main_file)[0], "backbone.stem.0.weight", FINAL)
        return fill(idrnd_module(config, "bn2.running_var" in tensors), as_wespeaker(tensors), source.main_file.name)

    def features(waveform: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        return mel_banks(waveform, config.feat_dim)

    def inputs(clips: "np.ndarray[Any, Any]") -> tuple[Any, ...]:
        return (np.stack([features(clip) for clip in clips]),)

    return torch_oracle(WESPEAKER, module, inputs, features=features, features_by=f"torch.stft, {TORCH}")


def idrnd_module(config: Any, emb_bn: bool) -> Any:
    """WeSpeaker's ReDimNet with IDRnD's head, under WeSpeaker's names but for the head's `bn` and `bn2`."""
    import torch

    whole = _redimnet(config)

    class Head(torch.nn.Module):
        """Features (B, T, F) to embeddings (B, D)."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.pool, self.seg_1 = whole.backbone, whole.pool, whole.seg_1
            self.bn = torch.nn.BatchNorm1d(whole.pool.get_out_dim())
            if emb_bn:
                self.bn2 = torch.nn.BatchNorm1d(config.embed_dim)

        def forward(self, x: Any) -> Any:
            pooled = self.pool(self.backbone(x.permute(0, 2, 1)[:, None]))
            embedding = self.seg_1(self.bn(pooled))
            return self.bn2(embedding) if emb_bn else embedding

    return Head()


def as_wespeaker(tensors: dict[str, Any]) -> dict[str, Any]:
    """IDRnD's tensors under WeSpeaker's names, without those of features and classifier."""
    stages = len({name.split(".")[1] for name in tensors if name.startswith("backbone.stage")})
    renamed: dict[str, Any] = {}
    for name, x in tensors.items():
        if name.startswith(("spec.", "cls_head.", "projection.")):
            continue
        if name == FINAL:
            new = f"backbone.inputs_weights.{stages}"
        elif shares := re.fullmatch(r"backbone\.stage(\d+)\.0\.w", name):
            new = f"backbone.inputs_weights.{shares[1]}"
        else:
            new = re.sub(r"^(backbone\.stage\d+\.)(\d+)(?=\.)", lambda m: f"{m[1]}{int(m[2]) - 2}", name)
        renamed[re.sub(r"^linear\.", "seg_1.", new)] = x
    return renamed


def mel_banks(waveform: "np.ndarray[Any, Any]", n_mels: int) -> "np.ndarray[Any, Any]":
    """The features (T, F) of redimnet/layers/features.py, `MelBanks`, from PyTorch's STFT in float64."""
    import torch
    from transformers.audio_utils import mel_filter_bank

    x = torch.tensor(waveform, dtype=torch.float64)
    x = x - 0.97 * torch.cat([x[1:2], x[:-1]])
    window = torch.hamming_window(400, dtype=torch.float64)
    spectrum = torch.stft(x, 512, 160, 400, window, center=True, pad_mode="reflect", return_complex=True)
    banks = mel_filter_bank(257, n_mels, 20.0, 7600.0, 16000, norm=None, mel_scale="htk")
    features = torch.log(spectrum.abs().square().T @ torch.tensor(banks, dtype=torch.float64) + 1e-6)
    return (features - features.mean(dim=0)).float().numpy()  # type: ignore[no-any-return]


def _redimnet(config: Any) -> Any:
    stages = [(s.stride, s.num_blocks, s.conv_exp, [(3, 3)], s.att_block_red) for s in config.stages_setup]
    return wespeaker("redimnet").ReDimNet(
        config.feat_dim,
        config.C,
        "conv+att",
        config.block_2d_type,
        stages,
        config.group_divisor,
        config.out_channels,
        embed_dim=config.embed_dim,
        pooling_func=config.pooling_func,
        global_context_att=config.global_context_att,
        two_emb_layer=config.two_emb_layer,
    )


def write_example(config: Any, folder: Path) -> None:
    """See `Example.write`."""
    require(TORCH, KALDI, WESPEAKER)
    save_state(seeded(lambda: _redimnet(config)), folder / "avg_model.safetensors", {"config.yaml": EXAMPLE_SETTINGS})


def config_of(size: str, **more: Any) -> ModelConfig:
    """The config of one of WeSpeaker's sizes, "B0" to "B6"."""
    channels, kind, divisor, stages = SIZES[size]
    sizes: dict[str, Any] = {"C": channels, "block_2d_type": kind, "group_divisor": divisor, "feat_dim": 72} | more
    return ModelConfig(
        model_type="redimnet",
        embed_dim=192,
        front_end=replace(WESPEAKER_FEATURES, n_mels=sizes["feat_dim"]),
        stages_setup=[Stage(stride=s, num_blocks=n, conv_exp=e, att_block_red=r) for s, n, e, r in stages],
        **sizes,
    )


def redimnet2_config_of(size: str, **more: Any) -> ModelConfig:
    """The config of one of WeSpeaker's sizes of ReDimNet2, "B0" to "B6"."""
    channels, out_channels, image, stages = SIZES_2[size]
    sizes: dict[str, Any] = {"C": channels, "out_channels": out_channels, "return_2d_output": image} | more
    return ModelConfig(
        model_type="redimnet",
        variant="ReDimNet2",
        embed_dim=192,
        front_end=REDIMNET2,
        block_2d_type="basic_resnet",
        group_divisor=1,
        stages_setup=[
            Stage(stride=s, time_stride=t, num_blocks=n, conv_exp=e, att_block_red=r) for (s, t), n, e, _, r in stages
        ],
        **sizes,
    )


EXAMPLE = Example("redimnet", config_of("B2"), write_example)  # WeSpeaker's ReDimNetB2
