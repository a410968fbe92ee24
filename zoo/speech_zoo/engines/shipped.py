"""The traced graph of the default model, which comes with the package: the first use need not trace it for seconds.

`nox -s graphs` writes it anew; where code, config or weights have changed since, it is not taken.
"""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.layers import parameters

from . import graphs

FOLDER = Path(__file__).parents[1] / "data" / "graphs"


def read(model: Any, key: str) -> tuple[bytes, graphs.Arrays] | None:
    """The graph with this key as ONNX, and the arrays that it refers to by name; None where it does not come along."""
    file = FOLDER / f"{model.config.model_type}.json"
    about = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if about.get("key") != key:
        return None
    weights = parameters(model)
    arrays = {}
    for name, (source, order, shape) in about["arrays"].items():
        if isinstance(source, str):
            moved = np.array(weights[source], copy=False).squeeze().transpose(order)
            arrays[name] = np.ascontiguousarray(moved).reshape(shape)
        else:
            arrays[name] = np.full(shape, source, np.float32)
    return file.with_suffix(".onnx").read_bytes(), arrays


def write(model: Any) -> None:
    """Write the graph of a model, and what each array is: a weight with its axes in some order, or one number."""
    key = graphs.key_of(model, None)
    assert key is not None
    graph, arrays = graphs.to_keep(model, None, key)
    weights = {name: np.array(weight).squeeze() for name, weight in parameters(model).items()}
    about = {"key": key, "arrays": {name: (*_source(array, weights), array.shape) for name, array in arrays.items()}}
    file = FOLDER / f"{model.config.model_type}.json"
    file.write_text(json.dumps(about), encoding="utf-8")
    file.with_suffix(".onnx").write_bytes(graph)


def _source(array: "np.ndarray[Any, Any]", weights: graphs.Arrays) -> tuple[str | float, tuple[int, ...]]:
    """The weight that an array is, and the order of its axes in it, not counting those of size 1; or its one number."""
    if (array == array.flat[0]).all():
        return float(array.flat[0]), ()
    wanted = array.squeeze()
    for name, weight in weights.items():
        for order in permutations(range(weight.ndim)) if sorted(weight.shape) == sorted(wanted.shape) else ():
            if np.array_equal(weight.transpose(order), wanted):
                return name, order
    raise ValueError(f"no weight is the constant of shape {array.shape}")
