"""SpeechBrain's published folders: `hyperparams.yaml`, the checkpoints, `label_encoder.txt`. Needs no PyTorch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# The languages of VoxLingua107 in the order of their codes; the codes are those of its folders.
LANGUAGES = tuple((Path(__file__).parent / "voxlingua107.txt").read_text().splitlines())

HYPERPARAMS = """# Feature parameters
pretrained_path: speechbrain/published
sample_rate: 16000
n_mels: {n_mels}
left_frames: 0
right_frames: 0
deltas: False
# Number of classes of the classifier
out_n_neurons: {classes}

compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
    left_frames: !ref <left_frames>
    right_frames: !ref <right_frames>
    deltas: !ref <deltas>

mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: {channels}
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 128
    lin_neurons: {embed_dim}

classifier: {classifier}

mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False

modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>

label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""
SPEAKERS = """!new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: {embed_dim}
    out_neurons: !ref <out_n_neurons>"""
LANGUAGE = """!new:speechbrain.lobes.models.Xvector.Classifier
    input_shape: [null, null, {embed_dim}]
    activation: !name:torch.nn.LeakyReLU
    lin_blocks: 1
    lin_neurons: {neurons}
    out_neurons: !ref <out_n_neurons>"""


def speaker_hyperparams(
    n_mels: int = 80, embed_dim: int = 192, channels: Sequence[int] = (1024, 1024, 1024, 1024, 3072), speakers: int = 99
) -> str:
    """As for speechbrain/spkrec-ecapa-voxceleb, but for the number of its speakers."""
    classifier = SPEAKERS.format(embed_dim=embed_dim)
    return HYPERPARAMS.format(
        n_mels=n_mels, classes=speakers, channels=list(channels), embed_dim=embed_dim, classifier=classifier
    )


def language_hyperparams(
    embed_dim: int = 256, channels: Sequence[int] = (1024, 1024, 1024, 1024, 3072), neurons: int = 512
) -> str:
    """As for speechbrain/lang-id-voxlingua107-ecapa."""
    classifier = LANGUAGE.format(embed_dim=embed_dim, neurons=neurons)
    return HYPERPARAMS.format(
        n_mels=60, classes=len(LANGUAGES), channels=list(channels), embed_dim=embed_dim, classifier=classifier
    )


FEATURES = """compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: {n_mels}

mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

embedding_model: !new:speechbrain.lobes.models.{model}
"""


def xvector_hyperparams(embed_dim: int = 512, channels: Sequence[int] = (512, 512, 512, 512, 1500)) -> str:
    """As for speechbrain/spkrec-xvect-voxceleb, without its classifier."""
    text = FEATURES.format(n_mels=24, model="Xvector.Xvector")
    return f"""{text}    in_channels: 24
    activation: !name:torch.nn.LeakyReLU
    tdnn_blocks: 5
    tdnn_channels: {list(channels)}
    tdnn_kernel_sizes: [5, 3, 3, 1, 1]
    tdnn_dilations: [1, 2, 3, 1, 1]
    lin_neurons: {embed_dim}
"""


def resnet_hyperparams(
    embed_dim: int = 256, channels: Sequence[int] = (128, 128, 256, 256), block_sizes: Sequence[int] = (3, 4, 6, 3)
) -> str:
    """As for speechbrain/spkrec-resnet-voxceleb, without its classifier."""
    text = FEATURES.format(n_mels=80, model="ResNet.ResNet")
    return f"""{text}    input_size: 80
    channels: {list(channels)}
    strides: [1, 2, 2, 2]
    block_sizes: {list(block_sizes)}
    lin_neurons: {embed_dim}
"""


NARROW = [64, 64, 64, 64, 192]
SMALL = {  # the folders of the golden tests
    "ecapa-speechbrain": speaker_hyperparams(embed_dim=48, channels=NARROW, speakers=8),
    "xvector": xvector_hyperparams(embed_dim=48, channels=NARROW),
    "se-resnet": resnet_hyperparams(embed_dim=48, channels=[8, 8, 16, 16], block_sizes=[1, 2, 2, 1]),
    "ecapa-lid": language_hyperparams(embed_dim=48, channels=NARROW, neurons=32),
}
SMALL_PROXY = {"input_dim": 64, "embed_dim": 24, "channels": 32, "num_blocks": 3}


def write_folder(
    folder: Path, text: str, tensors: Mapping[str, Any], save: Callable[[Path, Any], Any], labels: Sequence[str]
) -> Path:
    """Write a folder as SpeechBrain publishes them.

    Args:
        text: of `hyperparams.yaml`.
        tensors: under `embedding_model.…` and `classifier.…`.
        save: writes a dictionary of tensors to a path in torch's format.
        labels: of `label_encoder.txt`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hyperparams.yaml").write_text(text, encoding="utf-8")
    for part in ("embedding_model", "classifier"):
        inner = {name.removeprefix(f"{part}."): x for name, x in tensors.items() if name.startswith(f"{part}.")}
        if inner:
            save(folder / f"{part}.ckpt", inner)
    (folder / "label_encoder.txt").write_text(label_encoder(labels), encoding="utf-8")
    return folder


def label_encoder(labels: Sequence[str]) -> str:
    """The `label_encoder.txt` that SpeechBrain's encoder writes."""
    lines = [f"{label!r} => {i}" for i, label in enumerate(labels)]
    return "\n".join([*lines, "=" * 16, "'starting_index' => 0", ""])
