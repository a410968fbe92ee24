"""Read checkpoints without PyTorch and without running code from a file."""

from .reader import Checkpoint, read_checkpoint

__all__ = ["Checkpoint", "read_checkpoint"]
