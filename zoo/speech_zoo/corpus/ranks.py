"""The processes of `mlx.launch`, which share one run; a process without a launcher is rank 0 of 1."""

import ctypes
import os
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from speech_zoo_core.errors import SpeechZooError

MARK = 1_000_003  # more than there are ranks
THREADS = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}  # a user's own choice


class Ranks:
    """This process's `rank` among `size`."""

    def __init__(self) -> None:
        self._group = mx.distributed.init()
        self.rank = self._group.rank()
        self.size = self._group.size()
        self._calls = 0  # of `gather`

    def gather(self, *numbers: int) -> "np.ndarray[Any, Any]":
        """The numbers of every rank, (size, n) int64; waits for all of them.

        Raises:
            SpeechZooError: a rank has died.
        """
        self._calls += 1
        # MLX may give whatever its buffer held where a rank is gone, so every rank signs its part of every call.
        signatures = [MARK * self._calls + rank for rank in range(self.size)]
        mine = mx.array([(*numbers, signatures[self.rank])], dtype=mx.int64)
        try:
            gathered = np.array(mx.distributed.all_gather(mine, group=self._group))
        except RuntimeError as error:
            raise SpeechZooError(f"another rank is gone ({error}); run the same command again to go on") from error
        if gathered[:, -1].tolist() != signatures:
            raise SpeechZooError("another rank is gone; run the same command again to go on")
        return gathered[:, :-1]

    def share_cores(self) -> None:
        """Divide OpenBLAS's threads among the ranks on this machine; more threads than cores took ten times as long."""
        here = zlib.crc32(socket.gethostname().encode())
        neighbours = int((self.gather(here) == here).sum())
        set_threads = getattr(ctypes.CDLL(None), "openblas_set_num_threads", None)  # blas.preload opened it globally
        if neighbours > 1 and set_threads is not None and not os.environ.keys() & THREADS:
            set_threads(max(1, (os.cpu_count() or 1) // neighbours))

    @contextmanager
    def together(self) -> Iterator[None]:
        """All ranks leave this block, or none: of those that failed the first raises its error, the others exit with 1.

        An error that every rank has is so reported once.
        """
        problem: SpeechZooError | None = None
        try:
            yield
        except SpeechZooError as error:
            problem = error
        failed = self.gather(problem is not None)[:, 0]
        if problem is not None and self.rank == failed.argmax():
            raise problem
        if failed.any():
            raise SystemExit(1)
