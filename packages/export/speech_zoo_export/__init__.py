"""Functions of MLX arrays as ONNX and Core ML models, by the graph that MLX traces."""

from .graph import ExportError, Graph
from .lengths import Axis
from .trace import trace
from .whole import whole

__all__ = ["Axis", "ExportError", "Graph", "trace", "whole"]
