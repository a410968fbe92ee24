"""What MLX reads from the environment when it first computes; what the user chose stands."""

import os

DEFAULTS = {
    # Plans of convolutions, of which every shape has its own: MLX ends in an error at twice as many, by default 128.
    "MLX_CUDA_CONV_CACHE_SIZE": "4096",
}


def set_defaults() -> None:
    """Call before `mlx.core` is imported."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
