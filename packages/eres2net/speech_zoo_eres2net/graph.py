"""An exported ERes2Net as ONNX, followed node by node back to the tensors of its source."""

from functools import reduce
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from speech_zoo_core.checkpoint.onnx_graph import Graph, Node, Walk
from speech_zoo_core.errors import CheckpointError

from .model import CLIP, FUSED_FROM, STRIDES


class Found(NamedTuple):
    """What a graph holds: tensors as converted ones are, and what is added to the variance before the root."""

    weights: dict[str, mx.array]
    pool_eps: float


class _Walk(Walk):
    """Records tensors under 3D-Speaker's own names, with the BatchNorms folded in."""

    def fail(self, what: str) -> CheckpointError:
        return CheckpointError(f"the graph looks like an ERes2Net, but {what}")

    def one(self, value: str, op: str) -> Node:
        """The only consumer of a value with this operation."""
        nodes = [node for node in self._users(value) if node.op == op]
        if len(nodes) != 1:
            raise self.fail(f"{value} goes on with {len(nodes)} {op}, one was expected")
        return nodes[0]

    def joint(self, op: str, *values: str) -> str:
        """What an operation makes of these values, in this order where it matters."""
        for node in self._users(values[0]):
            if node.op == op and (node.inputs == [*values] or (op != "Concat" and {*node.inputs} == {*values})):
                return node.outputs[0]
        raise self.fail(f"{values[0]} goes on without a {op}")

    def number(self, node: Node, index: int) -> float:
        """A single number among the inputs of a node."""
        constant = self.constant(node, index)
        if constant.size != 1:
            raise self.fail(f"a {node.op} takes {constant.size} numbers, one was expected")
        return float(constant.reshape(()))

    def convolution(self, node: Node, name: str, kernel: int, stride: int = 1) -> str:
        """Record a convolution with the BatchNorm after it, if any; returns the value that it gives."""
        weight = self.constant(node, 1)
        usual: dict[str, Any] = {"pads": [kernel // 2] * 4, "strides": [stride] * 2, "dilations": [1, 1], "group": 1}
        given = {key: value for key, value in node.attributes.items() if key in usual}
        plain = {"pads": [0] * 4, "strides": [1, 1], "dilations": [1, 1], "group": 1} | given
        padding = node.attributes.get("auto_pad", b"NOTSET")
        if weight.shape[2:] != (kernel, kernel) or plain != usual or padding not in (b"NOTSET", "NOTSET"):
            raise self.fail(f"{name} is another convolution")
        value, bias = node.outputs[0], self.constant(node, 2) if len(node.inputs) > 2 else None
        if norm := self.next(value, "BatchNormalization"):
            scale, shift = self.scale_shift(norm)
            weight = weight * scale.reshape(-1, 1, 1, 1)
            bias = shift if bias is None else bias * scale + shift
            value = norm.outputs[0]
        self.record(f"{name}.weight", weight[..., 0, 0] if kernel == 1 else np.moveaxis(weight, 1, -1))
        if bias is not None:
            self.record(f"{name}.bias", bias)
        return value

    def record(self, name: str, x: "np.ndarray[Any, Any]") -> None:
        self.weights[name] = np.ascontiguousarray(x, np.float32)

    def clipped(self, value: str) -> str:
        """Follow the ReLU of the blocks."""
        node = self.one(value, "Clip")
        ends = [node.attributes[key] for key in ("min", "max") if key in node.attributes]
        if (ends or [self.number(node, 1), self.number(node, 2)]) != [0.0, CLIP]:
            raise self.fail(f"its blocks are not clipped at {CLIP:g}")
        return node.outputs[0]

    def fusion(self, x: str, y: str, name: str) -> str:
        """Record an attentive fusion of two values."""
        value = self.convolution(self.one(self.joint("Concat", x, y), "Conv"), f"{name}.local_att.0", 1)
        value = self.joint("Mul", value, self.one(value, "Sigmoid").outputs[0])
        value = self.convolution(self.one(value, "Conv"), f"{name}.local_att.3", 1)
        plus = self.one(self.one(value, "Tanh").outputs[0], "Add")
        minus = self.one(plus.outputs[0], "Sub")
        ones = [self.number(plus, i) for i, value in enumerate(plus.inputs) if value in self.graph.constants]
        if ones != [1.0] or minus.inputs[1] != plus.outputs[0] or self.number(minus, 0) != 2.0:
            raise self.fail(f"{name} weighs in another way")
        return self.joint("Add", self.joint("Mul", x, plus.outputs[0]), self.joint("Mul", y, minus.outputs[0]))

    def pointwise(self, value: str) -> list[Node]:
        """The 1x1 convolutions that a block begins with."""
        convolutions = [node for node in self._users(value) if node.op == "Conv"]
        return [node for node in convolutions if self.constant(node, 1).shape[2:] == (1, 1)]

    def block(self, value: str, name: str, stride: int, fuses: bool) -> str:
        """Record a block; returns the value after its last ReLU."""
        starts = self.pointwise(value)
        main = [node for node in starts if self.next(node.outputs[0], "Clip", "BatchNormalization")]
        main = [node for node in main if self.next(self._normed(node), "Clip")]
        others = [node for node in starts if node not in main]
        if len(main) != 1 or len(others) > 1:
            raise self.fail(f"{name} is not a block")
        split = self.one(self.clipped(self.convolution(main[0], f"{name}.conv1", 1, stride)), "Split")
        outputs: list[str] = []
        for i, part in enumerate(split.outputs):
            joined = part
            if i and fuses:
                joined = self.fusion(outputs[-1], part, f"{name}.fuse_models.{i - 1}")
            elif i:
                joined = self.joint("Add", outputs[-1], part)
            outputs.append(self.clipped(self.convolution(self.one(joined, "Conv"), f"{name}.convs.{i}", 3)))
        out = self.convolution(self.one(self.all_joined(outputs), "Conv"), f"{name}.conv3", 1)
        if others:
            value = self.convolution(others[0], f"{name}.shortcut.0", 1, stride)
        return self.clipped(self.joint("Add", out, value))

    def all_joined(self, values: list[str]) -> str:
        """The concatenation of values, at once or one after the other."""
        if any(node.inputs == values for node in self._users(values[0]) if node.op == "Concat"):
            return self.joint("Concat", *values)
        return reduce(lambda joined, value: self.joint("Concat", joined, value), values)

    def _normed(self, node: Node) -> str:
        norm = self.next(node.outputs[0], "BatchNormalization")
        return (norm or node).outputs[0]

    def stage(self, value: str, i: int) -> str:
        """Record the blocks of a stage, numbered from 0 on."""
        count = 0
        while starts := self.pointwise(value):
            stride = max(starts[0].attributes.get("strides", [1]))
            if count and stride > 1:  # the next stage begins
                break
            value = self.block(value, f"layer{i + 1}.{count}", 1 if count else STRIDES[i], fuses=i >= FUSED_FROM)
            count += 1
        return value

    def downsampling(self, value: str) -> Node | None:
        """The 3x3 convolution that takes a stage's output to where the next one is joined with it."""
        nodes = [node for node in self._users(value) if node.op == "Conv"]
        return next((node for node in nodes if self.constant(node, 1).shape[2:] == (3, 3)), None)

    def backbone(self, value: str) -> str:
        """Record all up to the pooling."""
        stages, fused = [], ""
        for i in range(len(STRIDES)):
            value = self.stage(value, i)
            stages.append(value)
        if self.downsampling(stages[0]) is None:
            if (node := self.downsampling(stages[2])) is None:
                raise self.fail("it fuses no stages")
            return self.fusion(stages[3], self.convolution(node, "layer3_ds", 3, 2), "fuse34")
        fused = stages[0]
        for i in range(1, len(STRIDES)):
            if (node := self.downsampling(fused)) is None:
                raise self.fail(f"stage {i} is not fused with what follows")
            down = self.convolution(node, f"layer{i}_downsample", 3, 2)
            fused = self.fusion(stages[i], down, f"fuse_mode{'1234'[: i + 1]}")
        return fused

    def pooling(self, value: str) -> tuple[str, float]:
        """Mean and unbiased deviation over time; returns them joined, and what is added to the variance."""
        roots = [node for node in self.graph.nodes if node.op == "Sqrt"]
        inner = self.graph.producer(roots[0].inputs[0]) if len(roots) == 1 else None
        spread = self.graph.producer(inner.inputs[0]) if inner is not None and inner.op == "Add" else None
        if inner is None or spread is None or spread.op != "Div":
            raise self.fail("its deviation is not the unbiased one")
        means = [node for node in self._users(value) if node.op == "ReduceMean"]
        joined = self._flat(roots[0].outputs[0])
        if joined is None or joined.op != "Concat" or not any(self._flat(x.outputs[0]) is joined for x in means):
            raise self.fail("it pools in another way than mean and deviation")
        if self._flat(joined.inputs[1], back=True) is not roots[0]:
            raise self.fail("its deviations stand before its means")
        return joined.outputs[0], self.number(inner, 1)

    def _flat(self, value: str, back: bool = False) -> Node | None:
        """What follows a value, or gives it, before or behind a change of its shape."""
        node: Node | None = None
        while True:
            if back:
                node = self.graph.producer(value)
            else:
                users = self._users(value)
                node = users[0] if len(users) == 1 else None
            if node is None or node.op not in ("Flatten", "Reshape", *self.SKIPPED):
                return node
            value = node.inputs[0] if back else node.outputs[0]


def from_graph(graph: Graph) -> Found | None:
    """The tensors of an exported ERes2Net; None if it is something else.

    Raises:
        CheckpointError: it begins like one, but goes on in another way.
    """
    ops = {node.op for node in graph.nodes}
    if len(graph.inputs) != 1 or {*graph.kernel_ranks()} != {4} or not {"Split", "Tanh", "Clip"} <= ops:
        return None
    walk = _Walk(graph)
    first = walk.next(graph.inputs[0], "Conv")
    relu = walk.next(walk.convolution(first, "conv1", 3), "Relu") if first is not None else None
    if relu is None:
        return None
    value, eps = walk.pooling(walk.backbone(relu.outputs[0]))
    dense = walk.next(value, "Gemm", "MatMul")
    if dense is None:
        raise walk.fail("no linear layer follows its pooling")
    walk.subtract_mean(walk.linear(dense, "seg_1"), "seg_1")
    return Found({name: mx.array(np.ascontiguousarray(x, np.float32)) for name, x in walk.weights.items()}, eps)
