"""An optimised BLAS for MLX on Linux CPUs.

The Linux wheel of MLX carries the reference BLAS, which is 30 to 60 times slower than OpenBLAS. The dynamic
linker binds the BLAS symbols of MLX to the first library that offers them, so an OpenBLAS that is opened
globally before `mlx.core` is first imported replaces it.
"""

import ctypes
import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path

SLOW = "MLX computes with its reference BLAS here, which is many times slower: "
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST_KEPT, KEPT = 32 << 20, 256 << 20  # bytes of a block, the most that glibc allows; and of all free ones
_problems: list[str] = []  # what warn_if_slow has still to say


def preload() -> None:
    """Open OpenBLAS for MLX; call before `mlx.core` is imported. Does nothing where MLX has a good BLAS or a GPU."""
    if sys.platform != "linux":
        return
    if "mlx.core" in sys.modules:
        if not _openblas_is_loaded():
            _problems.append(SLOW + "mlx was imported before speech_zoo; import speech_zoo first")
        return
    try:
        problem = _open()
    except OSError as error:
        problem = SLOW + f"OpenBLAS could not be opened ({error})"
    if problem:
        _problems.append(problem)
    _keep_memory()


def _keep_memory() -> None:
    """Have glibc keep freed blocks for the next operation: to take them anew costs a page fault for each 4 kB."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)


def warn_if_slow() -> None:
    """Warn once, in one line, if models will run on a CPU with the reference BLAS."""
    if not _problems:
        return
    from .tiles import on_cpu

    if on_cpu():
        logging.getLogger("speech_zoo").warning("warning: %s", _problems.pop())


def _open() -> str | None:
    """Open the library; returns what is wrong, or None."""
    library = _openblas()
    if library is None:
        return SLOW + "install the extra mlx-speech-zoo[cpu]"
    try:
        blas = ctypes.CDLL(library)
    except OSError:  # its libgfortran.so.5 is not on this system
        _lend_gfortran()
        blas = ctypes.CDLL(library)
    blas.openblas_get_config.restype = ctypes.c_char_p
    # A build for one CPU model stops with an illegal instruction on another.
    if b"DYNAMIC_ARCH" not in blas.openblas_get_config():
        return SLOW + f"{Path(library).name} is built for one CPU model only"
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    return None


def _openblas() -> str | None:
    spec = find_spec("ngsolve_openblas")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return next((str(path) for folder in folders for path in Path(folder).glob("libopenblas*.so*")), None)


def _lend_gfortran() -> None:
    """Offer MLX's own copy of libgfortran under the name that OpenBLAS asks the linker for.

    The wheel of MLX carries the library with a mangled name (`libgfortran-<hash>.so.5.0.0`). The linker matches the
    name recorded inside the file, so a copy in memory with the plain name recorded satisfies it.
    """
    spec = find_spec("mlx")
    roots = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    folders = [Path(root).parent / "mlx_cpu.libs" for root in roots]
    for path in (path for folder in folders for path in folder.glob("libquadmath-*")):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    for path in (path for folder in folders for path in folder.glob("libgfortran-*.so.5*")):
        recorded = b"\0" + path.name.encode() + b"\0"
        plain = b"\0" + b"libgfortran.so.5".ljust(len(recorded) - 2, b"\0") + b"\0"
        memory = os.memfd_create("libgfortran.so.5")
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(path.read_bytes().replace(recorded, plain))
            ctypes.CDLL(f"/proc/self/fd/{memory}", mode=ctypes.RTLD_GLOBAL)
        finally:
            os.close(memory)


def _openblas_is_loaded() -> bool:
    """Whether symbols that are looked up globally, as MLX's are, come from an OpenBLAS."""
    return hasattr(ctypes.CDLL(None), "openblas_get_config") and hasattr(ctypes.CDLL(None), "cblas_sgemm")
