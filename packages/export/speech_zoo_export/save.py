"""A graph as an ONNX file. Needs the extra [onnx]."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from . import onnx
from .graph import Chain


def save_onnx(
    graph: Chain,
    path: "str | Path",
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the graph as an ONNX file; above 2 GiB, its constants in a file of that name and ".data" beside it."""
    path = Path(path)
    model, arrays = onnx.to_onnx_parts(graph, inputs, outputs, metadata, f"{path.name}.data")
    if sum(array.nbytes for array in arrays.values()) <= onnx.MAX_INLINE_BYTES:
        path.write_bytes(onnx.to_onnx(graph, inputs, outputs, metadata).SerializeToString())
        return
    with path.with_name(f"{path.name}.data").open("wb") as file:
        for array in arrays.values():
            np.ascontiguousarray(array).tofile(file)
    path.write_bytes(model.SerializeToString())
