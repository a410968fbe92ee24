"""Whether a model still has the weights that its graph was made from."""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
from speech_zoo_core.device import are_values


class Weights:
    """A model's weights as they were."""

    def __init__(self, model: Any) -> None:
        mx.eval(model.parameters())
        # An array that is changed in place stays the same object, but gets other memory while another holds the old.
        self._arrays = list(_arrays(model.parameters()))
        self._held = [array.reshape(array.shape) for array in self._arrays]
        mx.eval(self._held)
        self._addresses = [_address(array) for array in self._arrays]

    @staticmethod
    def can_be_read(model: Any) -> bool:
        """Whether they are plain numbers: not where a gradient by them is taken."""
        return are_values(*_arrays(model.parameters()))

    def are_those_of(self, model: Any) -> bool:
        """Whether none was replaced or changed."""
        now = list(_arrays(model.parameters()))
        same = len(now) == len(self._arrays) and all(a is b for a, b in zip(now, self._arrays, strict=True))
        return same and [_address(array) for array in now] == self._addresses


def _arrays(tree: Any) -> Iterator[mx.array]:
    if isinstance(tree, mx.array):
        yield tree
    else:
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _arrays(part)


def _address(array: mx.array) -> int:
    view = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    return int(np.array(view, copy=False).ctypes.data)
