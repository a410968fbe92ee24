"""What ``mlx_audio.utils.base_load_model`` and ``mlx_audio.convert`` expect of a model and of its config."""

import dataclasses
import os
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import mlx.core as mx
import mlx.nn as nn

from mlx_audio.voice_id.errors import CheckpointError, ConfigError

# Written or read by mlx-audio's loader and converter, of no meaning to the models.
LOADER_KEYS = ("model_path", "quantization_config", "torch_dtype", "dtype")


class NativeConfig:
    """Base of the config dataclasses: strict, but for what mlx-audio itself adds."""

    @classmethod
    def from_dict(cls, config: dict) -> Any:
        """Build the config from a parsed ``config.json``.

        Raises:
            ConfigError: for an unknown key, a missing one, or a value of the wrong type.
        """
        known = {key: value for key, value in config.items() if key not in LOADER_KEYS}
        if quantization := known.get("quantization"):
            if quantization.get("mode", "affine") != "affine":
                raise ConfigError("only affine quantization is supported")
            known["quantization"] = {
                key: quantization[key]
                for key in ("bits", "group_size")
                if key in quantization
            }
        return _build(cls, known, "config.json")


def _build(cls: type, data: dict, where: str) -> Any:
    hints = get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(set(data) - names):
        raise ConfigError(f"{where}: unknown key {', '.join(unknown)}")
    values = {
        key: _value(hints[key], value, f"{where}: {key}") for key, value in data.items()
    }
    try:
        return cls(**values)
    except TypeError as error:  # a key without a default is missing
        raise ConfigError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    """The value as the type hint wants it; nested dataclasses are built."""
    if get_origin(hint) in (Union, UnionType):
        problems = []
        for option in get_args(hint):
            try:
                return _value(option, value, where)
            except ConfigError as error:
                problems.append(error)
        raise problems[0]
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _build(hint, value, where)
    if get_origin(hint) is Literal:
        fits = value in get_args(hint)
    elif get_origin(hint) is list and isinstance(value, list):
        return [_value(get_args(hint)[0], item, where) for item in value]
    elif get_origin(hint) is dict and isinstance(value, dict):
        return {
            str(key): _value(get_args(hint)[1], item, where)
            for key, item in value.items()
        }
    elif hint is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    else:
        fits = hint is Any or (isinstance(hint, type) and type(value) is hint)
    if not fits:
        raise ConfigError(f"{where}: wrong value {value!r}")
    return value


class NativeModel(nn.Module):
    """Base of the models: strict loading, quantization of linear layers, samples at the model's own rate."""

    def load_weights(self, file_or_weights: Any, strict: bool = True) -> nn.Module:
        """Load weights that match the parameters exactly, whatever ``strict`` says: nothing stays random.

        Raises:
            CheckpointError: tensors are missing, left over or of another shape; names them.
        """
        try:
            return super().load_weights(file_or_weights, strict=True)
        except ValueError as error:
            raise CheckpointError(
                f"the checkpoint does not fit the model: {error}"
            ) from error

    def model_quant_predicate(self, path: str, module: nn.Module) -> bool:
        """Linear layers (pointwise convolutions among them), but for those that a model keeps in floating point."""
        allowed = getattr(self, "quantizable", lambda _path: True)
        return isinstance(module, nn.Linear) and allowed(path)

    @property
    def sample_rate(self) -> int:
        """Of the audio that the model takes, in Hz."""
        return self._front_end().sample_rate

    def _waveform(self, audio: Any, sample_rate: int | None) -> mx.array:
        """Samples without a rate are at the model's own, as everywhere in mlx-audio."""
        bare = not isinstance(audio, (str, os.PathLike, tuple))
        return super()._waveform(
            audio, self.sample_rate if bare and sample_rate is None else sample_rate
        )


class NativeSpeakerModel(NativeModel):
    """Base of the speaker-embedding models."""

    def encode(self, audio: Any, sample_rate: int | None = None) -> mx.array:
        """The speaker embedding of a path or of samples: (D,) float32, unit length; the same as ``embed``."""
        return self.embed(audio, sample_rate)
