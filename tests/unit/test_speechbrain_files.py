"""SpeechBrain's folders: `hyperparams.yaml` and `label_encoder.txt` read as data, and held against the tensors."""

import itertools
import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch_files as tf
from safetensors.numpy import save, save_file
from source_weights import source_weights
from speech_zoo_core.audio.front_end import SPEECHBRAIN
from speech_zoo_core.conversion import convert
from speech_zoo_core.errors import CheckpointError, ConfigError, SpeechZooError
from speech_zoo_core.layers import parameters
from speech_zoo_core.loader import load
from speechbrain_files import label_encoder
from tiny_models import (
    CONFIGS,
    ECAPA,
    LABELS,
    LID,
    RATE,
    hyperparams,
    speechbrain_folder,
    tiny_model,
    tiny_source,
    voice,
)
from torch_files import save_zip, state_dict

FORMS = {"speaker": ECAPA, "language": LID}
each_form = pytest.mark.parametrize("form", FORMS)


@cache
def tensors_of_lid() -> dict[str, bytes]:
    """The two `.ckpt` with the content of safetensors, which read faster than pickles; the names don't matter."""
    files: dict[str, dict[str, np.ndarray]] = {"embedding_model.ckpt": {}, "classifier.ckpt": {}}
    for name, x in tiny_source("ecapa_lid").items():
        files["classifier.ckpt" if name.startswith("classifier.") else "embedding_model.ckpt"][
            name.removeprefix("classifier.")
        ] = x
    return {name: save(tensors) for name, tensors in files.items()}


def quick_folder(path: Path) -> Path:
    """The language model's folder."""
    path.mkdir(exist_ok=True)
    for name, content in tensors_of_lid().items():
        (path / name).write_bytes(content)
    (path / "hyperparams.yaml").write_text(hyperparams(LID), encoding="utf-8")
    (path / "label_encoder.txt").write_text(label_encoder(LABELS), encoding="utf-8")
    return path


def folder(path: Path, *changes: tuple[str, str], config: Any = LID) -> Path:
    """A SpeechBrain folder whose `hyperparams.yaml` has some text replaced."""
    if config is LID:
        quick_folder(path)
    else:
        speechbrain_folder(path, config)
    file = path / "hyperparams.yaml"
    text = file.read_text(encoding="utf-8")
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")
    return path


def labelled(path: Path, text: str | bytes) -> Path:
    """A language folder with this `label_encoder.txt`."""
    quick_folder(path)
    (path / "label_encoder.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path, error: type[SpeechZooError] = ConfigError) -> str:
    with pytest.raises(error) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 5000
    return message


# Whole folders


@each_form
def test_a_published_folder(tmp_path: Path, form: str) -> None:
    model = load(speechbrain_folder(tmp_path, FORMS[form]))
    assert model.config == FORMS[form]
    expected = parameters(tiny_model({"speaker": "ecapa_speechbrain", "language": "ecapa_lid"}[form]))
    assert all(mx.array_equal(x, expected[name]) for name, x in parameters(model).items())


@each_form
def test_the_embedding_model_named_itself(tmp_path: Path, form: str) -> None:
    assert load(speechbrain_folder(tmp_path, FORMS[form]) / "embedding_model.ckpt").config == FORMS[form]


@each_form
@pytest.mark.parametrize("name", ["classifier.ckpt", "mean_var_norm_emb.ckpt"])
def test_another_file_of_the_folder_is_not_the_model(tmp_path: Path, form: str, name: str) -> None:
    path = speechbrain_folder(tmp_path, FORMS[form])
    tf.save_zip(path / "mean_var_norm_emb.ckpt", {"glob_mean": tf.tensor(np.zeros(8, np.float32))})
    assert load(path).config == FORMS[form]
    assert "does not hold the ECAPA-TDNN of its hyperparams.yaml" in refusal(path / name, CheckpointError)


def test_what_a_speaker_model_does_not_need(tmp_path: Path) -> None:
    path = speechbrain_folder(tmp_path, ECAPA)
    for name in ("classifier.ckpt", "label_encoder.txt", "config.json"):
        (path / name).unlink()
    assert load(path).config == ECAPA
    (path / "classifier.ckpt").write_bytes(b"not read")
    assert load(path).config == ECAPA


@each_form
def test_without_its_hyperparams(tmp_path: Path, form: str) -> None:
    path = speechbrain_folder(tmp_path, FORMS[form])
    (path / "hyperparams.yaml").unlink()
    message = refusal(path, CheckpointError)
    assert "put its hyperparams.yaml beside it" in message
    assert "embedding_model.ckpt" in message


def test_without_its_embedding_model(tmp_path: Path) -> None:
    path = speechbrain_folder(tmp_path, LID)
    (path / "embedding_model.ckpt").unlink()
    assert "does not hold the ECAPA-TDNN of its hyperparams.yaml" in refusal(path, CheckpointError)


def test_without_its_classifier(tmp_path: Path) -> None:
    path = speechbrain_folder(tmp_path, LID)
    (path / "classifier.ckpt").unlink()
    assert "holds no classifier.ckpt" in refusal(path, CheckpointError)


def test_a_damaged_classifier(tmp_path: Path) -> None:
    path = speechbrain_folder(tmp_path, LID)
    (path / "classifier.ckpt").write_bytes((path / "classifier.ckpt").read_bytes()[:-200])
    assert "classifier.ckpt is damaged or cut off" in refusal(path, CheckpointError)


def test_a_language_model_without_its_classifier_entry_gives_embeddings(tmp_path: Path) -> None:
    """What SpeechBrain would build from such a folder, too."""
    path = speechbrain_folder(tmp_path, LID)
    text = (path / "hyperparams.yaml").read_text(encoding="utf-8")
    start = text.index("classifier: !new:")
    (path / "hyperparams.yaml").write_text(text[:start] + text[text.index("mean_var_norm_emb") :], encoding="utf-8")
    assert load(path).config == ECAPA


def test_tensors_as_safetensors(tmp_path: Path) -> None:
    path = speechbrain_folder(tmp_path, ECAPA)
    (path / "embedding_model.ckpt").unlink()
    save_file(tiny_source("ecapa_speechbrain"), path / "embedding_model.safetensors")
    assert load(path).config == ECAPA


@pytest.mark.parametrize("prefix", ["module.", "model."])
def test_wrappers_of_training_frameworks(tmp_path: Path, prefix: str) -> None:
    path = speechbrain_folder(tmp_path, ECAPA)
    wrapped = {prefix + name: x for name, x in tiny_source("ecapa_speechbrain").items()}
    tf.save_zip(path / "embedding_model.ckpt", tf.state_dict(wrapped))
    assert load(path).config == ECAPA


def test_another_size(tmp_path: Path) -> None:
    config = replace(
        ECAPA,
        feat_dim=20,
        front_end=replace(SPEECHBRAIN, n_mels=20),
        embed_dim=5,
        channels=[12, 12, 12, 12, 10],
        attention_channels=3,
        res2net_scale=4,
        se_channels=5,
        global_context=False,
    )
    model = load(speechbrain_folder(tmp_path / "source", config))
    assert model.config == config
    assert load(convert(tmp_path / "source", tmp_path / "out")).config.channels == config.channels
    assert model.embed(voice(RATE), RATE).shape == (5,)


# What hyperparams.yaml says

CHANNELS = f"channels: {ECAPA.channels}"
ATTENTION = "    attention_channels: 8\n"
MELS = "    n_mels: !ref <n_mels>\n"


@pytest.mark.parametrize(
    "changes",
    [
        [("n_mels: 16\n", "n_mels: !ref <mels>\nmels: !ref <of_fbank>\nof_fbank: 16\n")],
        [(CHANNELS, "channels: !ref <widths>"), ("sample_rate: 16000", f"widths: {ECAPA.channels}")],
        [(CHANNELS, "channels: [!ref <c>, !ref <c>, !ref <c>, !ref <c>, 48]"), ("sample_rate: 16000", "c: 32")],
        [("compute_features: !new:", "compute_features: !ref <fbank>\nfbank: !new:")],
        [(ATTENTION, f"{ATTENTION}    activation: !name:torch.nn.ReLU\n    dropout: 0.2\n    device: cuda\n")],
        [(ATTENTION, f"{ATTENTION}    activation: !ref <act>\n"), ("sample_rate: 16000", "act: !name:torch.nn.ReLU")],
        [(ATTENTION, f"{ATTENTION}    res2net_scale: 8\n    se_channels: 8\n    global_context: True\n")],
        [(ATTENTION, f"{ATTENTION}    groups: [1, 1, 1, 1, 1]\n")],
        [
            (
                MELS,
                f"{MELS}    deltas: False\n    f_max: 8000\n    n_fft: 400\n    left_frames: 0\n",
            )
        ],
        [(MELS, f"{MELS}    f_max: null\n    sample_rate: 16000\n    filter_shape: triangular\n")],
        [("    lin_blocks: 1\n", "")],
        [("    activation: !name:torch.nn.LeakyReLU\n", "")],
        [("sample_rate: 16000", "odd: !new:os.system\n    command: 'true'\napplied: !apply:os.getcwd []")],
        [("sample_rate: 16000", "there: !ref <data_folder>/train.csv\nsum: !ref <n_mels> + 1\ncopy: !copy <n_mels>")],
        [("sample_rate: 16000", "1: 2\nnull: 3")],
    ],
    ids=lambda changes: changes[0][1][:40],
)
def test_other_ways_to_say_the_same(tmp_path: Path, changes: list[tuple[str, str]]) -> None:
    assert load(folder(tmp_path, *changes)).config == LID


def test_fbank_without_arguments_has_forty_mels(tmp_path: Path) -> None:
    config = replace(ECAPA, feat_dim=40, front_end=replace(SPEECHBRAIN, n_mels=40))
    assert load(folder(tmp_path, (MELS, ""), config=config)).config == config


def test_dilations_are_honoured(tmp_path: Path) -> None:
    """No tensor tells them."""
    model = load(folder(tmp_path, ("dilations: [1, 2, 3, 4, 1]", "dilations: [2, 1, 1, 5, 1]")))
    assert model.config == replace(LID, dilations=[2, 1, 1, 5, 1])
    assert model.min_frames == 6
    x = mx.random.normal((1, 30, 16), key=mx.random.key(0))
    assert not mx.allclose(model(x), tiny_model("ecapa_lid")(x), rtol=1e-2)


CONTRADICTIONS = {  # changes, and what the message names
    "channels": ([(CHANNELS, "channels: [32, 32, 32, 32, 64]")], "channels"),
    "fewer channels": ([(CHANNELS, "channels: [32, 32, 32, 48]")], "channels"),
    "no channels": ([(f"    {CHANNELS}\n", "")], "channels"),  # the default is another
    "kernels": ([("kernel_sizes: [5, 3, 3, 3, 1]", "kernel_sizes: [3, 3, 3, 3, 1]")], "kernel_sizes"),
    "attention": ([(ATTENTION, "    attention_channels: 16\n")], "attention_channels"),
    "squeeze": ([(ATTENTION, f"{ATTENTION}    se_channels: 16\n")], "se_channels"),
    "scale": ([(ATTENTION, f"{ATTENTION}    res2net_scale: 4\n")], "res2net_scale"),
    "context": ([(ATTENTION, f"{ATTENTION}    global_context: False\n")], "global_context"),
    "embedding size": ([("emb_dim: 8", "emb_dim: 9")], "lin_neurons"),
    "no embedding size": ([("    lin_neurons: !ref <emb_dim>\n", "")], "lin_neurons"),
    "mels": ([("n_mels: 16\n", "n_mels: 80\n")], "80"),
    "mels of the features alone": ([(MELS, "    n_mels: 40\n")], "40"),
    "mels of the model alone": ([("input_size: !ref <n_mels>", "input_size: 40")], "40"),
    "classifier": ([("lin_neurons: 12", "lin_neurons: 512")], "lin_neurons"),
    "classes": ([("out_n_neurons: 6", "out_n_neurons: 107")], "out_neurons"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_hyperparams_that_contradict_the_tensors(tmp_path: Path, case: str) -> None:
    changes, named = CONTRADICTIONS[case]
    message = refusal(folder(tmp_path / "source", *changes))
    assert named in message
    with pytest.raises(ConfigError):
        convert(tmp_path / "source", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def argument(text: str, of: str = MELS) -> list[tuple[str, str]]:
    return [(of, f"{of}    {text}\n")]


LEAKY = "activation: !name:torch.nn.LeakyReLU"
UNSUPPORTED = {
    "deltas": (argument("deltas: True"), "deltas"),
    "context": (argument("context: True"), "context"),
    "a longer FFT": (argument("n_fft: 512"), "n_fft"),
    "longer frames": (argument("win_length: 32"), "win_length"),
    "another shift": (argument("hop_length: 12.5"), "hop_length"),
    "another rate": (argument("sample_rate: 8000"), "sample_rate"),
    "a lower edge": (argument("f_min: 20"), "f_min"),
    "an upper edge": (argument("f_max: 7600"), "f_max"),
    "other filters": (argument("filter_shape: gaussian"), "filter_shape"),
    "an unknown feature setting": (argument("log_mel: False"), "log_mel"),
    "normalised by the training set": ([("norm_type: sentence", "norm_type: global")], "norm_type"),
    "normalised by speaker": ([("norm_type: sentence", "norm_type: speaker")], "norm_type"),
    "normalised by default": ([("    norm_type: sentence\n", "")], "norm_type"),
    "variance normalised": (
        [("norm_type: sentence\n    std_norm: False", "norm_type: sentence\n    std_norm: True")],
        "std_norm",
    ),
    "variance normalised by default": (
        [("norm_type: sentence\n    std_norm: False", "norm_type: sentence")],
        "std_norm",
    ),
    "not normalised": (argument("mean_norm: False", "    norm_type: sentence\n"), "mean_norm"),
    "groups": (argument("groups: [1, 1, 1, 1, 2]", ATTENTION), "groups"),
    "an unknown model setting": (argument("pooling: mean", ATTENTION), "pooling"),
    "another activation": (argument("activation: !name:torch.nn.SiLU", ATTENTION), "activation"),
    "a classifier without a hidden layer": ([("lin_blocks: 1", "lin_blocks: 0")], "lin_blocks"),
    "a deeper classifier": ([("lin_blocks: 1", "lin_blocks: 2")], "lin_blocks"),
    "another activation of the classifier": ([(LEAKY, "activation: !name:torch.nn.ReLU")], "activation"),
    "another slope": ([(LEAKY, f"{LEAKY}\n        negative_slope: 0.2")], "activation"),
    "no slope": ([(LEAKY, f"{LEAKY}\n        negative_slope: 0")], "activation"),
    "another slope without its name": ([(LEAKY, f"{LEAKY} [0.2]")], "activation"),
    "an unknown classifier setting": (argument("dropout: 0.1", "    lin_blocks: 1\n"), "dropout"),
    "another classifier": ([("Xvector.Classifier", "Xvector.Discriminator")], "Xvector.Discriminator"),
    "other features": ([("lobes.features.Fbank", "lobes.features.MFCC")], "features.MFCC"),
    "another normalisation": (
        [("mean_var_norm: !new:speechbrain.processing.features.Input", "mean_var_norm: !new:mine.Input")],
        "mine.InputNormalization",
    ),
    "another model": ([("ECAPA_TDNN.ECAPA_TDNN", "Xvector.Xvector")], "speechbrain.lobes.models.Xvector.Xvector"),
    "one's own model": ([("!new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN", "!new:mine.Ecapa")], "mine.Ecapa"),
    "no model": ([("embedding_model: !new:", "embedding_model: null\nother: !new:")], "hyperparams.yaml"),
    "a model as text": ([("embedding_model: !new:", "embedding_model: ecapa\nother: !new:")], "embedding_model"),
    "features applied": ([("compute_features: !new:", "compute_features: !apply:")], "compute_features"),
    "no features": ([("compute_features: !new:", "fbank: !new:")], "compute_features"),
    "no normalisation": ([("mean_var_norm: !new:", "norm: !new:")], "mean_var_norm"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_hyperparams_that_are_not_supported(tmp_path: Path, case: str) -> None:
    changes, named = UNSUPPORTED[case]
    message = refusal(folder(tmp_path, *changes))
    assert named in message
    assert "hyperparams.yaml" in message


def test_hyperparams_without_a_model(tmp_path: Path) -> None:
    """Settings of something else lie beside the file."""
    message = refusal(folder(tmp_path, ("embedding_model: !new:", "encoder: !new:")), CheckpointError)
    assert "hyperparams.yaml" in message


MALFORMED = [
    (CHANNELS, "channels: 32"),
    (CHANNELS, "channels: '32'"),
    (CHANNELS, "channels: {a: 1}"),
    ("dilations: [1, 2, 3, 4, 1]", "dilations: 3"),
    ("dilations: [1, 2, 3, 4, 1]", "dilations: [1, 2, 3, 4]"),
    ("dilations: [1, 2, 3, 4, 1]", "dilations: [1, 2, 3, 0, 1]"),
    ("dilations: [1, 2, 3, 4, 1]", "dilations: [1, 2, 3, -4, 1]"),
    ("dilations: [1, 2, 3, 4, 1]", "dilations: ['1', 2, 3, 4, 1]"),
    ("dilations: [1, 2, 3, 4, 1]", "dilations: [1.5, 2, 3, 4, 1]"),
    ("dilations: [1, 2, 3, 4, 1]", "dilations: [true, 2, 3, 4, 1]"),
    ("dilations: [1, 2, 3, 4, 1]", "dilations: null"),
    ("input_size: !ref <n_mels>", "input_size: true"),
    ("input_size: !ref <n_mels>", "input_size: '16'"),
    ("input_size: !ref <n_mels>", "input_size: null"),
    ("input_size: !ref <n_mels>", "input_size: !ref <n_mels> * 1"),
    ("input_size: !ref <n_mels>", "input_size: !ref <nothing>"),
    ("input_size: !ref <n_mels>", "input_size: !ref <compute_features[n_mels]>"),
    ("    input_size: !ref <n_mels>\n", ""),
    (MELS, "    n_mels: '16'\n"),
    (MELS, "    n_mels: 16.0\n"),
    (MELS, "    n_mels: true\n"),
    (MELS, "    n_mels: -16\n"),
    (MELS, "    n_mels: null\n"),
    (MELS, "    n_mels: [16]\n"),
    (MELS, "    1: 16\n"),
    ("norm_type: sentence", "norm_type: [sentence]"),
    (MELS, " [16]\n"),
    ("n_mels: 16\n", "n_mels: !ref <n_mels>\n"),
    ("n_mels: 16\n", "n_mels: !ref <a>\na: !ref <b>\nb: !ref <n_mels>\n"),
    ("embedding_model: !new:", "embedding_model: !ref <embedding_model>\nother: !new:"),
    ("lin_neurons: 12", "lin_neurons: twelve"),
    ("sample_rate: 16000", "sample_rate: !!bool maybe"),
    ("sample_rate: 16000", "sample_rate: !!int ''"),
    ("sample_rate: 16000", "sample_rate: !!timestamp soon"),
    ("sample_rate: 16000", "sample_rate: &a !new:x {y: *a}"),
    ("sample_rate: 16000", "sample_rate: *nowhere"),
    ("sample_rate: 16000", "? [1]\n: 2"),
    ("sample_rate: 16000", "\tx"),
    ("sample_rate: 16000", "!ref [a]: 5"),
]  # fmt: skip


@pytest.mark.parametrize("change", MALFORMED, ids=lambda change: change[1].strip()[:50])
def test_hyperparams_of_a_wrong_type(tmp_path: Path, change: tuple[str, str]) -> None:
    refusal(folder(tmp_path, change), SpeechZooError)


@pytest.mark.parametrize(
    "content", [b"", b"a: [", b"- 1\n- 2", b"text", b"\xff\xfe", b"!new:mine.Model {}", b"[" * 600, b"!!python/none x"]
)
def test_hyperparams_that_are_no_mapping(tmp_path: Path, content: bytes) -> None:
    path = quick_folder(tmp_path)
    (path / "hyperparams.yaml").write_bytes(content)
    assert "hyperparams.yaml" in refusal(path, SpeechZooError)


# Nothing runs

CALLS = [
    "!new:os.mkdir ['{marker}']",
    "!new:os.mkdir\n    path: '{marker}'",
    "!apply:os.mkdir ['{marker}']",
    "!apply:pathlib.Path.mkdir\n    self: !new:pathlib.Path ['{marker}']",
    "!name:os.mkdir ['{marker}']",
    "!module:os",
    "!include:{marker}.yaml",
    "!!python/object/apply:os.mkdir ['{marker}']",
    "!!python/object/new:os.mkdir ['{marker}']",
    "!!python/name:os.mkdir",
    "!!python/module:os",
    "!ref <__import__('os').mkdir('{marker}')>",
    "!ref <n_mels> + __import__('os').mkdir('{marker}')",
    "!applyref:os.mkdir ['{marker}']",
]
PLACES = [
    "sample_rate: 16000",
    "embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN",
    "    input_size: !ref <n_mels>",
]
MORE_PLACES = [
    "compute_features: !new:speechbrain.lobes.features.Fbank",
    "classifier: !new:speechbrain.lobes.models.Xvector.Classifier",
    "    activation: !name:torch.nn.LeakyReLU",
]


@pytest.mark.parametrize(
    ("call", "place"),
    [*itertools.product(CALLS, PLACES), *itertools.product(CALLS[1:3], MORE_PLACES)],
    ids=lambda text: text.split()[0],
)
def test_a_call_in_hyperparams_does_not_run(tmp_path: Path, call: str, place: str) -> None:
    marker = tmp_path / "ran"
    key = place.partition(":")[0]
    value = call.format(marker=marker)
    # The arguments of what stood there go to another entry.
    new = f"{key}: {value}" if key.startswith(" ") else f"{key}: {value}\nunused_{key}: !new:x"
    path = folder(tmp_path / "model", (f"{place}\n", f"{new}\n"))
    try:
        load(path)
    except SpeechZooError as error:
        assert "\n" not in str(error)
    else:
        assert key == "sample_rate"  # an entry that nothing here reads
    assert not marker.exists()


LAUGHS = "\n".join(["a: &a [x, y]", *(f"{c}: &{c} [{', '.join([f'*{chr(ord(c) - 1)}'] * 9)}]" for c in "bcdefghij")])
MERGES = "\n".join(
    ["a: &a {x: y}", *(f"{c}: &{c} {{<<: [{', '.join([f'*{chr(ord(c) - 1)}'] * 9)}]}}" for c in "bcdefghij")]
)
REFERENCES = "\n".join(["a: [x, y]", *(f"{c}: [{', '.join([f'!ref <{chr(ord(c) - 1)}>'] * 9)}]" for c in "bcdefghij")])


PRINTED = [
    "attention_channels: 8",
    CHANNELS,
    "norm_type: sentence",
    "input_size: !ref <n_mels>",
    "    n_mels: !ref <n_mels>",
    "lin_neurons: 12",
    "out_neurons: !ref <out_n_neurons>",
    "activation: !name:torch.nn.LeakyReLU",
]


@pytest.mark.parametrize(
    ("bomb", "value", "old"),
    [
        *((LAUGHS, "*j", old) for old in PRINTED),
        *((REFERENCES, "!ref <j>", old) for old in PRINTED[:3]),
        (MERGES, "*j", PRINTED[0]),
    ],
    ids=lambda text: text[:20],
)
def test_aliases_of_aliases_take_no_time(tmp_path: Path, bomb: str, value: str, old: str) -> None:
    """Ten lines that stand for a thousand million values, used where a message would print them."""
    changes = [("sample_rate: 16000", bomb), (old, f"{old.partition(':')[0]}: {value}")]
    start = time.perf_counter()
    refusal(folder(tmp_path, *changes))
    assert time.perf_counter() - start < 5


def test_a_long_chain_of_references(tmp_path: Path) -> None:
    chain = "\n".join(f"r{i}: !ref <r{i + 1}>" for i in range(300))
    assert load(folder(tmp_path, ("n_mels: 16\n", f"n_mels: !ref <r0>\n{chain}\nr300: 16\n"))).config == LID


# label_encoder.txt

LINES = label_encoder(LABELS).splitlines()[: len(LABELS)]


def lines(*changed: str) -> str:
    """The label file with its last line, `'nn: Norwegian Nynorsk' => 5`, replaced."""
    return "\n".join([*LINES[:-1], *changed]) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        label_encoder(LABELS),
        lines(LINES[-1]),  # without what describes the encoder
        "\n".join(LINES[::-1]),  # in another order
        "\r\n".join(LINES) + "\r\n",
        lines(LINES[-1], "================", "'starting_index' => 0", "'unk_label' => ('x',)", "anything"),
        lines(LINES[-1].replace("'", '"')),
    ],
)
def test_labels_stand_in_the_order_of_their_numbers(tmp_path: Path, text: str) -> None:
    assert load(labelled(tmp_path, text)).config == LID


def test_labels_of_any_letters(tmp_path: Path) -> None:
    labels = ["fr: Français", "zh: 中文", "it's: O'Neill", 'q: "quoted"', "back\\slash: \\n", "a => b: => 3"]
    model = load(labelled(tmp_path, label_encoder(labels)))
    assert list(model.config.id2label.values()) == labels
    assert model.labels == ["fr", "zh", "it's", "q", "back\\slash", "a => b"]
    names = {p.label: p.name for p in model.predict(voice(RATE), top_k=6, sample_rate=RATE)}
    assert names["zh"] == "中文"


def test_the_name_that_speechbrains_cache_gives_the_labels(tmp_path: Path) -> None:
    path = quick_folder(tmp_path)
    (path / "label_encoder.txt").rename(path / "label_encoder.ckpt")
    assert load(path).config == LID
    assert load(path / "embedding_model.ckpt").config == LID


def test_without_labels(tmp_path: Path) -> None:
    path = quick_folder(tmp_path)
    (path / "label_encoder.txt").unlink()
    assert "label_encoder.txt" in refusal(path, CheckpointError)


@pytest.mark.parametrize(("text", "count"), [(lines(), 5), (lines(LINES[-1], "'fr: French' => 6"), 7)])
def test_more_or_fewer_labels_than_classes(tmp_path: Path, text: str, count: int) -> None:
    message = refusal(labelled(tmp_path / "source", text), CheckpointError)
    assert "6 classes" in message
    assert f"{count} labels" in message
    with pytest.raises(CheckpointError):
        convert(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_classes_than_labels(tmp_path: Path) -> None:
    weights = dict(tiny_source("ecapa_lid"))
    for part in ("weight", "bias"):
        weights[f"classifier.out.w.{part}"] = np.repeat(weights[f"classifier.out.w.{part}"], 2, axis=0)
    path = speechbrain_folder(tmp_path, LID, weights)
    message = refusal(path, SpeechZooError)
    assert "12" in message
    assert "6" in message


BAD_LINES = {
    "a gap": "'fr: French' => 6",
    "a number twice": "'fr: French' => 4",
    "a negative number": "'fr: French' => -1",
    "a fraction": "'fr: French' => 5.0",
    "a word": "'fr: French' => five",
    "a huge number": "'fr: French' => " + "9" * 5000,
    "no number": "'fr: French' =>",
    "no arrow": "'fr: French' 5",
    "another arrow": "'fr: French' -> 5",
    "no quotes": "fr: French => 5",
    "a call": "__import__('os').mkdir('ran') => 5",
    "a call in brackets": "[__import__('os').mkdir('ran')] => 5",
    "an f-string": 'f\'{__import__("os").mkdir("ran")}\' => 5',
    "a comprehension": "[x for x in ().__class__.__base__.__subclasses__()] => 5",
    "a number as a label": "5 => 5",
    "bytes": "b'fr' => 5",
    "a tuple": "('fr', 'French') => 5",
    "no label": "None => 5",
    "an unhashable key": "{[]: 1} => 5",
    "a set of sets": "{{1}} => 5",
    "a blank line": "",
    "a zero byte": "'fr\0' => 5",
    "a quote left open": "'fr: French => 5",
    "deep brackets": "(" * 5000 + " => 5",
    "deep signs": "-" * 50000 + "1 => 5",
    "an empty label": "'' => 5",
    "a name without a code": "': French' => 5",
    "a label twice": "'en: English' => 5",
    "a code twice": "'en: Anglais' => 5",
    "a code twice, once with a name": "'en' => 5",
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_line_that_is_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(labelled(tmp_path / "source", lines(BAD_LINES[case])))
    assert "label" in message  # the file, or id2label
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\n\n", b"================\n'starting_index' => 0\n", b"\xff\xfe'a' => 0"])
def test_a_file_without_labels(tmp_path: Path, content: bytes) -> None:
    assert "label_encoder.txt" in refusal(labelled(tmp_path, content))


def test_labels_that_start_at_one(tmp_path: Path) -> None:
    text = "\n".join(f"{label!r} => {i}" for i, label in enumerate(LABELS, 1))
    assert "label_encoder.txt" in refusal(labelled(tmp_path, text))


# Tensors

KEYS = [
    "blocks.0.conv.conv.weight",
    "blocks.1.tdnn1.conv.conv.weight",
    "blocks.1.res2net_block.blocks.0.conv.conv.weight",
    "blocks.1.se_block.conv1.conv.weight",
    "blocks.2.se_block.conv2.conv.bias",
    "mfa.conv.conv.weight",
    "asp.tdnn.conv.conv.weight",
    "asp.conv.conv.weight",
    "asp_bn.norm.running_mean",
    "fc.conv.weight",
    "fc.conv.bias",
    "classifier.norm.norm.running_var",
    "classifier.DNN.block_0.linear.w.weight",
    "classifier.out.w.weight",
    "classifier.out.w.bias",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("shape", [None, ()], ids=str)
def test_an_impossible_or_missing_tensor(tmp_path: Path, key: str, shape: tuple[int, ...] | None) -> None:
    weights = dict(tiny_source("ecapa_lid"))
    del weights[key]
    if shape is not None:
        weights[key] = np.ones(shape, np.float32)
    message = refusal(speechbrain_folder(tmp_path, LID, weights), SpeechZooError)
    if shape is None and key not in ("blocks.0.conv.conv.weight", "asp.conv.conv.weight"):  # these tell the form
        plain = re.sub(r"\.(?:conv|norm|w)(?=\.[a-z_]+$)", "", key.removeprefix("classifier."))
        assert key.removeprefix("classifier.") in message or plain.replace("running_var", "running_mean") in message


@pytest.mark.parametrize("key", ["surprise.weight", "blocks.3.tdnn9.conv.conv.weight", "blocks.1.surprise.running_var"])
@pytest.mark.parametrize("part", ["", "classifier."])
def test_a_tensor_left_over_is_named(tmp_path: Path, part: str, key: str) -> None:
    weights = tiny_source("ecapa_lid") | {f"{part}{key}": np.ones((3, 3, 3), np.float32)}
    message = refusal(speechbrain_folder(tmp_path, LID, weights), SpeechZooError)
    assert key.partition(".")[0] in message


def test_block_numbers_with_a_gap(tmp_path: Path) -> None:
    """A name must not decide how many blocks are built."""
    weights = tiny_source("ecapa_speechbrain") | {"blocks.999.tdnn1.conv.conv.weight": np.ones((32, 32, 1), np.float32)}
    start = time.perf_counter()
    refusal(speechbrain_folder(tmp_path, ECAPA, weights), SpeechZooError)
    assert time.perf_counter() - start < 3


def test_a_square_model(tmp_path: Path) -> None:
    """(3, 3, 3) fits in both orders."""
    config = CONFIGS["ecapa_square"]
    model = load(speechbrain_folder(tmp_path / "source", config))
    again = load(convert(tmp_path / "source", tmp_path / "out"))
    expected = source_weights(config)["blocks.2.res2net_block.blocks.4.conv.conv.weight"].transpose(0, 2, 1)
    for loaded in (model, again):
        assert np.array_equal(np.array(parameters(loaded)["blocks.2.res2net_block.blocks.4.conv.weight"]), expected)


# A classifier by cosines: languages (CommonLanguage), accents, emotions


def cosine_folder(path: Path, labels: Sequence[str], classes: int | None = None) -> Path:
    folder = speechbrain_folder(path, ECAPA)
    weight = np.random.default_rng(0).standard_normal((classes or len(labels), ECAPA.embed_dim)).astype(np.float32)
    save_zip(folder / "classifier.ckpt", state_dict({"weight": weight}))
    (folder / "label_encoder.txt").write_text(label_encoder(labels), encoding="utf-8")
    text = (folder / "hyperparams.yaml").read_text(encoding="utf-8")
    (folder / "hyperparams.yaml").write_text(text.replace("out_n_neurons: 20", f"out_n_neurons: {len(labels)}"))
    return folder


COMMON_LANGUAGE = ["Arabic", "Basque", "Chinese_China", "Chinese_Taiwan", "Hakha_Chin", "Dutch", "Kabyle"]


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (COMMON_LANGUAGE, "language-identification"),
        (["en", "fr", "de"], "language-identification"),
        (["us", "england", "australia", "indian", "newzealand", "southatlandtic"], "audio-classification"),
        (["neu", "hap", "ang", "sad"], "audio-classification"),
    ],
)
def test_a_classifier_by_cosines(tmp_path: Path, labels: list[str], task: str) -> None:
    model = load(cosine_folder(tmp_path / "source", labels))
    assert (model.config.task, model.labels) == (task, labels)
    x = voice(RATE)
    vector = np.array(load_speakers(tmp_path).embed((x, RATE)))
    weight = np.array(model.classifier.weight)
    cosines = weight @ vector / np.linalg.norm(weight, axis=1)
    assert np.allclose(np.array(model.logits((x, RATE))), cosines, atol=1e-6)
    assert np.allclose(np.array(model(mx.array(x)))[0], cosines, atol=1e-6)
    best = model.predict((x, RATE), top_k=1)[0]
    assert (best.label, best.logit) == (labels[int(cosines.argmax())], pytest.approx(cosines.max(), abs=1e-6))
    again = load(convert(tmp_path / "source", tmp_path / "out"))
    assert np.array_equal(np.array(again.logits((x, RATE))), np.array(model.logits((x, RATE))))


def load_speakers(tmp_path: Path) -> Any:
    return load(speechbrain_folder(tmp_path / "speakers", ECAPA))


@pytest.mark.parametrize("labels", [["id10001", "id10002"], ["1089", "121"], ["p225", "p226"]])
def test_a_classifier_of_speakers(tmp_path: Path, labels: list[str]) -> None:
    folder = cosine_folder(tmp_path / "source", labels)
    assert load(folder).config.task == "speaker-embedding"
    config = json.loads((convert(folder, tmp_path / "out") / "config.json").read_text())
    assert sorted(config["source"]["sha256"]) == ["config.json", "embedding_model.ckpt", "hyperparams.yaml"]


def test_a_classifier_by_cosines_without_what_it_needs(tmp_path: Path) -> None:
    folder = cosine_folder(tmp_path / "a", COMMON_LANGUAGE, classes=5)
    assert "has 5 for out_neurons" in refusal(folder)
    folder = cosine_folder(tmp_path / "b", COMMON_LANGUAGE)
    (folder / "classifier.ckpt").unlink()
    assert "holds no classifier.ckpt" in refusal(folder, CheckpointError)
    folder = cosine_folder(tmp_path / "c", COMMON_LANGUAGE)
    (folder / "label_encoder.txt").unlink()
    text = (folder / "hyperparams.yaml").read_text()
    (folder / "hyperparams.yaml").write_text(text.replace("out_n_neurons", "n_languages"))
    assert "holds no label_encoder.txt" in refusal(folder, CheckpointError)


def test_a_recording_rate_that_is_not_supported(tmp_path: Path) -> None:
    folder = speechbrain_folder(tmp_path / "source", ECAPA)
    text = (folder / "hyperparams.yaml").read_text()
    (folder / "hyperparams.yaml").write_text(text.replace("sample_rate: 16000", "sample_rate: 8000"))
    assert "sample_rate must be 16000, not 8000" in refusal(folder)
