"""What the translation of one primitive is given."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .graph import Array, Shape, Value
from .shapes import Builder


@dataclass
class Complex:
    """Complex numbers, which a graph has not."""

    real: Value
    imag: Value


Term: TypeAlias = Value | Complex


@dataclass
class Call:
    """One primitive: its settings, its inputs, and the shapes and types of its outputs.

    `raw` holds those inputs that are constants, as MLX has them.
    """

    build: Builder
    args: Any
    inputs: list[Any]
    shapes: list[Shape]
    dtypes: list["np.dtype[Any]"]
    raw: list[Array | None]
