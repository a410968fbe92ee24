"""CAM++ speaker embeddings of 3D-Speaker, shared by the models that clone voices.

Wang et al., "CAM++: A Fast and Efficient Network for Speaker Verification Using
Context-Aware Masking", Interspeech 2023.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_audio.base import BaseModelArgs
from mlx_audio.dsp import compute_fbank_kaldi

SAMPLE_RATE = 16000
LOG_FLOOR = math.log(1.1920929e-07)  # Kaldi's
LAYERS, DILATIONS = (12, 24, 16), (1, 2, 2)

# 3D-Speaker's names, then those of converted Chatterbox Turbo checkpoints.
RENAMES = (
    (r"^xvector\.", ""),
    (r"^(block|transit)(\d+)\.", lambda m: f"{m[1]}s.{int(m[2]) - 1}."),
    (r"\.tdnnd(\d+)\.", lambda m: f".layers.{int(m[1]) - 1}."),
    (r"nonlinear(\d?)\.batchnorm\.", r"nonlinear\1.0."),
    (r"^(tdnn|dense|transits\.\d+)\.bn\.", r"\1.nonlinear.0."),
    (r"^(blocks\..*)\.bn(\d)\.", r"\1.nonlinear\2.0."),
    (r"^out_bn\.", "out_nonlinear.0."),
    (r"\.shortcut_conv\.", ".shortcut.0."),
    (r"\.shortcut_bn\.", ".shortcut.1."),
)


@dataclass
class ModelConfig(BaseModelArgs):
    """``folded``: batch norms that follow a convolution are part of it."""

    model_type: str = "campplus"
    feat_dim: int = 80
    embedding_size: int = 192
    growth_rate: int = 32
    bn_size: int = 4
    init_channels: int = 128
    folded: bool = False


def _norms(channels: int, folded: bool) -> list:
    return [] if folded else [nn.BatchNorm(channels)]


def _apply(layers: list, x: mx.array) -> mx.array:
    for layer in layers:
        x = layer(x)
    return x


class BasicResBlock(nn.Module):
    """Two 3x3 convolutions; the stride is that of frequency."""

    def __init__(self, channels: int, stride: int, folded: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, (stride, 1), 1, bias=folded)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=folded)
        if not folded:
            self.bn1, self.bn2 = nn.BatchNorm(channels), nn.BatchNorm(channels)
        self.shortcut = []
        if stride != 1:
            conv = nn.Conv2d(channels, channels, 1, (stride, 1), bias=folded)
            self.shortcut = [conv, *_norms(channels, folded)]

    def __call__(self, x: mx.array) -> mx.array:
        out = self.conv1(x)
        out = nn.relu(self.bn1(out) if "bn1" in self else out)
        out = self.conv2(out)
        out = self.bn2(out) if "bn2" in self else out
        return nn.relu(out + _apply(self.shortcut, x))


class FCM(nn.Module):
    """The convolutional head: (B, F, T) to (B, 4 * F, T)."""

    def __init__(self, folded: bool, channels: int = 32):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, 1, 1, bias=folded)
        self.layer1 = [BasicResBlock(channels, s, folded) for s in (2, 1)]
        self.layer2 = [BasicResBlock(channels, s, folded) for s in (2, 1)]
        self.conv2 = nn.Conv2d(channels, channels, 3, (2, 1), 1, bias=folded)
        if not folded:
            self.bn1, self.bn2 = nn.BatchNorm(channels), nn.BatchNorm(channels)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.conv1(x[..., None])
        x = nn.relu(self.bn1(x) if "bn1" in self else x)
        x = self.conv2(_apply(self.layer1 + self.layer2, x))
        x = nn.relu(self.bn2(x) if "bn2" in self else x)
        return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1, x.shape[2])


class TDNNLayer(nn.Module):
    def __init__(self, in_channels: int, channels: int, folded: bool):
        super().__init__()
        self.linear = nn.Conv1d(in_channels, channels, 5, 2, 2, bias=folded)
        self.nonlinear = _norms(channels, folded)

    def __call__(self, x: mx.array) -> mx.array:
        x = nn.relu(_apply([self.linear, *self.nonlinear], x.swapaxes(1, 2)))
        return x.swapaxes(1, 2)


class CAMLayer(nn.Module):
    """A convolution masked by its context: the clip's mean plus the segment's."""

    def __init__(
        self,
        bn_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = False,
        reduction: int = 2,
    ):
        super().__init__()
        self.linear_local = nn.Conv1d(
            bn_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias
        )
        self.linear1 = nn.Conv1d(bn_channels, bn_channels // reduction, 1)
        self.linear2 = nn.Conv1d(bn_channels // reduction, out_channels, 1)

    def __call__(self, x: mx.array) -> mx.array:
        context = mx.mean(x, axis=-1, keepdims=True) + self.seg_pooling(x)
        context = nn.relu(self.linear1(context.swapaxes(1, 2)))
        out = self.linear_local(x.swapaxes(1, 2)) * mx.sigmoid(self.linear2(context))
        return out.swapaxes(1, 2)

    def seg_pooling(self, x: mx.array, seg_len: int = 100) -> mx.array:
        """Mean of the segment for each frame; the last segment may be shorter."""
        batch, channels, frames = x.shape
        segments = -(-frames // seg_len)
        padded = mx.pad(x, [(0, 0), (0, 0), (0, segments * seg_len - frames)])
        sizes = mx.minimum(seg_len, frames - seg_len * mx.arange(segments))
        sums = padded.reshape(batch, channels, segments, seg_len).sum(axis=-1)
        return mx.repeat(sums / sizes, seg_len, axis=-1)[..., :frames]


class CAMDenseTDNNLayer(nn.Module):
    def __init__(self, in_channels: int, config: ModelConfig, dilation: int):
        super().__init__()
        width, folded = config.bn_size * config.growth_rate, config.folded
        self.nonlinear1 = [nn.BatchNorm(in_channels)]
        self.linear1 = nn.Conv1d(in_channels, width, 1, bias=folded)
        self.nonlinear2 = _norms(width, folded)
        self.cam_layer = CAMLayer(
            width, config.growth_rate, 3, padding=dilation, dilation=dilation
        )

    def __call__(self, x: mx.array) -> mx.array:
        x = nn.relu(_apply(self.nonlinear1, x.swapaxes(1, 2)))
        x = nn.relu(_apply([self.linear1, *self.nonlinear2], x))
        return self.cam_layer(x.swapaxes(1, 2))


class CAMDenseTDNNBlock(nn.Module):
    def __init__(self, layers: int, channels: int, config: ModelConfig, dilation: int):
        super().__init__()
        self.layers = [
            CAMDenseTDNNLayer(channels + i * config.growth_rate, config, dilation)
            for i in range(layers)
        ]

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = mx.concatenate([x, layer(x)], axis=1)
        return x


class TransitLayer(nn.Module):
    def __init__(self, channels: int, bias: bool):
        super().__init__()
        self.nonlinear = [nn.BatchNorm(channels)]
        self.linear = nn.Conv1d(channels, channels // 2, 1, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.linear(nn.relu(_apply(self.nonlinear, x.swapaxes(1, 2))))
        return x.swapaxes(1, 2)


class StatsPool(nn.Module):
    """Mean and unbiased standard deviation over time: (B, C, T) to (B, 2 * C)."""

    def __call__(self, x: mx.array) -> mx.array:
        if x.shape[-1] < 2:
            raise ValueError("CAMPPlus statistics require at least two frames")
        return mx.concatenate([mx.mean(x, axis=-1), mx.std(x, axis=-1, ddof=1)], -1)


class DenseLayer(nn.Module):
    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, 1, bias=False)
        self.nonlinear = [nn.BatchNorm(out_channels, affine=False)]

    def __call__(self, x: mx.array) -> mx.array:
        return _apply([self.linear, *self.nonlinear], x[:, None])[:, 0]


class CAMPPlus(nn.Module):
    """Speaker embeddings; ``CAMPPlus()`` has the sizes of every known checkpoint."""

    sample_rate = SAMPLE_RATE

    def __init__(self, config: ModelConfig | None = None, **settings):
        super().__init__()
        self.config = config = config or ModelConfig(**settings)
        channels = config.init_channels
        self.head = FCM(config.folded)
        self.tdnn = TDNNLayer(32 * config.feat_dim // 8, channels, config.folded)
        self.blocks, self.transits = [], []
        for i, (layers, dilation) in enumerate(zip(LAYERS, DILATIONS)):
            self.blocks.append(CAMDenseTDNNBlock(layers, channels, config, dilation))
            channels += layers * config.growth_rate
            last = config.folded and i == len(LAYERS) - 1
            self.transits.append(TransitLayer(channels, bias=last))
            channels //= 2
        self.out_nonlinear = _norms(channels, config.folded)
        self.stats = StatsPool()
        self.dense = DenseLayer(channels * 2, config.embedding_size)

    def __call__(self, x: mx.array) -> mx.array:
        """Features (B, T, F) to embeddings (B, D), not normalised."""
        x = self.tdnn(self.head(x.swapaxes(1, 2)))
        for block, transit in zip(self.blocks, self.transits):
            x = transit(block(x))
        x = nn.relu(_apply(self.out_nonlinear, x.swapaxes(1, 2)))
        return self.dense(self.stats(x.swapaxes(1, 2)))

    def features(self, audio: mx.array) -> mx.array:
        """Kaldi's log-mel of a 16 kHz waveform (T,), less its mean: (1, T', F)."""
        fbank = compute_fbank_kaldi(
            audio,
            sample_rate=SAMPLE_RATE,
            win_len=400,
            win_inc=160,
            num_mels=self.config.feat_dim,
            win_type="povey",
            dither=0.0,
        )
        fbank = mx.maximum(fbank, LOG_FLOOR)
        return (fbank - mx.mean(fbank, axis=0, keepdims=True))[None]

    def inference(self, audio) -> mx.array:
        """Embeddings (B, D) of 16 kHz audio: (T,), (B, T) or a list of (T,)."""
        if isinstance(audio, mx.array) and audio.ndim == 1:
            audio = [audio]
        clips = [clip.reshape(-1).astype(mx.float32) for clip in audio]
        return mx.concatenate([self(self.features(clip)) for clip in clips])

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
        if audio.ndim != 1 or audio.size < SAMPLE_RATE // 10:
            raise ValueError("Expected at least 0.1 seconds of mono audio")
        embedding = self.inference(audio)[0]
        return embedding / mx.maximum(mx.linalg.norm(embedding), 1e-12)

    def sanitize(self, weights: dict) -> dict:
        """Names and layouts of 3D-Speaker and of converted checkpoints to ours."""
        shapes = {name: x.shape for name, x in tree_flatten(self.parameters())}
        sanitized = {}
        for name, value in weights.items():
            if name.endswith("num_batches_tracked"):
                continue
            for pattern, new in RENAMES:
                name = re.sub(pattern, new, name)
            if name in shapes and value.shape != shapes[name]:
                if value.ndim == 4:  # (O, I, H, W)
                    value = value.transpose(0, 2, 3, 1)
                elif value.ndim == 3:  # (O, I, K)
                    value = value.swapaxes(1, 2)
            sanitized[name] = value
        return sanitized

    @classmethod
    def from_pretrained(
        cls,
        model_path: str | Path,
        filename: str = "model.safetensors",
        *,
        revision: str | None = None,
    ) -> "CAMPPlus":
        """Load a safetensors file, or the one of that name in a folder or Hub repo."""
        path = Path(model_path).expanduser()
        if path.is_dir():
            path = path / filename
        elif not path.is_file():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(str(model_path), filename, revision=revision))
        weights = mx.load(str(path))
        model = cls(ModelConfig(folded="head.bn1.running_var" not in weights))
        model.load_weights(list(model.sanitize(weights).items()), strict=True)
        model.eval()
        mx.eval(model.parameters())
        return model
