"""Going over a graph and replacing values by what computes the same for less."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from .graph import Graph, Node, Value
from .shapes import Builder


class Context(Builder):
    """The new nodes of a graph that is gone over, and what is known of its values."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.producers: dict[int, Node] = {}
        self.counts = graph.uses()

    def __call__(self, op: str, *inputs: Value, **attrs: Any) -> Value:
        output = super().__call__(op, *inputs, **attrs)
        self.producers[id(output)] = self.nodes[-1]
        return output

    def keep(self, node: Node) -> None:
        """Take over a node as it is."""
        self.nodes.append(node)
        self.producers[id(node.output)] = node

    def maker(self, value: Value, *ops: str) -> Node | None:
        """The node that gives a value, if it is one of these operations."""
        node = self.producers.get(id(value))
        return node if node is not None and (not ops or node.op in ops) else None

    def once(self, value: Value) -> bool:
        """Whether nothing else uses a value."""
        return self.counts.get(id(value), 1) == 1


Rule: TypeAlias = Callable[[Context, Node], "Value | None"]


def rewrite(graph: Graph, rules: Mapping[str, list[Rule]]) -> bool:
    """Offer every node to the rules of its operation, in order; whether one of them gave another value."""
    context = Context(graph)
    replaced: dict[int, Value] = {}
    changed = False
    for node in graph.nodes:
        node.inputs = [replaced.get(id(value), value) for value in node.inputs]
        context.origin = node.origin
        for rule in [*rules.get(node.op, []), *rules.get("", [])]:
            value = rule(context, node)
            if value is not None:
                replaced[id(node.output)] = value
                context.counts[id(value)] = context.counts.get(id(value), 0) + context.counts.get(id(node.output), 1)
                changed = True
                break
        else:
            context.keep(node)
    graph.nodes = context.nodes
    graph.outputs = [replaced.get(id(value), value) for value in graph.outputs]
    drop_dead(graph)
    return changed


def drop_dead(graph: Graph) -> None:
    """Leave out what no output needs."""
    needed = {id(value) for value in graph.outputs}
    kept = []
    for node in reversed(graph.nodes):
        if id(node.output) in needed:
            needed.update(id(value) for value in node.inputs)
            kept.append(node)
    graph.nodes = kept[::-1]


def share(graph: Graph) -> None:
    """Compute once what is computed twice."""
    seen: dict[Any, Value] = {}
    small: dict[Any, Value] = {}
    replaced: dict[int, Value] = {}
    kept = []

    def same(value: Value) -> Value:
        value = replaced.get(id(value), value)
        if value.data is not None and value.data.size <= 16:
            key = (value.data.tobytes(), value.data.dtype.str, value.data.shape)
            return small.setdefault(key, value)
        return value

    for node in graph.nodes:
        node.inputs = [same(value) for value in node.inputs]
        attrs = tuple(sorted(node.attrs.items(), key=lambda item: item[0]))
        key = (node.op, tuple(id(value) for value in node.inputs), attrs)
        if key in seen:
            replaced[id(node.output)] = seen[key]
        else:
            seen[key] = node.output
            kept.append(node)
    graph.nodes = kept
    graph.outputs = [same(value) for value in graph.outputs]
