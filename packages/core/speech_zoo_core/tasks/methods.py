"""What a checkpoint is for decides which methods its model has."""

from functools import cache
from typing import Any

from ..errors import TaskError
from .audio_model import AudioModel
from .language import AudioClassification, LanguageIdentification
from .speaker import SpeakerEmbedding

TASKS: dict[str, type[AudioModel]] = {
    "speaker-embedding": SpeakerEmbedding,
    "language-identification": LanguageIdentification,
    "audio-classification": AudioClassification,
}


@cache
def with_methods(model: Any, task: str) -> Any:
    """The model class with the methods of a task, and of no other; as it is for a task that `TASKS` does not have.

    Instances can be pickled; asking them for a method of another task is a `TaskError`.
    """
    methods = TASKS.get(task, AudioModel)
    if issubclass(model, methods):
        return model
    known = ", ".join(sorted(_public(methods)))

    class Model(model, methods):  # type: ignore[misc, valid-type]
        def __getattr__(self, name: str) -> Any:
            for other, offered in TASKS.items():
                if name in _public(offered):
                    raise TaskError(f"this model is for {task}, not for {other}: it has no {name}, but {known}")
            return super().__getattr__(name)

        def __reduce_ex__(self, protocol: Any) -> Any:
            _, (_, *arguments), *state = super().__reduce_ex__(protocol)
            return (_new, (model, task, *arguments), *state)

    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(Model, name, getattr(model, name))
    return Model


def _new(model: type[Any], task: str, *arguments: Any) -> Any:
    made = with_methods(model, task)  # type: ignore[arg-type]  # a class can be hashed
    return made.__new__(made, *arguments)


def _public(task: type[AudioModel]) -> set[str]:
    """What a task adds to what every model has."""
    return {name for name in dir(task) if not name.startswith("_")} - set(dir(AudioModel))
