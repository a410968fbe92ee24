"""The formula of each size in a graph."""

from typing import Any

from .graph import ExportError, Graph
from .lengths import Formula, Length, combined, floors, formula_of


class Formulas:
    """Formulas of the sizes of a graph, each found once."""

    def __init__(self, graph: Graph) -> None:
        self.points = graph.points
        axes = {axis.name: axis for own in graph.axes for axis in own.values()}
        self.length = next((name for name, axis in axes.items() if not axis.batch), None)
        self.batches = [name for name, axis in axes.items() if axis.batch]
        base = self.points[0]
        same_batch = [all(point[name] == base[name] for name in self.batches) for point in self.points]
        self.base = [i for i, same in enumerate(same_batch) if same]
        self.known: dict[tuple[int, ...], Formula | None] = {}
        self.hints = {tuple(values[i] for i in self.base): more for values, more in graph.hints.items()}
        for length in _lengths(graph):
            for factor in (None, *self.batches):
                self._along(self._at_base(length, factor), sums=False)

    def find(self, length: Length) -> Formula:
        """The formula of a size.

        Raises:
            ExportError: it has none.
        """
        for factor in (None, *self.batches):
            formula = self._along(self._at_base(length, factor), sums=True)
            if formula is not None:
                formula = Formula(formula.terms, formula.constant, factor)
                if all(formula.at(point) == value for point, value in zip(self.points, length.values, strict=True)):
                    return formula
        at = ", ".join(f"{value} at {point}" for point, value in zip(self.points, length.values, strict=True))
        raise ExportError(f"a size has no formula: {at}")

    def _at_base(self, length: Length, factor: str | None) -> tuple[int, ...] | None:
        """Its values where only the length varies, for one item of a batch."""
        size = 1 if factor is None else self.points[0][factor]
        values = [length.values[i] for i in self.base]
        return tuple(value // size for value in values) if not any(value % size for value in values) else None

    def _along(self, values: tuple[int, ...] | None, sums: bool) -> Formula | None:
        if values is None:
            return None
        if self.known.get(values) is None:
            if self.length is None:
                self.known[values] = Formula((), values[0])
            else:
                known = [self.points[i][self.length] for i in self.base], values
                more = self.hints.get(values, {})
                found = floors([*known[0], *more], [*known[1], *more.values()])
                self.known[values] = formula_of(found[0], self.length) if len(found) else None
        if self.known[values] is None and sums:
            self.known[values] = combined(values, {key: formula for key, formula in self.known.items() if formula})
        return self.known[values]


def _lengths(graph: Graph) -> set[Length]:
    """Every size in the graph that varies."""
    found: set[Length] = set()

    def visit(item: Any) -> None:
        if isinstance(item, Length):
            found.add(item)
        elif isinstance(item, (tuple, list)):
            for part in item:
                visit(part)

    visit([value.shape for value in graph.inputs])
    for node in graph.nodes:
        visit([node.output.shape, tuple(node.attrs.values())])
    return found
