"""What MLX tells about a function while it traces it, at one point and at several together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from .graph import Array, ExportError
from .lengths import merged
from .whole import Layer, collected

DTYPES = {
    mx.bool_: np.dtype(bool),
    mx.float16: np.dtype(np.float16),
    mx.float32: np.dtype(np.float32),
    mx.int32: np.dtype(np.int32),
    mx.int64: np.dtype(np.int64),
    mx.complex64: np.dtype(np.complex64),  # only between a Fourier transform and the magnitude of what it gives
    # ONNX operations take few other integers.
    **dict.fromkeys((mx.int8, mx.int16, mx.uint8, mx.uint16, mx.uint32, mx.uint64), np.dtype(np.int64)),
}

UNKNOWN = -(2**62)
CAN_DO_NOTHING = frozenset(
    "Broadcast Concatenate ExpandDims Flatten Pad Reduce Reshape Slice Squeeze Transpose Unflatten".split()
)


@dataclass
class Primitive:
    """One step of a function; inputs and outputs are numbers of values."""

    name: str
    args: list[Any]
    inputs: list[int]
    outputs: list[int]
    integers: list[int] | None = None


def _integers(item: Any) -> list[int]:
    if isinstance(item, (list, tuple)):
        return [number for part in item for number in _integers(part)]
    return [int(item)] if isinstance(item, (int, float)) and float(item).is_integer() else []


@dataclass
class Recording:
    """A traced function.

    Attributes:
        shapes, dtypes: of every value, by its number.
        inputs, outputs: numbers of values.
        constants: arrays by number.
    """

    shapes: list[Any] = field(default_factory=list)
    dtypes: list[Any] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    constants: dict[int, mx.array] = field(default_factory=dict)
    primitives: list[Primitive] = field(default_factory=list)
    _integers: Array | None = None

    def input_integers(self) -> list[int]:
        return [size for number in self.inputs for size in self.shapes[number]]

    def integers_of(self, primitive: Primitive) -> list[int]:
        """The numbers in the settings of a step and in the shapes of what it gives."""
        if primitive.integers is None:
            primitive.integers = _integers(primitive.args)
            for number in primitive.outputs:
                primitive.integers.extend(self.shapes[number])
        return primitive.integers

    def integers(self) -> Array:
        """All numbers that `integers_of` gives, in order."""
        if self._integers is None:
            numbers = self.input_integers()
            for primitive in self.primitives:
                numbers += self.integers_of(primitive)
            self._integers = np.array(numbers, np.int64)
        return self._integers

    def describe(self, primitive: Primitive) -> str:
        """A primitive and where it stands, for messages."""

        def values(numbers: list[int]) -> str:
            return ", ".join(f"{self.dtypes[i]}{list(self.shapes[i])}".replace("mlx.core.", "") for i in numbers)

        at = next(i for i, other in enumerate(self.primitives) if other is primitive)
        before = " > ".join(other.name for other in self.primitives[max(0, at - 3) : at])
        text = f"{primitive.name} ({values(primitive.inputs)} -> {values(primitive.outputs)})"
        return f"{text}, step {at + 1} of {len(self.primitives)}" + (f", after {before}" if before else "")


def record(fn: Callable[..., Any], inputs: Sequence[tuple[tuple[int, ...], mx.Dtype]]) -> Recording:
    """Trace a function of arrays of these shapes and types.

    Raises:
        ExportError: MLX cannot tell what the function does.
    """
    events, layers = _events(fn, inputs, [])
    if layers:  # once more, with their outputs as inputs
        events, layers = _events(fn, inputs, [(layer.output.shape, layer.output.dtype) for layer in layers])
    recording, numbers = Recording(), {}

    def number(name: str, shape: Any, dtype: Any) -> int:
        if name not in numbers:
            numbers[name] = len(recording.shapes)
            recording.shapes.append(tuple(shape))
            recording.dtypes.append(dtype)
        return numbers[name]

    for event in events:
        kind = event["type"]
        if kind in ("inputs", "outputs"):
            getattr(recording, kind).extend(number(*value) for value in event[kind])
        elif kind == "constants":
            for name, value in event["constants"]:
                recording.constants[number(name, value.shape, value.dtype)] = value
        elif kind == "primitive":
            sources, results = ([number(*value) for value in event[side]] for side in ("inputs", "outputs"))
            recording.primitives.append(Primitive(event["name"], event["arguments"], sources, results))
    if layers:
        _insert(recording, layers, len(inputs))
    return recording


def _events(
    fn: Callable[..., Any], inputs: Sequence[tuple[Any, mx.Dtype]], given: Sequence[tuple[Any, mx.Dtype]]
) -> tuple[list[dict[str, Any]], list[Layer]]:
    """What MLX tells, and the layers that are handed over whole.

    After the function's own stand, as inputs, these layers' outputs, and as outputs, what they are computed from.
    """
    events: list[dict[str, Any]] = []
    found: list[Layer] = []

    def traced(*arrays: mx.array) -> Any:
        with collected(arrays[len(inputs) :]) as layers:
            out = fn(*arrays[: len(inputs)])
        found[:] = layers
        outputs = out if isinstance(out, (tuple, list)) else (out,)
        return (*outputs, *(value for layer in layers for value in layer.inputs))

    with mx.stream(mx.cpu):  # elsewhere MLX takes other primitives
        arrays = [mx.zeros(shape, dtype) for shape, dtype in [*inputs, *given]]
        try:
            mx.export_function(events.append, traced, *arrays)
        except (RuntimeError, ValueError) as error:
            if "export" not in str(error):
                raise
            raise ExportError(f"MLX cannot trace the function: {error}") from None
    return events, found


def _insert(recording: Recording, layers: Sequence[Layer], inputs: int) -> None:
    """The layers as steps, where what they need is there."""
    taken = iter(recording.outputs[len(recording.outputs) - sum(len(layer.inputs) for layer in layers) :])
    made = recording.inputs[inputs:]
    steps = [
        Primitive(layer.name, [], [next(taken) for _ in layer.inputs], [output])
        for layer, output in zip(layers, made, strict=True)
    ]
    del recording.outputs[len(recording.outputs) - sum(len(step.inputs) for step in steps) :]
    del recording.inputs[inputs:]
    waiting, ready = [*recording.primitives, *steps], {*recording.inputs, *recording.constants}
    recording.primitives = []
    while waiting:
        later = []
        for step in waiting:
            if ready.issuperset(step.inputs):
                recording.primitives.append(step)
                ready.update(step.outputs)
            else:
                later.append(step)
        if len(later) == len(waiting):
            raise ExportError(f"{later[0].name} needs what comes after it")
        waiting = later


def together(recordings: Sequence[Recording]) -> tuple[Recording, dict[int, list[Array]]]:
    """Several traces of one function as one, with a `Length` for each integer that differs.

    Returns:
        the trace, with the first one's constants, and those constants that differ, as they are in each.

    Raises:
        ExportError: the function takes another path somewhere.
    """
    first = recordings[0]
    for other in recordings[1:]:
        _same_path(first, other)
    result = Recording(dtypes=first.dtypes, inputs=first.inputs, outputs=first.outputs, constants=first.constants)
    for number in range(len(first.shapes)):
        result.shapes.append(_merge([recording.shapes[number] for recording in recordings]))
    for i, primitive in enumerate(first.primitives):
        args = _merge([recording.primitives[i].args for recording in recordings])
        result.primitives.append(Primitive(primitive.name, args, primitive.inputs, primitive.outputs))
    varying = {}
    for number, value in first.constants.items():
        values = [recording.constants[number] for recording in recordings]
        if any(other is not value and not _equal(value, other) for other in values):
            varying[number] = [as_numpy(value) for value in values]
    return result, varying


def shortened(recording: Recording, other: Recording) -> Array | None:
    """The integers of a trace in the places of another's, of which it lacks steps that do nothing at its sizes.

    None where it is not such a trace. The settings of the steps that it lacks are `UNKNOWN`.
    """
    rest = iter(recording.primitives)
    step = next(rest, None)
    parts = [recording.input_integers()]
    for primitive in other.primitives:
        if step is not None and primitive.name == step.name:
            parts.append(recording.integers_of(step))
            step = next(rest, None)
        elif primitive.name in CAN_DO_NOTHING:
            parts.append([UNKNOWN] * len(other.integers_of(primitive)))
        else:
            return None
    integers = np.concatenate([np.array(part, np.int64) for part in parts])
    return integers if step is None and len(integers) == len(other.integers()) else None


def _same_path(one: Recording, other: Recording) -> None:
    for ours, theirs in zip(one.primitives, other.primitives, strict=False):
        if (ours.name, ours.inputs, ours.outputs) != (theirs.name, theirs.inputs, theirs.outputs):
            raise ExportError(
                f"the function takes other steps at other sizes: {one.describe(ours)} against {other.describe(theirs)}"
            )
    same = list(one.constants) == list(other.constants) and one.outputs == other.outputs
    if len(one.primitives) != len(other.primitives) or not same:
        raise ExportError(
            f"the function takes other steps at other sizes: {len(one.primitives)} against {len(other.primitives)}"
        )


def _merge(values: list[Any]) -> Any:
    """One value for the same thing at several points."""
    first = values[0]
    if all(value == first for value in values[1:]):
        return tuple(first) if isinstance(first, list) else first
    if isinstance(first, (list, tuple)) and all(len(value) == len(first) for value in values):
        return tuple(_merge(list(parts)) for parts in zip(*values, strict=True))
    if all(isinstance(value, (int, float)) and float(value).is_integer() for value in values):
        return merged([int(value) for value in values])
    raise ExportError(f"a setting differs with the sizes in a way that has no formula: {values[:3]}")


def _equal(one: mx.array, other: mx.array) -> bool:
    """Whether two constants hold the same numbers; parameters are the same memory."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    a, b = as_numpy(one), as_numpy(other)
    return a.ctypes.data == b.ctypes.data or np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def as_numpy(value: mx.array) -> Array:
    """An array without a copy.

    Raises:
        ExportError: NumPy has no such type.
    """
    if value.dtype not in DTYPES:
        raise ExportError(
            f"{str(value.dtype).removeprefix('mlx.core.')} has no form in ONNX or Core ML here: use float32"
        )
    return np.array(value, copy=False)
