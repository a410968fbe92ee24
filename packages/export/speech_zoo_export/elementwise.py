"""Primitives that work on each element, and reductions."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .graph import ExportError, Value, constant
from .terms import Call, Complex, Term

UNARY = {
    "ArcCos": "Acos",
    "ArcCosh": "Acosh",
    "ArcSin": "Asin",
    "ArcSinh": "Asinh",
    "ArcTan": "Atan",
    "ArcTanh": "Atanh",
    "Cos": "Cos",
    "Cosh": "Cosh",
    "Erf": "Erf",
    "Exp": "Exp",
    "LogicalNot": "Not",
    "Negative": "Neg",
    "Sigmoid": "Sigmoid",
    "Sign": "Sign",
    "Sin": "Sin",
    "Sinh": "Sinh",
    "Tan": "Tan",
    "Tanh": "Tanh",
}
ROUNDING = {"Ceil": "Ceil", "Floor": "Floor", "Round": "Round"}
BINARY = {
    "Add": "Add",
    "Divide": "Div",
    "Greater": "Greater",
    "GreaterEqual": "GreaterOrEqual",
    "Less": "Less",
    "LessEqual": "LessOrEqual",
    "LogicalAnd": "And",
    "LogicalOr": "Or",
    "Maximum": "Max",
    "Minimum": "Min",
    "Multiply": "Mul",
    "Power": "Pow",
    "Subtract": "Sub",
}
BITWISE = (("And", "BitwiseAnd"), ("Or", "BitwiseOr"), ("Xor", "BitwiseXor"))
REDUCTIONS = (
    "ReduceMin",
    "ReduceMax",
    "ReduceSum",
    "ReduceProd",
    "ReduceMin",
    "ReduceMax",
)  # and, or of booleans first
LOG_BASES = (1 / math.log(2), 1 / math.log(10), None)


def _unary(op: str) -> Callable[[Call], Term]:
    return lambda call: call.build(op, call.inputs[0])


def _binary(op: str) -> Callable[[Call], Term]:
    return lambda call: call.build(op, *call.inputs)


def _rounding(op: str) -> Callable[[Call], Term]:
    return lambda call: call.build(op, call.inputs[0]) if call.inputs[0].dtype.kind == "f" else call.inputs[0]


def _abs(call: Call) -> Term:
    x = call.inputs[0]
    if not isinstance(x, Complex):
        return call.build("Abs", x)
    squares = (call.build("Mul", part, part) for part in (x.real, x.imag))
    size = call.build("Sqrt", call.build("Add", *squares))
    return Complex(size, call.build.full(0, size))  # MLX calls it complex until it is cast


def _square(call: Call) -> Term:
    return call.build("Mul", call.inputs[0], call.inputs[0])


def _sqrt(call: Call) -> Term:
    root = call.build("Sqrt", call.inputs[0])
    return call.build("Reciprocal", root) if call.args[0] else root


def _log(call: Call) -> Term:
    scale = LOG_BASES[call.args[0]]
    y = call.build("Log", call.inputs[0])
    return y if scale is None else call.build("Mul", y, call.build.full(scale, y))


def _log1p(call: Call) -> Term:
    """log(u) * x / (u - 1) with u = 1 + x, which is exact where x is small; Kahan's."""
    x = call.inputs[0]
    one = call.build.full(1, x)
    u = call.build("Add", x, one)
    below = call.build("Sub", u, one)
    tiny = call.build("Equal", below, call.build.full(0, x))
    quotient = call.build("Div", x, call.build("Where", tiny, one, below))
    return call.build("Where", tiny, x, call.build("Mul", call.build("Log", u), quotient))


def _expm1(call: Call) -> Term:
    """exp(x / 2) * 2 sinh(x / 2), without the cancellation of exp(x) - 1."""
    half = call.build("Mul", call.inputs[0], call.build.full(0.5, call.inputs[0]))
    return call.build(
        "Mul", call.build("Exp", half), call.build("Mul", call.build("Sinh", half), call.build.full(2, half))
    )


def _log_add_exp(call: Call) -> Term:
    build, (x, y) = call.build, call.inputs
    top, low = build("Max", x, y), build("Min", x, y)
    difference = build("Exp", build("Sub", low, top))
    return build("Add", top, build("Log", build("Add", difference, build.full(1, top))))


def _floor_divide(call: Call) -> Term:
    y = call.build("Div", *call.inputs)
    return call.build("Floor", y) if y.dtype.kind == "f" else y


def _remainder(call: Call) -> Term:
    build, (x, y) = call.build, call.inputs
    if x.dtype.kind != "f":
        return build("Mod", x, y)
    return build("Sub", x, build("Mul", build("Floor", build("Div", x, y)), y))


def _div_mod(call: Call) -> list[Term]:
    return [_floor_divide(call), _remainder(call)]


def _equal(call: Call) -> Term:
    if call.args and call.args[0]:
        raise ExportError("NaN equals nothing in a graph")
    return call.build("Equal", *call.inputs)


def _not_equal(call: Call) -> Term:
    return call.build("Not", call.build("Equal", *call.inputs))


def _bitwise(call: Call) -> Term:
    if call.args[0] >= len(BITWISE):
        raise ExportError("bits cannot be shifted")
    logical, bitwise = BITWISE[call.args[0]]
    return call.build(logical if call.inputs[0].dtype == bool else bitwise, *call.inputs)


def _arc_tan2(call: Call) -> Term:
    build, (y, x) = call.build, call.inputs
    zero = build.full(0, x)
    safe = build("Where", build("Equal", x, zero), build.full(1e-30, x), x)
    angle = build("Atan", build("Div", y, safe))
    half_turn = build("Where", build("Less", y, zero), build.full(-math.pi, x), build.full(math.pi, x))
    return build("Where", build("Less", x, zero), build("Add", angle, half_turn), angle)


def _select(call: Call) -> Term:
    return call.build("Where", *call.inputs)


def _as_type(call: Call) -> Term:
    x = call.inputs[0]
    if isinstance(x, Complex):
        if call.dtypes[0].kind == "c":
            return x
        x = x.real
    elif call.dtypes[0].kind == "c":
        return Complex(x, call.build.full(0, x))
    return call.build.cast(x, call.dtypes[0])


def _part(name: str) -> Callable[[Call], Term]:
    def part(call: Call) -> Term:
        value: Value = getattr(call.inputs[0], name)
        return value

    return part


def _reduce(call: Call) -> Term:
    kind, axes = call.args[0], tuple(call.args[1])
    x, dtype = call.inputs[0], call.dtypes[0]
    counted = np.dtype(np.int32) if dtype.kind == "b" else dtype  # runtimes reduce no booleans
    return call.build.cast(call.build.reduce(REDUCTIONS[kind], call.build.cast(x, counted), axes), dtype)


def _arg_reduce(call: Call) -> Term:
    op = ("ArgMin", "ArgMax")[call.args[0]]
    return call.build(op, call.inputs[0], axes=(call.args[1],), keepdims=True)


def _softmax(call: Call) -> Term:
    return call.build("Softmax", call.inputs[0], axis=call.inputs[0].rank - 1)


def _log_sum_exp(call: Call) -> Term:
    return call.build.reduce("ReduceLogSumExp", call.inputs[0], (call.inputs[0].rank - 1,))


def _scan(call: Call) -> Term:
    kind, axis, reverse, inclusive = call.args
    if kind != 2:
        raise ExportError("of running results only sums have one")
    x = call.build.cast(call.inputs[0], call.dtypes[0])
    return call.build("CumSum", x, axis=axis, reverse=bool(reverse), exclusive=not inclusive)


def _sort(call: Call) -> Term:
    return call.build("Sort", call.inputs[0], axis=call.args[0] % call.inputs[0].rank)


def _arg_sort(call: Call) -> Term:
    return call.build("ArgSort", call.inputs[0], axis=call.args[0] % call.inputs[0].rank)


def _same(call: Call) -> Term:
    value: Term = call.inputs[0]
    return value


def _arange(call: Call) -> Term:
    start, stop, step = call.args
    shape, dtype = call.shapes[0], call.dtypes[0]
    if isinstance(shape[0], int) and all(isinstance(part, (int, float)) for part in call.args):
        return constant((start + step * np.arange(shape[0])).astype(dtype))
    parts = [int(part) if isinstance(part, float) and part.is_integer() else part for part in (start, stop, step)]
    if any(isinstance(part, float) for part in parts):
        raise ExportError("a range that varies is one of integers")
    return call.build.cast(call.build("Range", start=parts[0], stop=parts[1], step=parts[2]), dtype)


ELEMENTWISE: dict[str, Callable[[Call], Any]] = {
    **{name: _unary(op) for name, op in UNARY.items()},
    **{name: _rounding(op) for name, op in ROUNDING.items()},
    **{name: _binary(op) for name, op in BINARY.items()},
    "Abs": _abs,
    "ArcTan2": _arc_tan2,
    "Arange": _arange,
    "ArgReduce": _arg_reduce,
    "ArgSort": _arg_sort,
    "AsType": _as_type,
    "BitwiseBinary": _bitwise,
    "Copy": _same,
    "DivMod": _div_mod,
    "Equal": _equal,
    "Expm1": _expm1,
    "FloorDivide": _floor_divide,
    "Full": _same,
    "Imag": _part("imag"),
    "Log": _log,
    "Log1p": _log1p,
    "LogAddExp": _log_add_exp,
    "LogSumExp": _log_sum_exp,
    "NotEqual": _not_equal,
    "Real": _part("real"),
    "Reduce": _reduce,
    "Remainder": _remainder,
    "Scan": _scan,
    "Select": _select,
    "Softmax": _softmax,
    "Sort": _sort,
    "Sqrt": _sqrt,
    "Square": _square,
    "StopGradient": _same,
}
