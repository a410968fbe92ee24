"""What a checkpoint is for decides which methods its model has."""

import copy
import pickle
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import speech_zoo
from pyannet_files import lightning
from speech_zoo_core import AudioModel, TaskError
from speech_zoo_core.errors import ConfigError, SpeechZooError
from speech_zoo_core.tasks.methods import TASKS, with_methods
from tiny_models import CONFIGS, RATE, tiny_model, voice
from wav2vec2_files import hf_folder

CALLS = {
    "embed": (voice(RATE), RATE),
    "encode": (voice(RATE), RATE),
    "embed_batch": ([voice(RATE)], RATE),
    "voice": (voice(RATE), RATE),
    "verify": (voice(RATE), voice(RATE), RATE),
    "predict": (voice(RATE), 5, None, RATE),
    "predict_batch": ([voice(RATE)], 5, None, RATE),
    "logits": (voice(RATE), RATE),
    "log_probs": (voice(RATE), RATE),
    "choose": (None,),
    "speakers": (np.zeros((5, 7)),),
    "frame_time": (0,),
    "labels": None,
    "measure": (voice(RATE), RATE),
    "measure_batch": ([voice(RATE)], RATE),
}
SPEAKER = {"embed", "encode", "embed_batch", "verify", "voice"}
CLASSES = {"predict", "predict_batch", "logits", "log_probs", "labels"}
OFFERED = {
    "speaker-embedding": SPEAKER,
    "language-identification": CLASSES | {"choose"},
    "audio-classification": CLASSES,
    "audio-tagging": CLASSES,
    "audio-regression": {"measure", "measure_batch", "labels"},
    "speaker-segmentation": {"log_probs", "speakers", "frame_time"},
}
FRAMES = {"speaker-segmentation": 1300}  # that their models need
FRAMES |= dict.fromkeys(("audio-classification", "audio-tagging", "audio-regression"), 400)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model of each task; two of one family, twice."""
    folder = tmp_path_factory.mktemp("models")
    emotions = {"id2label": {"0": "neu", "1": "hap", "2": "ang"}, "label2id": ...}
    return {
        "speaker-embedding": tiny_model("ecapa_speechbrain"),
        "language-identification": tiny_model("ecapa_lid"),
        "audio-classification": speech_zoo.load(hf_folder(folder / "emotions", **emotions)),
        "audio-tagging": speech_zoo.load(hf_folder(folder / "tags", problem_type="multi_label_classification")),
        "audio-regression": speech_zoo.load(hf_folder(folder / "values", problem_type="regression")),
        "speaker-segmentation": speech_zoo.load(lightning(folder / "pytorch_model.bin")),
        "languages of another family": speech_zoo.load(hf_folder(folder / "languages")),
    }


def test_every_task_has_methods_and_a_model() -> None:
    assert OFFERED.keys() == TASKS.keys()
    assert {config.task for config in CONFIGS.values()} <= TASKS.keys()


@pytest.mark.parametrize("name", [*OFFERED, "languages of another family"])
def test_a_model_has_the_methods_of_its_task_and_no_others(models: dict[str, Any], name: str) -> None:
    model = models[name]
    task = model.config.task
    assert isinstance(model, (AudioModel, TASKS[task]))
    assert {method for method in CALLS if hasattr(model, method)} == OFFERED[task] == CALLS.keys() & set(dir(model))
    for method in OFFERED[task]:
        if CALLS[method] is not None:
            getattr(model, method)(*CALLS[method])
    for method in CALLS.keys() - OFFERED[task]:
        with pytest.raises(TaskError) as caught:
            getattr(model, method)
        said = str(caught.value)
        assert isinstance(caught.value, (AttributeError, ConfigError))
        assert isinstance(caught.value, SpeechZooError)
        assert said.startswith(f"this model is for {task}, not for ")
        assert f"it has no {method}, but {', '.join(sorted(OFFERED[task]))}" in said
        assert "\n" not in said


def test_another_name_is_a_plain_attribute_error(models: dict[str, Any]) -> None:
    with pytest.raises(AttributeError, match="no attribute 'transcribe'") as caught:
        models["speaker-embedding"].transcribe  # noqa: B018
    assert not isinstance(caught.value, SpeechZooError)


@pytest.mark.parametrize("task", OFFERED)
def test_a_model_is_copied_and_pickled_as_it_is(models: dict[str, Any], task: str) -> None:
    model = models[task]
    x = mx.array(np.random.default_rng(0).standard_normal((1, FRAMES.get(task, 40), 1)))
    x = mx.broadcast_to(x, (1, x.shape[1], getattr(model.config, "feat_dim", 1))).astype(mx.float32)
    expected = model(x)
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other) is type(model)
        assert other.config == model.config
        assert mx.array_equal(other(x), expected)


def test_the_class_is_the_families(tmp_path: Path, models: dict[str, Any]) -> None:
    kind = type(models["speaker-embedding"])
    (family,) = [base for base in kind.__bases__ if base not in TASKS.values()]
    assert (kind.__module__, kind.__qualname__, kind.__doc__) == (
        family.__module__,
        family.__qualname__,
        family.__doc__,
    )
    assert with_methods(family, "speaker-embedding") is kind
    assert with_methods(kind, "speaker-embedding") is kind
    other = with_methods(family, "a task of another package")
    assert issubclass(other, family) and not issubclass(other, tuple(TASKS.values()))
