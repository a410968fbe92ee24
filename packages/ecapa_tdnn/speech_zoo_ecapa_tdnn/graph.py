"""WeSpeaker's exported ECAPA-TDNN, mapped by its structure: initialisers may have any name."""

import mlx.core as mx
import numpy as np
from speech_zoo_core.checkpoint.onnx_graph import Graph, Node, Walk
from speech_zoo_core.checkpoint.weights import BATCH_NORM_EPS
from speech_zoo_core.errors import CheckpointError

BLOCKS = ("layer2", "layer3", "layer4")
DILATIONS = (2, 3, 4)


class _Walk(Walk):
    """Records tensors under WeSpeaker's own names, in PyTorch's layout."""

    def expect(self, node: Node | None, what: str) -> Node:
        if node is None:
            raise CheckpointError(f"the graph looks like a WeSpeaker ECAPA-TDNN, but {what}")
        return node

    def convolution(self, node: Node, name: str, dilation: int = 1) -> str:
        """Record a 1-D convolution that keeps the length with zeros; returns the value that it gives."""
        weight = self.constant(node, 1)
        pad = (weight.shape[-1] - 1) // 2 * dilation
        attrs = {"pads": [0, 0], "dilations": [1], "strides": [1], "group": 1, "auto_pad": b"NOTSET", **node.attributes}
        wanted = {"pads": [pad, pad], "dilations": [dilation], "strides": [1], "group": 1, "auto_pad": b"NOTSET"}
        if weight.ndim != 3 or any(attrs[key] != value for key, value in wanted.items()):
            raise CheckpointError(
                f"{name} of the graph is not a 1-D convolution of dilation {dilation} that pads zeros"
            )
        self.weights[f"{name}.weight"], self.weights[f"{name}.bias"] = weight, self.constant(node, 2)
        return node.outputs[0]

    def norm(self, node: Node, name: str) -> str:
        """Record a BatchNorm; returns the value that it gives."""
        if abs(node.attributes.get("epsilon", 1e-5) - BATCH_NORM_EPS) > 1e-9:
            raise CheckpointError(f"{name} of the graph has an epsilon of {node.attributes['epsilon']}, not 1e-5")
        for i, part in enumerate(("weight", "bias", "running_mean", "running_var"), 1):
            self.weights[f"{name}.{part}"] = self.constant(node, i)
        return node.outputs[0]

    def tdnn(self, node: Node | None, conv: str, norm: str, dilation: int = 1) -> str:
        """Record convolution, ReLU, BatchNorm."""
        value = self.convolution(self.expect(node, f"{conv} is missing"), conv, dilation)
        relu = self.expect(self.next(value, "Relu"), f"no ReLU follows {conv}")
        return self.norm(
            self.expect(self.next(relu.outputs[0], "BatchNormalization"), f"no BatchNorm follows {conv}"), norm
        )

    def one_of(self, value: str, op: str, what: str) -> Node:
        """The only consumer of a value that is an `op`, among others."""
        consumers = [node for node in self.graph.consumers(value) if node.op == op]
        return self.expect(consumers[0] if len(consumers) == 1 else None, what)

    def res2net(self, value: str, name: str, dilation: int) -> str:
        """Record the convolutions of the chunks; the last chunk must be passed on as it is."""
        split = self.expect(self.next(value, "Split"), f"{name} is not split")
        outputs: list[str] = []
        for i, chunk in enumerate(split.outputs[:-1]):
            if outputs:
                add = self.one_of(outputs[-1], "Add", f"chunk {i} of {name} is not added to the one before")
                if set(add.inputs) != {outputs[-1], chunk}:
                    raise CheckpointError(f"the chunks of {name} of the graph are added in an unknown order")
                chunk = add.outputs[0]  # noqa: PLW2901
            outputs.append(self.tdnn(self.next(chunk, "Conv"), f"{name}.convs.{i}", f"{name}.bns.{i}", dilation))
        joined = self.one_of(outputs[-1], "Concat", f"the chunks of {name} are not joined")
        if joined.inputs != [*outputs, split.outputs[-1]]:
            raise CheckpointError(f"the chunks of {name} of the graph are joined in an unknown order")
        return joined.outputs[0]

    def block(self, value: str, name: str, dilation: int) -> str:
        """Record an SE-Res2Net block; returns the value after its residual connection."""
        part = f"{name}.se_res2block"
        hidden = self.tdnn(self.one_of(value, "Conv", f"{name} is missing"), f"{part}.0.conv", f"{part}.0.bn")
        hidden = self.res2net(hidden, f"{part}.1", dilation)
        hidden = self.tdnn(self.next(hidden, "Conv"), f"{part}.2.conv", f"{part}.2.bn")
        mean = self.one_of(hidden, "ReduceMean", f"{name} takes no mean over time")
        first = self.expect(self.next(mean.outputs[0], "Gemm", "MatMul"), f"{part}.3.linear1 is missing")
        relu = self.expect(self.next(self.linear(first, f"{part}.3.linear1"), "Relu"), f"{part}.3 has no ReLU")
        second = self.expect(self.next(relu.outputs[0], "Gemm", "MatMul"), f"{part}.3.linear2 is missing")
        gate = self.expect(self.next(self.linear(second, f"{part}.3.linear2"), "Sigmoid"), f"{part}.3 has no sigmoid")
        product = self.expect(self.next(gate.outputs[0], "Mul"), f"{part}.3 scales nothing")
        add = self.expect(self.next(product.outputs[0], "Add"), f"{name} has no residual connection")
        if hidden not in product.inputs or value not in add.inputs:
            raise CheckpointError(f"{name} of the graph is not an SE-Res2Net block")
        return add.outputs[0]

    def source_of(self, value: str) -> Node | None:
        """The node that computes a value, before it was spread over time."""
        node = self.graph.producer(value)
        while node is not None and node.op == "Expand":
            node = self.graph.producer(node.inputs[0])
        return node

    def pooling(self, value: str) -> str:
        """Record ASTP on the frames `value`; returns the value after its BatchNorm."""
        tanh = [node for node in self.graph.nodes if node.op == "Tanh"]
        inner = self.graph.producer(tanh[0].inputs[0]) if len(tanh) == 1 else None
        if inner is None or inner.op != "Conv":
            raise CheckpointError("the graph does not pool with ASTP, which alone is supported")
        if inner.inputs[0] != value:  # the frames with their global context
            context = self.graph.producer(inner.inputs[0])
            parts = [] if context is None else [self.source_of(name) for name in context.inputs]
            ops = [part and part.op for part in parts[1:]]
            if context is None or context.op != "Concat" or context.inputs[0] != value or ops != ["ReduceMean", "Sqrt"]:
                raise CheckpointError("the attention of the graph takes neither the frames nor frames, mean, deviation")
        self.convolution(inner, "pool.linear1")
        outer = self.expect(self.next(tanh[0].outputs[0], "Conv"), "pool.linear2 is missing")
        softmax = self.expect(self.next(self.convolution(outer, "pool.linear2"), "Softmax"), "no softmax is taken")
        attention = softmax.outputs[0]
        weighted = [n for n in self.graph.consumers(attention) if n.op == "Mul" and {*n.inputs} == {attention, value}]
        total = self.next(weighted[0].outputs[0], "ReduceSum") if len(weighted) == 1 else None
        total = self.expect(total, "its mean is not weighted by the attention")
        pooled = self.one_of(total.outputs[0], "Concat", "mean and deviation are not joined")
        moment = self.graph.producer(pooled.inputs[-1])  # back to the weighted sum of squares
        for op in ("Sqrt", "Clip", "Sub", "ReduceSum"):
            moment = self.graph.producer(moment.inputs[0]) if moment is not None and moment.op == op else None
        if (
            softmax.attributes.get("axis", -1) not in (2, -1)
            or pooled.inputs[0] != total.outputs[0]
            or len(pooled.inputs) != 2
            or moment is None
            or attention not in moment.inputs
        ):
            raise CheckpointError("the graph pools in another way than ASTP, which alone is supported")
        return self.norm(
            self.expect(self.next(pooled.outputs[0], "BatchNormalization"), "no BatchNorm follows the pooling"), "bn"
        )


def from_graph(graph: Graph) -> dict[str, mx.array] | None:
    """The tensors of an exported WeSpeaker ECAPA-TDNN, under WeSpeaker's names; None if it is something else.

    Raises:
        CheckpointError: it begins like one, but goes on in another way.
    """
    walk = _Walk(graph)
    first = walk.next(graph.inputs[0], "Conv") if len(graph.inputs) == 1 else None
    norms = any(node.op == "BatchNormalization" for node in graph.nodes)
    if first is None or set(graph.kernel_ranks()) != {3} or not norms:
        return None
    value = walk.tdnn(first, "layer1.conv", "layer1.bn")
    outputs = []
    for name, dilation in zip(BLOCKS, DILATIONS, strict=True):
        value = walk.block(value, name, dilation)
        outputs.append(value)
    joined = walk.one_of(value, "Concat", "its blocks are not joined")
    if joined.inputs != outputs:
        raise CheckpointError("the blocks of the graph are joined in an unknown order")
    end = walk.convolution(walk.expect(walk.next(joined.outputs[0], "Conv"), "conv is missing"), "conv")
    relu = walk.expect(walk.next(end, "Relu"), "no ReLU follows conv")
    value = walk.pooling(relu.outputs[0])
    value = walk.linear(walk.expect(walk.next(value, "Gemm", "MatMul"), "linear is missing"), "linear")
    if norm := walk.next(value, "BatchNormalization"):
        scale, shift = walk.scale_shift(norm)
        walk.weights["linear.weight"] = (walk.weights["linear.weight"] * scale[:, None]).astype(np.float32)
        walk.weights["linear.bias"] = (walk.weights["linear.bias"] * scale + shift).astype(np.float32)
        value = norm.outputs[0]
    walk.subtract_mean(value, "linear")
    return {name: mx.array(np.ascontiguousarray(value, np.float32)) for name, value in walk.weights.items()}
