"""An exported ResNet as ONNX, followed node by node back to the tensors of its source."""

import numpy as np
from speech_zoo_core.checkpoint.onnx_graph import Node, Walk
from speech_zoo_core.errors import CheckpointError


def stride_of(node: Node) -> int:
    """The stride of a convolution, the same on both axes."""
    strides = set(node.attributes.get("strides", [1, 1]))
    if len(strides) != 1 or not strides <= {1, 2}:
        raise CheckpointError(
            f"a convolution of the graph has strides {node.attributes['strides']}; 1 or 2 was expected"
        )
    return int(strides.pop())


class ResNetWalk(Walk):
    """Follows an exported ResNet."""

    def convolution(self, node: Node, name: str) -> str:
        """Record a convolution, with its BatchNorm where the exporter left one; returns the value that it gives."""
        weight = self.constant(node, 1)
        same = {
            "pads": [size // 2 for size in weight.shape[2:]] * 2,
            "dilations": [1, 1],
            "group": 1,
            "auto_pad": b"NOTSET",
        }
        if weight.ndim != 4 or any(node.attributes.get(key, value) != value for key, value in same.items()):
            raise CheckpointError(f"{name} of the graph is not a plain 2-D convolution")
        self.weights[f"{name}.weight"] = weight
        bias = np.zeros(len(weight), np.float32)
        if len(node.inputs) > 2:
            bias = self.constant(node, 2)
        value = node.outputs[0]
        if norm := self.next(value, "BatchNormalization"):
            scale, shift = self.scale_shift(norm)
            self.weights[f"{name}.weight"] = (weight * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
            bias = (bias * scale + shift).astype(np.float32)
            value = norm.outputs[0]
        self.weights[f"{name}.bias"] = bias
        return value

    def branches(self, value: str) -> list[list[Node]]:
        """The convolutions of each branch of the residual block that starts at `value`, shortest branch first."""
        starts = [node for node in self.graph.consumers(value) if node.op == "Conv"]
        return sorted((self._branch(node) for node in starts), key=len)

    def block(self, branches: list[list[Node]], name: str) -> str:
        """Record a residual block; returns the value after its last ReLU."""
        main = branches[-1]
        stride = max(stride_of(node) for node in main)
        expected = [stride, 1] if len(main) == 2 else [1, stride, 1]
        if [stride_of(node) for node in main] != expected or any(
            stride_of(node) != stride for b in branches[:-1] for node in b
        ):
            raise CheckpointError(f"{name} of the graph strides in an unknown way")
        for i, node in enumerate(main):
            end = self.convolution(node, f"{name}.conv{i + 1}")
        if len(branches) == 2:
            self.convolution(branches[0][0], f"{name}.shortcut.0")
        add = self.next(end, "Add")
        relu = add and self.next(add.outputs[0], "Relu")
        if relu is None or [len(branch) for branch in branches[:-1]] not in ([], [1]) or len(main) not in (2, 3):
            raise CheckpointError(f"{name} of the graph is not a residual block")
        return relu.outputs[0]

    def _branch(self, node: Node) -> list[Node]:
        """The convolutions from `node` on, up to the addition."""
        chain: list[Node] = []
        following: Node | None = node
        while following is not None and following.op != "Add":
            if following.op == "Conv":
                chain.append(following)
            following = self.next(following.outputs[0], "Conv", "BatchNormalization", "Relu", "Add")
        return chain

    def head(self) -> None:
        """Record the one or two embedding layers, with what is subtracted at the end."""
        gemms = [n for n in self.graph.nodes if n.op in ("Gemm", "MatMul") and n.inputs[1] in self.graph.constants]
        if len(gemms) not in (1, 2):
            raise CheckpointError(f"the graph has {len(gemms)} linear layers, one or two were expected")
        pooled = self.graph.producer(gemms[0].inputs[0])
        while pooled is not None and pooled.op in ("Flatten", "Reshape", *self.SKIPPED):
            pooled = self.graph.producer(pooled.inputs[0])
        if pooled is None or pooled.op != "Concat" or len(pooled.inputs) != 2:
            raise CheckpointError("the graph does not pool mean and deviation; only TSTP is read from ONNX")
        value = self.linear(gemms[0], "seg_1")
        if len(gemms) == 2:
            relu = self.next(value, "Relu")
            norm = relu and self.next(relu.outputs[0], "BatchNormalization")
            if norm is None or self.next(norm.outputs[0], "Gemm", "MatMul") is not gemms[1]:
                raise CheckpointError("the second embedding layer of the graph is not ReLU, BatchNorm, linear")
            scale, shift = self.scale_shift(norm)
            value = self.linear(gemms[1], "seg_2")
            weight = self.weights["seg_2.weight"].astype(np.float64)
            self.weights["seg_2.bias"] = (self.weights["seg_2.bias"] + weight @ shift).astype(np.float32)
            self.weights["seg_2.weight"] = (weight * scale).astype(np.float32)
        self.subtract_mean(value, f"seg_{len(gemms)}")
