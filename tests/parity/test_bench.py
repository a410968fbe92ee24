"""Every contender of `speech-zoo bench` runs and agrees with ours, on short clips."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from speech_zoo.bench.run import names

ABSENT = ("there is no network to export", "is right for one length only", "so slow that")


@pytest.mark.parametrize("model", names())
def test_all_contenders_agree(model: str) -> None:
    command = [Path(sys.executable).with_name("speech-zoo"), "bench", model, "--layers", "1", "--json"]
    options = ["--seconds", "1", "--batch", "1,2", "--repeats", "1"]
    env = dict(os.environ)
    if model == "redimnet":  # see conftest.py: its original takes torch.bmm
        env.pop("LD_PRELOAD", None)
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    rows = {(row["contender"], row["batch"]): row for row in result["rows"]}
    for (name, _), row in rows.items():
        assert (row["seconds"] is None) == (row["why"] is not None)
        if row["why"] is not None:
            assert name in ("stock", "onnxruntime", "openvino")
            assert any(reason in row["why"] for reason in ABSENT)
    original = "kaldi-native-fbank" if model == "fbank" else "torch"
    assert {"ours", "stock", original} <= {name for name, _ in rows}
    by = {each["contender"]: each["by"] for each in result["contenders"]}
    if model in ("ecapa", "mms"):
        assert by["stock"].startswith("mlx-audio ")
    if model in ("campplus", "mms", "resnet34"):
        assert by["onnxruntime"].startswith("onnxruntime ")
    if model == "mms":
        assert [row["job"] for row in result["memory"]] == ["convert to float16", "convert to 8-bit", "load 8-bit"]
