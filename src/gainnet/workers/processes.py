"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

from gainnet.workers.workers import ONE_THREAD, Job, Result, Workers, died


class Processes(Workers):
    """Processes that live until the context ends.

    Where one dies, what was not done yet is tried a second time, each job in a process of its own.
    """

    def __init__(self, number: int) -> None:
        """``number`` of processes, which start with the first jobs."""
        self._number = number
        self._pool: ProcessPoolExecutor | None = None

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], name: Callable[[Job], str] = str
    ) -> Iterator[tuple[Job, Result]]:
        """See `Workers.map`."""
        self._pool = self._pool or _pool(self._number)
        left = dict(enumerate(jobs))
        try:
            futures = {self._pool.submit(function, job): index for index, job in left.items()}
            for future in as_completed(futures):
                result = future.result()
                yield left.pop(futures[future]), result
        except BrokenProcessPool:
            self._close()
            for job in left.values():
                yield job, _alone(function, job, name)
        except BaseException:
            self._terminate()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes, in the middle of their jobs where an error or an interrupt leads here."""
        if kind is None:
            self._close()
        else:
            self._terminate()

    def _terminate(self) -> None:
        for child in multiprocessing.active_children():
            child.terminate()
        self._close()

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _alone(function: Callable[[Job], Result], job: Job, name: Callable[[Job], str]) -> Result:
    """The second try of a job, in a process of its own, so that one that kills its process is named."""
    try:
        with _pool(1) as pool:
            return pool.submit(function, job).result()
    except BrokenProcessPool:
        raise died(name(job), "twice") from None


def _pool(number: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(number, mp_context=context, initializer=_settle)


def _settle() -> None:
    """A worker computes in one thread, and leaves Ctrl-C to its parent's terminal group: it dies without a traceback."""
    os.environ.update(ONE_THREAD)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
