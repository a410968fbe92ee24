"""The one loader: bundled name, folder, file or Hub repo; converted or original; always strict."""

import difflib
import hashlib
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from . import hub, registry, tf32
from .checkpoint.reader import in_memory
from .checkpoint.source import Recognised, Source
from .config import from_dict, to_dict
from .device import on_cpu
from .errors import CheckpointError, ConfigError, RegistryError, SpeechZooError, shown
from .layers import load_strict, parameters, quantize
from .processes import check_process, zero_initialised
from .registry import ModelSpec
from .tasks.methods import with_methods

LOG = logging.getLogger("speech_zoo")
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def load(ref: str | os.PathLike[str], *, revision: str | None = None, dtype: str | None = None) -> Any:
    """Load a model, ready to use.

    Args:
        ref: a bundled name (it wins over a folder of that name; write `./name` for the folder), a folder, a checkpoint
            file, or a Hub repo `org/name`. Original checkpoints are converted in memory.
        revision: branch, tag or commit of a Hub repo.
        dtype: "float32", "float16" or "bfloat16" to compute in. Default: on a CPU float32, where half precision is
            slower; on a GPU as stored, but float32 as float16 where the model stays within the limits of parity then.

    Returns:
        The model of the registered type, strictly loaded.

    Raises:
        SpeechZooError: see the subclasses; nothing is ever left randomly initialised.
    """
    check_process()
    start = time.perf_counter()
    source = find(ref, revision)
    spec, config, weights, form = read_model(source)
    stored = {value.dtype for value in weights.values()}
    model = build(spec, config, weights, str(source.path))
    del weights
    source.release()
    model.set_dtype(_fastest(model, stored) if dtype is None else parse_dtype(dtype))
    for name, tensor in parameters(model).items():  # one by one: a source's is freed before the next is read
        in_memory(name, tensor)
    if _dtype(model) == "float32":
        tf32.warn_if_on()
    what = f"{spec.model_type} ({form}), {_dtype(model)} on {mx.default_device().type.name}"
    LOG.info("loaded %s: %s, %.2f s", ref, what, time.perf_counter() - start)
    return model


def _dtype(model: Any) -> str:
    """The floating type that most of the parameters have."""
    types = [str(x.dtype).removeprefix("mlx.core.") for x in parameters(model).values() if x.dtype in DTYPES.values()]
    return max(set(types), key=types.count, default="no floats")


def _fastest(model: Any, stored: set[mx.Dtype]) -> mx.Dtype:
    """What a model computes in where nobody chose."""
    if on_cpu():
        return mx.float32
    if mx.bfloat16 in stored:
        return mx.bfloat16
    return mx.float16 if model.half_precision or mx.float16 in stored else mx.float32


def parse_dtype(dtype: str) -> mx.Dtype:
    """Raises ConfigError for a type that models cannot be stored in."""
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; use {', '.join(DTYPES)}")
    return DTYPES[dtype]


def find(ref: str | os.PathLike[str], revision: str | None = None) -> Source:
    """Turn what the user names into a local source.

    Raises:
        CheckpointError: no such file, folder or name.
        HubError: see `hub.download`.
    """
    name = os.fspath(ref)
    local = registry.bundled().get(name) or Path(os.path.expanduser(name))  # noqa: PTH111 (Path raises for ~nobody)
    if os.path.exists(local):  # noqa: PTH110 (Path.exists raises for a name that is too long)
        if revision is not None:
            raise ConfigError(f"{name} is local; a revision goes with a Hub repo only")
        return Source(local)
    if hub.REPO_ID.fullmatch(name) and not name.startswith((".", "/")) and not Path(name).parent.is_dir():
        folder, commit = hub.download(name, revision)
        return Source(folder, repo=name, revision=commit)
    near = difflib.get_close_matches(name, registry.bundled(), n=1)
    hint = f"; did you mean {near[0]}?" if near else "; give a bundled name, a path or a Hub repo (org/name)"
    raise CheckpointError(f"{name} does not exist{hint}")


def read_model(source: Source) -> tuple[ModelSpec, Any, dict[str, mx.array], str]:
    """Find out what a source is.

    Returns:
        Its type, its config, its tensors for `sanitize`, and its form for people.

    Raises:
        RegistryError: its config names an unknown model_type.
        CheckpointError, ConfigError: it cannot be read, or nobody recognises it.
    """
    settings = source.settings("config.json") or {}
    model_type = settings.get("model_type")
    where = str(source.folder / "config.json")
    if model_type is not None and not isinstance(model_type, str):
        raise ConfigError(f"{where}: model_type must be a string, not {shown(model_type)}")
    if model_type in registry.model_types():
        spec = registry.get(str(model_type))
        config = from_dict(spec.config, settings, where)
        return spec, config, source.checkpoint.tensors, "converted"
    _refuse_adapters(source)
    _ = source.checkpoint  # what is wrong with the file itself is told once
    if (match := recognised(source)) is not None:
        spec, original = match
        return spec, from_dict(spec.config, original.config, str(source.path)), original.weights, original.form
    known = ", ".join(registry.model_types())
    if model_type is not None:
        raise RegistryError(f"{where} has the unknown model_type {shown(model_type)}; known: {known}")
    raise CheckpointError(
        f"{source.main_file} is not a source checkpoint that is known, and no config.json says what it is "
        f"(known types: {known})"
    )


def _refuse_adapters(source: Source) -> None:
    """Raises CheckpointError for an adapter of PEFT, which is a change to a model; also beside the model it changes."""
    settings = source.settings("adapter_config.json") or {}
    if "peft_type" not in settings or not (source.path.is_dir() or source.path.name.startswith("adapter_model")):
        return
    base = settings.get("base_model_name_or_path")
    raise CheckpointError(
        f"{source.path} holds a PEFT adapter{f' of {shown(base)}' if base else ''}, not a whole model: merge it into "
        "its base with merge_and_unload() of peft, save_pretrained() the result, and give that folder"
    )


def recognised(source: Source) -> tuple[ModelSpec, Recognised] | None:
    """The type of an original checkpoint, and what its package makes of it; None if nobody knows it.

    Raises:
        CheckpointError, ConfigError: it is like one of a type, but not quite.
    """
    problems: list[SpeechZooError] = []
    for name in registry.model_types():
        try:
            spec = registry.get(name)
            if original := spec.recognise(source):
                return spec, original
        except (CheckpointError, ConfigError) as error:  # others may know it
            problems.append(error)
        except RegistryError as error:
            LOG.warning("%s", error)
        except Exception as error:  # a package's own fault must not keep the others from what they know
            LOG.debug("%s", name, exc_info=True)
            problems.append(CheckpointError(f"{source.main_file} cannot be read as {name}: {error!r}"))
    if problems:
        raise problems[0]
    return None


def build(spec: ModelSpec, config: Any, weights: dict[str, mx.array], where: str) -> Any:
    """Build the model and load the weights strictly; lazy, nothing is evaluated yet.

    Raises:
        ConfigError: the config's numbers are out of all proportion to the weights.
        CheckpointError: the weights do not fit.
    """
    _check_sizes(config, weights, where)
    model_class = with_methods(spec.model, config.task)  # type: ignore[arg-type]  # a class can be hashed
    try:
        with zero_initialised():
            model = model_class(config)
    except (ValueError, TypeError, ArithmeticError, MemoryError) as error:  # of MLX, on sizes
        raise ConfigError(f"the config of {where} gives no model: {error}") from error
    if config.quantization is not None:
        quantize(model, config.quantization.bits, config.quantization.group_size)
    load_strict(model, model.sanitize(weights), where)
    model.eval()
    return model


def _check_sizes(config: Any, weights: dict[str, mx.array], where: str) -> None:
    """Raises ConfigError for sizes that the tensors cannot have, before anything of such a size is built."""
    most = 8 * sum(x.nbytes for x in weights.values())  # elements, in the smallest type
    sizes = {key: value for key, value in to_dict(config).items() if key not in ("source", "front_end")}
    for key, value in sizes.items():
        numbers = [number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int)]
        if max(numbers, default=0) > most:
            raise ConfigError(f"{where}: {key} = {shown(value)} is more than all its tensors hold")
    layers = getattr(config, "layers", 0)
    if layers > len(weights):
        raise ConfigError(f"{where}: the config asks for {layers} layers, there are {len(weights)} tensors")


def with_source(config: Any, source: Source, form: str, converter: str, name: str | None = None) -> Any:
    """The config with its provenance; a converted checkpoint keeps the one it has."""
    if form == "converted" and config.source is not None:
        return config if name is None else replace(config, source=config.source | {"name": name})
    facts = {
        "form": form,
        "repo": source.repo,
        "revision": source.revision,
        "name": name,
        "sha256": {path.name: sha256(path) for path in sorted(source.files)},
        "converter": converter,
    }
    return replace(config, source={key: value for key, value in facts.items() if value is not None})


def sha256(path: Path) -> str:
    """The hash of a file's content, in hexadecimal.

    Raises:
        CheckpointError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()
