"""Bad input: exit status 1, one line on stderr that says what is wrong, nothing left half-written.

What goes wrong with the Hub itself stands in test_hub.py, wrong usage in test_commands.py.
"""

import json
import operator
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files
from safetensors.numpy import load_file, save_file
from speech_zoo_core import registry

Run = Callable[..., Any]
COMMAND = Path(sys.executable).with_name("speech-zoo")
Unchanged = Callable[[], None]

# The second second of libri_01_spk1089.wav, samples [16000:32000] read as int16, written by soundfile 0.14.

KNOWN = ", ".join(registry.model_types())
VOICE_FLAC = Path(__file__).parent / "data" / "voice.flac"


# Audio


def float_wav(path: Path, samples: np.ndarray) -> None:
    """A WAV of 32-bit floats, 16 kHz, mono: the standard library writes integers only."""
    data = samples.astype("<f4").tobytes()
    fields = [3, 1, 16000, 64000]  # IEEE float, channels, rate, bytes a second
    header = b"".join(
        number.to_bytes(size, "little") for number, size in zip([*fields, 4, 32], (2, 2, 4, 4, 2, 2), strict=True)
    )
    chunks = b"fmt " + len(header).to_bytes(4, "little") + header + b"data" + len(data).to_bytes(4, "little") + data
    path.write_bytes(b"RIFF" + (4 + len(chunks)).to_bytes(4, "little") + b"WAVE" + chunks)


def make_audio(path: Path, clip: Path) -> None:
    """Write the bad clip that the file's name describes; `clip` is a good WAV of one second."""
    wav, flac = clip.read_bytes(), VOICE_FLAC.read_bytes()
    head, samples = wav[:44], np.frombuffer(wav[44:], "<i2")

    def pcm(data: bytes) -> bytes:
        return head[:4] + (36 + len(data)).to_bytes(4, "little") + head[8:40] + len(data).to_bytes(4, "little") + data

    if path.stem == "folder":
        path.mkdir()
    elif path.stem in ("nan", "inf"):
        floats = samples / 32768
        floats[100] = np.nan if path.stem == "nan" else np.inf
        float_wav(path, floats)
    elif path.stem != "missing" and len(path.stem) < 300:
        path.write_bytes(
            {
                "text": b"This is not audio.\n" * 50,
                "no-bytes": b"",
                "no-samples": pcm(b""),
                "no-data-chunk": head[:36],
                "half": wav[: len(wav) // 2],
                "cut-by-one-sample": wav[:-2],
                "flac-half": flac[: len(flac) // 2],
                "flac-header": flac[:20],
                "10-ms": pcm(wav[44 : 44 + 320]),
                "silence": pcm(bytes(32000)),
            }[path.stem]
        )


AUDIO = {
    "missing.wav": "missing.wav does not exist",
    "x" * 300: "x" * 300,  # longer than a file's name can be
    "folder.wav": "folder.wav is a folder",
    "text.wav": "text.wav is not audio",
    "no-bytes.wav": "no-bytes.wav is empty",
    "no-samples.wav": "no-samples.wav is empty",
    "no-data-chunk.wav": "no-data-chunk.wav is truncated",
    "half.wav": "half.wav is truncated",
    "flac-half.flac": "flac-half.flac is truncated",
    "flac-header.flac": "flac-header.flac is not audio",
    "10-ms.wav": "10-ms.wav is too short: 0.010 s, resnet34 needs at least 0.105 s",
    "silence.wav": "silence.wav holds no speech",
    "nan.wav": "nan.wav holds NaN or infinite samples",
    "inf.wav": "inf.wav holds NaN or infinite samples",
}


@pytest.mark.parametrize("name", sorted(AUDIO.keys() - {"folder.wav"}), ids=lambda name: name[:30])
def test_a_bad_clip_is_refused(
    cli: Run, unchanged: Unchanged, tmp_path: Path, clip: Path, converted: Path, name: str
) -> None:
    make_audio(tmp_path / name, clip)
    result = cli("embed", clip, name, "--model", converted, "--output", "vectors.safetensors")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith(f"error: {AUDIO[name]}") and result.err.count("\n") == 1
    assert load_file(tmp_path / "vectors.safetensors").keys() == {str(clip)}  # what works is written
    (tmp_path / "vectors.safetensors").unlink()
    unchanged()
    assert cli("embed", name, "--model", converted, "--output", "vectors.safetensors").failed().startswith(AUDIO[name])
    unchanged()


def test_what_holds_no_audio_files(cli: Run, tmp_path: Path, clip: Path, converted: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    for given, message in (("empty", "empty holds no audio files"), ("*.flac", "no file fits *.flac")):
        assert cli("embed", clip, given, "--model", converted).failed() == message


def test_folders_and_patterns_are_their_files(cli: Run, tmp_path: Path, clip: Path, converted: Path) -> None:
    for name in ("talks/b.wav", "talks/deep/a.WAV", "talks/.hidden/c.wav", "talks/notes.txt", "[x].wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, tmp_path / name)
    rows = cli("embed", "talks", "[x].wav", "talks/*.wav", "--model", converted, "--json").succeeded().json
    assert [row["file"] for row in rows] == ["talks/b.wav", "talks/deep/a.WAV", "[x].wav", "talks/b.wav"]


@pytest.mark.parametrize("name", ["half.wav", "silence.wav", "folder.wav"])
def test_a_bad_clip_is_refused_as_a_voice_to_verify(
    cli: Run, tmp_path: Path, clip: Path, converted: Path, name: str
) -> None:
    make_audio(tmp_path / name, clip)
    assert cli("verify", clip, name, "--model", converted).failed().startswith(AUDIO[name])


def test_the_clips_that_the_bad_ones_are_made_from_are_good(
    cli: Run, tmp_path: Path, clip: Path, converted: Path
) -> None:
    float_wav(tmp_path / "float.wav", np.frombuffer(clip.read_bytes()[44:], "<i2") / 32768)
    result = cli("embed", clip, VOICE_FLAC, "float.wav", "--model", converted, "--json").succeeded()
    wav, flac, float_ = (np.array(row["embedding"]) for row in result.json)
    assert np.array_equal(wav, flac)
    assert np.allclose(wav, float_, atol=1e-6)


def test_the_bundled_model_says_how_long_a_clip_must_be(cli: Run, tmp_path: Path, clip: Path) -> None:
    make_audio(tmp_path / "10-ms.wav", clip)
    message = cli("embed", "10-ms.wav").failed()
    assert message == "10-ms.wav is too short: 0.010 s, campplus needs at least 0.045 s"


def test_samples_that_are_not_finite_are_an_audio_error_in_python(python: Run, converted: Path) -> None:
    code = """
import sys, numpy as np, speech_zoo
model = speech_zoo.load(sys.argv[1])
for value in (np.nan, np.inf, -np.inf):
    samples = np.random.default_rng(0).normal(0, 0.1, 16000)
    samples[100] = value
    for call in (lambda: model.embed((samples, 16000)), lambda: model.embed_batch([samples], sample_rate=16000)):
        try:
            call()
        except speech_zoo.AudioError as error:
            assert isinstance(error, speech_zoo.SpeechZooError)
            print(error)
"""
    result = python(code, converted).succeeded()
    assert result.out == "the clip holds NaN or infinite samples; clean it before use\n" * 6


# Checkpoints


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, drop: str = "", **changes: np.ndarray) -> None:
    path = next(folder.glob("*.safetensors"))
    tensors = {name: value for name, value in load_file(path).items() if name != drop}
    save_file(tensors | {name.replace("__", "."): value for name, value in changes.items()}, path)


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def only(folder: Path, name: str, content: bytes) -> None:
    """Leave nothing in the folder but one file."""
    for path in folder.iterdir():
        path.unlink()
    (folder / name).write_bytes(content)


def torch_file(folder: Path, form: str) -> Path:
    """Replace the tensors of a source folder by a PyTorch file."""
    path = next(folder.glob("*.safetensors"))
    content = torch_files.state_dict(load_file(path))
    path.unlink()
    return torch_files.SAVERS[form](folder / "avg_model.pt", content)


ZEROS = np.zeros((3, 4), np.float32)
# How to spoil a good folder, and what the error says.
CONVERTED: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "empty folder": (lambda f: [path.unlink() for path in f.iterdir()], ["broken holds no checkpoint"]),
    "no config": (
        lambda f: (f / "config.json").unlink(),
        ["no config.json says what it is", KNOWN],
    ),
    "no tensors": (lambda f: (f / "model.safetensors").unlink(), ["broken holds no checkpoint"]),
    "missing tensor": (
        lambda f: edit_tensors(f, drop="layer3.0.conv2.bias"),
        ["does not fit the model: 1 missing: layer3.0.conv2.bias"],
    ),
    "extra tensor": (
        lambda f: edit_tensors(f, layer9__weight=ZEROS, other=ZEROS),
        ["does not fit the model: 2 unexpected: ", "layer9.weight", "other"],
    ),
    "wrong shape": (
        lambda f: edit_tensors(f, seg_1__bias=ZEROS),
        ["does not fit the model: 1 of another shape: seg_1.bias (3, 4) instead of (16,)"],
    ),
    "all three": (
        lambda f: edit_tensors(f, drop="conv1.bias", seg_1__bias=ZEROS, other=ZEROS),
        ["1 missing: conv1.bias", "1 unexpected: other", "1 of another shape: seg_1.bias"],
    ),
    "tensors cut off": (lambda f: cut(f / "model.safetensors", 0.7), ["model.safetensors is cut off"]),
    "header cut off": (lambda f: cut(f / "model.safetensors", 0.001), ["model.safetensors is cut off"]),
    "no bytes": (lambda f: cut(f / "model.safetensors", 0), ["model.safetensors is cut off"]),
    "text": (lambda f: (f / "model.safetensors").write_text("Not a checkpoint.\n" * 9), ["model.safetensors"]),
    "unknown model_type": (
        lambda f: edit_config(f, model_type="resnet35"),
        [f"unknown model_type 'resnet35'; known: {KNOWN}"],
    ),
    "model_type of another type": (lambda f: edit_config(f, model_type=["resnet34"]), ["model_type must be a string"]),
    "text for a number": (lambda f: edit_config(f, embed_dim="16"), ["config.json", "embed_dim"]),
    "number for a list": (lambda f: edit_config(f, num_blocks=4), ["config.json", "num_blocks"]),
    "float for an integer": (lambda f: edit_config(f, m_channels=4.5), ["config.json", "m_channels"]),
    "text for a mapping": (lambda f: edit_config(f, front_end="fbank"), ["config.json", "front_end"]),
    "null": (lambda f: edit_config(f, embed_dim=None), ["config.json", "embed_dim"]),
    "negative size": (lambda f: edit_config(f, embed_dim=-16), ["embed_dim must be positive"]),
    "threshold out of range": (lambda f: edit_config(f, threshold=1.5), ["threshold is a cosine between -1 and 1"]),
    "unknown key": (lambda f: edit_config(f, dropout=0.1), ["config.json", "dropout"]),
    "unknown window": (lambda f: edit_config(f, front_end={"window": "hann"}), ["config.json", "window"]),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), ["config.json must hold a JSON object"]),
    "invalid JSON": (lambda f: cut(f / "config.json", 0.5), ["config.json is not valid JSON"]),
    "binary config": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\0"), ["config.json is not valid JSON"]),
}
ORIGINAL: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "missing convolution": (lambda f: edit_tensors(f, drop="layer3.0.conv1.weight"), ["layer3.0.conv1.weight"]),
    "missing statistics": (lambda f: edit_tensors(f, drop="layer2.0.bn1.running_mean"), ["layer2.0.bn1.running_mean"]),
    "missing shift": (lambda f: edit_tensors(f, drop="bn1.bias"), ["lacks bn1.bias"]),
    "extra tensor": (lambda f: edit_tensors(f, other__weight=ZEROS), ["looks like a WeSpeaker ResNet", "other.weight"]),
    "wrong shape": (lambda f: edit_tensors(f, layer3__0__conv1__weight=ZEROS), ["layer3.0.conv1"]),
    "wrong shape of statistics": (lambda f: edit_tensors(f, bn1__running_var=np.ones(3, "f4")), ["bn1"]),
    "truncated zip": (lambda f: cut(torch_file(f, "zip"), 0.6), ["avg_model.pt is damaged or cut off"]),
    "truncated legacy file": (lambda f: cut(torch_file(f, "legacy"), 0.6), ["avg_model.pt is cut off"]),
    "pickle cut off": (lambda f: cut(torch_file(f, "legacy"), 0.01), ["avg_model.pt has a damaged pickle"]),
    "invalid YAML": (lambda f: (f / "config.yaml").write_text("model: [ResNet34"), ["config.yaml cannot be read"]),
    "settings that contradict": (
        lambda f: (f / "config.yaml").write_text("{model: ResNet34, model_args: {embed_dim: 32}}"),
        ["config.yaml says"],
    ),
    "unknown tensors": (
        lambda f: save_file({"encoder.weight": ZEROS}, only(f, "x.safetensors", b"") or f / "x.safetensors"),
        ["x.safetensors is not a source checkpoint that is known"],
    ),
    "text named .pt": (lambda f: only(f, "model.pt", b"Not a checkpoint.\n" * 9), ["model.pt is not a checkpoint"]),
    "text named .onnx": (lambda f: only(f, "model.onnx", b"Not a checkpoint.\n" * 9), ["onnx"]),
    "text named .npz": (lambda f: only(f, "model.npz", b"Not a checkpoint.\n" * 9), ["model.npz"]),
    "several checkpoints": (
        lambda f: torch_files.save_zip(f / "other.safetensors", {}),
        ["holds several checkpoints (avg_model.safetensors, other.safetensors)"],
    ),
}


def copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize("case", CONVERTED)
def test_a_bad_converted_checkpoint_is_refused(
    cli: Run, unchanged: Unchanged, tmp_path: Path, converted: Path, case: str
) -> None:
    spoil, messages = CONVERTED[case]
    spoil(copy(converted, tmp_path / "broken"))
    unchanged()
    error = cli("convert", "broken", "out").failed()
    assert all(message in error for message in messages), error
    unchanged()


@pytest.mark.parametrize("case", ORIGINAL)
def test_a_bad_source_checkpoint_is_refused(
    cli: Run, unchanged: Unchanged, tmp_path: Path, original: Path, case: str
) -> None:
    spoil, messages = ORIGINAL[case]
    spoil(copy(original, tmp_path / "broken"))
    unchanged()
    error = cli("convert", "broken", "out").failed()
    assert all(message in error for message in messages), error
    unchanged()


@pytest.mark.parametrize(
    ("command", "case"),
    [("info", "missing tensor"), ("embed", "unknown model_type"), ("verify", "text for a number")],
)
def test_every_command_refuses_a_bad_checkpoint(
    cli: Run, unchanged: Unchanged, tmp_path: Path, clip: Path, converted: Path, case: str, command: str
) -> None:
    spoil, messages = CONVERTED[case]
    spoil(copy(converted, tmp_path / "broken"))
    unchanged()
    error = cli(*using("broken", command, clip)).failed()
    assert all(message in error for message in messages), error
    unchanged()


def using(model: str, command: str, clip: Path) -> list[Any]:
    """The arguments that make a command load a model."""
    return {
        "info": ["info", model],
        "embed": ["embed", clip, "--model", model],
        "verify": ["verify", clip, clip, "--model", model],
        "convert": ["convert", model, "out"],
    }[command]


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_the_torch_files_that_the_bad_ones_are_made_from_are_good(
    cli: Run, tmp_path: Path, original: Path, converted: Path, form: str
) -> None:
    torch_file(copy(original, tmp_path / "good"), form)
    cli("convert", "good", "out").succeeded()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (converted / "model.safetensors").read_bytes()


# Pickles that run code


class Gadget:
    """An object whose pickle is a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


TOUCH = "open('executed', 'w').close()"
GADGETS = {
    "os.system": (Gadget(os.system, "echo > executed"), "system"),
    "builtins.eval": (Gadget(eval, TOUCH), "eval"),
    "builtins.exec": (Gadget(exec, TOUCH), "exec"),
    "builtins.open": (Gadget(open, "executed", "w"), "open"),
    "subprocess": (Gadget(subprocess.check_call, [sys.executable, "-c", TOUCH]), "check_call"),
    "methodcaller": (Gadget(operator.methodcaller("touch"), Path("executed")), "operator.methodcaller"),
}


def refuse(name: str, unchanged: Unchanged, run: Callable[[], Any]) -> None:
    """Nothing is executed, and the error names what the pickle calls."""
    unchanged()
    error = run().failed()
    assert "was refused: its pickle calls " in error
    assert f"{name}, which is not needed to store tensors; nothing was run" in error
    unchanged()  # no file `executed`


@pytest.mark.parametrize(
    ("name", "form", "protocol"),
    [
        *((name, "zip", 2) for name in GADGETS),
        ("os.system", "legacy", 2),
        ("builtins.eval", "legacy", 4),
        ("methodcaller", "zip", 4),
    ],
)
def test_a_pickle_that_calls_anything_is_refused(
    cli: Run,
    unchanged: Unchanged,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    form: str,
    protocol: int,
) -> None:
    gadget, called = GADGETS[name]
    content = pickle.dumps(gadget, protocol)
    monkeypatch.chdir(tmp_path)
    pickle.loads(content)  # the gadget is live: Python's own reader runs it
    (tmp_path / "executed").unlink()
    torch_files.SAVERS[form](tmp_path / "avg_model.pt", content)
    refuse(called, unchanged, lambda: cli("convert", "avg_model.pt", "out"))


@pytest.mark.parametrize("command", ["info", "embed", "verify"])
def test_every_command_refuses_a_pickle_that_calls(
    cli: Run, unchanged: Unchanged, tmp_path: Path, clip: Path, command: str
) -> None:
    torch_files.save_zip(tmp_path / "avg_model.pt", pickle.dumps(GADGETS["builtins.eval"][0], 2))
    refuse("eval", unchanged, lambda: cli(*using("avg_model.pt", command, clip)))


@pytest.mark.parametrize(
    ("place", "form"),
    [("hyper_parameters", "zip"), ("state_dict", "zip"), ("hyper_parameters", "legacy"), ("callbacks", "legacy")],
)
def test_a_call_nested_in_a_lightning_checkpoint_is_refused(
    cli: Run, unchanged: Unchanged, tmp_path: Path, weights: dict[str, np.ndarray], form: str, place: str
) -> None:
    call = torch_files.Name("os", "system")("echo > executed")
    states: dict[str, Any] = torch_files.state_dict({f"resnet.{key}": value for key, value in weights.items()})
    content: dict[str, Any] = {"state_dict": states, "hyper_parameters": {"sample_rate": 16000}, "epoch": 3}
    content[place] = {**content.get(place, {}), "seed": [(1, {"deep": call})]}
    torch_files.SAVERS[form](tmp_path / "pytorch_model.bin", content)
    refuse("os.system", unchanged, lambda: cli("convert", "pytorch_model.bin", "out"))


def test_a_call_on_a_harmless_record_is_refused(cli: Run, unchanged: Unchanged, tmp_path: Path) -> None:
    """The names that rebuild tensors cannot be made to call others."""
    rebuild = torch_files.Name("torch._tensor", "_rebuild_from_type_v2")
    call = rebuild(torch_files.Name("os", "system"), torch_files.Name("torch", "Tensor"), ("echo > executed",), {})
    torch_files.save_zip(tmp_path / "avg_model.pt", {"conv1.weight": call})
    refuse("os.system", unchanged, lambda: cli("convert", "avg_model.pt", "out"))


def test_settings_that_call_are_refused(cli: Run, unchanged: Unchanged, tmp_path: Path, original: Path) -> None:
    folder = copy(original, tmp_path / "broken")
    (folder / "config.yaml").write_text("model: !!python/object/apply:os.system ['echo > executed']\n")
    unchanged()
    assert "config.yaml cannot be read" in cli("convert", folder, "out").failed()
    unchanged()


def test_pickled_objects_in_an_npz_are_refused(cli: Run, unchanged: Unchanged, tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", **{"conv1.weight": np.array([Gadget(os.system, "echo > executed")], object)})
    unchanged()
    assert "model.npz cannot be read" in cli("convert", "model.npz", "out").failed()
    unchanged()


def test_a_zip_that_is_no_checkpoint_is_refused(cli: Run, unchanged: Unchanged, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "talk.pt", "w") as archive:
        archive.writestr("notes.txt", "Nothing here.")
    unchanged()
    assert cli("convert", "talk.pt", "out").failed() == "talk.pt is a zip file but not a PyTorch checkpoint"
    unchanged()


# Names, options and places


NAMES = {
    "no such model": "no such model does not exist",
    "campplus-zh-eng": "campplus-zh-eng does not exist; did you mean campplus-zh-en?",
    "./campplus-zh-en": "./campplus-zh-en does not exist",
    "../nowhere": "../nowhere does not exist",
    "a/b/c": "a/b/c does not exist",
    "org/two words": "org/two words does not exist",
    "org/--bad..name": "'org/--bad..name' is not a valid repo name",
    "org/unreachable": "the Hub cannot be reached and org/unreachable is not in the local cache",
    "wespeaker-resnet34-lm": "the Hub cannot be reached and Wespeaker/wespeaker-voxceleb-resnet34-LM is not in",
    "": "holds no checkpoint",
    "x" * 300: "x" * 300,  # longer than a file's name can be
}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:30])
def test_a_name_that_leads_nowhere_is_refused(cli: Run, unchanged: Unchanged, name: str) -> None:
    unchanged()
    assert NAMES[name] in cli("convert", name, "out").failed()
    unchanged()


@pytest.mark.parametrize("command", ["info", "embed", "verify"])
def test_every_command_refuses_an_unreachable_repo(cli: Run, unchanged: Unchanged, clip: Path, command: str) -> None:
    unchanged()
    message = cli(*using("org/unreachable", command, clip)).failed()
    assert message == NAMES["org/unreachable"] + ": check the connection"
    unchanged()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtype", "float8"], "unknown dtype 'float8'; use float32, float16, bfloat16"),
        (["--bits", "3"], "cannot quantize to 3 bits"),
        (["--bits", "0"], "cannot quantize to 0 bits"),
        (["--revision", "v2"], "is local; a revision goes with a Hub repo only"),
    ],
)
def test_an_option_that_cannot_be_is_refused(
    cli: Run, unchanged: Unchanged, converted: Path, arguments: list[str], message: str
) -> None:
    unchanged()
    assert message in cli("convert", converted, "out", *arguments).failed()
    unchanged()


@pytest.mark.parametrize("threshold", ["1.5", "-2", "nan"])
def test_a_threshold_that_is_no_cosine_is_refused(cli: Run, clip: Path, converted: Path, threshold: str) -> None:
    message = cli("verify", clip, clip, "--model", converted, f"--threshold={threshold}").failed()
    assert message.startswith("threshold is a cosine between -1 and 1")


def test_a_quantized_checkpoint_is_not_quantized_again(
    cli: Run, unchanged: Unchanged, tmp_path: Path, converted: Path
) -> None:
    cli("convert", converted, "small", "--bits", "8").succeeded()
    unchanged()
    assert "is quantized already; convert from its source" in cli("convert", "small", "out", "--bits", "4").failed()
    unchanged()


# The last is longer than a file's name can be: the folder that would hold it must not stay behind either.
OUTPUTS = ["file.txt/out", "file.txt/new/out", "full", "file.txt", "new/" + "x" * 300]


@pytest.mark.parametrize("out", OUTPUTS, ids=lambda name: name[:30])
def test_a_folder_that_cannot_be_written_is_an_error(
    cli: Run, unchanged: Unchanged, tmp_path: Path, converted: Path, out: str
) -> None:
    (tmp_path / "file.txt").write_text("Something.")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("Something.")
    unchanged()
    message = cli("convert", converted, out).failed()
    assert message.startswith(f"{out} exists already" if out in ("full", "file.txt") else f"{out} cannot be written")
    unchanged()


@pytest.mark.parametrize("output", ["file.txt/v.safetensors", "nowhere/v.safetensors", "folder.safetensors"])
def test_vectors_that_cannot_be_written_are_an_error(
    cli: Run, unchanged: Unchanged, tmp_path: Path, clip: Path, converted: Path, output: str
) -> None:
    (tmp_path / "file.txt").write_text("Something.")
    (tmp_path / "folder.safetensors").mkdir()
    unchanged()
    message = cli("embed", clip, "--model", converted, "--output", output).failed()
    assert message.startswith(f"{output} cannot be written: ")
    unchanged()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not hold for root")
def test_a_read_only_folder_is_an_error(
    cli: Run, unchanged: Unchanged, tmp_path: Path, clip: Path, converted: Path
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    unchanged()
    assert "cannot be written" in cli("convert", converted, "locked/out").failed()
    vectors = ("--output", "locked/v.safetensors")
    assert "cannot be written" in cli("embed", clip, "--model", converted, *vectors).failed()
    unchanged()


@pytest.mark.parametrize("output", ["file.txt/map.png", "folder.png"])
def test_a_heat_map_that_cannot_be_written_is_an_error(
    python: Run, unchanged: Unchanged, tmp_path: Path, output: str
) -> None:
    """The demo, with a matrix that stands ready instead of the computation."""
    pytest.importorskip("matplotlib")
    (tmp_path / "file.txt").write_text("Something.")
    (tmp_path / "folder.png").mkdir()
    unchanged()
    code = """
import sys, numpy as np
from speech_zoo import demo
from speech_zoo.cli.main import main
demo.similarity = lambda model, files: np.eye(len(files))
sys.argv = ["speech-zoo", "demo", "--output", sys.argv[1]]
main()
"""
    result = python(code, output)
    assert result.status == 1
    assert result.err.startswith(f"error: {output} cannot be written: ")
    assert result.err.count("\n") == 1
    unchanged()


def test_a_folder_that_was_deleted_is_told(run_process: Run, tmp_path: Path) -> None:
    gone = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" voices index .'
    found = run_process(["/bin/sh", "-c", gone, COMMAND], tmp_path)
    assert found.failed() == "the current folder is gone; change to one that exists"
