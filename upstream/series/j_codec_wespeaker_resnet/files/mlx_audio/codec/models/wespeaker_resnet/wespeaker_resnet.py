"""WeSpeaker's ResNet speaker embeddings: ResNet34, 152, 221 and 293.

Wang et al., "WeSpeaker: A Research and Production Oriented Speaker Embedding
Learning Toolkit", ICASSP 2023. Batch norms are folded into the convolutions.
"""

from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_audio.base import BaseModelArgs
from mlx_audio.dsp import compute_fbank_kaldi

SAMPLE_RATE = 16000
BATCH_NORM_EPS = 1e-5


@dataclass
class ModelConfig(BaseModelArgs):
    """ResNet34; the larger ones have ``block="bottleneck"``."""

    model_type: str = "wespeaker_resnet"
    block: str = "basic"
    num_blocks: list[int] = field(default_factory=lambda: [3, 4, 6, 3])
    m_channels: int = 32
    feat_dim: int = 80
    embed_dim: int = 256
    two_emb_layer: bool = False


class Block(nn.Module):
    """Two 3x3 convolutions, or as a bottleneck 1x1, 3x3 and 1x1."""

    def __init__(self, kind: str, in_channels: int, channels: int, stride: int):
        super().__init__()
        out = channels
        if kind == "basic":
            self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1)
            self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        else:
            out = 4 * channels
            self.conv1 = nn.Conv2d(in_channels, channels, 1)
            self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1)
            self.conv3 = nn.Conv2d(channels, out, 1)
        self.shortcut = []
        if stride != 1 or in_channels != out:
            self.shortcut = [nn.Conv2d(in_channels, out, 1, stride)]

    def __call__(self, x: mx.array) -> mx.array:
        out = self.conv2(nn.relu(self.conv1(x)))
        if "conv3" in self:
            out = self.conv3(nn.relu(out))
        return nn.relu(out + (self.shortcut[0](x) if self.shortcut else x))


class WeSpeakerResNet(nn.Module):
    """Speaker embeddings from Kaldi's log-mel features."""

    sample_rate = SAMPLE_RATE

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        channels = config.m_channels
        self.conv1 = nn.Conv2d(1, channels, 3, 1, 1)
        for i, (count, stride) in enumerate(zip(config.num_blocks, (1, 2, 2, 2))):
            width = config.m_channels * 2**i
            blocks = []
            for j in range(count):
                blocks.append(
                    Block(config.block, channels, width, stride if j == 0 else 1)
                )
                channels = width if config.block == "basic" else 4 * width
            setattr(self, f"layer{i + 1}", blocks)
        self.seg_1 = nn.Linear(2 * channels * config.feat_dim // 8, config.embed_dim)
        if config.two_emb_layer:
            self.seg_2 = nn.Linear(config.embed_dim, config.embed_dim)

    def __call__(self, x: mx.array) -> mx.array:
        """Features (B, T, F) to embeddings (B, D), not normalised."""
        x = nn.relu(self.conv1(x.swapaxes(1, 2)[..., None]))  # F rows, T columns
        for block in self.layer1 + self.layer2 + self.layer3 + self.layer4:
            x = block(x)
        # Mean and unbiased deviation over time, each with channels outermost.
        moments = [mx.mean(x, axis=2), mx.sqrt(mx.var(x, axis=2, ddof=1) + 1e-7)]
        x = mx.concatenate([m.swapaxes(1, 2).flatten(1) for m in moments], axis=1)
        x = self.seg_1(x)
        return self.seg_2(nn.relu(x)) if self.config.two_emb_layer else x

    def features(self, audio: mx.array) -> mx.array:
        """Kaldi's log-mel of a 16 kHz waveform (T,), less its mean: (1, T', F)."""
        fbank = compute_fbank_kaldi(
            audio * 32768,
            sample_rate=SAMPLE_RATE,
            win_len=400,
            win_inc=160,
            num_mels=self.config.feat_dim,
            win_type="hamming",
            dither=0.0,
        )
        return (fbank - mx.mean(fbank, axis=0, keepdims=True))[None]

    def encode(self, audio, sample_rate: int = SAMPLE_RATE) -> mx.array:
        """Unit-length embedding (D,) of a file or of mono audio at any rate.

        Compare two with their dot product, which is the cosine similarity.
        """
        from mlx_audio.utils import load_audio, resample_audio

        if isinstance(audio, (str, Path)):
            audio = load_audio(str(audio), sample_rate=SAMPLE_RATE)
        else:
            audio = mx.array(audio, dtype=mx.float32)
            audio = resample_audio(audio, sample_rate, SAMPLE_RATE)
        if audio.ndim != 1 or audio.size < SAMPLE_RATE // 5:
            raise ValueError("Expected at least 0.2 seconds of mono audio")
        embedding = self(self.features(audio))[0]
        return embedding / mx.maximum(mx.linalg.norm(embedding), 1e-12)

    def sanitize(self, weights: dict) -> dict:
        """WeSpeaker's, pyannote's (below ``resnet.``) or converted weights to ours."""
        weights = {name.removeprefix("resnet."): x for name, x in weights.items()}
        shapes = {name: x.shape for name, x in tree_flatten(self.parameters())}
        sanitized = {}
        for name, value in weights.items():
            if name in shapes:  # convolutions of PyTorch are (O, I, H, W)
                layout = value.ndim == 4 and value.shape != shapes[name]
                sanitized[name] = value.transpose(0, 2, 3, 1) if layout else value
        for name in weights:
            if not name.endswith(".running_var"):
                continue
            norm = name.removesuffix(".running_var")
            mean, var = weights[f"{norm}.running_mean"], weights[name]
            scale = weights.get(f"{norm}.weight", 1.0) * mx.rsqrt(var + BATCH_NORM_EPS)
            if norm == "seg_bn_1":  # stands before seg_2 and has no parameters
                weight = sanitized["seg_2.weight"] * scale
                sanitized["seg_2.weight"] = weight
                sanitized["seg_2.bias"] = sanitized["seg_2.bias"] - weight @ mean
                continue
            head, _, last = norm.rpartition(".")
            last = "0" if last == "1" else last.replace("bn", "conv")
            conv = f"{head}.{last}" if head else last
            weight = sanitized[f"{conv}.weight"] * scale[:, None, None, None]
            sanitized[f"{conv}.weight"] = weight
            sanitized[f"{conv}.bias"] = weights[f"{norm}.bias"] - mean * scale
        return sanitized

    @classmethod
    def from_pretrained(
        cls, model_path: str | Path, *, revision: str | None = None
    ) -> "WeSpeakerResNet":
        """Load ``config.json`` and the safetensors of a folder or Hub repo."""
        from mlx_audio.utils import get_model_path, load_config, load_weights

        path = get_model_path(str(model_path), revision=revision)
        model = cls(ModelConfig.from_dict(load_config(path)))
        weights = model.sanitize(load_weights(path))
        model.load_weights(list(weights.items()), strict=True)
        model.eval()
        mx.eval(model.parameters())
        return model
