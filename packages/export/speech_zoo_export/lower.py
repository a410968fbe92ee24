"""From MLX's primitives to a graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .elementwise import ELEMENTWISE
from .graph import Array, ExportError, Graph, Value, constant
from .lengths import Points, merged
from .products import PRODUCTS
from .record import DTYPES, Primitive, Recording, as_numpy
from .shapes import Builder
from .terms import Call, Complex, Term
from .views import VIEWS

MAX_VARYING = 64  # elements of a constant that differs with the sizes

HANDLERS = ELEMENTWISE | VIEWS | PRODUCTS


def lower(recording: Recording, varying: dict[int, list[Array]], axes: Sequence[Any], points: Points) -> Graph:
    """The graph of a recorded function.

    Raises:
        ExportError: a primitive without a form; names it and says where it stands.
    """
    build = Builder()
    terms: dict[int, Term] = {}
    for number in recording.inputs:
        terms[number] = Value(recording.shapes[number], _dtype(recording.dtypes[number]))
    graph_inputs = [value for value in terms.values() if isinstance(value, Value)]

    def term(number: int) -> Term:
        if number not in terms:
            build.origin = "constant"
            if number in varying:
                terms[number] = _varying(build, varying[number])
            else:
                array = as_numpy(recording.constants[number])
                terms[number] = constant(array, _dtype(recording.dtypes[number]))
        return terms[number]

    for primitive in recording.primitives:
        handler = HANDLERS.get(primitive.name)
        if handler is None:
            raise ExportError(f"the primitive {recording.describe(primitive)} has no form in a graph")
        raw = [recording.constants.get(number) for number in primitive.inputs]
        inputs = [
            None if array is not None and primitive.name == "QuantizedMatmul" else term(number)
            for array, number in zip(raw, primitive.inputs, strict=True)
        ]
        build.origin = primitive.name
        call = Call(
            build,
            primitive.args,
            inputs,
            [recording.shapes[number] for number in primitive.outputs],
            [_dtype(recording.dtypes[number]) for number in primitive.outputs],
            [None if array is None else as_numpy(array) for array in raw],
        )
        try:
            results = handler(call)
        except ExportError as error:
            where = recording.describe(primitive)
            raise ExportError(f"the primitive {where} has no form in a graph: {error}") from None
        results = results if isinstance(results, list) else [results]
        _check(recording, primitive, results)
        terms.update(zip(primitive.outputs, results, strict=True))
    outputs = [terms[number] if number in terms else term(number) for number in recording.outputs]
    if any(isinstance(value, Complex) for value in outputs):
        raise ExportError("complex numbers have no form in a graph: give their real and imaginary parts")
    return Graph(graph_inputs, outputs, build.nodes, list(axes), points)  # type: ignore[arg-type]


def _dtype(dtype: Any) -> "np.dtype[Any]":
    if dtype not in DTYPES:
        name = str(dtype).removeprefix("mlx.core.")
        raise ExportError(f"{name} has no form in ONNX or Core ML here: use float32 or float16")
    return DTYPES[dtype]


def _check(recording: Recording, primitive: Primitive, results: list[Term]) -> None:
    """What was built has the shape that MLX says."""
    for number, result in zip(primitive.outputs, results, strict=True):
        if isinstance(result, Value) and result.shape != recording.shapes[number]:
            raise ExportError(f"{recording.describe(primitive)} came out as {result.shape}")


def _varying(build: Builder, arrays: list[Array]) -> Value:
    """A constant that differs with the sizes: of integers that do, or of one over them."""
    first = arrays[0]
    if any(array.shape != first.shape for array in arrays) or first.size > MAX_VARYING:
        raise ExportError(f"a constant array of shape {first.shape} differs with the sizes: compute it in the function")
    columns = np.stack([array.reshape(-1) for array in arrays], axis=1).astype(np.float64)
    rounded = np.rint(columns)
    inverse = False
    if not np.array_equal(rounded, columns):
        with np.errstate(divide="ignore"):
            rounded = np.rint(1 / columns)
            inverse = np.array_equal((1 / rounded).astype(first.dtype), columns.astype(first.dtype))
        if not inverse:
            raise ExportError(
                f"a constant differs with the sizes and is no integer, nor one over one: {columns[0][:3]}"
            )
    sizes = tuple(merged([int(value) for value in row]) for row in rounded)
    value = build.cast(build("Sizes", values=sizes), DTYPES_OF.get(first.dtype, first.dtype))
    value = build("Reciprocal", value) if inverse else value
    return build.reshape(value, first.shape)


DTYPES_OF = {np.dtype(kind): np.dtype(np.int64) for kind in ("int8", "int16", "uint8", "uint16", "uint32", "uint64")}
