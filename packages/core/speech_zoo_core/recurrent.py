"""A bidirectional LSTM whose two directions and all clips of a batch share one product a step.

On a CPU, where a step is too little work for MLX's operations, NumPy takes the steps.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .device import are_values, on_cpu, whole_layer


class BiLSTM(nn.Module):
    """One layer; its two rows of weights are the forward and the backward direction, the gates as PyTorch has them.

    Reference: Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 1997; torch.nn.LSTM.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.weight_ih = mx.zeros((2, 4 * hidden, size))
        self.weight_hh = mx.zeros((2, 4 * hidden, hidden))
        self.bias = mx.zeros((2, 4 * hidden))

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, C) to (B, T, 2 * H): both directions side by side."""
        batch, frames, size = x.shape
        hidden = self.weight_hh.shape[-1]
        if (whole := whole_layer()) is not None:
            weights = (self.weight_ih, self.weight_hh, self.bias)
            return whole("LSTM", x, *weights, shape=(batch, frames, 2 * hidden))
        # tanh(a) = 2 sigmoid(2 a) - 1: with the inner 2 in the weights, all four gates are one sigmoid
        scale = mx.repeat(mx.array([1.0, 1.0, 2.0, 1.0], dtype=x.dtype), hidden)
        x = x.transpose(1, 0, 2)
        both = mx.stack([x, x[::-1]]).reshape(2, frames * batch, size)
        gates = both @ (self.weight_ih * scale[:, None]).transpose(0, 2, 1) + (self.bias * scale)[:, None]
        gates = gates.reshape(2, frames, batch, 4 * hidden)
        weight = (self.weight_hh * scale[:, None]).transpose(0, 2, 1)
        in_numpy = on_cpu() and x.dtype == mx.float32 and are_values(gates, weight)
        states = (_numpy_steps if in_numpy else _steps)(gates, weight)
        return mx.concatenate([states[0], states[1, ::-1]], axis=-1).transpose(1, 0, 2)


def _steps(gates: mx.array, weight: mx.array) -> mx.array:
    """The hidden states (2, T, B, H) for gates (2, T, B, 4 * H) to which the states have not been added yet."""
    h = c = mx.zeros((2, gates.shape[2], weight.shape[1]), gates.dtype)
    states = []
    for t in range(gates.shape[1]):
        i, f, g, o = mx.split(mx.sigmoid(mx.addmm(gates[:, t], h, weight)), 4, axis=-1)
        c = f * c + i * (2 * g - 1)
        h = o * mx.tanh(c)
        states.append(h)
    return mx.stack(states, axis=1)


def _numpy_steps(gates: mx.array, weight: mx.array) -> mx.array:
    """`_steps`, with NumPy."""
    inputs, product = np.asarray(gates), np.ascontiguousarray(np.asarray(weight))
    hidden = product.shape[1]
    states = np.empty((*inputs.shape[:3], hidden), np.float32)
    h, c = np.zeros_like(states[:, 0]), np.zeros_like(states[:, 0])
    z = np.empty_like(inputs[:, 0])
    i, f, g, o = (z[..., k * hidden : (k + 1) * hidden] for k in range(4))
    for t in range(inputs.shape[1]):
        np.matmul(h, product, out=z)
        z += inputs[:, t]
        with np.errstate(over="ignore"):  # to 1 / inf
            np.exp(np.negative(z, out=z), out=z)  # NumPy's tanh would be faster, but leans to one side: the cells leak
        z += 1
        np.reciprocal(z, out=z)
        c *= f
        c += i * (2 * g - 1)
        h = np.multiply(o, np.tanh(c), out=states[:, t])
    return mx.array(states)
