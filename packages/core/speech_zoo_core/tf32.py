"""Products of float32 matrices in full precision.

On CUDA (Ampere and later) and on M5, MLX computes them in TF32, whose results are about 1e-3 off, unless
MLX_ENABLE_TF32=0 is set before it first computes: ml-explore/mlx, issues 3860, 3534, 4242.
"""

import logging
import os
import sys

VARIABLE = "MLX_ENABLE_TF32"
LATE = "mlx was imported before speech_zoo"
_reason = ""  # why it may be on
_told = False


def disable() -> None:
    """Turn TF32 off, unless the user chose; call before `mlx.core` is imported."""
    global _reason  # noqa: PLW0603
    chosen = os.environ.get(VARIABLE)
    if chosen is None:
        os.environ[VARIABLE] = "0"
        _reason = LATE if "mlx.core" in sys.modules else ""
    elif chosen != "0":
        _reason = f"{VARIABLE}={chosen} is set"


def state() -> str:
    """Whether float32 products are computed in TF32: "off", "on: why", or "unknown: why"."""
    from .device import on_cpu

    if not _reason or on_cpu():
        return "off"
    return f"{'unknown' if _reason == LATE else 'on'}: {_reason}"


def warn_if_on() -> None:
    """Warn once, in one line, where results in float32 may not be exact."""
    global _told  # noqa: PLW0603
    if _told or state() == "off":
        return
    _told = True
    logging.getLogger("speech_zoo").warning(
        "warning: float32 results may be off by 1e-3, as MLX may compute in TF32 (%s); import speech_zoo first, or set "
        "%s=0",
        _reason,
        VARIABLE,
    )
