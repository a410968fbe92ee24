from .utils import load, load_model

__all__ = ["load", "load_model"]
