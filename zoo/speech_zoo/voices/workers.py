"""Work on many files in processes of their own: one pipe and one file at a time for each, so that a death is seen."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias

from speech_zoo_core.errors import SpeechZooError
from tqdm import tqdm

from ..engines.choice import cores

Work: TypeAlias = Callable[[Any, str], Any]


def in_processes(
    ref: Any, jobs: int, paths: list[str], work: Work, by: dict[str, Any]
) -> Generator[tuple[str, Any], None, None]:
    """`work(model, path)` for each path, in any order, by processes that each load the model.

    Args:
        ref: the model, as `speech_zoo.load` takes it.
        jobs: processes, 1 or more.
        paths: of the files.
        work: a function of a module, which a fresh process can import.
        by: `engine` and `threads` of `speech_zoo.load`.

    Yields:
        Pairs of a path and its result.

    Raises:
        SpeechZooError: the model cannot be loaded, or a process died.
    """
    context = multiprocessing.get_context("spawn")
    left = iter(paths)
    processes: list[Any] = []
    busy: dict[Connection, str] = {}
    try:
        for _, path in zip(range(jobs), left, strict=False):
            pipe, worker_end = context.Pipe()
            try:
                process = context.Process(target=_serve, args=(worker_end, ref, by, work), daemon=True)
                process.start()
            except OSError as error:
                raise SpeechZooError(f"processes cannot be started: {error}; run it again with fewer jobs") from error
            finally:
                worker_end.close()
            processes.append(process)
            busy[pipe] = path
            _send(pipe, path)
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                yield busy.pop(ready), _received(ready)
                following = next(left, None)
                if following is None:
                    ready.close()
                else:
                    busy[ready] = following
                    _send(ready, following)
    finally:
        for pipe in busy:
            pipe.close()
        for process in processes:
            process.terminate()
            process.join()


def shared(by: dict[str, Any], jobs: int) -> dict[str, Any]:
    """`engine` and `threads` for each of some processes: where no number is given, they share the cores."""
    return by if by["threads"] or by["engine"] in ("mlx", "coreml") else {**by, "threads": max(1, cores() // jobs)}


def _send(pipe: Connection, path: str) -> None:
    try:
        pipe.send(path)
    except OSError as error:
        raise _died() from error


def _received(pipe: Connection) -> Any:
    try:
        result = pipe.recv()
    except (EOFError, OSError) as error:
        raise _died() from error
    if isinstance(result, SpeechZooError):
        raise result
    return result


def _died() -> SpeechZooError:
    return SpeechZooError(
        "a process that decodes and embeds was killed, perhaps for want of memory: run it again with fewer jobs; "
        "what was done is kept"
    )


def _serve(pipe: Connection, ref: Any, by: dict[str, Any], work: Work) -> None:
    """The life of a worker: it ends with its parent, whose end of the pipe closes then."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    logging.getLogger("speech_zoo").setLevel(logging.ERROR)  # no progress bars beside the parent's
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process leaks, with a warning
    from ..models import load

    try:
        model = load(ref, **by)
        while True:
            pipe.send(work(model, pipe.recv()))
    except SpeechZooError as error:
        pipe.send(error)
    except (EOFError, OSError):
        return


def _end_with_parent() -> None:
    """A worker whose parent was killed stops at once, not after its file."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
