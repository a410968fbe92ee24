"""What a checkpoint is for decides which methods its model has."""

from functools import cache
from typing import Any

from ..errors import TaskError
from ..processes import check_process, evaluated
from .audio_model import AudioModel
from .language import AudioClassification, LanguageIdentification
from .segmentation import SpeakerSegmentation
from .speaker import SpeakerEmbedding
from .tagging import AudioRegression, AudioTagging

TASKS: dict[str, type[AudioModel]] = {
    "speaker-embedding": SpeakerEmbedding,
    "language-identification": LanguageIdentification,
    "audio-classification": AudioClassification,
    "audio-tagging": AudioTagging,
    "audio-regression": AudioRegression,
    "speaker-segmentation": SpeakerSegmentation,
}


@cache
def with_methods(model: Any, task: str) -> Any:
    """The model class with the methods of a task, and of no other; calling it computes the result.

    Instances can be pickled; asking them for a method of another task is a `TaskError`.
    """
    if vars(model).get("_methods_of") == task:
        return model
    methods = TASKS.get(task, AudioModel)
    known = ", ".join(sorted(_public(methods)))
    bases = (model,) if issubclass(model, methods) else (model, methods)

    class Model(*bases):  # type: ignore[misc]
        _methods_of = task

        def __call__(self, *inputs: Any, **options: Any) -> Any:
            check_process()
            outputs = self._by_engine(*inputs, **options)
            return evaluated(super().__call__(*inputs, **options) if outputs is None else outputs)

        def __getattr__(self, name: str) -> Any:
            for other, offered in TASKS.items():
                if name in _public(offered):
                    raise TaskError(f"this model is for {task}, not for {other}: it has no {name}, but {known}")
            return super().__getattr__(name)

        def __reduce_ex__(self, protocol: Any) -> Any:
            _, (_, *arguments), state, *rest = super().__reduce_ex__(protocol)
            if isinstance(state, dict):
                state = {key: value for key, value in state.items() if key != "_compiled"}
            return (_new, (model, task, *arguments), state, *rest)

    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(Model, name, getattr(model, name))
    return Model


def _new(model: type[Any], task: str, *arguments: Any) -> Any:
    made = with_methods(model, task)  # type: ignore[arg-type]  # a class can be hashed
    return made.__new__(made, *arguments)


def _public(task: type[AudioModel]) -> set[str]:
    """What a task adds to what every model has."""
    return {name for name in dir(task) if not name.startswith("_")} - set(dir(AudioModel))
