"""A graph as a Core ML program. Needs the extra [coreml]; works on any system, though only a Mac runs the program."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import coremltools as ct
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, get_new_symbol, types

from .graph import Chain, ExportError, Value, chained
from .lengths import Axis
from .mil import TYPES, Writer, kind_of

TARGET = ct.target.iOS17
PLACEHOLDERS = {"bool": types.bool, "int32": types.int32, "fp32": types.fp32}
BETWEEN = "between_graphs_"  # how the names of values begin that end what stays in float32


def to_coreml(
    graph: Chain,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    precision: Literal["float16", "float32"] = "float16",
    sizes: Sequence[int] = (),
) -> ct.models.MLModel:
    """A graph as an ML program; `save` it as an .mlpackage.

    Args:
        graph: one; or several, of which each takes what the one before it gives.
        inputs, outputs: their names; "x0", "y0" and so on where none are given. They are float32, int32 or bool.
        metadata: stands in the model's user-defined metadata.
        precision: of what the last graph computes; those before it compute in float32.
        sizes: of the axis that varies, of which the first graph has one at most: the program takes these, no others.
            The Neural Engine takes no program of any size.

    Raises:
        ExportError: an axis that varies without `sizes`, or an operation that ML programs lack.
    """
    graphs = chained(graph)
    names = [*inputs, *(f"x{i}" for i in range(len(inputs), len(graphs[0].inputs)))]
    types_, placeholders = [], {}
    for value, own, name in zip(graphs[0].inputs, graphs[0].axes, names, strict=True):
        shapes = _shapes(value, own, sizes)
        kind = kind_of(value)
        placeholders[name] = mb.placeholder(
            shape=[get_new_symbol() if i in own else size for i, size in enumerate(value.shape)],
            dtype=PLACEHOLDERS[kind],
        )
        shape = ct.EnumeratedShapes(shapes) if len(shapes) > 1 else shapes[0]
        types_.append(ct.TensorType(name=name, shape=shape, dtype=TYPES[kind]))
    last = graphs[-1].outputs
    with Function(placeholders, opset_version=TARGET) as function:
        values = [function.inputs[name] for name in names]
        between: list[Any] = []
        for part in graphs:
            between, values = values, Writer(part, values).write()
        named = [*outputs, *(f"y{i}" for i in range(len(outputs), len(last)))]
        results = [mb.identity(x=value, name=name) for value, name in zip(values, named, strict=True)]
        halves = precision == "float16" and len(graphs) > 1
        marks = [mb.identity(x=x, name=f"{BETWEEN}{i}") for i, x in enumerate(between if halves else [])]
        function.set_outputs([*results, *marks])
    program = Program()
    program.add_function("main", function)
    compute: Any = {"float16": ct.precision.FLOAT16, "float32": ct.precision.FLOAT32}[precision]
    if halves:
        compute = ct.transform.FP16ComputePrecision(op_selector=_Behind())
    model = ct.convert(
        program,
        inputs=types_,
        convert_to="mlprogram",
        minimum_deployment_target=TARGET,
        compute_precision=compute,
        skip_model_load=True,
    )
    model = _without_marks(model) if halves else model
    model.user_defined_metadata.update(metadata or {})
    return model


def _shapes(value: Value, axes: Mapping[int, Axis], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """The shapes that an input may have."""
    if len(axes) > 1 or (axes and not sizes):
        raise ExportError(f"a Core ML model has fixed sizes, not {value.shape}: trace without axes, or give the sizes")
    taken = sizes if axes else [0]
    return [tuple(size if i in axes else int(n) for i, n in enumerate(value.shape)) for size in taken]  # type: ignore[arg-type]


class _Behind:
    """Tells the operations that the marked values do not need."""

    def __init__(self) -> None:
        self.before: dict[int, Any] = {}  # by id, and held, so that no other gets the same

    def __call__(self, op: Any) -> bool:
        if not self.before:
            left = [value.op for value in op.enclosing_block.outputs if value.name.startswith(BETWEEN)]
            while left:
                needed = left.pop()
                if needed is not None and id(needed) not in self.before:
                    self.before[id(needed)] = needed
                    for given in needed.inputs.values():
                        left += [value.op for value in (given if isinstance(given, (list, tuple)) else [given])]
        return id(op) not in self.before


def _without_marks(model: ct.models.MLModel) -> ct.models.MLModel:
    """The marked values stay, but are no outputs."""
    spec = model.get_spec()
    block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
    kept = [name for name in block.outputs if not name.startswith(BETWEEN)]
    described = [output for output in spec.description.output if not output.name.startswith(BETWEEN)]
    del block.outputs[:], spec.description.output[:]
    block.outputs.extend(kept)
    spec.description.output.extend(described)
    return ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)
