"""A bidirectional LSTM whose two directions and all clips of a batch share one product a step.

A step is too little work for MLX's operations: on a CPU NumPy takes the steps, on CUDA one kernel takes all of them.
"""

from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .device import are_values, on_cpu, whole_layer

# A block of threads for each clip and direction, a thread for each row of gates; its weights are in registers, as many
# as there are, and in shared memory.
CUDA_STEPS = """
constexpr int rows = 4 * H, kept = 5 * H / 8;
extern __shared__ float shared[];
float *rest = shared, *h = rest + (H - kept) * rows, *z = h + H;
const int row = threadIdx.x, clip = blockIdx.x, way = blockIdx.y;
const int frames = gates_shape[1], clips = gates_shape[2];
const float *column = weight + way * H * rows + row;
float w[kept];
#pragma unroll
for (int k = 0; k < kept; ++k) w[k] = column[k * rows];
for (int k = kept; k < H; ++k) rest[(k - kept) * rows + row] = column[k * rows];
if (row < H) h[row] = 0;
float c = 0;
__syncthreads();
for (int t = 0; t < frames; ++t) {
  const long at = (long(way) * frames + t) * clips + clip;
  float a = gates[at * rows + row], b = 0;
  #pragma unroll
  for (int k = 0; k < kept; k += 2) {
    a += w[k] * h[k];
    b += w[k + 1] * h[k + 1];
  }
  #pragma unroll
  for (int k = kept; k < H; k += 2) {
    a += rest[(k - kept) * rows + row] * h[k];
    b += rest[(k - kept + 1) * rows + row] * h[k + 1];
  }
  z[row] = 1 / (1 + expf(-a - b));
  __syncthreads();
  if (row < H) {
    c = z[H + row] * c + z[row] * (2 * z[2 * H + row] - 1);
    states[at * H + row] = h[row] = z[3 * H + row] * tanhf(c);
  }
  __syncthreads();
}
"""
AMPERE = 8  # GPUs before it have too little shared memory
CUDA_HIDDEN = 128  # the most for which a multiprocessor has registers


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
        steps = _steps_at_once(hidden) if x.dtype == mx.float32 else None
        states = steps(gates, weight) if steps is not None and are_values(gates, weight) else _steps(gates, weight)
        return mx.concatenate([states[0], states[1, ::-1]], axis=-1).transpose(1, 0, 2)


def _steps_at_once(hidden: int) -> Any:
    """What takes the steps of values faster than MLX's operations on this device; None: nothing does."""
    if on_cpu():
        return _numpy_steps
    fits = hidden <= CUDA_HIDDEN and hidden % 16 == 0
    return _cuda_steps if fits and _cuda_generation() >= AMPERE else None


@cache
def _cuda_generation() -> int:
    """The major compute capability of the GPU; 0 where it is no CUDA device."""
    return int(mx.device_info().get("compute_capability_major", 0))


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


def _cuda_steps(gates: mx.array, weight: mx.array) -> mx.array:
    """`_steps`, in one CUDA kernel."""
    _, frames, batch, rows = gates.shape
    hidden = weight.shape[1]
    shared = 4 * ((hidden - 5 * hidden // 8) * rows + hidden + rows)  # bytes, as the kernel lays them out
    kernel = mx.fast.cuda_kernel("lstm_steps", ["gates", "weight"], ["states"], CUDA_STEPS, shared_memory=shared)
    states: list[mx.array] = kernel(  # type: ignore[operator]
        inputs=[gates, weight],
        template=[("H", hidden)],
        grid=(batch * rows, 2, 1),
        threadgroup=(rows, 1, 1),
        output_shapes=[(2, frames, batch, hidden)],
        output_dtypes=[mx.float32],
    )
    return states[0]
