"""SpeechBrain's originals, built from the `hyperparams.yaml` that the zoo reads. Needs PyTorch and SpeechBrain."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from parity_oracles import Oracle, seeded, state_dict
from signals import raw_bits, rvq_sums, waveforms
from speech_zoo_core.oracle_speechbrain import speechbrain_features as product_features
from speech_zoo_core.oracle_speechbrain import torchaudio_at_hand
from speechbrain_files import LANGUAGES, language_hyperparams, speaker_hyperparams, write_folder
from torch import nn

with torchaudio_at_hand():
    from hyperpyyaml import load_hyperpyyaml
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

SPEECHBRAIN = f"speechbrain {version('speechbrain')}"


def speechbrain_features(waveform: np.ndarray, n_mels: int, mean_norm: bool, dtype: torch.dtype) -> np.ndarray:
    """SpeechBrain's fbank of one waveform in dB, (T, F), less the mean over the clip if wanted.

    Everything is made and computed in `dtype`; in float32 its rounding alone makes 1.1e-3 on the test signals.
    """
    norm = {"norm_type": "sentence", "std_norm": False} if mean_norm else None
    return product_features(waveform, {"n_mels": n_mels}, norm, str(dtype).removeprefix("torch."))


class SpeechBrain(Oracle):
    """SpeechBrain from the waveform on, with seeded weights; remembers the results of the test signals."""

    def __init__(self, text: str, seed: int) -> None:
        with torchaudio_at_hand():
            parts = load_hyperpyyaml(text)
        modules = nn.ModuleDict({name: parts[name] for name in ("embedding_model", "classifier") if name in parts})
        super().__init__(seeded(modules, seed), SPEECHBRAIN, {})
        self.text, self.fbank, self.normalise = text, parts["compute_features"], parts["mean_var_norm"]
        self._both: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def batch(self, clips: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Clips (B, N) and their lengths relative to N to embeddings (B, D) and the classifier's output (B, L), if any.

        The steps of `EncoderClassifier.classify_batch`.
        """
        with torch.no_grad():
            relative = torch.from_numpy(lengths)
            features = self.normalise(self.fbank(torch.from_numpy(clips)), relative)
            embeddings = self.module["embedding_model"](features, relative)
            rows = embeddings.reshape(len(clips), -1).numpy()
            if "classifier" not in self.module:
                return rows, rows
            return rows, self.module["classifier"](embeddings).squeeze(1).numpy()

    def both(self, signal: str) -> tuple[np.ndarray, np.ndarray]:
        """Embedding and classifier's output of a test signal."""
        if signal not in self._both:
            embeddings, outputs = self.batch(waveforms()[signal][None], np.ones(1, np.float32))
            self._both[signal] = embeddings[0], outputs[0]
        return self._both[signal]

    def embed(self, signal: str) -> np.ndarray:
        return self.both(signal)[0]

    def log_probs(self, signal: str) -> np.ndarray:
        """Of the languages, in the order of the labels."""
        return self.both(signal)[1]


def speechbrain_speaker(seed: int) -> SpeechBrain:
    """spkrec-ecapa-voxceleb: 80 mels, 192 numbers."""
    return SpeechBrain(speaker_hyperparams(), seed)


def speechbrain_languages(seed: int) -> SpeechBrain:
    """lang-id-voxlingua107-ecapa: 60 mels, 256 numbers, 107 languages."""
    return SpeechBrain(language_hyperparams(), seed)


def save_speechbrain(folder: Path, oracle: SpeechBrain) -> Path:
    """SpeechBrain's form; a speaker checkpoint has the mean of its training embeddings too, which nothing uses."""
    speaker = "Xvector.Classifier" not in oracle.text
    labels = [f"id{i:05}" for i in range(99)] if speaker else LANGUAGES
    tensors = state_dict(oracle)
    write_folder(folder, oracle.text, tensors, lambda path, content: torch.save(content, path), labels)
    if "embedding_model.fc.conv.bias" in tensors and speaker:
        mean = torch.from_numpy(raw_bits(8, len(tensors["embedding_model.fc.conv.bias"]), 24).astype(np.float32))
        torch.save({"count": 1000, "glob_mean": mean, "glob_std": torch.ones(1)}, folder / "mean_var_norm_emb.ckpt")
    return folder


class Proxy(Oracle):
    """The speaker proxy as the zoo assumes it: SpeechBrain's ECAPA-TDNN on RVQ sums, embeddings of unit length."""

    def __init__(
        self, seed: int, input_dim: int = 2048, embed_dim: int = 192, channels: int = 512, num_blocks: int = 3
    ) -> None:
        module = ECAPA_TDNN(
            input_dim,
            channels=[channels] * (num_blocks + 2),
            kernel_sizes=[1, *[3] * num_blocks, 1],
            lin_neurons=embed_dim,
        )
        super().__init__(seeded(module, seed), SPEECHBRAIN, {})
        self.config = {
            "input_dim": input_dim,
            "embed_dim": embed_dim,
            "channels": channels,
            "num_blocks": num_blocks,
        }

    def unit(self, sums: torch.Tensor) -> torch.Tensor:
        """RVQ sums (B, T, F) to embeddings (B, D); differentiable."""
        return nn.functional.normalize(self.module(sums)[:, 0], dim=-1)

    def embed(self, signal: str) -> np.ndarray:
        """The embedding of `rvq_sums` of so many frames: "50 frames"."""
        sums = rvq_sums(int(signal.removesuffix(" frames")), self.config["input_dim"])
        with torch.no_grad():
            return self.unit(torch.from_numpy(sums)[None])[0].numpy()


def save_proxy(path: Path, oracle: Proxy) -> Path:
    """The form of `speaker_proxy_10k_best.pt`."""
    content = {
        "model_state_dict": state_dict(oracle),
        "config": oracle.config,
        "epoch": 140,
        "val_separation": 0.8141,
    }
    torch.save(content, path)
    return path
