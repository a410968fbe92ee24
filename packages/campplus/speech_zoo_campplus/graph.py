"""An exported CAM++ as ONNX, followed node by node back to the tensors of its source."""

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from speech_zoo_core.checkpoint.onnx_graph import Graph, Node, Walk
from speech_zoo_core.errors import CheckpointError

from .model import DILATIONS, KERNEL, LAYERS, SEGMENT

POOL_EPS = 1e-7  # WeSpeaker adds it to the variance; 3D-Speaker adds nothing


class Found(NamedTuple):
    """What a graph holds: tensors as converted ones are, and what is added to the variance before the root."""

    weights: dict[str, mx.array]
    pool_eps: float


class _Walk(Walk):
    """Records tensors under 3D-Speaker's own names, BatchNorms as scale and shift."""

    def fail(self, what: str) -> CheckpointError:
        return CheckpointError(f"the graph looks like a CAM++, but {what}")

    def expect(self, node: Node | None, what: str) -> Node:
        if node is None:
            raise self.fail(what)
        return node

    def one_of(self, value: str, *ops: str) -> Node:
        """The only consumer of a value that is one of `ops`, among others."""
        consumers = [node for node in self.graph.consumers(value) if node.op in ops]
        return self.expect(consumers[0] if len(consumers) == 1 else None, f"{value} does not go on with one {ops[0]}")

    def after(self, value: str, *ops: str) -> Node:
        """What follows a value, and nothing else does."""
        return self.expect(self.next(value, *ops), f"no {ops[0]} follows {value}")

    def convolution(self, node: Node, name: str, shape: tuple[int, ...], **wanted: Any) -> str:
        """Record a convolution with this kernel and the BatchNorm after it; returns the value that it gives."""
        weight, rank = self.constant(node, 1), len(shape)
        attributes = {"pads": [0] * 2 * rank, "strides": [1] * rank, "dilations": [1] * rank, "group": 1}
        usual = dict(attributes)
        attributes |= {key: value for key, value in node.attributes.items() if key in attributes}
        padding = node.attributes.get("auto_pad", b"NOTSET")
        if weight.shape[2:] != shape or attributes != usual | wanted or padding not in (b"NOTSET", "NOTSET"):
            raise self.fail(f"{name} is another convolution")
        value, bias = node.outputs[0], self.constant(node, 2) if len(node.inputs) > 2 else None
        if norm := self.next(value, "BatchNormalization"):
            scale, shift = self.scale_shift(norm)
            weight = weight * scale.reshape(-1, *[1] * (rank + 1))
            bias = shift if bias is None else bias * scale + shift
            value = norm.outputs[0]
        plain = weight.reshape(weight.shape[:2]) if set(shape) == {1} and rank == 1 else np.moveaxis(weight, 1, -1)
        self.record(f"{name}.weight", plain)
        if bias is not None:
            self.record(f"{name}.bias", bias)
        return value

    def record(self, name: str, x: "np.ndarray[Any, Any]") -> None:
        self.weights[name] = np.ascontiguousarray(x, np.float32)

    def norm(self, value: str, name: str) -> str:
        """Record a BatchNorm that stands alone, and follow the ReLU after it."""
        node = self.one_of(value, "BatchNormalization")
        for part, x in zip(("weight", "bias"), self.scale_shift(node), strict=True):
            self.record(f"{name}.{part}", x)
        return self.after(node.outputs[0], "Relu").outputs[0]

    def head(self, value: str) -> str:
        """The 2-D convolutions; strides act on the frequency axis."""
        same = {"pads": [1, 1, 1, 1]}
        value = self.convolution(self.after(value, "Conv"), "head.conv1", (3, 3), **same)
        value = self.after(value, "Relu").outputs[0]
        for name, stride in (("layer1.0", 2), ("layer1.1", 1), ("layer2.0", 2), ("layer2.1", 1)):
            start, strides = value, {"strides": [stride, 1]}
            branches = {self.constant(node, 1).shape[-1]: node for node in self._users(start) if node.op == "Conv"}
            if set(branches) != ({1, 3} if stride > 1 else {3}):
                raise self.fail(f"head.{name} is not a residual block")
            value = self.convolution(branches[3], f"head.{name}.conv1", (3, 3), **same, **strides)
            second = self.after(self.after(value, "Relu").outputs[0], "Conv")
            value = self.convolution(second, f"head.{name}.conv2", (3, 3), **same)
            other = start
            if stride > 1:
                other = self.convolution(branches[1], f"head.{name}.shortcut.0", (1, 1), **strides)
            add = self.after(value, "Add")
            if {*add.inputs} != {value, other}:
                raise self.fail(f"head.{name} adds something else")
            value = self.after(add.outputs[0], "Relu").outputs[0]
        value = self.convolution(self.after(value, "Conv"), "head.conv2", (3, 3), **same, strides=[2, 1])
        return self.after(value, "Relu").outputs[0]

    def layer(self, value: str, name: str, dilation: int) -> str:
        """A densely connected layer; returns its input with its output appended."""
        hidden = self.norm(value, f"{name}.nonlinear1.batchnorm")
        hidden = self.convolution(self.after(hidden, "Conv"), f"{name}.linear1", (1,))
        hidden = self.after(hidden, "Relu").outputs[0]
        pools = [node for node in self._users(hidden) if node.op == "AveragePool"]
        if len(pools) != 1 or pools[0].attributes.get("kernel_shape") != [SEGMENT]:
            raise self.fail(f"{name} takes no means over {SEGMENT} frames")
        cam = f"{name}.cam_layer"
        wide = {"pads": [dilation, dilation], "dilations": [dilation]}
        local = self.convolution(self.one_of(hidden, "Conv"), f"{cam}.linear_local", (KERNEL,), **wide)
        add = self.after(self.one_of(hidden, "ReduceMean").outputs[0], "Add")
        mask = self.convolution(self.after(add.outputs[0], "Conv"), f"{cam}.linear1", (1,))
        mask = self.convolution(self.after(self.after(mask, "Relu").outputs[0], "Conv"), f"{cam}.linear2", (1,))
        product = self.after(self.after(mask, "Sigmoid").outputs[0], "Mul")
        joined = self.after(product.outputs[0], "Concat")
        if local not in product.inputs or joined.inputs != [value, product.outputs[0]]:
            raise self.fail(f"{name} is joined in another way")
        return joined.outputs[0]

    def pooling(self, value: str) -> tuple[str, float]:
        """Mean and unbiased deviation over time; returns them joined, and what is added to the variance."""
        joined = [node for node in self.graph.nodes if node.op == "Concat" and self._is(node.inputs[-1], "Sqrt")]
        if len(joined) != 1 or joined[0].inputs[0] not in self.means(value):
            raise self.fail("it pools in another way than mean and deviation")
        root = self.graph.producer(joined[0].inputs[-1])
        inner, eps = self.graph.producer(root.inputs[0]) if root else None, 0.0
        if inner is not None and inner.op == "Add":
            eps = float(self.constant(inner, 1))
            inner = self.graph.producer(inner.inputs[0])
        if inner is None or inner.op != "Div" or (eps and not POOL_EPS / 2 < eps < 2 * POOL_EPS):
            raise self.fail("its deviation is not the unbiased one")
        return joined[0].outputs[0], POOL_EPS if eps else 0.0

    def means(self, value: str) -> set[str]:
        return {node.outputs[0] for node in self._users(value) if node.op == "ReduceMean"}

    def _is(self, value: str, op: str) -> bool:
        node = self.graph.producer(value)
        return node is not None and node.op == op

    def dense(self, value: str) -> None:
        """The embedding layer with the BatchNorm after it, to the output."""
        name = "xvector.dense.linear"
        node = self.after(value, "Conv", "Gemm", "MatMul")
        value = self.convolution(node, name, (1,)) if node.op == "Conv" else self.linear(node, name)
        bias = self.weights.setdefault(f"{name}.bias", np.zeros(len(self.weights[f"{name}.weight"]), np.float32))
        if norm := self.next(value, "BatchNormalization"):
            scale, shift = self.scale_shift(norm)
            self.record(f"{name}.weight", self.weights[f"{name}.weight"] * scale[:, None])
            self.record(f"{name}.bias", bias * scale + shift)
            value = norm.outputs[0]
        self.subtract_mean(value, name)


def from_graph(graph: Graph) -> Found | None:
    """The tensors of an exported CAM++; None if it is something else.

    Raises:
        CheckpointError: it begins like one, but goes on in another way.
    """
    ranks = graph.kernel_ranks()
    if len(graph.inputs) != 1 or ranks[:1] != [4] or ranks.count(3) < sum(LAYERS):
        return None
    walk = _Walk(graph)
    walk.head(graph.inputs[0])
    # The image becomes frames by a Reshape, whose shape is computed in many ways.
    first = next(node for node in graph.nodes if node.op == "Conv" and walk.constant(node, 1).ndim == 3)
    value = walk.convolution(first, "xvector.tdnn.linear", (5,), pads=[2, 2], strides=[2])
    value = walk.after(value, "Relu").outputs[0]
    for i, (layers, dilation) in enumerate(zip(LAYERS, DILATIONS, strict=True), 1):
        for j in range(1, layers + 1):
            value = walk.layer(value, f"xvector.block{i}.tdnnd{j}", dilation)
        value = walk.norm(value, f"xvector.transit{i}.nonlinear.batchnorm")
        value = walk.convolution(walk.after(value, "Conv"), f"xvector.transit{i}.linear", (1,))
    value, eps = walk.pooling(walk.after(value, "Relu").outputs[0])
    walk.dense(value)
    return Found({name: mx.array(x) for name, x in walk.weights.items()}, eps)
