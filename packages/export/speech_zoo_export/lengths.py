"""Sizes that depend on the inputs: what they were wherever the function was traced, and formulas found for them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import mul
from typing import Any, TypeAlias

import numpy as np

MAX_COMBINED = 64  # the largest coefficient in a sum of two sizes


@dataclass(frozen=True)
class Axis:
    """An axis of an input whose size varies.

    Attributes:
        name: of the size; axes of one name have one size.
        least, most: the sizes between which formulas are found and checked.
        batch: whether the function does the same for each item along the axis.
    """

    name: str
    least: int
    most: int
    batch: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(f"sizes of axis {self.name} from {self.least} to {self.most}")


Points: TypeAlias = list[dict[str, int]]  # each a size for every axis, by name


class Length:
    """An integer that depends on the sizes of the inputs: its values at the points of a trace."""

    __slots__ = ("values",)

    def __init__(self, values: Iterable[int]) -> None:
        self.values = tuple(values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Length) and self.values == other.values

    def __hash__(self) -> int:
        return hash(self.values)

    def __repr__(self) -> str:
        return f"Length{self.values}"

    def _with(self, other: "Dim", fn: Callable[[int, int], int]) -> Any:
        others = other.values if isinstance(other, Length) else (other,) * len(self.values)
        return merged([fn(a, b) for a, b in zip(self.values, others, strict=True)])

    def __add__(self, other: "Dim") -> Any:
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other: "Dim") -> Any:
        return self._with(other, lambda a, b: a - b)

    def __mul__(self, other: "Dim") -> Any:
        return self._with(other, lambda a, b: a * b)

    def __floordiv__(self, other: "Dim") -> Any:
        return self._with(other, lambda a, b: a // b)

    def __mod__(self, other: "Dim") -> Any:
        return self._with(other, lambda a, b: a % b)

    def __rsub__(self, other: int) -> Any:
        return self._with(other, lambda a, b: b - a)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Any:
        return merged([-a for a in self.values])


Dim: TypeAlias = int | Length


def merged(values: Sequence[int]) -> Any:
    """A plain integer where all are the same, else a `Length`."""
    return values[0] if len(set(values)) == 1 else Length(values)


def product(dims: Iterable[Dim]) -> Any:
    """The product of sizes, 1 of none."""
    return reduce(mul, dims, 1)


def always(dim: Dim, fits: Callable[[int], bool]) -> bool:
    """Whether a size fits at every point."""
    return all(fits(value) for value in (dim.values if isinstance(dim, Length) else (dim,)))


@dataclass(frozen=True)
class Formula:
    """factor * (constant + sum of coefficient * floor((size + add) / by)).

    Attributes:
        terms: (coefficient, axis name, add, by) each.
        factor: the name of a batch axis that multiplies all; None for 1.
    """

    terms: tuple[tuple[int, str, int, int], ...]
    constant: int
    factor: str | None = None

    def at(self, sizes: Mapping[str, int]) -> int:
        """Its value where the axes have these sizes."""
        total = self.constant + sum(k * ((sizes[name] + add) // by) for k, name, add, by in self.terms)
        return total * (1 if self.factor is None else sizes[self.factor])

    def plus(self, other: "Formula", own: int, others: int, constant: int) -> "Formula":
        """own * this + others * other + constant, of two formulas without a factor."""
        terms: dict[tuple[str, int, int], int] = {}
        for scale, formula in ((own, self), (others, other)):
            constant += scale * formula.constant
            for k, *rest in formula.terms:
                key: Any = tuple(rest)
                terms[key] = terms.get(key, 0) + scale * k
        return Formula(tuple((k, *rest) for rest, k in terms.items() if k), constant)


def floors(sizes: Sequence[int], values: Sequence[int]) -> "np.ndarray[Any, Any]":
    """Every k * floor((size + add) / by) + constant that has these values at these sizes: (M, 4), k, add, by, constant.

    The likeliest first: what is left over at the end of a size counts, or does not.
    """
    n, v = np.array(sizes), np.array(values)
    order = np.argsort(n, kind="stable")
    n, v = n[order], v[order]
    step, run, rise = int(np.gcd.reduce(v - v[0])), int(n[-1] - n[0]), int(v[-1] - v[0])
    if step == 0:
        return np.array([[0, 0, 1, v[0]]])
    if run and rise % run == 0 and np.all(v - v[0] == rise // run * (n - n[0])):
        return np.array([[rise // run, 0, 1, v[0] - rise // run * n[0]]])
    sign = 1 if rise > 0 else -1
    if rise == 0 or np.any(np.diff(v) * sign < 0):
        return np.empty((0, 4), np.int64)  # a floor goes one way only
    found = []
    for k in (step // part for part in (1, 2, 3, 4) if step % part == 0):
        steps = abs(rise) / k
        bys = range(max(2, math.floor(run / (steps + 1))), math.ceil(run / max(steps - 1, 0.5)) + 1)
        found += [row for by in bys for row in _adds(n, v, sign * k, by)]
    if not found:
        return np.empty((0, 4), np.int64)
    rows = np.array(found)
    likely = np.minimum(rows[:, 1], rows[:, 2] - 1 - rows[:, 1])
    return rows[np.argsort(likely, kind="stable")]


def _adds(n: Any, v: Any, k: int, by: int) -> list[tuple[int, int, int, int]]:
    """The rows of `floors` with that k and that divisor."""
    adds = np.arange(by)
    rest = v[None] - k * ((n[None] + adds[:, None]) // by)
    fitting = np.flatnonzero((rest == rest[:, :1]).all(axis=1))
    return [(k, int(add), by, int(rest[add, 0])) for add in fitting]


def formula_of(row: "np.ndarray[Any, Any]", name: str) -> Formula:
    """A row of `floors` as a formula of the axis of that name."""
    k, add, by, constant_ = (int(x) for x in row)
    return Formula(((k, name, add, by),) if k else (), constant_)


def combined(values: Sequence[int], known: Mapping[tuple[int, ...], Formula]) -> Formula | None:
    """A formula for values that are a sum of multiples of two known ones, and a constant; None where there is none."""
    v, columns = np.array(values, float), list(known)
    for i, one in enumerate(columns):
        for other in columns[i:]:
            rows = np.array([one, other, (1,) * len(values)], float).T
            solution = np.rint(np.linalg.lstsq(rows, v, rcond=None)[0])
            if np.all(rows @ solution == v) and np.abs(solution[:2]).max() <= MAX_COMBINED:
                own, others, constant = (int(x) for x in solution)
                return known[one].plus(known[other], own, others, constant)
    return None
