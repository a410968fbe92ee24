"""Threads and forks, in fresh processes whose exit status counts: MLX's arrays and streams belong to threads."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

SPEAKER = """
import asyncio, sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np, speech_zoo
import mlx.core as mx

load = lambda: speech_zoo.load(sys.argv[1])
clips = sys.argv[2:]
model = load()
expected = [np.array(model.embed(clip)) for clip in clips]

def same(embeddings):
    assert all(np.array_equal(np.array(a), b) for a, b in zip(embeddings, expected, strict=True)), embeddings

calls = {
    "embed": lambda: model.embed(clips[0]),
    "encode": lambda: model.encode(clips[0]),
    "embed_batch": lambda: model.embed_batch(clips),
    "nothing": lambda: model.embed_batch([]),
    "features": lambda: model.features(clips[0]),
    "waveform_features": lambda: model.waveform_features(mx.zeros((2, 16000)) + 0.1),
    "model": lambda: model(mx.zeros((1, 200, 80))),
}
for name, call in calls.items():
    with ThreadPoolExecutor(1) as pool:
        assert np.array_equal(np.array(pool.submit(call).result()), np.array(call())), name
    assert np.array_equal(np.array(asyncio.run(asyncio.to_thread(call))), np.array(call())), name

with ThreadPoolExecutor(4) as pool:  # one model for many threads
    for _ in range(3):
        same(pool.map(model.embed, clips))

embeddings = [None] * len(clips)  # a thread for each request

def request(i):
    embeddings[i] = model.embed(clips[i])

threads = [threading.Thread(target=request, args=(i,)) for i in range(len(clips))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
same(embeddings)

with ThreadPoolExecutor(1) as pool:  # loaded in a thread that has ended
    elsewhere = pool.submit(load).result()
same([elsewhere.embed(clip) for clip in clips])
"""


def test_results_may_be_used_in_any_thread(python: Run, converted: Path, halves: dict[str, Path]) -> None:
    python(SPEAKER, converted, *halves.values()).succeeded()


ONE_THREAD = """
import sys, threading, numpy as np, speech_zoo
import mlx.core as mx
from tiny_models import tiny_model

samples = (np.random.default_rng(0).standard_normal(16000) * 0.1).astype("f4")
model = tiny_model(sys.argv[1])
mx.eval(model.parameters())
call = getattr(model, "embed", None) if model.config.task == "speaker-embedding" else model.logits
thread = threading.Thread(target=lambda: call((samples, 16000), vad=False))
thread.start()
thread.join()
"""


@pytest.mark.parametrize("name", ["basic", "campplus", "ecapa_speechbrain", "ecapa_lid"])
def test_a_process_whose_thread_used_a_model_ends_well(run_process: Run, tmp_path: Path, name: str) -> None:
    path = str(Path(__file__).parents[1] / "helpers")
    for _ in range(3):  # MLX's compiled functions aborted 8 of 10
        run_process([sys.executable, "-c", ONE_THREAD, name], tmp_path, {"PYTHONPATH": path}).succeeded()


LOAD = """
import sys, threading, speech_zoo

thread = threading.Thread(target=lambda: speech_zoo.load(sys.argv[1]).embed(sys.argv[2]))
thread.start()
thread.join()
"""


def test_a_process_whose_thread_loaded_a_model_ends_well(python: Run, clip: Path) -> None:
    for _ in range(6):  # 5 of 10 aborted
        python(LOAD, "campplus-zh-en", clip).succeeded()


FORK = """
import os, sys, speech_zoo

model = speech_zoo.load(sys.argv[1])
for work in (lambda: model.embed(sys.argv[2]), lambda: speech_zoo.load(sys.argv[1])):
    child = os.fork()
    if child == 0:
        try:
            work()
        except speech_zoo.SpeechZooError as error:
            print(error, flush=True)
            os._exit(3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
"""


def test_a_fork_after_a_model_was_used_is_told(python: Run, converted: Path, clip: Path) -> None:
    lines = python(FORK, converted, clip).succeeded().out.splitlines()
    assert len(lines) == 2
    assert all("forked after a model had been used" in line and "spawn" in line for line in lines)


def test_a_fork_before_is_no_matter(python: Run, converted: Path, clip: Path) -> None:
    code = """
import os, sys, speech_zoo, speech_zoo_core.loader

child = os.fork()
if child == 0:
    print(speech_zoo.load(sys.argv[1]).embed(sys.argv[2]).shape, flush=True)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    assert python(code, converted, clip).succeeded().out == "(16,)\n"
